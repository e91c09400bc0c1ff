//! Policies of files, put into a cluster as if they were applied.
use ::policy::parse::{self, Options, Problem, Refused};
use ::policy::rule::{CidrGroup, Policy, PolicyKind, PolicyName};
use anyhow::{Result, anyhow};
use serde_json::Value;

use super::cluster::World;
use super::files::Document;
use crate::error::Usage;

/// What a document is.
#[derive(Clone, Debug)]
pub enum Known {
    /// A policy.
    Policy(Policy),
    /// A group of address ranges.
    Group(CidrGroup),
}

impl Known {
    /// Kind and name.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Policy(policy) => policy.name.to_string(),
            Self::Group(group) => format!("{GROUP} {}", group.name),
        }
    }
}

const GROUP: &str = "CiliumCIDRGroup";

/// What is wrong with a document; `FILE:LINE: …` each.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// Kind and name, as far as they are there.
    pub title: String,
    /// Everything that is wrong: where, and what.
    pub problems: Vec<(String, Problem)>,
}

impl Wrong {
    /// One line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line =
            |(place, problem): &(String, Problem)| format!("{place}: {}: {problem}", self.title);
        self.problems.iter().map(line).collect()
    }
}

/// True for kinds that policy is made of.
#[must_use]
pub fn is_ours(document: &Document) -> bool {
    let kind = document.value["kind"].as_str().unwrap_or_default();
    kind == GROUP || kind_of(kind).is_some() || kind.ends_with("NetworkPolicy") || kind.is_empty()
}

fn kind_of(text: &str) -> Option<PolicyKind> {
    [
        PolicyKind::AdminNetworkPolicy,
        PolicyKind::BaselineAdminNetworkPolicy,
        PolicyKind::CiliumClusterwideNetworkPolicy,
        PolicyKind::CiliumNetworkPolicy,
        PolicyKind::NetworkPolicy,
    ]
    .into_iter()
    .find(|kind| kind.text() == text)
}

/// Reads a document.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(document: &Document, options: Options) -> Result<Known, Wrong> {
    let read = match document.value["kind"].as_str() {
        Some(GROUP) => parse::cidr_group(&document.value).map(Known::Group),
        _ => parse::policy(&document.value, options).map(Known::Policy),
    };
    read.map_err(|refused| {
        let problems = match refused {
            Refused::Invalid(problem) => vec![problem],
            Refused::NotEnforced(problems) => problems,
        };
        Wrong {
            title: title(&document.value),
            problems: problems
                .into_iter()
                .map(|problem| (document.place(&problem.path), problem))
                .collect(),
        }
    })
}

fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let name = match (namespace.as_str(), kind_of(&kind)) {
        ("", Some(known)) if known.is_namespaced() => format!("default/{name}"),
        ("", _) => name,
        (namespace, _) => format!("{namespace}/{name}"),
    };
    match kind.as_str() {
        "" => "object without kind".to_owned(),
        kind => format!("{kind} {name}"),
    }
}

/// The documents that are policies, all of which must be right.
///
/// # Errors
/// The first thing that is wrong; [`Usage`] if there is no policy among them.
pub fn all(documents: &[Document], options: Options) -> Result<Vec<(Document, Known)>> {
    let ours: Vec<&Document> = documents
        .iter()
        .filter(|document| is_ours(document))
        .collect();
    if ours.is_empty() {
        return Err(Usage("the files hold no policy; accepted: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy, CiliumCIDRGroup".into()).into());
    }
    let mut all = Vec::new();
    for document in ours {
        match read(document, options) {
            Ok(known) => all.push((document.clone(), known)),
            Err(wrong) => return Err(anyhow!(wrong.lines().join("; "))),
        }
    }
    Ok(all)
}

/// Puts the policies of documents into the cluster.
///
/// # Errors
/// As of [`all`]; without documents there is nothing to do.
pub fn apply(documents: &[Document], world: &mut World) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    for (document, known) in all(documents, world.options())? {
        put(document, known, world);
    }
    Ok(())
}

/// Puts one policy or group into the cluster.
pub fn put(document: Document, known: Known, world: &mut World) {
    match known {
        Known::Group(group) => world.put_group(group),
        Known::Policy(policy) => {
            let name: PolicyName = policy.name.clone();
            world.put(policy, document.value.clone());
            world.files.insert(name, document);
        }
    }
}

/// Takes one policy or group out; whether it was there.
pub fn remove(known: &Known, world: &mut World) -> bool {
    match known {
        Known::Group(group) => world.remove_group(&group.name),
        Known::Policy(policy) => world.remove(&policy.name),
    }
}
