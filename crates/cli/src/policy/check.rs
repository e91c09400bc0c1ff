//! `policy check`: is it right, whom does it select, what would it open or close now.
use std::collections::BTreeSet;
use std::fmt::Write as _;

use ::policy::explain::Turn;
use ::policy::parse::Options;
use ::policy::reference::{End, Model};
use ::policy::rule::{Direction, NamedPorts, Peer, Peers, Policy};
use anyhow::Result;
use clap::Args;
use model::Labels;
use serde::Serialize;

use super::cluster::World;
use super::diff;
use super::files::{self, Document};
use super::manifest::{self, Known};
use super::place::Place;
use super::secrets;
use crate::error::{Findings, Usage};
use crate::kube::{ClusterArgs, block_on};
use crate::output::OutputArgs;

/// Names that are listed before the others are counted.
const NAMED: usize = 8;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Files with policies, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Ask no cluster: only whether the policies are right
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is found of one object.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checked {
    place: String,
    object: String,
    valid: bool,
    errors: Vec<Error>,
    /// What it means in the cluster; none if that was not asked.
    effect: Option<Effect>,
}

#[derive(Debug, Serialize)]
struct Error {
    place: String,
    path: String,
    what: String,
    accepted: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Effect {
    /// Whom it is about.
    selects: Vec<String>,
    /// Directions that it sets to deny what no rule allows.
    default_deny: Vec<&'static str>,
    /// Whom it sets so and no policy did before.
    newly_enforced: Vec<String>,
    /// Pairs that may talk then and may not now, and the reverse.
    opens: usize,
    closes: usize,
    /// Pairs whose connections pass before and after, but not for the same requests.
    requests: usize,
    /// What is probably not meant.
    warnings: Vec<String>,
}

pub fn run(cluster: &ClusterArgs, args: &CheckArgs) -> Result<()> {
    let documents = files::read(&args.files)?;
    let world = match args.offline {
        true => None,
        false => Some(block_on(read(cluster, &documents)).map_err(|error| {
            error.context("cannot say what the policies would do (--offline only checks them)")
        })?),
    };
    let checked = check(&documents, world.as_ref())?;
    args.output.print(&checked, |checked| text(checked))?;
    match checked.iter().all(|one| one.valid) {
        true => Ok(()),
        false => Err(Findings.into()),
    }
}

async fn read(cluster: &ClusterArgs, documents: &[Document]) -> Result<World> {
    let mut world = World::read(cluster).await?;
    world.secrets = secrets::find(cluster, documents, &world).await?;
    Ok(world)
}

pub(super) fn check(documents: &[Document], world: Option<&World>) -> Result<Vec<Checked>> {
    let ours: Vec<&Document> = documents
        .iter()
        .filter(|one| manifest::is_ours(one))
        .collect();
    if ours.is_empty() {
        return Err(Usage("the files hold no policy".into()).into());
    }
    // Without a cluster nobody knows its settings; what they could allow is allowed.
    let options = world.map_or(
        Options {
            node_selector_labels: true,
            always_default_deny: false,
            l7: true,
        },
        World::options,
    );
    let mut after = world.cloned();
    let mut all = Vec::new();
    for document in ours {
        let mut one = Checked {
            place: document.place("kind"),
            ..Checked::default()
        };
        match manifest::read(document, options) {
            Err(wrong) => {
                one.object = wrong.title;
                one.errors = wrong
                    .problems
                    .into_iter()
                    .map(|(place, problem)| Error {
                        place,
                        path: problem.path,
                        what: problem.what,
                        accepted: problem.accepted,
                    })
                    .collect();
            }
            Ok(known) => {
                one.valid = true;
                one.object = known.title();
                // Objects of one file come one after the other: each is compared with what is there by then.
                one.effect = after.as_mut().map(|world| effect(world, document, known));
            }
        }
        all.push(one);
    }
    Ok(all)
}

fn effect(world: &mut World, document: &Document, known: Known) -> Effect {
    let before = world.clone();
    manifest::put(document.clone(), known.clone(), world);
    let changes = diff::changes(&before, world);
    let mut effect = Effect {
        opens: diff::count(&changes, Turn::Opened),
        closes: diff::count(&changes, Turn::Closed),
        requests: diff::count(&changes, Turn::Requests),
        ..Effect::default()
    };
    if let Known::Policy(policy) = &known {
        describe(&before, policy, &mut effect);
    }
    effect
}

/// Everybody whom policy can be about: name, labels.
fn subjects(world: &World) -> Vec<(String, Labels)> {
    let pods = world
        .pods
        .iter()
        .map(|pod| (pod.path(), pod.labels.clone()));
    let nodes = world
        .nodes
        .iter()
        .filter(|_| world.host_firewall)
        .map(|node| {
            let place = Place::Node(node);
            (
                place.name(),
                place.seen_from(Some(&node.name), world).labels,
            )
        });
    pods.chain(nodes).collect()
}

fn describe(world: &World, policy: &Policy, effect: &mut Effect) {
    let alone = [policy.clone()];
    let model = |policies| Model {
        settings: &world.settings,
        policies,
        groups: &world.groups,
        services: &world.services,
    };
    let (this, others) = (model(&alone[..]), model(&world.policies[..]));
    let ports = NamedPorts::new();
    let mut newly = BTreeSet::new();
    for (name, labels) in subjects(world) {
        let end = End {
            labels: &labels,
            ports: &ports,
            address: None,
        };
        if this.rules(&end).next().is_none() {
            continue;
        }
        for direction in Direction::BOTH {
            if this.is_default_deny(direction, &end) && !others.is_default_deny(direction, &end) {
                newly.insert(name.clone());
            }
        }
        effect.selects.push(name);
    }
    effect.newly_enforced = newly.into_iter().collect();
    for direction in Direction::BOTH {
        if policy
            .rules
            .iter()
            .any(|rule| rule.section(direction).default_deny)
        {
            effect.default_deny.push(direction.text());
        }
    }
    if effect.selects.is_empty() {
        effect
            .warnings
            .push("selects nobody that exists now".to_owned());
    }
    effect
        .warnings
        .extend(peers_that_are_nobody(world, policy, &this));
    effect
        .warnings
        .extend(secrets::lacking(policy, &world.secrets));
}

fn peers_that_are_nobody(world: &World, policy: &Policy, model: &Model<'_>) -> Vec<String> {
    let ports = NamedPorts::new();
    let mut found = Vec::new();
    let rules = policy.rules.iter();
    let entries = rules.flat_map(|rule| {
        Direction::BOTH
            .into_iter()
            .flat_map(|d| &rule.section(d).entries)
    });
    for entry in entries {
        let Peers::Of(peers) = &entry.peers else {
            continue;
        };
        // Of ranges, entities and services nobody can say who will be behind them.
        if !peers.iter().all(|peer| matches!(peer, Peer::Labels(_))) {
            continue;
        }
        let reserved = [
            "host",
            "remote-node",
            "world",
            "kube-apiserver",
            "health",
            "ingress",
        ];
        let everybody = world
            .pods
            .iter()
            .map(|pod| pod.labels.clone())
            .chain(reserved.map(Labels::reserved));
        let is_somebody = everybody.into_iter().any(|labels| {
            let end = End {
                labels: &labels,
                ports: &ports,
                address: None,
            };
            model.is_named(&entry.peers, &end)
        });
        if !is_somebody {
            found.push(format!("{}: matches no peer that exists now", entry.path));
        }
    }
    found
}

pub(super) fn text(checked: &[Checked]) -> String {
    let mut out = String::new();
    for one in checked {
        for error in &one.errors {
            let _ = writeln!(
                out,
                "{}: {}: {}: {}; accepted: {}",
                error.place, one.object, error.path, error.what, error.accepted
            );
        }
        if one.valid {
            let _ = writeln!(out, "{}: {}: valid", one.place, one.object);
        }
        if let Some(effect) = &one.effect {
            effect_text(effect, &mut out);
        }
    }
    out
}

fn effect_text(effect: &Effect, out: &mut String) {
    if !effect.selects.is_empty() {
        let _ = writeln!(out, "  selects {}", listed(&effect.selects));
    }
    if !effect.default_deny.is_empty() && !effect.selects.is_empty() {
        let _ = write!(
            out,
            "  denies what no rule allows: {}",
            effect.default_deny.join(" and ")
        );
        let _ = match effect.newly_enforced.is_empty() {
            true => writeln!(out, ", as other policies do for all of them"),
            false => writeln!(out, ", which is new for {}", listed(&effect.newly_enforced)),
        };
    }
    let _ = writeln!(
        out,
        "  opens {} and closes {} pairs (`hypha policy diff` lists them)",
        effect.opens, effect.closes
    );
    if effect.requests > 0 {
        let _ = writeln!(
            out,
            "  decides otherwise on what {} pairs ask for (rules above the transport)",
            effect.requests
        );
    }
    for warning in &effect.warnings {
        let _ = writeln!(out, "  Warning: {warning}");
    }
}

fn listed(names: &[String]) -> String {
    format!("{}: {}", names.len(), super::first_of(names, NAMED))
}
