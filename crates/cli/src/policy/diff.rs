//! `policy diff`: who may talk to whom after a change, and could not before, or the other way round.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ::policy::explain::{Span, Turn, pair_changes};
use ::policy::identity::{Scope, world_labels};
use ::policy::labels::{RESERVED, cidr_label};
use ::policy::resolve::{Change, Engine, Subject};
use ::policy::rule::NamedPorts;
use abi::identity::{HEALTH, HOST, INGRESS, KUBE_APISERVER, REMOTE_NODE};
use anyhow::Result;
use clap::Args;
use ipnet::IpNet;
use model::Labels;
use serde::Serialize;

use super::cluster::World;
use super::flows::{FlowSource, Seen, Talk, talks};
use super::place::Place;
use super::{files, manifest};
use crate::error::Findings;
use crate::kube::{ClusterArgs, block_on};
use crate::output::OutputArgs;
use crate::table::align;

/// Pods of one identity that are named before the others are counted.
const NAMED: usize = 3;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Files with policies, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// As if the objects of the files were deleted, not applied
    #[arg(long)]
    delete: bool,
    /// Only of what was talked
    #[command(flatten)]
    flows: FlowSource,
    #[command(flatten)]
    output: OutputArgs,
}

/// A conversation whose verdict changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ChangedTalk {
    /// True if it passes afterwards and does not now.
    opened: bool,
    source: String,
    destination: String,
    traffic: String,
    /// Flows of it that were seen.
    flows: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct TalkReport {
    /// Conversations that were seen.
    talks: usize,
    changes: Vec<ChangedTalk>,
}

/// Traffic whose verdict changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Changed {
    /// True if it passes afterwards and did not before.
    pub opened: bool,
    /// True if it passes before and afterwards, but what may be asked for on it is decided otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requests: bool,
    /// Who sends: all pods of one identity, or what is no pod.
    pub source: Vec<String>,
    /// Who receives.
    pub destination: Vec<String>,
    /// Which traffic.
    pub traffic: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    opened: usize,
    closed: usize,
    /// Pairs whose requests are decided upon otherwise.
    requests: usize,
    changes: Vec<Changed>,
}

pub fn run(cluster: &ClusterArgs, args: &DiffArgs) -> Result<()> {
    let documents = files::read(&args.files)?;
    let before = block_on(World::read(cluster))?;
    let mut after = before.clone();
    for (document, known) in manifest::all(&documents, before.options())? {
        if args.delete {
            manifest::remove(&known, &mut after);
        } else {
            manifest::put(document, known, &mut after);
        }
    }
    let is_same = if args.flows.is_given() {
        let seen = talks(&args.flows.read(cluster)?);
        let report = talk_report(&before, &after, &seen);
        args.output.print(&report, talk_text)?;
        report.changes.is_empty()
    } else {
        let report = report(&before, &after);
        args.output.print(&report, text)?;
        report.changes.is_empty()
    };
    match is_same {
        true => Ok(()),
        false => Err(Findings.into()),
    }
}

/// What of all that was talked passes in one of two states of a cluster alone.
pub(super) fn talk_report(
    before: &World,
    after: &World,
    seen: &BTreeMap<Talk, Seen>,
) -> TalkReport {
    let changes = seen.iter().filter_map(|(talk, seen)| {
        let passes = [before, after].map(|world| talk.ask(world).passes());
        let opened = match passes {
            [false, true] => true,
            [true, false] => false,
            _ => return None,
        };
        Some(ChangedTalk {
            opened,
            source: talk.source.name(before),
            destination: talk.destination.name(before),
            traffic: talk.traffic(),
            flows: seen.passed + seen.dropped,
        })
    });
    TalkReport {
        talks: seen.len(),
        changes: changes.collect(),
    }
}

pub(super) fn talk_text(report: &TalkReport) -> String {
    if report.changes.is_empty() {
        return format!(
            "None of {} conversations changes its verdict\n",
            report.talks
        );
    }
    let mut table = String::new();
    for change in &report.changes {
        let sign = if change.opened { '+' } else { '-' };
        let _ = writeln!(
            table,
            "{sign} {}\t→ {}\t{}\t{} flows",
            change.source, change.destination, change.traffic, change.flows
        );
    }
    let mut out = align(&table);
    let opened = report.changes.iter().filter(|one| one.opened).count();
    let _ = writeln!(
        out,
        "\n{opened} of {} conversations opened, {} closed (+ passes afterwards, - no longer passes)",
        report.talks,
        report.changes.len() - opened
    );
    out
}

pub(super) fn report(before: &World, after: &World) -> Report {
    let changes = changes(before, after);
    Report {
        opened: count(&changes, Turn::Opened),
        closed: count(&changes, Turn::Closed),
        requests: count(&changes, Turn::Requests),
        changes,
    }
}

impl Changed {
    const fn turn(&self) -> Turn {
        match (self.requests, self.opened) {
            (true, _) => Turn::Requests,
            (false, true) => Turn::Opened,
            (false, false) => Turn::Closed,
        }
    }
}

/// How many pairs of pods (or others) are opened, closed, or decided upon otherwise.
#[must_use]
pub fn count(changes: &[Changed], turn: Turn) -> usize {
    let of_kind = changes.iter().filter(|change| change.turn() == turn);
    of_kind
        .map(|change| change.source.len() * change.destination.len())
        .sum()
}

