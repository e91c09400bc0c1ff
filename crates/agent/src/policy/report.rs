//! What policy says of itself: status, lists, rows with the names of their rules.
use super::{
    Policy,
    core::Core,
    inputs::{self, Taken},
    subjects::{HOST, HOST_ENDPOINT},
    writer::Behind,
};
use abi::endpoint_flags::POLICY_AUDIT;
use api::{
    IdentityInfo, MapRow, PolicyInfo, PolicyList, PolicyMapRow, PolicyProblem, PolicyRevision,
    PolicyStatus, SelectorInfo,
};
use model::{IdentityKind, PolicyObject};
use policy::{
    Mode,
    identity::Scope,
    kernel::{ANYBODY, Key, Value as RowValue, Verdict},
    parse::{Problem, Refused},
    resolve::{Enforcement, Engine, Origin},
    rule::PolicyName,
};
use runtime::health::Component;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers for metrics.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How policy is.
    pub status: PolicyStatus,
    /// Policy objects taken, refused since the start.
    pub objects: [u64; 2],
    /// Steps that changed rows since the start.
    pub steps: u64,
    /// Endpoints by what is enforced for them.
    pub enforcement: BTreeMap<&'static str, u64>,
    /// Most identities that one selector selects.
    pub widest_selector: u64,
    /// Groups of ranges that rules may name.
    pub groups: u64,
    /// Identities by kind.
    pub identities: BTreeMap<&'static str, u64>,
}

/// What is enforced for one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfEndpoint {
    /// In each direction: ingress, egress.
    pub enforced: [bool; 2],
    /// The revision that is enforced.
    pub revision: u64,
}

/// One line of how policy is, for the health of the agent.
pub fn health(core: &Core, component: &Component) {
    if let Some(missing) = core.missing() {
        return component.degraded(format!(
            "waiting for {missing}; the kernel enforces what it did before"
        ));
    }
    let (behind, why) = core.behind();
    let (rows, capacity) = core.writer.fill();
    if let Some(why) = why {
        let has = behind_has(core);
        let why = match why {
            Behind::Full => {
                format!("the policy map is full ({rows} of {capacity} rows; bpf-policy-map-max)")
            }
            Behind::Failed(error) => format!("rows cannot be written: {error}"),
        };
        return component.degraded(format!("{why}; endpoints {behind:?} are {has}"));
    }
    if let Some((name, range)) = core.late() {
        return component.degraded(format!(
            "{name} names {range}, which is not in the address cache: what it leaves out of others allows nothing until it is"
        ));
    }
    if let Some((name, conflict)) = core.conflicts.iter().next() {
        return component.degraded(format!("{name}: {conflict}"));
    }
    let tail = match (refused(core), former(core)) {
        (0, _) => String::new(),
        (count, 0) => format!(", {count} refused"),
        (count, former) => {
            format!(", {count} refused, {former} of them in force in a former version")
        }
    };
    component.ok(format!(
        "{} policies in force{tail}, {rows} rows, revision {}",
        core.engine.policies().count(),
        core.revision
    ));
}

fn behind_has(core: &Core) -> &'static str {
    if core.options.lockdown {
        "locked down"
    } else {
        "left with their last complete policy"
    }
}

fn refused(core: &Core) -> usize {
    let taken = core.inputs.taken.values();
    taken.filter(|taken| taken.refused.is_some()).count()
}

fn former(core: &Core) -> usize {
    let taken = core.inputs.taken.values();
    taken.filter(|taken| taken.former().is_some()).count()
}

fn status_of(core: &Core) -> PolicyStatus {
    let (behind, why) = core.behind();
    let (rows, capacity) = core.writer.fill();
    let mode = match core.options.settings.mode {
        Mode::Default => "default",
        Mode::Always => "always",
        Mode::Never => "never",
    };
    PolicyStatus {
        mode: mode.to_owned(),
        audit: core.options.audit,
        host_firewall: core.options.host_firewall,
        complete: core.is_complete(),
        revision: core.revision,
        policies: core.engine.policies().count() as u64,
        refused: refused(core) as u64,
        former: former(core) as u64,
        identities: core.engine.identities().count() as u64,
        subjects: core.engine.subjects().count() as u64,
        rows: rows as u64,
        capacity: capacity as u64,
        behind: behind.into_iter().collect(),
        behind_has: why.map(|_| behind_has(core).to_owned()).unwrap_or_default(),
    }
}

