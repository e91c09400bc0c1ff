//! Whether policies are right that are not in force, whom they select, and what they would change.
use super::{
    Policy,
    core::Core,
    explain::{Known, is_pod},
    report::problems,
};
use abi::identity::HOST;
use api::{
    ApiError, CheckedPolicy, PolicyCheck, PolicyDiff, PolicyEffect, PolicyProposal, VerdictChange,
};
use model::Labels;
use policy::{
    explain::{PairChange, Turn, pair_change},
    labels::{Facts, cidr_label},
    parse,
    resolve::{Change, Enforcement, Engine, Subject},
    rule::{Direction, NamedPorts, PolicyName, SubjectSelector},
    selector::Selector,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tables::Snapshot;

/// Most pairs of identities that are compared.
const MOST_PAIRS: usize = 4_000_000;
/// First of the numbers for ranges that have none yet.
const UNBORN: u32 = 0x01f0_0000;

/// A proposal, read.
struct Proposed {
    objects: Vec<CheckedPolicy>,
    changes: Vec<Change>,
    /// Names of the policies that come, change or go.
    names: BTreeSet<PolicyName>,
}

/// Two engines, before and after a proposal, with the identities that it concerns as their subjects.
struct Compared {
    before: Engine,
    after: Engine,
    concerned: BTreeSet<u32>,
    labels: BTreeMap<u32, Labels>,
}

impl Policy {
    /// Whether policies are right, whom they select, and how much they change.
    ///
    /// # Errors
    /// What is to be removed is not there.
    pub fn check(&self, proposal: &PolicyProposal) -> Result<PolicyCheck, ApiError> {
        let (proposed, compared) = self.compare(proposal)?;
        let effect = match compared {
            Some(mut compared) => {
                let changes = compared.changes()?;
                let count = |turn| changes.iter().filter(|one| one.turn == turn).count();
                let [isolated_ingress, isolated_egress] =
                    Direction::BOTH.map(|direction| compared.isolated(direction));
                Some(PolicyEffect {
                    opened: count(Turn::Opened) as u64,
                    closed: count(Turn::Closed) as u64,
                    requests: count(Turn::Requests) as u64,
                    isolated_ingress,
                    isolated_egress,
                })
            }
            None => None,
        };
        Ok(PolicyCheck {
            objects: proposed.objects,
            effect,
        })
    }

    /// What policies would change.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn diff(&self, proposal: &PolicyProposal) -> Result<PolicyDiff, ApiError> {
        let (proposed, compared) = self.compare(proposal)?;
        let mut diff = PolicyDiff {
            objects: proposed.objects,
            ..PolicyDiff::default()
        };
        if let Some(mut compared) = compared {
            for change in compared.changes()? {
                for id in [change.source, change.destination] {
                    let labels = compared.labels.get(&id).map(Labels::to_strings);
                    diff.identities.insert(id, labels.unwrap_or_default());
                }
                diff.changes.push(VerdictChange {
                    source: change.source,
                    destination: change.destination,
                    opened: change.turn == Turn::Opened,
                    requests: change.turn == Turn::Requests,
                    traffic: change.traffic.iter().map(ToString::to_string).collect(),
                });
            }
        }
        Ok(diff)
    }

    /// Reads a proposal; where all of it is right, with what is before and after.
    fn compare(&self, proposal: &PolicyProposal) -> Result<(Proposed, Option<Compared>), ApiError> {
        let snapshot = self.0.tables.db.snapshot();
        let rows = self.0.tables.identities.iter(&snapshot);
        let mut labels: BTreeMap<u32, Labels> =
            rows.map(|row| (row.id, row.labels.clone())).collect();
        let (known, mut proposed, ports, with_host) = {
            let core = self.core();
            let proposed = read(&core, proposal)?;
            let ports: BTreeMap<u32, NamedPorts> = labels
                .keys()
                .map(|id| (*id, core.inputs.ports_of(*id)))
                .filter(|(_, ports)| !ports.is_empty())
                .collect();
            let host = core.options.host_firewall.then(|| {
                let mut subjects = core.engine.subjects();
                subjects
                    .find(|(number, _)| *number == HOST)
                    .map(|(_, host)| host.labels.clone())
            });
            (Known::of(&core), proposed, ports, host.flatten())
        };
        if let Some(host) = with_host {
            labels.insert(HOST, host);
        }
        let right = proposed
            .objects
            .iter()
            .all(|object| object.problems.is_empty());
        let old = known.policies.iter();
        let new = proposed.changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some(policy),
            _ => None,
        });
        let concerned: BTreeSet<u32> = old
            .filter(|policy| proposed.names.contains(&policy.name))
            .chain(new.clone())
            .flat_map(|policy| selected(policy, &labels))
            .collect();
        for policy in new {
            let identities: Vec<u32> = selected(policy, &labels).into_iter().collect();
            let text = policy.name.to_string();
            let object = proposed.objects.iter_mut().find(|one| one.object == text);
            if let Some(object) = object {
                object.endpoints = endpoints_of(&self.0.tables, &snapshot, &identities);
                object.identities = identities;
            }
        }
        if !right {
            return Ok((proposed, None));
        }
        let mut before = Engine::new(known.settings.clone());
        before.apply(known.changes());
        let unborn: BTreeSet<ipnet::IpNet> = proposed
            .changes
            .iter()
            .flat_map(|change| before.new_prefixes(change))
            .collect();
        for (id, prefix) in (UNBORN..).zip(unborn) {
            let own = [cidr_label(prefix), "reserved:world".to_owned()];
            labels.insert(id, own.into_iter().collect());
        }
        let identity = |(id, labels): (&u32, &Labels)| {
            Change::Identity(
                *id,
                labels.clone(),
                ports.get(id).cloned().unwrap_or_default(),
            )
        };
        before.apply(labels.iter().map(identity));
        let mut compared = Compared {
            after: before.clone(),
            before,
            concerned: BTreeSet::new(),
            labels,
        };
        compared.after.apply(proposed.changes.clone());
        compared.add(&concerned, &ports);
        Ok((proposed, Some(compared)))
    }
}

