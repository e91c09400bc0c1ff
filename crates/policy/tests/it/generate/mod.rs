//! Random policies as JSON, so that the parsers take part, and random questions.
mod cilium;
mod kubernetes;

use cilium::{cilium, layer7};
use kubernetes::admin;
pub use kubernetes::kubernetes;

use crate::world::{ADDRESSES, Ask, Remote, members};
use hypha_policy::reference::Packet;
use hypha_policy::rule::{CidrGroup, Direction, Service};
use hypha_policy::{Mode, Settings};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b"])
}

fn expression(sourced: bool) -> impl Strategy<Value = Value> {
    let keys = if sourced {
        vec![
            "app",
            "k8s:tier",
            "any:tier",
            "io.kubernetes.pod.namespace",
            "reserved:host",
            "cidr:10.0.0.0/8",
            "zone",
        ]
    } else {
        vec!["app", "tier", "team"]
    };
    let values = prop::collection::vec(
        select(vec!["web", "db", "x", "a", "red", ""]).prop_map(str::to_owned),
        1..3,
    );
    (select(keys), 0..4, values).prop_map(|(key, operator, values)| match operator {
        0 => json!({"key": key, "operator": "In", "values": values}),
        1 => json!({"key": key, "operator": "NotIn", "values": values}),
        2 => json!({"key": key, "operator": "Exists"}),
        _ => json!({"key": key, "operator": "DoesNotExist"}),
    })
}

fn selecting(labels: Vec<(&str, &str)>, expressions: Option<Vec<Value>>) -> Value {
    let labels: Map<String, Value> = labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect();
    let mut selector = json!({"matchLabels": labels});
    if let Some(expressions) = expressions {
        selector["matchExpressions"] = json!(expressions);
    }
    selector
}

/// A selector of plain labels.
fn plain_selector(pairs: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Value> {
    let labels = prop::collection::vec(select(pairs.to_vec()), 0..2);
    let expressions = prop::collection::vec(expression(false), 0..2);
    (labels, prop::option::weighted(0.3, expressions))
        .prop_map(|(labels, expressions)| selecting(labels, expressions))
}

fn pods() -> impl Strategy<Value = Value> {
    plain_selector(&[("app", "web"), ("app", "db"), ("tier", "x")])
}

fn namespaces() -> impl Strategy<Value = Value> {
    plain_selector(&[
        ("team", "red"),
        ("team", "blue"),
        ("kubernetes.io/metadata.name", "a"),
    ])
}

const CIDRS: [&str; 11] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "0.0.0.0/0",
    "192.168.0.0/16",
    "203.0.113.0/24",
    "::/0",
    "fd00::/16",
    "fd00:1::/32",
    "fd00:1::5/128",
];

fn cidr() -> impl Strategy<Value = &'static str> {
    select(CIDRS.to_vec())
}

fn within(cidr: &str) -> Vec<&'static str> {
    let parse = |text: &str| -> ipnet::IpNet {
        text.parse()
            .unwrap_or_else(|_| ipnet::IpNet::from(text.parse::<std::net::IpAddr>().unwrap()))
    };
    let outer = parse(cidr);
    CIDRS
        .iter()
        .copied()
        .filter(|text| *text != cidr && outer.contains(&parse(text)))
        .collect()
}

fn cidr_with_except() -> impl Strategy<Value = Value> {
    (
        cidr(),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    )
        .prop_map(|(cidr, picks)| {
            let inner = within(cidr);
            let except: Vec<&str> = picks
                .iter()
                .filter(|_| !inner.is_empty())
                .map(|pick| inner[pick.index(inner.len())])
                .collect();
            json!({"cidr": cidr, "except": except})
        })
}

fn port_number() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => select(vec![53, 80, 8080]),
        4 => select(vec![1, 79, 81, 443, 1000, 1023, 1024, 2047, 8081, 65535]),
        1 => 1..=u16::MAX,
    ]
}

