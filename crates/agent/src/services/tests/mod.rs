//! From tables to rows, with a kernel of memory and (`maps`) with the real maps.
mod maps;

use super::{
    core::Core,
    inputs::Inputs,
    kernel::{Kernel, Maps, Refusal, Skip},
    settings,
};
use crate::namespaces::Namespaces;
use datapath::{AttachMode, Datapath, Object, OpenOptions};
use lb::{
    frontend::{Algorithm, BackendKey, FrontendKey, Scope, State, flags},
    rows::{Master, Op, Row, RowKey},
};
use model::{
    Endpoint, KUBERNETES, LocalNode, Node, Protocol, RESTORE, Service, Tables,
    service::{Endpoint as Behind, ServicePort, Slice, SlicePort},
};
use runtime::settings::Settings;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A kernel of memory, which may refuse.
#[derive(Clone, Default)]
struct Memory {
    rows: Arc<Mutex<BTreeMap<RowKey, Row>>>,
    skips: Arc<Mutex<BTreeSet<Skip>>>,
    refuses: Arc<AtomicBool>,
}

fn key_of(row: &Row) -> RowKey {
    match row {
        Row::Address(ip) => RowKey::Address(*ip),
        Row::Frontend(key, _) => RowKey::Frontend(*key),
        Row::Slot(key, slot, _) => RowKey::Slot(*key, *slot),
        Row::Backend(id, key, _) => RowKey::Backend(*id, key.address.is_ipv6()),
        Row::Reverse(id, ip, _) => RowKey::Reverse(*id, ip.is_ipv6()),
        Row::Affinity(id, backend) => RowKey::Affinity(*id, *backend),
        Row::Source(id, net, _) => RowKey::Source(*id, *net),
        Row::Maglev(id, ipv6, _) => RowKey::Maglev(*id, *ipv6),
        Row::Skip(pod, key) => RowKey::Skip(pod.clone(), *key),
    }
}

impl Kernel for Memory {
    fn write(&mut self, ops: &[Op]) -> Result<(), (usize, Refusal)> {
        for (index, op) in ops.iter().enumerate() {
            if self.refuses.load(Ordering::Relaxed) {
                return Err((index, Refusal("no memory".to_owned())));
            }
            let mut rows = self.rows.lock().unwrap();
            match op {
                Op::Put(Row::Skip(..)) | Op::Delete(RowKey::Skip(..)) => {}
                Op::Put(row) => drop(rows.insert(key_of(row), row.clone())),
                Op::Delete(key) => drop(rows.remove(key)),
            }
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<Vec<Row>, Refusal> {
        Ok(self.rows.lock().unwrap().values().cloned().collect())
    }

    fn set_skips(&mut self, put: &[Skip], delete: &[Skip]) -> Result<(), Refusal> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Refusal("no memory".to_owned()));
        }
        let mut skips = self.skips.lock().unwrap();
        skips.extend(put.iter().copied());
        skips.retain(|skip| !delete.contains(skip));
        Ok(())
    }

    fn skips(&mut self) -> Result<Vec<Skip>, Refusal> {
        Ok(self.skips.lock().unwrap().iter().copied().collect())
    }
}

impl Memory {
    fn frontends(&self) -> Vec<String> {
        let rows = self.rows.lock().unwrap();
        rows.values()
            .filter_map(|row| match row {
                Row::Frontend(key, master) => Some(format!("{key} {}", master.count)),
                _ => None,
            })
            .collect()
    }
}

/// A pod's endpoint, with its namespace.
pub fn endpoint(id: u16, netns: &str) -> Endpoint {
    Endpoint {
        id,
        pod: model::PodRef {
            namespace: "shop".to_owned(),
            name: "cache".to_owned(),
            uid: String::new(),
        },
        attachment: model::Attachment {
            container: format!("c{id}"),
            interface: "eth0".to_owned(),
        },
        netns: netns.to_owned(),
        state: model::EndpointState::Ready,
        labels: model::Labels::default(),
        identity: 1000,
        ipv4: None,
        ipv6: None,
        ifname: "lxc7".to_owned(),
        ifindex: 7,
        host_mac: model::Mac::default(),
        container_mac: model::Mac::default(),
        device: model::DeviceKind::Veth,
        ports: Vec::new(),
        subject: 0,
        flags: 0,
        policy_audit: None,
        enforcing: [false; 2],
    }
}

fn core(tables: &Tables, kernel: &Memory, enabled: bool) -> Core {
    let planner = settings::planner(&Settings::default()).unwrap();
    let planner = lb::Settings {
        local_redirects: true,
        ..planner
    };
    let inputs = Inputs::new(tables, Vec::new());
    Core::new(
        Box::new(kernel.clone()),
        planner,
        inputs,
        Namespaces::default(),
        enabled,
        Instant::now(),
    )
    .unwrap()
}

/// Steps until nothing is left to do, or the kernel refuses.
fn settle(core: &mut Core, tables: &Tables) -> super::core::Next {
    loop {
        let snapshot = tables.db.snapshot();
        let next = core.step(tables, &snapshot, Instant::now());
        if next.again != Some(Duration::ZERO) {
            return next;
        }
    }
}