impl Policy {
    /// How policy is.
    #[must_use]
    pub fn status(&self) -> PolicyStatus {
        status_of(&self.core())
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let core = self.core();
        let mut totals = Totals {
            status: status_of(&core),
            objects: core.counts.objects,
            steps: core.counts.steps,
            groups: core.engine.groups().count() as u64,
            widest_selector: core
                .engine
                .selectors()
                .map(|(_, _, matched)| matched.len() as u64)
                .max()
                .unwrap_or(0),
            ..Totals::default()
        };
        for word in ENFORCEMENT {
            totals.enforcement.insert(word, 0);
        }
        let snapshot = self.0.tables.db.snapshot();
        let endpoints = self.0.tables.endpoints.iter(&snapshot);
        let mut shown: Vec<(u32, bool)> = endpoints
            .map(|row| (row.subject, row.flags & POLICY_AUDIT != 0))
            .collect();
        let local = self.0.tables.local_node.iter(&snapshot).next();
        let firewall = core.options.host_firewall;
        shown.extend(local.filter(|_| firewall).map(|local| {
            let audit = local.policy_audit.unwrap_or(core.options.audit);
            (HOST, audit)
        }));
        for (subject, audit) in shown {
            let word = word(enforced(&core.engine, subject), audit);
            *totals.enforcement.entry(word).or_default() += 1;
        }
        drop(core);
        for row in self.0.tables.identities.iter(&snapshot) {
            *totals.identities.entry(kind_text(row.kind)).or_default() += 1;
        }
        totals
    }

    /// What is enforced for an endpoint with this subject.
    #[must_use]
    pub fn of_subject(&self, subject: u32) -> OfEndpoint {
        let core = self.core();
        OfEndpoint {
            enforced: enforced(&core.engine, subject),
            revision: core.realized(subject),
        }
    }

    /// The labels by which policies select the node itself, if they are enforced for it.
    #[must_use]
    pub fn host_labels(&self) -> Option<Vec<String>> {
        let core = self.core();
        let mut subjects = core.engine.subjects();
        let host = subjects.find(|(number, _)| *number == HOST);
        host.map(|(_, subject)| subject.labels.to_strings())
    }

