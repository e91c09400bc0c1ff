//! Tables, a kernel that forgets nothing, and the core between them.
use super::super::core::{AddressCache, Core, Next, Options};
use super::super::inputs::sources;
use super::super::writer::Kernel;
use abi::{PolicyKey, PolicyValue};
use ipnet::IpNet;
use model::{
    Endpoint, Identity, IdentityKind, KUBERNETES, Labels, LocalNode, PolicyObject, Prefix,
    PrefixIdentity, PrefixSource, RESTORE, Tables,
};
use policy::{
    kernel::{Key, Map, Question, Value, Verdict},
    rule::{Direction, NamedPorts},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A map that forgets nothing when its writer is gone.
#[derive(Clone, Default)]
pub struct Fake(pub Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    pub rows: Map,
    pub capacity: usize,
    pub epoch: u64,
    pub writes: usize,
    /// The kernel refuses everything after so many writes: as if the agent were killed.
    pub dies_after: Option<usize>,
    /// What the address cache holds.
    pub cache: BTreeMap<IpNet, u32>,
    /// A question that must be answered this way at every moment.
    pub fixed: Vec<(Question, Verdict)>,
}

impl State {
    pub fn ask(&self, question: &Question) -> Verdict {
        self.rows.ask(question).verdict
    }

    pub fn write(&mut self, write: impl FnOnce(&mut Map)) -> Result<(), String> {
        if self.dies_after.is_some_and(|most| self.writes >= most) {
            return Err("killed".to_owned());
        }
        self.writes += 1;
        write(&mut self.rows);
        for (question, verdict) in &self.fixed {
            assert_eq!(self.ask(question), *verdict, "{question:?}");
        }
        Ok(())
    }
}

impl Kernel for Fake {
    fn put(&mut self, rows: &[(PolicyKey, PolicyValue)]) -> Result<usize, String> {
        let mut state = self.0.lock().unwrap();
        for (done, (key, value)) in rows.iter().enumerate() {
            let key = Key::from_abi(key).unwrap();
            if state.rows.len() >= state.capacity {
                return Ok(done);
            }
            state.write(|rows| {
                rows.put(key, Value::from_abi(value));
            })?;
        }
        Ok(rows.len())
    }

    fn delete(&mut self, keys: &[PolicyKey]) -> Result<(), String> {
        let mut state = self.0.lock().unwrap();
        for key in keys {
            let key = Key::from_abi(key).unwrap();
            state.write(|rows| {
                rows.delete(&key);
            })?;
        }
        Ok(())
    }

    fn dump(&mut self) -> Result<Vec<(PolicyKey, PolicyValue)>, String> {
        let state = self.0.lock().unwrap();
        let rows = state.rows.iter();
        Ok(rows
            .map(|(key, value)| (key.to_abi(), value.to_abi(key.l4)))
            .collect())
    }

    fn capacity(&self) -> usize {
        self.0.lock().unwrap().capacity
    }

    fn raise(&mut self) -> Result<(), String> {
        self.0.lock().unwrap().epoch += 1;
        Ok(())
    }
}

impl AddressCache for Fake {
    fn identity(&self, row: &Prefix) -> Option<u32> {
        self.0.lock().unwrap().cache.get(&row.prefix).copied()
    }
}

/// Tables, a kernel, and the core between them.
pub struct World {
    pub tables: Tables,
    pub kernel: Fake,
    pub core: Core,
    pub started: Instant,
}

pub const WEB: u32 = 1000;
pub const DB: u32 = 1001;
pub const OTHER: u32 = 1002;

pub fn labels(app: &str) -> Labels {
    [
        "k8s:io.kubernetes.pod.namespace=shop",
        "k8s:io.cilium.k8s.policy.cluster=default",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("k8s:app={app}")])
    .collect()
}

pub fn options() -> Options {
    Options {
        settings: policy::Settings::default(),
        parse: policy::parse::Options::default(),
        host_firewall: false,
        lockdown: false,
        audit: false,
        files: false,
        families: [true; 2],
    }
}

impl World {
    pub fn new() -> Self {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        let reserved = [
            (1, "reserved:host"),
            (2, "reserved:world"),
            (5, "reserved:init"),
        ];
        for (id, label) in reserved {
            let labels = [label.to_owned()].into_iter().collect();
            tables
                .identities
                .insert(&mut txn, identity(id, labels))
                .unwrap();
        }
        for (id, app) in [(WEB, "web"), (DB, "db"), (OTHER, "other")] {
            tables
                .identities
                .insert(&mut txn, identity(id, labels(app)))
                .unwrap();
        }
        tables
            .local_node
            .insert(&mut txn, LocalNode::default())
            .unwrap();
        txn.commit();
        let kernel = Fake::default();
        kernel.0.lock().unwrap().capacity = 10_000;
        let started = Instant::now();
        let core = core(&tables, &kernel, options(), started);
        Self {
            tables,
            kernel,
            core,
            started,
        }
    }

