//! The endpoints of this node as `CiliumEndpoint` objects.
use k8s::{
    Client,
    crd::{self, Crd},
    error::{is_conflict, is_not_found, says},
    write::{Meant, Objects},
};
use model::{Endpoint, Tables};
use runtime::reconcile_async::AsyncTarget;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tables::{Snapshot, reconcile::OpKind};

/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Writes endpoints to the API server.
pub struct EndpointObjects {
    client: Client,
    tables: Tables,
    crd: Crd,
    /// Unique numbers of the objects that this process wrote, by endpoint.
    written: Mutex<BTreeMap<u16, String>>,
}

impl EndpointObjects {
    /// A target for the table of endpoints.
    #[must_use]
    pub fn new(client: Client, tables: Tables) -> Self {
        let crd = crd::ALL.iter().find(|crd| crd.kind == "CiliumEndpoint");
        Self {
            client,
            tables,
            crd: *crd.unwrap_or(&crd::ALL[0]),
            written: Mutex::default(),
        }
    }

    fn objects(&self, endpoint: &Endpoint) -> Objects {
        Objects::within(&self.client, &self.crd, &endpoint.pod.namespace)
    }

    fn remember(&self, endpoint: u16, uid: Option<String>) -> Option<String> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match uid {
            Some(uid) => written.insert(endpoint, uid),
            None => written.remove(&endpoint),
        }
    }

    fn is_written(&self, endpoint: u16) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.contains_key(&endpoint)
    }

    async fn put(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> Result<(), String> {
        // A newer snapshot than that of the operation would do as well, and may know the pod by now.
        let _ = snapshot;
        let snapshot = self.tables.db.snapshot();
        let uid = owner(&self.tables, &snapshot, endpoint)?;
        let wanted = object(&self.tables, &snapshot, endpoint, &uid);
        let objects = self.objects(endpoint);
        let name = &endpoint.pod.name;
        let outcome = if self.is_written(endpoint.id) {
            match objects.merge(name, wanted.clone(), None).await {
                Err(error) if is_not_found(&error) => objects.create(wanted).await,
                other => other,
            }
        } else {
            match objects.create(wanted.clone()).await {
                Err(error) if is_conflict(&error) => {
                    return self.take_over(&objects, endpoint, &uid, wanted).await;
                }
                other => other,
            }
        };
        let object = outcome.map_err(|error| says(&error))?;
        self.remember(endpoint.id, object.metadata.uid);
        Ok(())
    }

    /// There is an object of this name: of this pod, from before a restart, or of a pod that had the name before.
    async fn take_over(
        &self,
        objects: &Objects,
        endpoint: &Endpoint,
        pod: &str,
        wanted: Value,
    ) -> Result<(), String> {
        let name = &endpoint.pod.name;
        let present = objects.get(name).await.map_err(|error| says(&error))?;
        let Some(present) = present else {
            return Err("the object went while it was looked at".to_owned());
        };
        let owners = present.metadata.owner_references.unwrap_or_default();
        let uid = present.metadata.uid;
        if owners.iter().any(|owner| owner.uid == pod) {
            if contains(&present.data["status"], &wanted["status"]) {
                self.remember(endpoint.id, uid);
                return Ok(());
            }
            let merged = objects.merge(name, wanted, None).await;
            let merged = merged.map_err(|error| says(&error))?;
            self.remember(endpoint.id, merged.metadata.uid);
            return Ok(());
        }
        let meant = Meant { uid, version: None };
        match objects.delete(name, meant).await {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(says(&error)),
        }
        let created = objects.create(wanted).await.map_err(|error| says(&error))?;
        self.remember(endpoint.id, created.metadata.uid);
        Ok(())
    }

    async fn remove(&self, endpoint: &Endpoint) -> Result<(), String> {
        let objects = self.objects(endpoint);
        let name = &endpoint.pod.name;
        let uid = match self.remember(endpoint.id, None) {
            Some(uid) => uid,
            None => {
                let present = objects.get(name).await.map_err(|error| says(&error))?;
                // One of a pod of the same name that came after this one has another number or another container.
                match present.filter(|present| is_of(&present.data["status"], endpoint)) {
                    Some(present) => present.metadata.uid.unwrap_or_default(),
                    None => return Ok(()),
                }
            }
        };
        let meant = Meant {
            uid: Some(uid.clone()),
            version: None,
        };
        match objects.delete(name, meant).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => {
                self.remember(endpoint.id, Some(uid));
                Err(says(&error))
            }
        }
    }
}