/// Every pair whose verdict differs between two states of a cluster with the same pods and nodes.
#[must_use]
pub fn changes(before: &World, after: &World) -> Vec<Changed> {
    let people = People::of(before);
    let (mut old, mut new) = (engine(before, &people), engine(after, &people));
    let prefixes: BTreeSet<IpNet> = old.prefixes().chain(new.prefixes()).collect();
    let mut names = people.names;
    for (number, prefix) in (*Scope::Local.range().start()..).zip(prefixes) {
        let labels: Labels = [cidr_label(prefix), format!("{RESERVED}:world")]
            .into_iter()
            .collect();
        let change = Change::Identity(number, labels, NamedPorts::new());
        old.apply([change.clone()]);
        new.apply([change]);
        names.insert(number, vec![prefix.to_string()]);
    }
    let mut all: Vec<Changed> = pair_changes(&old, &new)
        .into_iter()
        .map(|change| Changed {
            opened: change.turn == Turn::Opened,
            requests: change.turn == Turn::Requests,
            source: names.get(&change.source).cloned().unwrap_or_default(),
            destination: names.get(&change.destination).cloned().unwrap_or_default(),
            traffic: Span::words(&change.traffic),
        })
        .collect();
    all.sort();
    all
}

/// Every range of addresses that rules name.
#[must_use]
pub fn prefixes(world: &World) -> Vec<IpNet> {
    engine(world, &People::default()).prefixes().collect()
}

/// Everybody whom policy can mean, each with a number: pods with the same labels and named ports together.
#[derive(Clone, Debug, Default)]
struct People {
    identities: BTreeMap<u32, (Labels, NamedPorts)>,
    subjects: BTreeSet<u32>,
    names: BTreeMap<u32, Vec<String>>,
}

impl People {
    fn of(world: &World) -> Self {
        let mut people = Self::default();
        let [v4, v6] = world.families;
        for (number, labels) in world_labels(v4, v6) {
            people.add(number, labels, reserved_name(number));
        }
        for number in [REMOTE_NODE, KUBE_APISERVER, HEALTH, INGRESS] {
            let name = reserved_name(number);
            people.add(number, Labels::reserved(&name), name);
        }
        let mut pods: BTreeMap<(Labels, NamedPorts), Vec<String>> = BTreeMap::new();
        for pod in &world.pods {
            let key = (pod.labels.clone(), pod.ports.clone());
            pods.entry(key).or_default().push(pod.path());
        }
        for (number, ((labels, ports), names)) in (*Scope::Cluster.range().start()..).zip(pods) {
            people.identities.insert(number, (labels, ports));
            people.names.insert(number, names);
            people.subjects.insert(number);
        }
        people.add_hosts(world);
        people
    }

    /// One host for all nodes, or one each where policy is about them.
    fn add_hosts(&mut self, world: &World) {
        if !world.host_firewall {
            return self.add(HOST, Labels::reserved("host"), "host".to_owned());
        }
        for (number, node) in (*Scope::RemoteNode.range().start()..).zip(&world.nodes) {
            let place = Place::Node(node);
            let labels = place.seen_from(Some(&node.name), world).labels;
            self.add(number, labels, place.name());
            self.subjects.insert(number);
        }
    }

    fn add(&mut self, number: u32, labels: Labels, name: String) {
        self.identities.insert(number, (labels, NamedPorts::new()));
        self.names.insert(number, vec![name]);
    }
}

fn reserved_name(number: u32) -> String {
    abi::identity::reserved_name(number)
        .unwrap_or("world")
        .to_owned()
}

fn engine(world: &World, people: &People) -> Engine {
    let mut engine = Engine::new(world.settings.clone());
    let identities = people
        .identities
        .iter()
        .map(|(number, (labels, ports))| Change::Identity(*number, labels.clone(), ports.clone()));
    let subjects = people.subjects.iter().filter_map(|number| {
        let (labels, ports) = people.identities.get(number)?.clone();
        Some(Change::Subject(*number, Subject { labels, ports }))
    });
    let groups = world.groups.iter().cloned().map(Change::Group);
    let services = world.services.iter().cloned().map(Change::Service);
    let policies = world.policies.iter().cloned().map(Change::Policy);
    engine.apply(
        identities
            .chain(subjects)
            .chain(groups)
            .chain(services)
            .chain(policies),
    );
    engine
}

pub(super) fn text(report: &Report) -> String {
    if report.changes.is_empty() {
        return "No pair of endpoints changes its verdict\n".to_owned();
    }
    let mut table = String::new();
    for change in merged(&report.changes) {
        let sign = change.turn().sign();
        let _ = writeln!(
            table,
            "{sign} {}\t→ {}\t{}",
            short(&change.source),
            short(&change.destination),
            change.traffic.join(", ")
        );
    }
    let mut out = align(&table);
    let _ = writeln!(
        out,
        "\n{} pairs opened, {} closed (+ passes afterwards, - no longer passes; a pair counts each direction)",
        report.opened, report.closed
    );
    if report.requests > 0 {
        let _ = writeln!(
            out,
            "~ {} pairs go on to pass, but rules above the transport decide otherwise on what they ask for",
            report.requests
        );
    }
    out
}

/// Changes of the same traffic to the same receivers as one.
fn merged(changes: &[Changed]) -> Vec<Changed> {
    let mut all: Vec<Changed> = Vec::new();
    for change in changes {
        let same = |known: &&mut Changed| {
            known.turn() == change.turn()
                && known.destination == change.destination
                && known.traffic == change.traffic
        };
        match all.iter_mut().find(same) {
            Some(known) => known.source.extend(change.source.iter().cloned()),
            None => all.push(change.clone()),
        }
    }
    all
}

fn short(names: &[String]) -> String {
    super::first_of(names, NAMED)
}