    /// A world whose inputs are all known.
    pub fn complete() -> Self {
        let mut world = Self::new();
        world.endpoint(2, WEB, "web");
        world.know_all();
        world.step();
        assert!(world.core.is_complete());
        world
    }

    pub fn know_all(&self) {
        let tables = &self.tables;
        let mut txn = tables.db.write();
        for table in sources(tables) {
            table.finish_initializer(&mut txn, KUBERNETES);
        }
        tables
            .policies
            .services
            .finish_initializer(&mut txn, KUBERNETES);
        tables
            .policies
            .manual_endpoints
            .finish_initializer(&mut txn, KUBERNETES);
        tables
            .cilium_endpoints
            .finish_initializer(&mut txn, KUBERNETES);
        tables.identities.finish_initializer(&mut txn, KUBERNETES);
        tables.endpoints.finish_initializer(&mut txn, RESTORE);
        txn.commit();
    }

    /// Another agent takes over, with its own view of the same tables.
    pub fn restart(&mut self, options: Options) {
        self.kernel.0.lock().unwrap().dies_after = None;
        self.core = core(&self.tables, &self.kernel, options, self.started);
    }

    pub fn step(&mut self) -> Next {
        self.step_at(Duration::ZERO)
    }

    pub fn step_at(&mut self, after: Duration) -> Next {
        let snapshot = self.tables.db.snapshot();
        self.core
            .step(&self.tables, &snapshot, self.started + after)
    }

    pub fn endpoint(&mut self, id: u16, identity: u32, app: &str) {
        let ports = NamedPorts::new();
        let (subject, hold) = self
            .core
            .realise(&self.tables, identity, &labels(app), ports, 0);
        let row = endpoint(id, identity, app, subject);
        let mut txn = self.tables.db.write();
        self.tables.endpoints.insert(&mut txn, row).unwrap();
        txn.commit();
        drop(hold);
    }

    pub fn policy(&self, name: &str, spec: serde_json::Value) {
        let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        let row = PolicyObject {
            key: format!("shop/{name}").into(),
            kind: "CiliumNetworkPolicy".into(),
            json: object.to_string().into(),
        };
        let mut txn = self.tables.db.write();
        self.tables.policies.cilium.insert(&mut txn, row).unwrap();
        txn.commit();
    }

    /// A range has a number, and the tables have its row.
    pub fn range(&self, prefix: IpNet, id: u32) {
        let own = [format!("cidr:{prefix}"), "reserved:world".to_owned()];
        let own = identity(id, own.into_iter().collect());
        let number = PrefixIdentity {
            prefix,
            identity: id,
        };
        let row = Prefix {
            prefix,
            identity: id,
            tunnel: None,
            source: PrefixSource::Generated,
            owner: "".into(),
        };
        let tables = &self.tables;
        let mut txn = tables.db.write();
        tables.identities.insert(&mut txn, own).unwrap();
        tables.prefix_identities.insert(&mut txn, number).unwrap();
        tables.prefixes.insert(&mut txn, row).unwrap();
        txn.commit();
    }

    pub fn drop_policy(&self, name: &str) {
        let mut txn = self.tables.db.write();
        let key = format!("shop/{name}");
        self.tables.policies.cilium.delete(&mut txn, key.as_str());
        txn.commit();
    }

    pub fn ask(&self, subject: u32, remote: u32, port: u16) -> Verdict {
        self.kernel
            .0
            .lock()
            .unwrap()
            .ask(&ingress(subject, remote, port))
    }

    pub fn rows(&self) -> Map {
        self.kernel.0.lock().unwrap().rows.clone()
    }

    pub fn writes(&self) -> usize {
        self.kernel.0.lock().unwrap().writes
    }
}

pub fn core(tables: &Tables, kernel: &Fake, options: Options, now: Instant) -> Core {
    Core::new(
        tables,
        Box::new(kernel.clone()),
        Box::new(kernel.clone()),
        options,
        now,
    )
}

fn identity(id: u32, labels: Labels) -> Identity {
    Identity {
        id,
        labels,
        kind: IdentityKind::Cluster,
    }
}

pub fn endpoint(id: u16, identity: u32, app: &str, subject: u32) -> Endpoint {
    let value = json!({
        "id": id, "state": "ready", "attachment": format!("cni-attachment-id:c{id}:eth0"),
        "pod": {"namespace": "shop", "name": format!("{app}-{id}"), "uid": ""},
        "labels": labels(app), "identity": identity, "ipv4": format!("10.0.0.{id}"), "ipv6": null,
        "ifname": format!("lxc{id}"), "ifindex": id, "host_mac": "02:00:00:00:00:01",
        "container_mac": "02:00:00:00:00:02", "netns": "", "subject": subject,
    });
    serde_json::from_value(value).unwrap()
}

pub fn ingress(subject: u32, remote: u32, port: u16) -> Question {
    Question {
        subject,
        direction: Direction::Ingress,
        remote,
        protocol: 6,
        port: Some(port),
    }
}

pub fn from(app: &str, port: u16) -> serde_json::Value {
    json!({
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": app}}],
            "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}]}],
    })
}
