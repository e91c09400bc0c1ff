//! The kinds of objects that the controllers know, and one type that holds any of them.
use std::{fmt, sync::Arc};

use k8s_openapi::{
    Metadata,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::ApiResource;
use serde_json::Value;

use crate::world::Store;

/// Where an object is. The namespace is empty for what has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key of its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A type whose objects the world keeps.
pub trait Kept: Metadata<Ty = ObjectMeta> + Clone + PartialEq + Send + Sync + 'static {
    /// Which kind it is.
    const STORED: Kind;

    /// Its objects in the world.
    fn store(world: &crate::World) -> &Store<Self>;

    /// The object, if it is of this type.
    fn cast(object: &Object) -> Option<&Arc<Self>>;

    /// The object as any.
    fn wrap(object: Arc<Self>) -> Object;

    /// What objects of this type are grouped by beside owner and namespace, if by anything: pods by node, slices of
    /// endpoints by service.
    fn group(&self) -> Option<&str> {
        None
    }
}

macro_rules! kinds {
    ($($kind:ident $store:ident $plural:literal $scope:ident $(|$this:ident| $group:expr)?;)*) => {
        /// A kind of object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = concat!("`", $plural, "`")] $kind,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// Its name in URLs, as `pods`.
            pub fn plural(self) -> &'static str {
                match self { $(Kind::$kind => $plural,)* }
            }

            /// Whether its objects are in namespaces.
            pub fn namespaced(self) -> bool {
                match self { $(Kind::$kind => kinds!(@scope $scope),)* }
            }

            /// Group, version and names, as the API has them.
            pub fn resource(self) -> ApiResource {
                match self { $(Kind::$kind => resource::<$kind>($plural),)* }
            }

            /// An object of this kind from its JSON; what the controllers do not need is left out.
            ///
            /// # Errors
            /// A field has not the type that the API says.
            pub fn parse(self, value: Value) -> Result<Object, serde_json::Error> {
                match self {
                    $(Kind::$kind => {
                        let mut object: $kind = serde_json::from_value(value)?;
                        object.metadata.managed_fields = None;
                        Ok(Object::$kind(Arc::new(object)))
                    })*
                }
            }
        }

        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $(#[doc = concat!("One of `", $plural, "`.")] $kind(Arc<$kind>),)* }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind,)* }
            }

            /// Its metadata.
            pub fn meta(&self) -> &ObjectMeta {
                match self { $(Object::$kind(object) => &object.metadata,)* }
            }

            /// As JSON.
            ///
            /// # Errors
            /// None that the types of the API give.
            pub fn json(&self) -> Result<Value, serde_json::Error> {
                match self { $(Object::$kind(object) => serde_json::to_value(&**object),)* }
            }
        }

        /// Everything known of the cluster, a store per kind.
        #[derive(Default)]
        pub struct Stores { $(pub(crate) $store: Store<$kind>,)* }

        impl Stores {
            pub(crate) fn put(&mut self, object: Object) -> Option<Object> {
                match object { $(Object::$kind(object) => self.$store.put(object).map(Object::$kind),)* }
            }

            pub(crate) fn remove(&mut self, kind: Kind, key: &Key) -> Option<Object> {
                match kind { $(Kind::$kind => self.$store.remove(key).map(Object::$kind),)* }
            }

            pub(crate) fn get(&self, kind: Kind, key: &Key) -> Option<Object> {
                match kind { $(Kind::$kind => self.$store.get(key).cloned().map(Object::$kind),)* }
            }

            pub(crate) fn keys(&self, kind: Kind) -> Vec<Key> {
                match kind { $(Kind::$kind => self.$store.iter().map(|object| Key::of(&object.metadata)).collect(),)* }
            }
        }

        $(
            impl Kept for $kind {
                const STORED: Kind = Kind::$kind;

                fn store(world: &crate::World) -> &Store<Self> {
                    &world.stores.$store
                }

                fn cast(object: &Object) -> Option<&Arc<Self>> {
                    match object {
                        Object::$kind(object) => Some(object),
                        _ => None,
                    }
                }

                fn wrap(object: Arc<Self>) -> Object {
                    Object::$kind(object)
                }

                $(fn group(&self) -> Option<&str> {
                    let $this = self;
                    $group
                })?
            }

            impl From<$kind> for Object {
                fn from(object: $kind) -> Self {
                    Object::$kind(Arc::new(object))
                }
            }
        )*
    };
    (@scope namespaced) => { true };
    (@scope cluster) => { false };
}

kinds! {
    Node nodes "nodes" cluster;
    Namespace namespaces "namespaces" cluster;
    Pod pods "pods" namespaced |pod| pod.spec.as_ref().map(|spec| spec.node_name.as_deref().unwrap_or_default());
    Service services "services" namespaced;
    Endpoints endpoints "endpoints" namespaced;
    EndpointSlice slices "endpointslices" namespaced
        |slice| slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str);
    ServiceAccount accounts "serviceaccounts" namespaced;
    ConfigMap config_maps "configmaps" namespaced;
    Deployment deployments "deployments" namespaced;
    ReplicaSet replica_sets "replicasets" namespaced;
    DaemonSet daemon_sets "daemonsets" namespaced;
    StatefulSet stateful_sets "statefulsets" namespaced;
    ControllerRevision revisions "controllerrevisions" namespaced;
    Job jobs "jobs" namespaced;
    CronJob cron_jobs "cronjobs" namespaced;
    PodDisruptionBudget budgets "poddisruptionbudgets" namespaced;
    Lease leases "leases" namespaced;
}

/// Label of a slice of endpoints: the service it belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn resource<K: k8s_openapi::Resource>(plural: &str) -> ApiResource {
    ApiResource {
        group: K::GROUP.into(),
        version: K::VERSION.into(),
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        plural: plural.into(),
    }
}
