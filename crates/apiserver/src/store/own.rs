//! The server's own service, `default/kubernetes`, by which pods find it, and what says where that leads.
//!
//! Other clusters' servers look after theirs from time to time; here it is done when the server starts, and after every write that
//! somebody makes to one of these objects.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::super::error::{ApiError, Reason};
use super::super::kind::{Kind, Networks};
use super::super::object::Key;
use super::super::patch::merge;
use super::{DeleteOptions, Part, Store, WriteOptions};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const SERVICES: &str = "services";
const ENDPOINTS: &str = "endpoints";
const SLICES: &str = "endpointslices.discovery.k8s.io";
/// The service's port.
const PORT: u16 = 443;
/// Where the server listens if it is not told where it is reached.
const USUAL: u16 = 6443;

/// Whether a service is the server's own.
pub(in super::super) fn is_own_service(key: &Key) -> bool {
    key.namespace == NAMESPACE && key.name == NAME
}

fn family(at: &SocketAddr) -> &'static str {
    if at.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The name of a family's slice: one that is not the first has the family in its name.
fn slice_name(first: bool, family: &str) -> String {
    match first {
        true => NAME.to_owned(),
        false => format!("{NAME}-{}", family.to_lowercase()),
    }
}

/// The objects, with their tables, as they have to be.
fn wanted(networks: &Networks) -> Vec<(&'static str, Value)> {
    let addresses = networks.own_addresses();
    let reached = networks.server.first();
    let mut objects = Vec::new();
    if !addresses.is_empty() {
        let policy = match addresses.len() {
            1 => "SingleStack",
            _ => "PreferDualStack",
        };
        let target = reached.map_or(USUAL, SocketAddr::port);
        let service = json!({
            "metadata": { "name": NAME, "labels": { "component": "apiserver", "provider": "kubernetes" } },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": addresses.first(),
                "clusterIPs": addresses,
                "ipFamilyPolicy": policy,
                "ports": [{ "name": "https", "port": PORT, "protocol": "TCP", "targetPort": target }],
            },
        });
        objects.push((SERVICES, service));
    }
    for (i, at) in networks.server.iter().enumerate() {
        let slice = json!({
            "metadata": {
                "name": slice_name(i == 0, family(at)),
                "labels": { "kubernetes.io/service-name": NAME },
            },
            "addressType": family(at),
            "endpoints": [{ "addresses": [at.ip()], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": at.port(), "protocol": "TCP" }],
        });
        objects.push((SLICES, slice));
    }
    if let Some(at) = reached {
        // Slices are there already: nobody need make them from these.
        let endpoints = json!({
            "metadata": { "name": NAME, "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
            "subsets": [{
                "addresses": [{ "ip": at.ip() }],
                "ports": [{ "name": "https", "port": at.port(), "protocol": "TCP" }],
            }],
        });
        objects.push((ENDPOINTS, endpoints));
    }
    objects
}

/// Whether everything that is wanted is there; there may be more.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(field, value)| found.get(field).is_some_and(|f| covers(f, value))),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| covers(f, w))
        }
        _ => found == wanted,
    }
}

impl Store {
    /// Brings the server's own service and its endpoints to what they have to be.
    pub(super) fn keep_own(&self) {
        let wanted = wanted(&self.networks);
        // The second family of an earlier life.
        for name in [slice_name(false, "IPv4"), slice_name(false, "IPv6")] {
            if wanted.iter().all(|(_, o)| o["metadata"]["name"] != name)
                && let Ok(kind) = self.kind(SLICES)
            {
                let key = Key::namespaced(NAMESPACE, &name);
                let _ = self.delete(&kind, &key, &DeleteOptions::default());
            }
        }
        for (table, object) in wanted {
            let Ok(kind) = self.kind(table) else { continue };
            if let Err(error) = self.keep(&kind, &object) {
                tracing::error!(table, %error, "the server's own service is not as it has to be");
            }
        }
    }

    /// The same after a user's write; the server's own are right.
    pub(super) fn keep_own_after_user(&self, kind: &Kind, key: &Key, options: &WriteOptions) {
        if options.manager.is_some() {
            self.keep_own_after(kind, key);
        }
    }

    /// The same after an object of this key was deleted, if it is one of them.
    pub(super) fn keep_own_after(&self, kind: &Kind, key: &Key) {
        let table = kind.qualified_plural();
        let own = [SERVICES, ENDPOINTS, SLICES].contains(&table.as_str())
            && key.namespace == NAMESPACE
            && wanted(&self.networks)
                .iter()
                .any(|(of, o)| *of == table && o["metadata"]["name"] == key.name);
        if own {
            self.keep_own();
        }
    }