fn service(name: &str, ip: &str) -> Service {
    Service {
        key: format!("shop/{name}").as_str().into(),
        cluster_ips: vec![ip.parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        ..Service::default()
    }
}

fn slice(name: &str, backends: &[&str]) -> Slice {
    Slice {
        key: format!("shop/{name}-x").as_str().into(),
        service: format!("shop/{name}").as_str().into(),
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: backends
            .iter()
            .map(|ip| Behind::ready(ip.parse().unwrap(), "n1"))
            .collect(),
        ..Slice::default()
    }
}

fn put(tables: &Tables, services: &[Service], slices: &[Slice]) {
    let mut txn = tables.db.write();
    for service in services {
        tables
            .services
            .services
            .insert(&mut txn, service.clone())
            .unwrap();
    }
    for slice in slices {
        tables
            .services
            .slices
            .insert(&mut txn, slice.clone())
            .unwrap();
    }
    txn.commit();
}

/// Everything but services is known.
fn know(tables: &Tables) {
    let mut txn = tables.db.write();
    let local = LocalNode {
        node: Node {
            name: "n1".to_owned(),
            ..Node::default()
        },
        ..LocalNode::default()
    };
    tables.local_node.insert(&mut txn, local).unwrap();
    let of = &tables.services;
    of.slices.finish_initializer(&mut txn, KUBERNETES);
    of.redirects.finish_initializer(&mut txn, KUBERNETES);
    tables.pods.finish_initializer(&mut txn, KUBERNETES);
    tables.endpoints.finish_initializer(&mut txn, RESTORE);
    txn.commit();
}

fn know_services(tables: &Tables) {
    let mut txn = tables.db.write();
    tables
        .services
        .services
        .finish_initializer(&mut txn, KUBERNETES);
    txn.commit();
}

#[test]
fn nothing_is_touched_before_all_is_known_and_then_only_what_differs() {
    let (tables, kernel) = (Tables::new().unwrap(), Memory::default());
    let mut first = core(&tables, &kernel, true);
    put(
        &tables,
        &[service("a", "10.96.0.1"), service("b", "10.96.0.2")],
        &[slice("a", &["10.0.0.1"]), slice("b", &["10.0.0.2"])],
    );
    know(&tables);
    settle(&mut first, &tables);
    assert_eq!(first.missing(), Some("services"));
    assert!(kernel.frontends().is_empty());
    know_services(&tables);
    settle(&mut first, &tables);
    assert_eq!(
        kernel.frontends(),
        ["10.96.0.1:80/TCP 1", "10.96.0.2:80/TCP 1"]
    );
    assert_eq!(first.compare().unwrap().1, Vec::<String>::new());
    drop(first);

    // The next agent hears of one of them, and of nothing else for the time being.
    let tables = Tables::new().unwrap();
    let before = kernel.rows.lock().unwrap().clone();
    let mut second = core(&tables, &kernel, true);
    put(
        &tables,
        &[service("b", "10.96.0.2")],
        &[slice("b", &["10.0.0.2"])],
    );
    know(&tables);
    settle(&mut second, &tables);
    assert_eq!(*kernel.rows.lock().unwrap(), before);
    know_services(&tables);
    settle(&mut second, &tables);
    assert_eq!(kernel.frontends(), ["10.96.0.2:80/TCP 1"]);
    let kept = key_of(&before[&RowKey::Frontend("10.96.0.2:80".parse().unwrap())]);
    assert_eq!(kernel.rows.lock().unwrap().get(&kept), before.get(&kept));
    assert_eq!(second.compare().unwrap().1, Vec::<String>::new());
    drop(second);

    // Without the work nothing is left of it.
    let mut off = core(&Tables::new().unwrap(), &kernel, false);
    settle(&mut off, &tables);
    assert!(kernel.rows.lock().unwrap().is_empty());
}

#[test]
fn what_the_kernel_refuses_is_tried_again_with_what_came_since() {
    let (tables, kernel) = (Tables::new().unwrap(), Memory::default());
    let mut core = core(&tables, &kernel, true);
    know(&tables);
    know_services(&tables);
    kernel.refuses.store(true, Ordering::Relaxed);
    put(
        &tables,
        &[service("a", "10.96.0.1")],
        &[slice("a", &["10.0.0.1"])],
    );
    let next = settle(&mut core, &tables);
    assert!(next.again.is_some() && core.refusal().is_some());
    put(
        &tables,
        &[service("b", "10.96.0.2")],
        &[slice("a", &["10.0.0.1", "10.0.0.2"])],
    );
    assert!(settle(&mut core, &tables).again.is_some());
    assert!(kernel.frontends().is_empty());
    kernel.refuses.store(false, Ordering::Relaxed);
    assert_eq!(settle(&mut core, &tables).again, None);
    assert!(core.refusal().is_none());
    assert_eq!(
        kernel.frontends(),
        ["10.96.0.1:80/TCP 2", "10.96.0.2:80/TCP 0"]
    );
    assert_eq!(core.compare().unwrap().1, Vec::<String>::new());
}

#[test]
fn the_check_tells_what_is_other_than_planned() {
    let (tables, kernel) = (Tables::new().unwrap(), Memory::default());
    let mut core = core(&tables, &kernel, true);
    know(&tables);
    know_services(&tables);
    put(
        &tables,
        &[service("a", "10.96.0.1")],
        &[slice("a", &["10.0.0.1"])],
    );
    settle(&mut core, &tables);
    let key: FrontendKey = "10.96.0.1:80".parse().unwrap();
    {
        let mut rows = kernel.rows.lock().unwrap();
        rows.remove(&RowKey::Slot(key, 1)).unwrap();
        rows.insert(RowKey::Affinity(9, 9), Row::Affinity(9, 9));
        if let Some(Row::Frontend(_, master)) = rows.get_mut(&RowKey::Frontend(key)) {
            master.count = 7;
        }
    }
    let (_, odd) = core.compare().unwrap();
    let all = odd.join("\n");
    assert_eq!(odd.len(), 3, "{all}");
    for part in ["is missing", "without reason", "should be"] {
        assert!(all.contains(part), "{all}");
    }
}

#[test]
fn complaints_name_the_object() {
    let (tables, kernel) = (Tables::new().unwrap(), Memory::default());
    let mut core = core(&tables, &kernel, true);
    know(&tables);
    know_services(&tables);
    let odd = Service {
        problems: vec!["spec.ports[1]: no port".to_owned()],
        ..service("a", "10.96.0.1")
    };
    let mut of = slice("a", &["10.0.0.1"]);
    of.problems = vec!["endpoints[3]: no address".to_owned()];
    put(&tables, &[odd, service("b", "10.96.0.1")], &[of]);
    let policy = model::Declared {
        key: "shop/dns".into(),
        spec: r#"{"redirectFrontend": {}}"#.into(),
        ..model::Declared::default()
    };
    let mut txn = tables.db.write();
    tables.services.redirects.insert(&mut txn, policy).unwrap();
    txn.commit();
    settle(&mut core, &tables);
    let told: Vec<String> = core
        .problems()
        .iter()
        .map(|(owner, what)| format!("{owner}: {what}"))
        .collect();
    let all = told.join("\n");
    for part in [
        "service shop/a: spec.ports[1]: no port",
        "service shop/a: EndpointSlice shop/a-x: endpoints[3]: no address",
        "service shop/b: 10.96.0.1:80/TCP belongs to service shop/a",
        "local redirect policy shop/dns: spec",
    ] {
        assert!(all.contains(part), "{all}");
    }
    // What is put right is no problem any longer.
    put(
        &tables,
        &[service("a", "10.96.0.1"), service("b", "10.96.0.2")],
        &[slice("a", &["10.0.0.1"])],
    );
    let mut txn = tables.db.write();
    tables.services.redirects.delete(&mut txn, "shop/dns");
    txn.commit();
    settle(&mut core, &tables);
    assert!(core.problems().is_empty(), "{:?}", core.problems());
}

#[test]
fn pods_that_are_not_redirected_are_known_by_their_namespace() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let (tables, kernel) = (Tables::new().unwrap(), Memory::default());
    let mut core = core(&tables, &kernel, true);
    know(&tables);
    know_services(&tables);
    let policy = model::Declared {
        key: "shop/dns".into(),
        spec: r#"{"redirectFrontend": {"addressMatcher": {"ip": "169.254.20.10", "toPorts": [{"port": "53", "protocol": "UDP"}]}},
                  "redirectBackend": {"localEndpointSelector": {}, "toPorts": [{"port": "5353", "protocol": "UDP"}]},
                  "skipRedirectFromBackend": true}"#
            .into(),
        ..model::Declared::default()
    };
    let pod = model::Pod {
        addresses: vec!["10.0.0.9".parse().unwrap()].into(),
        ready: true,
        ..model::Pod::named("shop", "cache")
    };
    let mut txn = tables.db.write();
    tables.services.redirects.insert(&mut txn, policy).unwrap();
    tables.pods.insert(&mut txn, pod).unwrap();
    txn.commit();
    settle(&mut core, &tables);
    assert_eq!(kernel.frontends(), ["169.254.20.10:53/UDP 1"]);
    assert!(kernel.skips.lock().unwrap().is_empty());
    let mut txn = tables.db.write();
    tables
        .endpoints
        .insert(&mut txn, endpoint(7, "/proc/self/ns/net"))
        .unwrap();
    txn.commit();
    settle(&mut core, &tables);
    let own = datapath::netns_cookie().unwrap();
    let skips: Vec<Skip> = kernel.skips.lock().unwrap().iter().copied().collect();
    match own {
        Some(netns) => {
            assert_eq!(skips.len(), 1);
            assert_eq!(skips[0].netns, netns);
            assert_eq!(skips[0].frontend.to_string(), "169.254.20.10:53/UDP");
        }
        None => assert!(skips.is_empty()),
    }
    let mut txn = tables.db.write();
    tables.endpoints.delete(&mut txn, &7);
    txn.commit();
    settle(&mut core, &tables);
    assert!(kernel.skips.lock().unwrap().is_empty());
}