impl AsyncTarget<Endpoint> for EndpointObjects {
    async fn carry_out(&self, snapshot: &Snapshot, work: &OpKind<Endpoint>) -> Result<(), String> {
        let work = async {
            match work {
                OpKind::Update(endpoint) => self.put(snapshot, endpoint).await,
                OpKind::Delete(endpoint) => self.remove(endpoint).await,
                // What belongs to no endpoint goes with its pod, and what is left is the operator's to find.
                OpKind::Prune(_) => Ok(()),
            }
        };
        match tokio::time::timeout(LIMIT, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err("the API server did not answer in time".to_owned()),
        }
    }
}

/// Unique number of the pod behind an endpoint.
fn owner(tables: &Tables, snapshot: &Snapshot, endpoint: &Endpoint) -> Result<String, String> {
    if !endpoint.pod.uid.is_empty() {
        return Ok(endpoint.pod.uid.clone());
    }
    match tables.pods.get(snapshot, endpoint.pod.to_string().as_str()) {
        Some(pod) if !pod.uid.is_empty() => Ok(pod.uid.to_string()),
        _ => Err(format!(
            "the object of pod {} has not been seen",
            endpoint.pod
        )),
    }
}

/// Whether an object's status speaks of this endpoint.
fn is_of(status: &Value, endpoint: &Endpoint) -> bool {
    status["id"] == endpoint.id
        && status["external-identifiers"]["container-id"] == endpoint.attachment.container.as_str()
}

/// Whether `present` says all that `wanted` does.
fn contains(present: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(fields) => fields
            .iter()
            .all(|(name, inner)| contains(&present[name], inner)),
        other => present == other,
    }
}

