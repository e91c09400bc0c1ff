//! What every namespace has: the service account `default`, and the certificate authority of the API server.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta,
    write::{Plan, Tell, Write},
};

const ACCOUNT: &str = "default";
/// The ConfigMap with the certificate authority.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const ABOUT: &str = "kubernetes.io/description";

/// The controller of service accounts.
pub struct Accounts;

impl Controller for Accounts {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::ServiceAccount]
    }

    fn affected(&self, change: &Change, _: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<Namespace>());
        keys.extend(namespace_of::<ServiceAccount>(change, ACCOUNT));
    }

    fn plan(&self, key: &Key, world: &World, _: Now) -> Plan {
        let account = Key::new(&key.name, ACCOUNT);
        if !is_active(world, key) || world.get::<ServiceAccount>(&account).is_some() {
            return Plan::none();
        }
        let account = ServiceAccount {
            metadata: named(&account),
            ..ServiceAccount::default()
        };
        vec![Write::create(account, Tell::nothing())].into()
    }
}

/// The controller of the ConfigMaps with the certificate authority.
pub struct RootCa(
    /// The authority as PEM.
    pub String,
);

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::ConfigMap]
    }

    fn affected(&self, change: &Change, _: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<Namespace>());
        keys.extend(namespace_of::<ConfigMap>(change, ROOT_CA));
    }

    fn plan(&self, key: &Key, world: &World, _: Now) -> Plan {
        if !is_active(world, key) {
            return Plan::none();
        }
        let key = Key::new(&key.name, ROOT_CA);
        let data = BTreeMap::from([(FILE.to_owned(), self.0.clone())]);
        let write = match world.get::<ConfigMap>(&key) {
            None => {
                let about = "The certificate authority of this cluster's API server, for clients in this namespace.";
                let mut metadata = named(&key);
                metadata.annotations = Some(BTreeMap::from([(ABOUT.to_owned(), about.to_owned())]));
                let map = ConfigMap {
                    metadata,
                    data: Some(data),
                    ..ConfigMap::default()
                };
                Write::create(map, Tell::nothing())
            }
            Some(map) if map.data.as_ref() == Some(&data) => return Plan::none(),
            Some(map) => Write::patch(&**map, json!({"data": data}), Tell::nothing()),
        };
        vec![write].into()
    }
}

fn named(key: &Key) -> ObjectMeta {
    ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        ..ObjectMeta::default()
    }
}

fn is_active(world: &World, key: &Key) -> bool {
    let namespace = world.get::<Namespace>(key);
    namespace.is_some_and(|namespace| {
        let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
        phase != Some("Terminating") && !meta::is_ending(&namespace.metadata)
    })
}

fn namespace_of<K: crate::kinds::Kept>(change: &Change, name: &str) -> Option<Key> {
    let key = change.key_of::<K>()?;
    (key.name == name).then(|| Key::new("", key.namespace))
}

#[cfg(test)]
mod tests;
