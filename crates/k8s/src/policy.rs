//! Watches of policies and of what policies refer to.
//!
//! Objects are kept as they stand, without status and bookkeeping: a status that somebody writes changes no row.
use crate::secret::Secret;
use crate::service::{SERVICE_NAME, Service};
use crate::watch::{Presence, Watcher};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Resource,
    api::{Api, ApiResource, DynamicObject, GroupVersionKind},
};
use model::{PolicyTables, Text};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Debug},
    marker::PhantomData,
    net::IpAddr,
};

/// Endpoint slices that the controller of Kubernetes did not write for a service's pods.
const MANUAL: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// Starts the watches of all policies, and of what they refer to; Secrets of this namespace, if any.
pub fn follow(
    watcher: &Watcher,
    tables: &PolicyTables,
    with_kubernetes: bool,
    secrets: Option<&str>,
) {
    let optional = Presence::Optional;
    watcher.follow::<Object<Cilium>, _>(&tables.cilium, optional);
    watcher.follow::<Object<Clusterwide>, _>(&tables.clusterwide, optional);
    watcher.follow::<Object<Group>, _>(&tables.groups, optional);
    watcher.follow::<Object<Admin>, _>(&tables.admin, optional);
    watcher.follow::<Object<Baseline>, _>(&tables.baseline, optional);
    if with_kubernetes {
        watcher.follow::<Object<Kubernetes>, _>(&tables.kubernetes, Presence::Always);
    } else {
        watcher.leave_empty(&tables.kubernetes);
    }
    match secrets {
        Some(namespace) => watcher.follow_some::<Secret, _>(&tables.secrets, Some(namespace), ""),
        None => watcher.leave_empty(&tables.secrets),
    }
    watcher.follow::<Service, _>(&tables.services, Presence::Always);
    let manual = &tables.manual_endpoints;
    watcher.follow_either::<EndpointSlice, EndpointSlice<true>, _>(manual, MANUAL);
}

/// Where the objects of a kind are.
pub trait Kind: Clone + Debug + Send + Sync + 'static {
    /// Of a namespace or not.
    type Scope: 'static;
    /// The kind.
    const KIND: &'static str;
    /// Its group, version and plural name.
    const PLACE: [&'static str; 3];
}

macro_rules! kinds {
    ($($name:ident $kind:literal $scope:ty, $group:literal $version:literal $plural:literal;)+) => {
        $(
            #[doc = concat!("The kind ", $kind, ".")]
            #[derive(Clone, Debug)]
            pub enum $name {}

            impl Kind for $name {
                type Scope = $scope;
                const KIND: &'static str = $kind;
                const PLACE: [&'static str; 3] = [$group, $version, $plural];
            }
        )+
    };
}

kinds! {
    Cilium "CiliumNetworkPolicy" NamespaceResourceScope, "cilium.io" "v2" "ciliumnetworkpolicies";
    Clusterwide "CiliumClusterwideNetworkPolicy" ClusterResourceScope, "cilium.io" "v2" "ciliumclusterwidenetworkpolicies";
    Redirect "CiliumLocalRedirectPolicy" NamespaceResourceScope, "cilium.io" "v2" "ciliumlocalredirectpolicies";
    L2Announcement "CiliumL2AnnouncementPolicy" ClusterResourceScope, "cilium.io" "v2alpha1" "ciliuml2announcementpolicies";
    LoadBalancerPool "CiliumLoadBalancerIPPool" ClusterResourceScope, "cilium.io" "v2alpha1" "ciliumloadbalancerippools";
    Group "CiliumCIDRGroup" ClusterResourceScope, "cilium.io" "v2alpha1" "ciliumcidrgroups";
    Kubernetes "NetworkPolicy" NamespaceResourceScope, "networking.k8s.io" "v1" "networkpolicies";
    Admin "AdminNetworkPolicy" ClusterResourceScope, "policy.networking.k8s.io" "v1alpha1" "adminnetworkpolicies";
    Baseline "BaselineAdminNetworkPolicy" ClusterResourceScope, "policy.networking.k8s.io" "v1alpha1" "baselineadminnetworkpolicies";
}

/// Every kind of policy, with its place.
const POLICIES: [(&str, [&str; 3]); 5] = [
    (Cilium::KIND, Cilium::PLACE),
    (Clusterwide::KIND, Clusterwide::PLACE),
    (Kubernetes::KIND, Kubernetes::PLACE),
    (Admin::KIND, Admin::PLACE),
    (Baseline::KIND, Baseline::PLACE),
];

/// The object of a policy, for people to read: without what `kubectl` and the API server note about who wrote what. None if there is none,
/// or no such kind of policy.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn object(
    client: &Client,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Value>, kube::Error> {
    let Some((_, [group, version, plural])) = POLICIES.iter().find(|(one, _)| *one == kind) else {
        return Ok(None);
    };
    let kind = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let Some(mut object) = api.get_opt(name).await? else {
        return Ok(None);
    };
    object.metadata.managed_fields = None;
    if let Some(notes) = &mut object.metadata.annotations {
        notes.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    serde_json::to_value(object)
        .map(Some)
        .map_err(kube::Error::SerdeError)
}

/// An object of the kind `K`, as it stands.
#[derive(Clone, Debug)]
pub struct Object<K: Kind> {
    metadata: ObjectMeta,
    /// All but the metadata, as it was written: whoever enforces it reads it, once.
    says: Says,
    kind: PhantomData<K>,
}

impl<'de, K: Kind> Deserialize<'de> for Object<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (metadata, says) = deserializer.deserialize_map(Parts)?;
        Ok(Self {
            metadata,
            says,
            kind: PhantomData,
        })
    }
}

