//! `policy suggest`: policies that allow what was seen, and nothing else.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ::policy::labels::{NAMESPACE, NAMESPACE_LABELS};
use ::policy::rule::{Direction, ICMP, ICMPV6};
use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::cluster::World;
use super::flows::{FlowSource, Party, Seen, Talk, talks};
use super::{files, manifest};
use crate::error::{Findings, Usage};
use crate::kube::{ClusterArgs, block_on};
use crate::output;

/// Addresses outside that a rule names before it names the world.
const ADDRESSES: usize = 16;

#[derive(Debug, Args)]
pub struct SuggestArgs {
    #[command(flatten)]
    source: FlowSource,
    /// Only for pods of this namespace; may be given several times
    #[arg(long = "for-namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
}

/// What is suggested, and what it would do to the flows.
#[derive(Debug)]
pub(super) struct Suggestion {
    /// Policies as YAML.
    pub yaml: String,
    /// How many there are.
    pub policies: usize,
    /// How much was talked.
    pub talks: usize,
    /// What was talked, and would not pass: a line each.
    pub closed: Vec<String>,
}

pub fn run(cluster: &ClusterArgs, args: &SuggestArgs) -> Result<()> {
    if !args.source.is_given() {
        return Err(Usage(
            "there are no flows to learn from; accepted: --flows FILE, --live".to_owned(),
        )
        .into());
    }
    let flows = args.source.read(cluster)?;
    let world = block_on(World::read(cluster))?;
    let found = suggest(&world, &talks(&flows), &args.namespaces)?;
    output::write_out(&found.yaml)?;
    eprintln!(
        "{} policies from {} flows; {} of {} conversations pass under them",
        found.policies,
        flows.len(),
        found.talks - found.closed.len(),
        found.talks
    );
    for line in &found.closed {
        eprintln!("does not pass: {line}");
    }
    match found.closed.is_empty() {
        true => Ok(()),
        false => Err(Findings.into()),
    }
}

/// Pods that a policy is for: their namespace, and labels of their own.
type Subject = (String, BTreeMap<String, String>);

/// Peers of one direction, each with its traffic.
type Peers = BTreeMap<Peer, BTreeSet<(u8, u16)>>;

/// Whom a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    /// Pods of a namespace with labels.
    Pods(Subject),
    /// Something with a name of its own.
    Entity(&'static str),
    /// An address outside.
    Address(String),
}

/// Policies for every group of pods that talked: what passed is allowed.
///
/// # Errors
/// What was made is no policy, which would be a mistake here.
pub(super) fn suggest(
    world: &World,
    talks: &BTreeMap<Talk, Seen>,
    namespaces: &[String],
) -> Result<Suggestion> {
    let passed: Vec<&Talk> = talks
        .iter()
        .filter(|(_, seen)| seen.passed > 0)
        .map(|(talk, _)| talk)
        .collect();
    let mut rules: BTreeMap<Subject, [Peers; 2]> = BTreeMap::new();
    for talk in &passed {
        let sides = [
            (Direction::Ingress, &talk.destination, &talk.source),
            (Direction::Egress, &talk.source, &talk.destination),
        ];
        for (direction, own, other) in sides {
            let Some(subject) = subject(own) else {
                continue;
            };
            if !namespaces.is_empty() && !namespaces.contains(&subject.0) {
                continue;
            }
            let peers = &mut rules.entry(subject).or_default()[direction as usize];
            let traffic = peers.entry(peer(other)).or_default();
            traffic.insert((talk.protocol, talk.port));
        }
    }
    let mut names = BTreeSet::new();
    let mut after = world.clone();
    let (mut yaml, count) = (String::new(), rules.len());
    for (subject, peers) in &rules {
        let object = policy(subject, peers, &mut names);
        let _ = write!(yaml, "---\n{}", serde_saphyr::to_string(&object)?);
    }
    // As whoever applies it will: what was written is read.
    if count > 0 {
        let documents = files::documents("the suggestion", &yaml)?;
        for (document, known) in manifest::all(&documents, world.options())? {
            manifest::put(document, known, &mut after);
        }
    }
    let closed = passed.iter().filter(|talk| !talk.ask(&after).passes());
    let closed = closed.map(|talk| {
        let (from, to) = (talk.source.name(world), talk.destination.name(world));
        format!("{from} → {to} {}", talk.traffic())
    });
    Ok(Suggestion {
        yaml,
        policies: count,
        talks: passed.len(),
        closed: closed.collect(),
    })
}

/// The group of pods that somebody belongs to; none for what is no pod.
fn subject(party: &Party) -> Option<Subject> {
    let mut namespace = None;
    let mut own = BTreeMap::new();
    for label in &party.labels {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        let Some(key) = key.strip_prefix("k8s:") else {
            continue;
        };
        if key == NAMESPACE {
            namespace = Some(value.to_owned());
        } else if !key.starts_with("io.cilium.k8s.") && !key.starts_with(NAMESPACE_LABELS) {
            own.insert(key.to_owned(), value.to_owned());
        }
    }
    Some((namespace?, own))
}

