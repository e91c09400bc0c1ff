//! Tables with two pods on this node, one elsewhere, a service; and events about them.
use abi::{CtStatus, EventKind, FlowEvent, TracePoint};
use hypha_flow::{
    Feeder, Observer,
    directory::Facts,
    observer::event_clock,
    proto::flow::{Flow, Policy},
    record::{About, Record, What},
};
use model::{
    Attachment, Endpoint, EndpointState, Identity, IdentityKind, Labels, PodRef, Protocol,
    RemoteEndpoint, Tables,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

pub const CART: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub const DB: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 5);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 12, 7);

pub struct World {
    pub tables: Tables,
    pub observer: Observer,
    pub feeder: Feeder,
}

pub struct Known;

impl Facts for Known {
    fn policy_revision(&self) -> u64 {
        3
    }

    fn policies(&self, origin: u32) -> Vec<Policy> {
        let one = |name: &str| Policy {
            name: name.into(),
            namespace: "shop".into(),
            kind: "CiliumNetworkPolicy".into(),
            revision: 3,
            labels: Vec::new(),
        };
        match origin {
            7 => vec![one("allow-cart")],
            8 => vec![one("deny-all")],
            _ => Vec::new(),
        }
    }

    fn socket_owner(&self, netns: u64) -> Option<Arc<Endpoint>> {
        (netns == 77).then(|| Arc::new(endpoint(10, "cart-1", CART, 20311)))
    }

    fn names(&self, address: IpAddr) -> Vec<String> {
        let known = address == IpAddr::from([192, 0, 2, 1]);
        known
            .then(|| "www.example.org".to_owned())
            .into_iter()
            .collect()
    }
}

pub fn labels(app: &str) -> Labels {
    [
        format!("k8s:app={app}"),
        "k8s:io.cilium.k8s.policy.cluster=c1".to_owned(),
        "k8s:io.kubernetes.pod.namespace=shop".to_owned(),
    ]
    .into_iter()
    .collect()
}

pub fn endpoint(id: u16, name: &str, ip: Ipv4Addr, identity: u32) -> Endpoint {
    Endpoint {
        id,
        state: EndpointState::Ready,
        attachment: Attachment {
            container: format!("container{id}"),
            interface: "eth0".into(),
        },
        pod: PodRef {
            namespace: "shop".into(),
            name: name.into(),
            uid: format!("uid-{id}"),
        },
        labels: labels("x"),
        identity,
        ipv4: Some(ip),
        ipv6: None,
        ifname: format!("lxc{id}"),
        ifindex: u32::from(id) + 100_000,
        host_mac: model::Mac([0; 6]),
        container_mac: model::Mac([0; 6]),
        netns: String::new(),
        device: model::DeviceKind::Veth,
        ports: Vec::new(),
        subject: 0,
        flags: 0,
        policy_audit: None,
        enforcing: [false; 2],
    }
}

pub fn remote(name: &str, ip: Ipv4Addr, identity: u32) -> RemoteEndpoint {
    RemoteEndpoint {
        key: format!("shop/{name}").into(),
        addresses: [ip.into()].into(),
        identity,
        ..RemoteEndpoint::default()
    }
}

impl World {
    pub fn new(capacity: usize) -> Self {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        for (id, name, ip, identity) in [(10, "cart-1", CART, 20311), (11, "db-0", DB, 31007)] {
            tables
                .endpoints
                .insert(&mut txn, endpoint(id, name, ip, identity))
                .unwrap();
        }
        tables
            .cilium_endpoints
            .insert(&mut txn, remote("far-1", FAR, 20400))
            .unwrap();
        for (id, app) in [(20311, "cart"), (31007, "db"), (20400, "far")] {
            let identity = Identity {
                id,
                labels: labels(app),
                kind: IdentityKind::Cluster,
            };
            tables.identities.insert(&mut txn, identity).unwrap();
        }
        let mut pod = model::Pod::named("shop", "cart-1");
        pod.owner = "Deployment/cart".into();
        tables.pods.insert(&mut txn, pod).unwrap();
        let service = model::Service {
            key: "shop/db".into(),
            cluster_ips: vec![VIP.into()],
            ports: vec![model_port(80)],
            ..model::Service::default()
        };
        tables.services.services.insert(&mut txn, service).unwrap();
        txn.commit();
        let about = About {
            node_name: "c1/w1".into(),
            node_labels: vec!["zone=a".into()],
            seed: 1,
        };
        let observer = Observer::new(capacity, about);
        let feeder = observer.feeder(tables.clone(), "c1", Arc::new(Known));
        Self {
            tables,
            observer,
            feeder,
        }
    }

    /// Feeds events as they are read from the event ring at once.
    pub fn feed(&mut self, events: &[FlowEvent]) {
        self.feeder.begin();
        events.iter().for_each(|event| self.feeder.event(event));
        self.feeder.end();
    }

    /// The message of one event.
    pub fn flow(&mut self, event: FlowEvent) -> Flow {
        self.feed(&[event]);
        let records = self.observer.last(1);
        let [
            Record {
                time,
                what: What::Packet(seen),
            },
        ] = records.as_slice()
        else {
            panic!("{records:?}");
        };
        let about = self.observer.about();
        hypha_flow::record::Shown {
            seen,
            time: *time,
            about: &about,
        }
        .to_flow()
    }
}

fn model_port(port: u16) -> model::service::ServicePort {
    model::service::ServicePort {
        name: "web".into(),
        protocol: Protocol::Tcp,
        port,
        node_port: 0,
    }
}

pub fn wide(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    bytes
}

/// The first packet of a connection from the pod `cart` to port 80 of the pod `db`, handed over.
pub fn event() -> FlowEvent {
    FlowEvent {
        time: event_clock(),
        kind: EventKind::Trace as u8,
        subtype: TracePoint::ToEndpoint as u8,
        ct_status: CtStatus::New as u8,
        flags: 0,
        endpoint: 10,
        proto: 6,
        tcp_flags: 2,
        len: 74,
        ifindex: 0,
        src_id: 20311,
        dst_id: 31007,
        src: wide(CART),
        dst: wide(DB),
        sport: 40112u16.to_be_bytes(),
        dport: 80u16.to_be_bytes(),
        line: 0,
        file: 1,
        ext_error: 0,
        origin: 0,
        direction: 0,
        matched: 0,
        pad: 0,
    }
}
