//! From objects to policies: strict, with errors that a person can act on. Never panics on what it is given.
mod admin;
mod cilium;
mod cursor;
mod group;
mod icmp;
mod kubernetes;
mod l7;
mod peers;
mod ports;
mod selectors;
mod tls;

pub use group::cidr_group;

use crate::rule::{Policy, PolicyKind, PolicyName};
use cursor::At;
use serde_json::Value;
use std::{cell::RefCell, fmt};

/// What the parsers need to know of the settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Nodes have their labels in their identities (`enable-node-selector-labels`), so that rules may select them.
    pub node_selector_labels: bool,
    /// What rules say of `enableDefaultDeny` does not count (`enable-non-default-deny-policies=false`): who has entries in a direction
    /// denies what none allows.
    pub always_default_deny: bool,
    /// The node has a proxy that enforces rules above the transport (`enable-l7-proxy`).
    pub l7: bool,
}

/// Something in an object that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a path such as `spec.ingress[0].toPorts[1].ports[0].port`.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What could stand there.
    pub accepted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; accepted: {}",
            self.path, self.what, self.accepted
        )
    }
}

/// Why a policy is not taken. None of it is, then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object is wrong.
    Invalid(Problem),
    /// The object is right, but some of it is not enforced yet.
    NotEnforced(Vec<Problem>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(problem) => problem.fmt(f),
            Self::NotEnforced(problems) => {
                let texts: Vec<_> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&texts.join("; "))
            }
        }
    }
}

impl std::error::Error for Refused {}

type Result<T> = std::result::Result<T, Problem>;

/// What the parsers of one object share.
struct Context {
    kind: PolicyKind,
    namespace: String,
    options: Options,
    /// What is right but not enforced yet.
    not_enforced: RefCell<Vec<Problem>>,
}

impl Context {
    /// Notes that what stands at `at` would have no effect, so that the policy is refused.
    fn not_enforced(&self, at: &At<'_>, what: &str, accepted: &str) {
        self.not_enforced.borrow_mut().push(Problem {
            path: at.path(),
            what: format!("{what} not enforced yet"),
            accepted: accepted.to_owned(),
        });
    }

    /// As [`Self::not_enforced`], of what an option of the agent turns on.
    fn off(&self, at: &At<'_>, what: &str, option: &str, accepted: &str) {
        self.not_enforced.borrow_mut().push(Problem {
            path: at.path(),
            what: format!("{what} not enforced while {option} is false"),
            accepted: format!("{accepted}, or {option}=true"),
        });
    }
}

/// Reads a policy object of any kind; `kind`, `apiVersion` and `metadata` must be there.
///
/// # Errors
/// [`Refused::Invalid`] with the first thing that is wrong, else [`Refused::NotEnforced`] with all that has no effect yet.
pub fn policy(object: &Value, options: Options) -> std::result::Result<Policy, Refused> {
    let read = || {
        let root = At::root(object);
        let kind = kind(&root)?;
        policy_of(&root, kind, options)
    };
    finish(read().map_err(Refused::Invalid)?)
}

/// Reads a policy object of a known kind, where `kind` and `apiVersion` may be left out, as watches do.
///
/// # Errors
/// As of [`policy`].
pub fn policy_of_kind(
    kind: PolicyKind,
    object: &Value,
    options: Options,
) -> std::result::Result<Policy, Refused> {
    finish(policy_of(&At::root(object), kind, options).map_err(Refused::Invalid)?)
}

fn finish((policy, context): (Policy, Context)) -> std::result::Result<Policy, Refused> {
    let not_enforced = context.not_enforced.into_inner();
    if not_enforced.is_empty() {
        Ok(policy)
    } else {
        Err(Refused::NotEnforced(not_enforced))
    }
}

const KINDS: [(PolicyKind, &str); 5] = [
    (
        PolicyKind::AdminNetworkPolicy,
        "policy.networking.k8s.io/v1alpha1",
    ),
    (
        PolicyKind::BaselineAdminNetworkPolicy,
        "policy.networking.k8s.io/v1alpha1",
    ),
    (PolicyKind::CiliumClusterwideNetworkPolicy, "cilium.io/v2"),
    (PolicyKind::CiliumNetworkPolicy, "cilium.io/v2"),
    (PolicyKind::NetworkPolicy, "networking.k8s.io/v1"),
];

fn kind(root: &At<'_>) -> Result<PolicyKind> {
    let at = root.need("kind", "the kind of the object")?;
    let text = at.text()?;
    let accepted = || KINDS.map(|(kind, _)| kind.text()).join(", ");
    let (kind, version) = KINDS
        .into_iter()
        .find(|(kind, _)| kind.text() == text)
        .ok_or_else(|| at.wrong(format!("{text:?} is no kind of policy"), accepted()))?;
    let at = root.need("apiVersion", version)?;
    match at.text()? {
        given if given == version => Ok(kind),
        given => Err(at.wrong(
            format!("{given:?} is not the version of {kind} that is read"),
            version,
        )),
    }
}

fn policy_of(root: &At<'_>, kind: PolicyKind, options: Options) -> Result<(Policy, Context)> {
    root.fields(&["apiVersion", "kind", "metadata", "spec", "specs", "status"])?;
    let (name, uid) = name(root, kind)?;
    let context = Context {
        kind,
        namespace: name.namespace.clone(),
        options,
        not_enforced: RefCell::default(),
    };
    if let Some(at) = root.get("specs")
        && !matches!(
            kind,
            PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy
        )
    {
        return Err(at.wrong(format!("{kind} has no list of rules"), "spec"));
    }
    let rules = match kind {
        PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
            cilium::rules(&context, root)?
        }
        PolicyKind::NetworkPolicy => vec![kubernetes::rule(&context, root)?],
        PolicyKind::AdminNetworkPolicy | PolicyKind::BaselineAdminNetworkPolicy => {
            vec![admin::rule(&context, root, &name.name)?]
        }
    };
    Ok((Policy { name, uid, rules }, context))
}

fn name(root: &At<'_>, kind: PolicyKind) -> Result<(PolicyName, String)> {
    let metadata = root.need("metadata", "the object's name")?;
    let name = metadata.need("name", "the object's name")?.filled()?;
    let namespace = match metadata.get("namespace") {
        Some(at) if !kind.is_namespaced() && !at.text()?.is_empty() => {
            return Err(at.wrong(format!("{kind} has no namespace"), "no such field"));
        }
        Some(at) => at.text()?,
        None => "",
    };
    let namespace = match namespace {
        "" if kind.is_namespaced() => "default",
        namespace => namespace,
    };
    let uid = match metadata.get("uid") {
        Some(at) => at.text()?,
        None => "",
    };
    let name = PolicyName {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Ok((name, uid.to_owned()))
}

#[cfg(test)]
mod tests;