fn peer(party: &Party) -> Peer {
    if let Some(pods) = subject(party) {
        return Peer::Pods(pods);
    }
    let named = [
        "kube-apiserver",
        "host",
        "remote-node",
        "health",
        "ingress",
        "init",
        "unmanaged",
    ];
    if let Some(name) = named.into_iter().find(|name| party.is_reserved(name)) {
        return Peer::Entity(name);
    }
    match party.address {
        Some(address) => Peer::Address(ipnet::IpNet::from(address).to_string()),
        None => Peer::Entity("world"),
    }
}

fn policy(
    (namespace, labels): &Subject,
    peers: &[Peers; 2],
    names: &mut BTreeSet<(String, String)>,
) -> Value {
    // The name that most people give.
    let app = ["app.kubernetes.io/name", "app", "k8s-app", "name"];
    let app = app.into_iter().find_map(|key| labels.get(key));
    let base = app
        .or_else(|| labels.values().next())
        .map_or("pods", String::as_str);
    let base: String = base
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let base = format!("seen-{}", base.trim_matches('-'));
    let mut name = base.clone();
    let mut number = 1;
    while !names.insert((namespace.clone(), name.clone())) {
        number += 1;
        name = format!("{base}-{number}");
    }
    let selector = match labels.is_empty() {
        true => json!({}),
        false => json!({"matchLabels": labels}),
    };
    let mut spec = Map::new();
    spec.insert("endpointSelector".into(), selector);
    for (direction, peers) in [Direction::Ingress, Direction::Egress]
        .into_iter()
        .zip(peers)
    {
        let (section, word) = match direction {
            Direction::Ingress => ("ingress", "from"),
            Direction::Egress => ("egress", "to"),
        };
        let mut rules: Vec<Value> = Vec::new();
        for (traffic, peers) in by_traffic(peers) {
            for rule in peers_of(word, &peers, namespace) {
                rules.extend(with_traffic(&rule, &traffic));
            }
        }
        if rules.is_empty() {
            // Nothing was seen: nothing is allowed.
            rules.push(json!({}));
        }
        spec.insert(section.into(), rules.into());
    }
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// Peers with the same traffic together.
fn by_traffic(peers: &Peers) -> BTreeMap<BTreeSet<(u8, u16)>, Vec<Peer>> {
    let mut all: BTreeMap<_, Vec<Peer>> = BTreeMap::new();
    for (peer, traffic) in peers {
        all.entry(traffic.clone()).or_default().push(peer.clone());
    }
    all
}

/// Rules that name peers, one for each way of naming them.
fn peers_of(word: &str, peers: &[Peer], namespace: &str) -> Vec<Map<String, Value>> {
    let (mut pods, mut entities, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            Peer::Pods((other, labels)) => {
                let mut labels = labels.clone();
                if other != namespace {
                    labels.insert(NAMESPACE.to_owned(), other.clone());
                }
                pods.push(match labels.is_empty() {
                    true => json!({}),
                    false => json!({"matchLabels": labels}),
                });
            }
            Peer::Entity(name) => entities.push(*name),
            Peer::Address(address) => addresses.push(address.clone()),
        }
    }
    if addresses.len() > ADDRESSES {
        addresses.clear();
        entities.push("world");
    }
    let kinds = [
        ("Endpoints", json!(pods)),
        ("Entities", json!(entities)),
        ("CIDR", json!(addresses)),
    ];
    let there = kinds
        .into_iter()
        .filter(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
    there
        .map(|(kind, list)| Map::from_iter([(format!("{word}{kind}"), list)]))
        .collect()
}

/// A rule with its traffic; ports and ICMP messages have entries of their own.
fn with_traffic(rule: &Map<String, Value>, traffic: &BTreeSet<(u8, u16)>) -> Vec<Value> {
    let (mut ports, mut messages) = (Vec::new(), Vec::new());
    for (protocol, port) in traffic {
        match *protocol {
            ICMP => messages.push(json!({"family": "IPv4", "type": port})),
            ICMPV6 => messages.push(json!({"family": "IPv6", "type": port})),
            other => {
                let name = ::policy::kernel::protocol_name(other);
                ports.push(json!({"port": port.to_string(), "protocol": name}));
            }
        }
    }
    let mut entries = Vec::new();
    for (key, is_empty, value) in [
        ("toPorts", ports.is_empty(), json!([{"ports": ports}])),
        ("icmps", messages.is_empty(), json!([{"fields": messages}])),
    ] {
        if !is_empty {
            let mut entry = rule.clone();
            entry.insert(key.to_owned(), value);
            entries.push(entry.into());
        }
    }
    entries
}