    /// Every policy.
    #[must_use]
    pub fn list(&self) -> PolicyList {
        let tables = &self.0.tables;
        let snapshot = tables.db.snapshot();
        let core = self.core();
        let sources = inputs::sources(tables);
        let mut policies: Vec<PolicyInfo> = core
            .inputs
            .taken
            .iter()
            .filter_map(|((index, key), taken)| {
                let row = sources.get(*index)?.get(&snapshot, key)?;
                (&*row.kind != "CiliumCIDRGroup" || taken.refused.is_some())
                    .then(|| info(&core, row, taken))
            })
            .collect();
        policies.sort_by(|a, b| {
            (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name))
        });
        PolicyList {
            revision: core.revision,
            policies,
        }
    }

    /// The revisions of the policies.
    #[must_use]
    pub fn revisions(&self) -> PolicyRevision {
        let core = self.core();
        PolicyRevision {
            revision: core.revision,
            realized: core.realized_by_all(),
        }
    }

    /// The selectors that policies use.
    #[must_use]
    pub fn selectors(&self) -> Vec<SelectorInfo> {
        let core = self.core();
        let users = core.engine.selector_users();
        let info =
            |(selector, count, matched): (&policy::selector::Selector, u32, &BTreeSet<u32>)| {
                let names = users.get(selector).into_iter().flatten();
                SelectorInfo {
                    selector: selector.to_string(),
                    users: count,
                    policies: names.map(|name| name.to_string()).collect(),
                    identities: matched.iter().copied().collect(),
                }
            };
        core.engine.selectors().map(info).collect()
    }

    /// Every identity, or the one of this number.
    #[must_use]
    pub fn identities(&self, only: Option<u32>) -> Vec<IdentityInfo> {
        let tables = &self.0.tables;
        let snapshot = tables.db.snapshot();
        let mut users: BTreeMap<u32, u32> = BTreeMap::new();
        for endpoint in tables.endpoints.iter(&snapshot) {
            *users.entry(endpoint.identity).or_default() += 1;
        }
        let info = |row: &std::sync::Arc<model::Identity>| IdentityInfo {
            id: row.id,
            labels: row.labels.to_strings(),
            scope: match Scope::of(row.id) {
                Some(Scope::Remote) => "remote",
                _ => kind_text(row.kind),
            }
            .to_owned(),
            endpoints: users.get(&row.id).copied().unwrap_or(0),
        };
        match only {
            Some(id) => tables
                .identities
                .get(&snapshot, &id)
                .map(info)
                .into_iter()
                .collect(),
            None => tables.identities.iter(&snapshot).map(info).collect(),
        }
    }

    /// Rows of the kernel's map with what they mean; those of one subject if one is given.
    #[must_use]
    pub fn shown(
        &self,
        rows: &[(abi::PolicyKey, abi::PolicyValue)],
        only: Option<u32>,
    ) -> Vec<MapRow> {
        let tables = &self.0.tables;
        let snapshot = tables.db.snapshot();
        let core = self.core();
        let mut rules: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let known = rows.iter().filter_map(|(key, value)| {
            let key = Key::from_abi(key)?;
            Some((key, RowValue::from_abi(value), value.decided))
        });
        known
            .filter(|(key, ..)| only.is_none_or(|only| key.subject == only))
            .map(|(key, value, decided)| {
                let labels = match key.remote {
                    ANYBODY => Vec::new(),
                    id => tables
                        .identities
                        .get(&snapshot, &id)
                        .map(|row| row.labels.to_strings())
                        .unwrap_or_default(),
                };
                let rules = rules
                    .entry(value.origin)
                    .or_insert_with(|| origin_names(&core.engine, value.origin));
                map_row(PolicyMapRow {
                    subject: key.subject,
                    endpoints: core.subjects.endpoints(key.subject).collect(),
                    direction: key.direction.text().to_owned(),
                    remote: key.remote,
                    labels,
                    traffic: key.l4.to_string(),
                    prefix: key.l4.len(),
                    verdict: match value.verdict {
                        Verdict::Allow => "allow",
                        Verdict::Deny => "deny",
                        Verdict::Unmatched => "unmatched",
                    }
                    .to_owned(),
                    proxy_port: value
                        .l7
                        .and_then(|kind| kind.proxy().port())
                        .unwrap_or_default(),
                    precedence: value.precedence,
                    decided,
                    rules: rules.clone(),
                })
            })
            .collect()
    }

    /// Compares the kernel's rows with those that policies ask for: how many there are, and the places of those that differ.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn differences(&self) -> Result<(usize, Vec<Key>), String> {
        let mut core = self.core();
        if !core.is_complete() {
            return Ok((0, Vec::new()));
        }
        let Core { writer, engine, .. } = &mut *core;
        writer.compare(engine)
    }

    /// The policies that rows of an origin came from; none for those that no policy made.
    #[must_use]
    pub fn origin_policies(&self, origin: u32) -> Vec<policy::rule::PolicyName> {
        let core = self.core();
        let Origin::Rules(rules) = core.engine.origin(origin) else {
            return Vec::new();
        };
        let sources = rules.iter().filter_map(|place| core.engine.source(*place));
        let mut names: Vec<_> = sources.map(|source| source.policy).collect();
        names.dedup();
        names
    }

    /// The rules that rows of an origin came from, for events.
    #[must_use]
    pub fn rule_names(&self, origin: u32) -> Vec<String> {
        origin_names(&self.core().engine, origin)
    }
}

const ENFORCEMENT: [&str; 7] = [
    "none",
    "ingress",
    "egress",
    "both",
    "audit-ingress",
    "audit-egress",
    "audit-both",
];

fn word(enforced: [bool; 2], audit: bool) -> &'static str {
    let index = usize::from(enforced[0]) + 2 * usize::from(enforced[1]);
    match index {
        0 => ENFORCEMENT[0],
        index if audit => ENFORCEMENT[3 + index],
        index => ENFORCEMENT[index],
    }
}

fn enforced(engine: &Engine, subject: u32) -> [bool; 2] {
    let modes = engine.enforcement(subject);
    modes.map_or([false; 2], |modes| {
        modes.map(|mode| mode != Enforcement::Off)
    })
}