impl Compared {
    /// Makes identities subjects on both sides.
    fn add(&mut self, identities: &BTreeSet<u32>, ports: &BTreeMap<u32, NamedPorts>) {
        let labels = &self.labels;
        let changes = identities.iter().filter_map(|id| {
            let labels = labels.get(id)?.clone();
            let ports = ports.get(id).cloned().unwrap_or_default();
            Some(Change::Subject(*id, Subject { labels, ports }))
        });
        let changes: Vec<Change> = changes.collect();
        self.before.apply(changes.clone());
        self.after.apply(changes);
        self.concerned.extend(identities);
    }

    /// The pairs whose verdicts change, at both ends.
    fn changes(&mut self) -> Result<Vec<PairChange>, ApiError> {
        let pairs = self.labels.len() * self.concerned.len();
        if pairs > MOST_PAIRS {
            return Err(ApiError::bad_request(format!(
                "the policies select {} identities, which make {pairs} pairs with the others; {MOST_PAIRS} are compared",
                self.concerned.len()
            )));
        }
        let candidates: BTreeSet<(u32, u32)> = self
            .concerned
            .iter()
            .flat_map(|one| {
                self.labels
                    .keys()
                    .flat_map(|other| [(*one, *other), (*other, *one)])
            })
            .filter(|(source, destination)| !self.pair(*source, *destination).is_empty())
            .collect();
        // What these say at their own end counts, too; nobody else's does.
        let others: BTreeSet<u32> = candidates
            .iter()
            .flat_map(|(source, destination)| [*source, *destination])
            .filter(|id| !self.concerned.contains(id) && self.labels.get(id).is_some_and(is_pod))
            .collect();
        self.add(&others, &BTreeMap::new());
        Ok(candidates
            .iter()
            .flat_map(|(source, destination)| self.pair(*source, *destination))
            .collect())
    }

    fn pair(&self, source: u32, destination: u32) -> Vec<PairChange> {
        pair_change(&self.before, &self.after, source, destination)
    }

    /// Who is default-deny in a direction after, and not before.
    fn isolated(&self, direction: Direction) -> Vec<u32> {
        let denied = |engine: &Engine, id: u32| {
            let modes = engine.enforcement(id);
            modes.is_some_and(|modes| modes[direction.index()] == Enforcement::DefaultDeny)
        };
        let all = self.concerned.iter().copied();
        all.filter(|id| denied(&self.after, *id) && !denied(&self.before, *id))
            .collect()
    }
}

/// The identities that a policy is about.
fn selected(policy: &policy::rule::Policy, labels: &BTreeMap<u32, Labels>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for rule in &policy.rules {
        let (selector, of_nodes) = match &rule.subject {
            SubjectSelector::Endpoints(selector) => (selector, false),
            SubjectSelector::Nodes(selector) => (selector, true),
        };
        let selector = Selector::new(selector);
        let may = |id: &u32, labels: &Labels| {
            let reserved = ["init", "health", "ingress"];
            let special = || {
                reserved
                    .iter()
                    .any(|name| labels.get(&format!("reserved:{name}")).is_some())
            };
            if of_nodes {
                *id == HOST
            } else {
                is_pod(labels) || special()
            }
        };
        let matching = labels
            .iter()
            .filter(|(id, labels)| may(id, labels) && selector.matches(&Facts::of(labels)));
        found.extend(matching.map(|(id, _)| *id));
    }
    found
}

fn endpoints_of(tables: &model::Tables, snapshot: &Snapshot, identities: &[u32]) -> Vec<u16> {
    let all = tables.endpoints.iter(snapshot);
    all.filter(|endpoint| identities.binary_search(&endpoint.identity).is_ok())
        .map(|endpoint| endpoint.id)
        .collect()
}

fn read(core: &Core, proposal: &PolicyProposal) -> Result<Proposed, ApiError> {
    let in_force: BTreeSet<&PolicyName> =
        core.engine.policies().map(|policy| &policy.name).collect();
    let mut proposed = Proposed {
        objects: Vec::new(),
        changes: Vec::new(),
        names: BTreeSet::new(),
    };
    for object in &proposal.objects {
        let mut checked = CheckedPolicy {
            object: title(object),
            ..CheckedPolicy::default()
        };
        let outcome = if object["kind"] == "CiliumCIDRGroup" {
            parse::cidr_group(object).map(Change::Group)
        } else {
            parse::policy(object, core.options.parse).map(Change::Policy)
        };
        match outcome {
            Ok(change) => {
                if let Change::Policy(policy) = &change {
                    checked.object = policy.name.to_string();
                    checked.replaces = in_force.contains(&policy.name);
                    proposed.names.insert(policy.name.clone());
                }
                proposed.changes.push(change);
            }
            Err(refused) => checked.problems = problems(&refused),
        }
        proposed.objects.push(checked);
    }
    for text in &proposal.removed {
        let found = in_force.iter().find(|name| name.to_string() == *text);
        let Some(name) = found else {
            return Err(ApiError::not_found(format!("policy {text}"))
                .detail("removed: Kind namespace/name, or Kind name, of a policy in force"));
        };
        proposed.names.insert((*name).clone());
        proposed.changes.push(Change::PolicyGone((*name).clone()));
    }
    Ok(proposed)
}

/// What an object says it is.
fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