/// Members by name.
pub(crate) type Says = BTreeMap<String, Box<RawValue>>;

/// Metadata and the rest, in one pass: a policy may be large.
struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = (ObjectMeta, Says);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut metadata, mut says) = Self::Value::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == "metadata" {
                metadata = map.next_value()?;
            } else {
                says.insert(name, map.next_value()?);
            }
        }
        Ok((metadata, says))
    }
}

impl<K: Kind> Resource for Object<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::PLACE[0].into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::PLACE[1].into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::PLACE[2].into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What the status of a policy says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// It can be used.
    pub valid: bool,
    /// Why, or why not.
    pub message: String,
}

impl<K: Kind> Object<K> {
    /// Its unique number.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its metadata, and all else that it says.
    pub(crate) fn into_parts(self) -> (ObjectMeta, Says) {
        (self.metadata, self.says)
    }

    /// What its condition `Valid` says.
    #[must_use]
    pub fn said(&self) -> Option<Said> {
        let status: Value = serde_json::from_str(self.says.get("status")?.get()).ok()?;
        let conditions = status.get("conditions")?.as_array()?;
        let valid = conditions.iter().find(|one| one["type"] == "Valid")?;
        Some(Said {
            valid: valid["status"] == "True",
            message: valid["message"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

impl<K: Kind> From<Object<K>> for model::PolicyObject {
    fn from(object: Object<K>) -> Self {
        let Object {
            metadata, mut says, ..
        } = object;
        says.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "status"));
        let about = [
            ("name", json!(metadata.name)),
            ("namespace", json!(metadata.namespace)),
            ("uid", json!(metadata.uid)),
            ("labels", json!(metadata.labels)),
        ];
        let about: Map<String, Value> = about
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        // Names and texts can always be written as JSON.
        says.extend(to_raw_value(&about).map(|about| ("metadata".to_owned(), about)));
        Self {
            key: key(&metadata),
            kind: Text::shared(K::KIND),
            json: serde_json::to_string(&says).unwrap_or_default().into(),
        }
    }
}

pub(crate) fn key(metadata: &ObjectMeta) -> Text {
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}").into(),
        _ => name.into(),
    }
}

/// An endpoint slice, with only what is read. `BETA`: as servers before Kubernetes 1.21 have it.
#[derive(Clone, Debug, Deserialize)]
pub struct EndpointSlice<const BETA: bool = false> {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SliceEndpoint {
    addresses: Vec<String>,
}

macro_rules! resource {
    ($type:ty, $kind:literal, $group:literal, $plural:literal) => {
        resource!($type, $kind, $group, "v1", $plural);
    };
    ($type:ty, $kind:literal, $group:literal, $version:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

pub(crate) use resource;

resource!(
    EndpointSlice,
    "EndpointSlice",
    "discovery.k8s.io",
    "endpointslices"
);
resource!(
    EndpointSlice<true>,
    "EndpointSlice",
    "discovery.k8s.io",
    "v1beta1",
    "endpointslices"
);

impl<const BETA: bool> From<EndpointSlice<BETA>> for model::ManualEndpoints {
    fn from(object: EndpointSlice<BETA>) -> Self {
        let labels = object.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let mut addresses: Vec<IpAddr> = object
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| &endpoint.addresses)
            // Names of hosts may stand there, too.
            .filter_map(|text| text.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            key: key(&object.metadata),
            service: service
                .map(|service| format!("{namespace}/{service}"))
                .unwrap_or_default()
                .into(),
            addresses: addresses.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_says_is_kept_and_what_others_write_on_it_is_not() {
        let mut value = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7", "managedFields": []},
            "spec": {"endpointSelector": {}, "ingress": [{}]}, "specs": [], "status": {"conditions": []}
        });
        let row = |value: &Value| -> model::PolicyObject {
            serde_json::from_value::<Object<Cilium>>(value.clone())
                .unwrap()
                .into()
        };
        let before = row(&value);
        assert_eq!(before.key.as_str(), "shop/web");
        let kept: Value = serde_json::from_str(&before.json).unwrap();
        assert_eq!(
            kept,
            json!({
                "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
                "spec": {"endpointSelector": {}, "ingress": [{}]}, "specs": [],
            })
        );
        value["status"] = json!({"conditions": [{"type": "Valid", "status": "True"}]});
        value["metadata"]["resourceVersion"] = "8".into();
        assert_eq!(row(&value), before);
        value["spec"]["egress"] = json!([]);
        assert_ne!(row(&value), before);
    }

    #[test]
    fn slices_that_people_write_say_what_is_behind_a_service() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {SERVICE_NAME: "db"}},
            "endpoints": [{"addresses": ["192.0.2.9", "db.example"]}, {"addresses": ["192.0.2.7"]}]
        }))
        .unwrap();
        let row = model::ManualEndpoints::from(slice);
        assert_eq!(
            (row.key.as_str(), row.service.as_str()),
            ("shop/db-1", "shop/db")
        );
        assert_eq!(row.addresses.len(), 2);
        let bare: EndpointSlice = serde_json::from_value(json!({"endpoints": null})).unwrap();
        assert!(model::ManualEndpoints::from(bare).service.is_empty());
    }
}