const fn kind_text(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::Reserved => "reserved",
        IdentityKind::Fixed => "fixed",
        IdentityKind::Cluster => "cluster",
        IdentityKind::Local => "local",
        IdentityKind::RemoteNode => "remote-node",
    }
}

/// What rows of an origin came from: rules by policy and place, or words.
#[must_use]
pub fn origin_names(engine: &Engine, origin: u32) -> Vec<String> {
    match engine.origin(origin) {
        Origin::Nothing => Vec::new(),
        Origin::DefaultAllow => vec!["no policy is enforced in this direction".to_owned()],
        Origin::Localhost => vec!["the host reaches its pods (allow-localhost)".to_owned()],
        Origin::Rules(rules) => rules
            .iter()
            .filter_map(|place| engine.source(*place))
            .map(|source| source.to_string())
            .collect(),
    }
}

fn map_row(row: PolicyMapRow) -> MapRow {
    let key = format!(
        "subject={} {} identity={} {}",
        row.subject, row.direction, row.remote, row.traffic
    );
    let value = format!(
        "{} precedence={} prefix={}",
        row.verdict, row.precedence, row.prefix
    );
    let fields = match serde_json::to_value(row) {
        Ok(Value::Object(fields)) => fields.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    MapRow { key, value, fields }
}

/// What is wrong with an object, in the API's words.
#[must_use]
pub fn problems(refused: &Refused) -> Vec<PolicyProblem> {
    let problem = |problem: &Problem, not_enforced_yet| PolicyProblem {
        path: problem.path.clone(),
        what: problem.what.clone(),
        accepted: problem.accepted.clone(),
        not_enforced_yet,
    };
    match refused {
        Refused::Invalid(one) => vec![problem(one, false)],
        Refused::NotEnforced(all) => all.iter().map(|one| problem(one, true)).collect(),
    }
}

fn info(core: &Core, row: &PolicyObject, taken: &Taken) -> PolicyInfo {
    let former = taken.former();
    let shown = former.map_or(row, AsRef::as_ref);
    let object: Value = serde_json::from_str(&shown.json).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = match &taken.name {
        Some(inputs::Name::Policy(name)) => Some(name),
        _ => None,
    };
    let own = name.and_then(|name| core.engine.policies().find(|policy| policy.name == *name));
    let labels = own.map(policy::rule::Policy::labels).unwrap_or_default();
    let rules = match &object["specs"] {
        Value::Array(more) => more.clone(),
        _ => Vec::new(),
    };
    let spec = object.get("spec").filter(|spec| !spec.is_null());
    let mut rules: Vec<Value> = spec.cloned().into_iter().chain(rules).collect();
    for rule in &mut rules {
        name_rule(rule, &labels);
    }
    PolicyInfo {
        kind: row.kind.to_string(),
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
        uid: text(&object["metadata"]["uid"]),
        source: match row.key.rsplit_once('#') {
            Some((file, _)) => file.to_owned(),
            None => "k8s".to_owned(),
        },
        problems: taken.refused.as_ref().map(problems).unwrap_or_default(),
        former: former.is_some(),
        conflict: name
            .and_then(|name| core.conflicts.get(name))
            .cloned()
            .unwrap_or_default(),
        endpoints: name.map(|name| endpoints(core, name)).unwrap_or_default(),
        labels,
        rules,
    }
}

/// The endpoints that a policy is about.
#[must_use]
pub fn endpoints(core: &Core, name: &PolicyName) -> Vec<u16> {
    let subjects = core.engine.selected(name);
    let mut found: Vec<u16> = subjects
        .iter()
        .flat_map(|subject| core.subjects.endpoints(*subject))
        .collect();
    if subjects.contains(&HOST) && !found.contains(&HOST_ENDPOINT) {
        found.push(HOST_ENDPOINT);
    }
    found.sort_unstable();
    found
}

/// Adds the labels that name the policy to those of a rule, as lists of rules show them.
fn name_rule(rule: &mut Value, labels: &[String]) {
    let Value::Object(fields) = rule else {
        return;
    };
    let mut all: Vec<Value> = match fields.remove("labels") {
        Some(Value::Array(own)) => own,
        _ => Vec::new(),
    };
    for label in labels {
        let (source, rest) = label.split_once(':').unwrap_or(("", label));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        all.push(serde_json::json!({"key": key, "source": source, "value": value}));
    }
    fields.insert("labels".to_owned(), Value::Array(all));
}