    /// Makes one object, or mends it; what cannot be changed is made anew.
    fn keep(&self, kind: &Kind, wanted: &Value) -> Result<(), ApiError> {
        let own = WriteOptions::default();
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let key = Key::namespaced(NAMESPACE, name);
        let create = || match self.create(kind, NAMESPACE, wanted.clone(), &own) {
            Err(error) if error.reason() != Reason::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        match self.get(kind, &key) {
            Err(_) => create(),
            Ok(found) if covers(found.value(), wanted) => Ok(()),
            Ok(_) => {
                let mend = |old: &Value| {
                    let mut new = old.clone();
                    merge::apply(&mut new, wanted.clone());
                    Ok(new)
                };
                if self.modify(kind, &key, Part::Main, &own, mend).is_ok() {
                    return Ok(());
                }
                // This makes it anew already, but where it has a finalizer.
                self.delete(kind, &key, &DeleteOptions::default())?;
                create()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds;
    use super::super::StoreOptions;
    use super::*;

    fn networks(server: &[&str]) -> Networks {
        Networks {
            server: server.iter().map(|at| at.parse().unwrap()).collect(),
            ..Networks::default()
        }
    }

    fn store(server: &[&str]) -> Store {
        let options = StoreOptions {
            networks: networks(server),
            ..StoreOptions::default()
        };
        Store::open(kinds::builtin(), &options).unwrap()
    }

    fn find(store: &Store, table: &str, name: &str) -> Option<Value> {
        let kind = store.kind(table).unwrap();
        let found = store.get(&kind, &Key::namespaced(NAMESPACE, name)).ok()?;
        Some(found.value().clone())
    }

    const BOTH: [&str; 2] = ["192.0.2.5:6443", "[2001:db8::5]:6443"];

    #[test]
    fn it_leads_to_the_server_in_every_family_that_there_is() {
        let store = store(&BOTH);
        let service = find(&store, SERVICES, NAME).unwrap();
        assert_eq!(
            service["spec"]["clusterIPs"],
            json!(["10.96.0.1", "fd00:96::1"])
        );
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
        for (name, family, ip) in [
            (NAME, "IPv4", "192.0.2.5"),
            ("kubernetes-ipv6", "IPv6", "2001:db8::5"),
        ] {
            let slice = find(&store, SLICES, name).unwrap();
            assert_eq!(slice["addressType"], family);
            assert_eq!(slice["endpoints"][0]["addresses"], json!([ip]));
        }
        let endpoints = find(&store, ENDPOINTS, NAME).unwrap();
        assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.5");
    }

    #[test]
    fn one_family_has_one_address_and_a_server_that_is_nowhere_has_no_endpoints() {
        let store = store(&["[2001:db8::5]:7443"]);
        let service = find(&store, SERVICES, NAME).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], json!(["fd00:96::1"]));
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 7443);
        assert_eq!(
            find(&store, SLICES, NAME).unwrap()["addressType"],
            json!("IPv6")
        );
        assert!(find(&store, SLICES, "kubernetes-ipv6").is_none());
        let nowhere = self::store(&[]);
        let service = find(&nowhere, SERVICES, NAME).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.1"]));
        assert!(find(&nowhere, SLICES, NAME).is_none());
        assert!(find(&nowhere, ENDPOINTS, NAME).is_none());
    }

    /// Whatever of it is deleted, or changed by somebody, is back before the next request.
    #[test]
    fn it_is_mended() {
        let store = store(&BOTH);
        let user = WriteOptions {
            manager: Some("kubectl".to_owned()),
            ..WriteOptions::default()
        };
        for (table, wanted) in wanted(&store.networks) {
            let kind = store.kind(table).unwrap();
            let name = wanted["metadata"]["name"].as_str().unwrap();
            let key = Key::namespaced(NAMESPACE, name);
            let holds = || covers(&find(&store, table, name).unwrap(), &wanted);
            assert!(holds(), "{table} {name}");
            let options = DeleteOptions::default();
            store.delete(&kind, &key, &options).unwrap();
            assert!(holds(), "{table} {name} deleted");
            store
                .modify(&kind, &key, Part::Main, &user, |old| {
                    let mut new = old.clone();
                    for list in ["ports", "endpoints", "subsets"] {
                        if let Some(list) = new.get_mut(list) {
                            *list = json!([]);
                        }
                    }
                    if let Some(port) = new.pointer_mut("/spec/ports/0/targetPort") {
                        *port = json!(1);
                    }
                    new["metadata"]["labels"] = json!({ "mine": "yes" });
                    Ok(new)
                })
                .unwrap();
            assert!(holds(), "{table} {name} changed");
            let labels = &find(&store, table, name).unwrap()["metadata"]["labels"];
            assert_eq!(labels["mine"], "yes");
        }
    }

    /// A service with other addresses cannot be changed, and is made anew.
    #[test]
    fn other_ranges_give_it_other_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let open = |server: &[&str], cidr: Option<&str>| {
            let mut networks = networks(server);
            if let Some(cidr) = cidr {
                networks.service_cidrs = vec![cidr.parse().unwrap()];
            }
            let options = StoreOptions {
                data: Some(folder.path().join("objects")),
                networks,
                ..StoreOptions::default()
            };
            Store::open(kinds::builtin(), &options).unwrap()
        };
        drop(open(&BOTH, None));
        let store = open(&["192.0.2.6:6443"], Some("10.1.0.0/24"));
        let service = find(&store, SERVICES, NAME).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], json!(["10.1.0.1"]));
        let slice = find(&store, SLICES, NAME).unwrap();
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.6"]));
        assert!(find(&store, SLICES, "kubernetes-ipv6").is_none());
        drop(store);
        let store = open(&["[2001:db8::6]:6443"], Some("fd01::/112"));
        let slice = find(&store, SLICES, NAME).unwrap();
        assert_eq!(slice["addressType"], "IPv6");
    }

    #[test]
    fn nobody_else_gets_its_addresses() {
        let store = store(&BOTH);
        let kind = store.kind(SERVICES).unwrap();
        for ip in ["10.96.0.1", "fd00:96::1"] {
            let service = json!({"metadata": {"name": "greedy"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
            let refused = store.create(&kind, "default", service, &WriteOptions::default());
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("already allocated"), "{text}");
        }
    }
}