/// The object of an endpoint.
fn object(tables: &Tables, snapshot: &Snapshot, endpoint: &Endpoint, uid: &str) -> Value {
    let local = tables.local_node.iter(snapshot).next();
    let node = local.and_then(|local| local.primary(false).or_else(|| local.primary(true)));
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let audits = endpoint.flags & abi::endpoint_flags::POLICY_AUDIT != 0;
    let direction = |decides: bool| crd::EndpointPolicyDirection {
        enforcing: decides && !audits,
        state: match (decides, audits) {
            (false, _) => "disabled",
            (true, true) => "non-enforcing",
            (true, false) => "enforcing",
        }
        .to_owned(),
    };
    let pod = &endpoint.pod;
    let identifiers = [
        (
            "cni-attachment-id",
            format!(
                "{}:{}",
                endpoint.attachment.container, endpoint.attachment.interface
            ),
        ),
        ("container-id", endpoint.attachment.container.clone()),
        ("k8s-namespace", pod.namespace.clone()),
        ("k8s-pod-name", pod.name.clone()),
        ("pod-name", pod.to_string()),
    ];
    let status = crd::EndpointStatus {
        id: endpoint.id,
        identity: Some(crd::EndpointIdentity {
            id: endpoint.identity,
            labels: endpoint.labels.to_strings(),
        }),
        networking: Some(crd::EndpointNetworking {
            addressing: vec![crd::AddressPair {
                ipv4: text(endpoint.ipv4.map(IpAddr::V4)),
                ipv6: text(endpoint.ipv6.map(IpAddr::V6)),
            }],
            node: text(node),
        }),
        encryption: Some(crd::EndpointEncryption { key: 0 }),
        external_identifiers: identifiers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        named_ports: endpoint
            .ports
            .iter()
            .map(|port| crd::EndpointPort {
                name: port.name.to_string(),
                port: port.port,
                protocol: port.protocol_name().to_owned(),
            })
            .collect(),
        policy: Some(crd::EndpointPolicy {
            ingress: direction(endpoint.enforcing[0]),
            egress: direction(endpoint.enforcing[1]),
        }),
        state: endpoint.state.text().to_owned(),
    };
    let object_row = tables.pods.get(snapshot, pod.to_string().as_str());
    let labels = object_row.map(|row| row.labels.clone()).unwrap_or_default();
    json!({
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": uid}],
        },
        "status": status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Attachment, EndpointState, Labels, LocalNode, Mac, PodRef};

    fn endpoint() -> Endpoint {
        Endpoint {
            id: 7,
            state: EndpointState::Ready,
            attachment: Attachment {
                container: "c".to_owned(),
                interface: "eth0".to_owned(),
            },
            pod: PodRef {
                namespace: "shop".to_owned(),
                name: "cart".to_owned(),
                uid: "u".to_owned(),
            },
            labels: ["k8s:app=cart".to_owned()].into_iter().collect::<Labels>(),
            identity: 4711,
            ipv4: Some("10.0.0.5".parse().unwrap()),
            ipv6: None,
            ifname: "lxc1".to_owned(),
            ifindex: 5,
            host_mac: Mac::default(),
            container_mac: Mac::default(),
            netns: String::new(),
            device: Default::default(),
            ports: Vec::new(),
            subject: 0,
            flags: 0,
            policy_audit: None,
            enforcing: [false; 2],
        }
    }

    #[test]
    fn the_object_says_what_the_endpoint_is() {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        let node = model::Node {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..model::Node::default()
        };
        let local = LocalNode {
            addresses: node.addresses.clone(),
            node,
            ..LocalNode::default()
        };
        tables.local_node.insert(&mut txn, local).unwrap();
        txn.commit();
        let snapshot = tables.db.snapshot();
        let made = object(&tables, &snapshot, &endpoint(), "u");
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
        let status = &made["status"];
        assert_eq!(
            status["identity"],
            json!({"id": 4711, "labels": ["k8s:app=cart"]})
        );
        assert_eq!(
            status["networking"],
            json!({"addressing": [{"ipv4": "10.0.0.5"}], "node": "192.0.2.1"})
        );
        assert_eq!(
            (&status["state"], &status["id"]),
            (&json!("ready"), &json!(7))
        );
        assert!(is_of(status, &endpoint()));
        let mut other = endpoint();
        other.attachment.container = "d".to_owned();
        assert!(!is_of(status, &other));
        assert_eq!(status["policy"]["ingress"]["state"], "disabled");
        assert!(contains(status, status));
        assert!(!contains(status, &json!({"state": "creating"})));
    }

    #[test]
    fn the_object_says_whether_policy_decides() {
        let tables = Tables::new().unwrap();
        let policy = |flags| {
            let endpoint = Endpoint {
                enforcing: [true, false],
                flags,
                ..endpoint()
            };
            object(&tables, &tables.db.snapshot(), &endpoint, "u")["status"]["policy"].clone()
        };
        let egress = json!({"enforcing": false, "state": "disabled"});
        assert_eq!(
            policy(0),
            json!({"ingress": {"enforcing": true, "state": "enforcing"}, "egress": egress})
        );
        assert_eq!(
            policy(abi::endpoint_flags::POLICY_AUDIT),
            json!({"ingress": {"enforcing": false, "state": "non-enforcing"}, "egress": egress})
        );
    }

    #[test]
    fn without_a_pod_there_is_no_object() {
        let tables = Tables::new().unwrap();
        let mut lonely = endpoint();
        lonely.pod.uid.clear();
        let error = owner(&tables, &tables.db.snapshot(), &lonely).unwrap_err();
        assert_eq!(error, "the object of pod shop/cart has not been seen");
    }
}