/// A policy of any kind, under one of a few names.
pub fn object() -> impl Strategy<Value = Value> {
    let any_kind = prop_oneof![4 => cilium(), 4 => layer7(), 3 => kubernetes(), 3 => admin()];
    (any_kind, 0..3).prop_map(|(mut object, number)| {
        if object["kind"] != "BaselineAdminNetworkPolicy" {
            object["metadata"]["name"] = json!(format!("p{number}"));
        }
        object
    })
}

pub fn settings() -> impl Strategy<Value = Settings> {
    let mode = prop_oneof![
        18 => Just(Mode::Default),
        1 => Just(Mode::Always),
        1 => Just(Mode::Never),
    ];
    (mode, prop::bool::weighted(0.7)).prop_map(|(mode, allow_localhost)| Settings {
        mode,
        allow_localhost,
        ..Settings::default()
    })
}

pub fn group() -> impl Strategy<Value = CidrGroup> {
    let net = |text: &str| match text.parse() {
        Ok(net) => net,
        Err(_) => ipnet::IpNet::from(text.parse::<std::net::IpAddr>().unwrap()),
    };
    let kind = select(vec!["office", "home"]);
    (
        select(vec!["g1", "g2"]),
        kind,
        prop::collection::vec(cidr(), 0..4),
    )
        .prop_map(move |(name, kind, cidrs)| CidrGroup {
            name: name.to_owned(),
            labels: [("kind".to_owned(), kind.to_owned())].into(),
            cidrs: cidrs.into_iter().map(net).collect(),
        })
}

pub fn some_service() -> impl Strategy<Value = Service> {
    let addresses = prop::collection::vec(select(ADDRESSES.to_vec()), 0..3);
    (
        namespace(),
        select(vec!["s1", "s2"]),
        any::<bool>(),
        prop::option::of(select(vec!["web", "db"])),
        addresses,
    )
        .prop_map(|(namespace, name, marked, app, addresses)| Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: marked
                .then(|| ("svc".to_owned(), "yes".to_owned()))
                .into_iter()
                .collect(),
            selector: app
                .map(|app| ("app".to_owned(), app.to_owned()))
                .into_iter()
                .collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        })
}

pub fn ask() -> impl Strategy<Value = Ask> {
    let ids: Vec<u32> = members().iter().map(|member| member.id).collect();
    let subjects: Vec<u32> = members()
        .iter()
        .filter(|member| member.is_subject)
        .map(|member| member.id)
        .collect();
    let addresses: Vec<std::net::IpAddr> =
        ADDRESSES.iter().map(|text| text.parse().unwrap()).collect();
    let remote = prop_oneof![
        select(ids).prop_map(Remote::Member),
        select(addresses).prop_map(Remote::Address),
    ];
    let protocol = select(vec![
        6, 6, 6, 6, 6, 6, 17, 17, 17, 132, 132, 1, 58, 47, 0, 255,
    ]);
    let port = prop_oneof![
        6 => select(vec![53, 80, 8080, 128, 8]),
        4 => select(vec![0, 1, 3, 8, 53, 79, 80, 81, 128, 443, 1000, 1023, 1024, 2047, 2048, 8080, 8081, 65535]),
        1 => any::<u16>(),
    ];
    let direction = select(vec![Direction::Ingress, Direction::Egress]);
    // Pods more often than what the node has besides.
    let pods: Vec<u32> = subjects.iter().copied().filter(|id| *id >= 1000).collect();
    let subject = prop_oneof![4 => select(pods), 1 => select(subjects)];
    (subject, direction, remote, protocol, port).prop_map(
        |(subject, direction, remote, protocol, port)| Ask {
            subject,
            direction,
            remote,
            packet: Packet { protocol, port },
        },
    )
}

/// Many questions, of which a report names only the one that matters.
#[derive(Clone)]
pub struct Asks(pub Vec<Ask>);

impl std::fmt::Debug for Asks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} questions", self.0.len())
    }
}

pub fn asks(count: usize) -> impl Strategy<Value = Asks> {
    prop::collection::vec(ask(), count)
        .prop_map(Asks)
        .no_shrink()
}
