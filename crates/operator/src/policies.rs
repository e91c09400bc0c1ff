//! Whether policies can be used: the condition `Valid` of Cilium's kinds, and an event for those of Kubernetes and for groups of
//! ranges, which have no place for it. One process says so for the cluster, by the parsers that the agents use; an agent writes
//! nothing. A policy that names a Secret which is not there, or of no use, can be used but for the rules that need it, and says so.
use crate::{
    controller::Context,
    secrets::{self, Secrets},
};
use futures::{StreamExt, stream};
use k8s::{
    Presence, Watcher,
    crd::Crd,
    error::{is_not_found, says},
    events::About,
    policy::{Cilium, Clusterwide, Group, Kind, Kubernetes, Object, Said},
    write::Objects,
};
use k8s_openapi::jiff::Timestamp;
use model::{Contents, PolicyObject, Text};
use policy::{
    parse::{self, Refused},
    rule::{Policy, PolicyKind, SecretName, SecretUse},
    secrets::Taken,
};
use proxy::policy::{check_authorities, check_certificate};
use runtime::{health::Component, stop::Stop};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tables::{ChangeKind, ChangeTracker, Db, DuplicateTable, Row, Table, TableDef};

/// How many conditions are written at the same time.
const WRITES: usize = 8;
/// How long to rest after a change before looking: nodes enforce it at this moment, and what follows at once is judged along with it.
const REST: Duration = Duration::from_millis(50);
/// Until what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
const VALID: &str = "the policy can be used";
/// Nodes do not undo what they enforce because of a version that they refuse.
const KEPT: &str = "nodes go on enforcing the last version that they accepted, if there was one";

/// A policy, and what its status says of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Judged {
    object: PolicyObject,
    uid: String,
    said: Option<Said>,
}

impl Row for Judged {
    type Key = Text;

    fn key(&self) -> Text {
        self.object.key.clone()
    }
}

impl<K: Kind> From<Object<K>> for Judged {
    fn from(object: Object<K>) -> Self {
        Self {
            said: object.said(),
            uid: object.uid().to_owned(),
            object: object.into(),
        }
    }
}

/// Policies of each kind.
struct Known {
    db: Db,
    cilium: Table<Judged>,
    clusterwide: Table<Judged>,
    kubernetes: Table<Judged>,
    groups: Table<Judged>,
    secrets: secrets::Tables,
}

impl Known {
    fn new() -> Result<Self, DuplicateTable> {
        let db = Db::new();
        let table = |name| {
            let mut def = TableDef::new(name);
            def.initializer(model::KUBERNETES);
            db.register(def)
        };
        Ok(Self {
            cilium: table("cilium-network-policies")?,
            clusterwide: table("cilium-clusterwide-network-policies")?,
            kubernetes: table("network-policies")?,
            groups: table("cidr-groups")?,
            secrets: secrets::Tables::new(&db)?,
            db,
        })
    }
}

/// Follows policies until `stop`.
pub(crate) async fn judge(context: Context, stop: Stop) {
    let health = context.health.component("controller/policies");
    let known = match Known::new() {
        Ok(known) => known,
        Err(error) => return health.failed(error.to_string()),
    };
    let watcher = Watcher::new(&context.client, &known.db, &context.health, &stop);
    watcher.follow::<Object<Cilium>, _>(&known.cilium, Presence::Optional);
    watcher.follow::<Object<Clusterwide>, _>(&known.clusterwide, Presence::Optional);
    watcher.follow::<Object<Kubernetes>, _>(&known.kubernetes, Presence::Always);
    watcher.follow::<Object<Group>, _>(&known.groups, Presence::Optional);
    let mut kinds = [
        Followed::of::<Cilium>(&known.db, &known.cilium),
        Followed::of::<Clusterwide>(&known.db, &known.clusterwide),
        Followed::of::<Kubernetes>(&known.db, &known.kubernetes),
        Followed::of::<Group>(&known.db, &known.groups),
    ];
    let mut secrets = Secrets::new(&context, &known.db, known.secrets, &watcher);
    let watch = known
        .cilium
        .watch()
        .and(known.clusterwide.watch())
        .and(known.kubernetes.watch())
        .and(known.groups.watch())
        .and(secrets.watch());
    let options = parse::Options {
        node_selector_labels: context.settings.enable_node_selector_labels,
        l7: context.settings.enable_l7_proxy,
        ..parse::Options::default()
    };
    loop {
        let snapshot = known.db.snapshot();
        let seen = tables::Read::revision(&snapshot);
        for kind in &mut kinds {
            kind.look(&snapshot, options);
        }
        let named: BTreeSet<SecretName> = kinds.iter().flat_map(Followed::named).collect();
        secrets.follow(&named);
        for kind in &mut kinds {
            kind.look_at_secrets(&snapshot, &secrets);
        }
        let complete =
            known.cilium.initialized(&snapshot) && known.clusterwide.initialized(&snapshot);
        let Some(copied) = stop.or(secrets.copy(&snapshot, &named, complete)).await else {
            return;
        };
        drop(snapshot);
        let work = stream::iter(&mut kinds).for_each(|kind| kind.write(&context));
        if stop.or(work).await.is_none() {
            return;
        }
        let open = kinds.iter().map(|kind| kind.open.len()).sum::<usize>();
        tell(&health, &kinds, open, copied.as_ref().err());
        let next = async {
            tokio::select! {
                () = watch.changed(seen) => tokio::time::sleep(REST).await,
                () = tokio::time::sleep(AGAIN), if open > 0 || copied.is_err() => {}
            }
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

fn tell(health: &Component, kinds: &[Followed], open: usize, uncopied: Option<&String>) {
    let invalid: usize = kinds.iter().map(|kind| kind.invalid.len()).sum();
    if let Some(error) = uncopied {
        tracing::warn!("{error}");
        health.degraded(format!("agents lack a Secret: {error}"));
    } else if open > 0 {
        health.degraded(format!(
            "the status of {open} policies could not be written"
        ));
    } else {
        health.ok(format!("policies judged, {invalid} of them cannot be used"));
    }
}

/// Which objects are judged, and where that is said.
#[derive(Clone, Copy, Debug)]
struct Which {
    kind: &'static str,
    group: &'static str,
    version: &'static str,
    /// None for groups of ranges.
    policy: Option<PolicyKind>,
}

impl Which {
    fn of<K: Kind>() -> Self {
        let [group, version, _] = K::PLACE;
        let kinds = [
            PolicyKind::CiliumNetworkPolicy,
            PolicyKind::CiliumClusterwideNetworkPolicy,
            PolicyKind::NetworkPolicy,
        ];
        Self {
            kind: K::KIND,
            group,
            version,
            policy: kinds.into_iter().find(|kind| kind.text() == K::KIND),
        }
    }

    /// The definition of the kind, where its status has the condition.
    fn with_condition(self) -> Option<&'static Crd> {
        let mut all = k8s::crd::ALL.iter();
        all.find(|crd| crd.kind == self.kind && self.policy.is_some())
    }

    /// The policy; none for groups of ranges.
    fn check(
        self,
        object: &PolicyObject,
        options: parse::Options,
    ) -> Result<Option<Policy>, Refused> {
        let value: Value = serde_json::from_str(&object.json).unwrap_or_default();
        match self.policy {
            Some(kind) => parse::policy_of_kind(kind, &value, options).map(Some),
            None => parse::cidr_group(&value).map(|_| None),
        }
    }
}

/// One kind.
struct Followed {
    which: Which,
    tracker: ChangeTracker<Judged>,
    /// What is to be written.
    open: BTreeMap<Text, Verdict>,
    invalid: BTreeSet<Text>,
    /// Those that need Secrets.
    needing: BTreeMap<Text, Needing>,
}

/// A policy that needs Secrets.
struct Needing {
    policy: Policy,
    /// The object; none where it is refused as it stands, and nodes may have this version of it.
    row: Option<Arc<Judged>>,
    /// What was said of it last.
    said: Option<Said>,
}

/// What is to be said of a policy.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    uid: String,
    said: Said,
    reason: Reason,
}

/// In a word.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    Accepted,
    Refused,
    SecretNotUsable,
}

impl Followed {
    fn of<K: Kind>(db: &Db, table: &Table<Judged>) -> Self {
        Self {
            which: Which::of::<K>(),
            tracker: db.track(table),
            open: BTreeMap::new(),
            invalid: BTreeSet::new(),
            needing: BTreeMap::new(),
        }
    }

    /// The Secrets that are needed.
    fn named(&self) -> impl Iterator<Item = SecretName> {
        let policies = self.needing.values().map(|needing| &needing.policy);
        let uses = policies.flat_map(Policy::secret_uses);
        uses.map(|needed| needed.secret.clone())
    }

    /// Judges what has changed.
    fn look(&mut self, snapshot: &tables::Snapshot, options: parse::Options) {
        for change in self.tracker.changes(snapshot) {
            let row = change.row;
            let key = row.object.key.clone();
            self.open.remove(&key);
            self.invalid.remove(&key);
            if change.kind == ChangeKind::Delete {
                self.needing.remove(&key);
                continue;
            }
            let (said, reason) = match self.which.check(&row.object, options) {
                Ok(Some(policy)) if !policy.secret_uses().is_empty() => {
                    let needing = Needing {
                        policy,
                        row: Some(row.clone()),
                        said: None,
                    };
                    self.needing.insert(key, needing);
                    continue;
                }
                Ok(_) => {
                    self.needing.remove(&key);
                    accepted()
                }
                Err(refused) => {
                    if let Some(needing) = self.needing.get_mut(&key) {
                        needing.row = None;
                    }
                    self.invalid.insert(key.clone());
                    let message = format!("{refused}; {KEPT}");
                    (bad(message), Reason::Refused)
                }
            };
            // Where there is no condition, only what is wrong is told.
            let told = match self.which.with_condition() {
                None => said.valid,
                Some(_) => row.said.as_ref() == Some(&said),
            };
            if !told {
                let uid = row.uid.clone();
                self.open.insert(key, Verdict { uid, said, reason });
            }
        }
    }

    /// Judges what needs Secrets, once it is known what is in them.
    fn look_at_secrets(&mut self, snapshot: &tables::Snapshot, secrets: &Secrets) {
        for (key, needing) in &mut self.needing {
            let Some(row) = &needing.row else { continue };
            let Some(problems) = problems(&needing.policy, snapshot, secrets) else {
                continue;
            };
            let (said, reason) = match problems.is_empty() {
                true => accepted(),
                false => (bad(problems.join("; ")), Reason::SecretNotUsable),
            };
            match said.valid {
                true => self.invalid.remove(key),
                false => self.invalid.insert(key.clone()),
            };
            if needing.said.as_ref() == Some(&said) {
                continue;
            }
            self.open.remove(key);
            if row.said.as_ref() != Some(&said) {
                let verdict = Verdict {
                    uid: row.uid.clone(),
                    said: said.clone(),
                    reason,
                };
                self.open.insert(key.clone(), verdict);
            }
            needing.said = Some(said);
        }
    }

    /// Writes what is open; what fails stays open.
    async fn write(&mut self, context: &Context) {
        let which = self.which;
        let open = std::mem::take(&mut self.open);
        let writes = open.into_iter().map(async |(key, verdict)| {
            let done = say(context, which, &key, &verdict).await;
            (!done).then_some((key, verdict))
        });
        let failed = stream::iter(writes).buffer_unordered(WRITES);
        self.open = failed.filter_map(async |one| one).collect().await;
    }
}

fn accepted() -> (Said, Reason) {
    let message = VALID.to_owned();
    let said = Said {
        valid: true,
        message,
    };
    (said, Reason::Accepted)
}

fn bad(message: String) -> Said {
    Said {
        valid: false,
        message,
    }
}

/// What is wrong with the Secrets of a policy; none while that is not known.
fn problems(
    policy: &Policy,
    snapshot: &tables::Snapshot,
    secrets: &Secrets,
) -> Option<Vec<String>> {
    let uses = policy.secret_uses().into_iter();
    let problems = uses.map(|needed| {
        let contents = secrets.get(snapshot, needed.secret)?;
        let usable = contents.and_then(|contents| usable(&needed, contents));
        Some(usable.err().map(|why| needed.problem(&why)))
    });
    let problems: Option<Vec<Option<String>>> = problems.collect();
    Some(problems?.into_iter().flatten().collect())
}

/// Whether a Secret serves its purpose.
///
/// # Errors
/// What is wrong with it, and nothing of what is in it.
pub fn usable(needed: &SecretUse<'_>, contents: &Contents) -> Result<(), String> {
    let certificate = |pair: &policy::secrets::Pair| check_certificate(&pair.chain, &pair.key);
    match needed.take(contents)? {
        Taken::Value => Ok(()),
        Taken::Pair(pair) => certificate(&pair),
        Taken::Trust(trust) => {
            check_authorities(&trust.authorities)?;
            trust.certificate.as_ref().map_or(Ok(()), certificate)
        }
    }
}

/// Says it; true if that is done, or there is nobody to say it to.
async fn say(context: &Context, which: Which, key: &Text, verdict: &Verdict) -> bool {
    let (namespace, name) = key.split_once('/').unwrap_or(("", &**key));
    if !verdict.said.valid {
        let about = About {
            kind: which.kind,
            api_version: format!("{}/{}", which.group, which.version),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: verdict.uid.clone(),
        };
        let message = &verdict.said.message;
        let (reason, message) = match verdict.reason {
            Reason::SecretNotUsable => ("InvalidSecret", message.clone()),
            Reason::Accepted | Reason::Refused => ("InvalidPolicy", format!("refused: {message}")),
        };
        context.events.warn(&about, reason, &message).await;
    }
    let Some(crd) = which.with_condition() else {
        return true;
    };
    let objects = if namespace.is_empty() {
        Objects::of(&context.client, crd)
    } else {
        Objects::within(&context.client, crd, namespace)
    };
    match objects.merge_status(name, status(verdict)).await {
        Ok(_) => true,
        Err(error) if is_not_found(&error) => true,
        Err(error) => {
            let error = says(&error);
            tracing::warn!(kind = which.kind, policy = %key, error, "the status could not be written; it is tried again");
            false
        }
    }
}

fn status(verdict: &Verdict) -> Value {
    let said = &verdict.said;
    json!({"conditions": [{
        "type": "Valid",
        "status": if said.valid { "True" } else { "False" },
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "reason": format!("{:?}", verdict.reason),
        "message": said.message,
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_already_is_not_said_again() {
        let known = Known::new().unwrap();
        let mut followed = Followed::of::<Cilium>(&known.db, &known.cilium);
        let mut look = |spec: Value, status: Value| {
            let object = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "u"}, "spec": spec, "status": status});
            let object: Object<Cilium> = serde_json::from_value(object).unwrap();
            let mut txn = known.db.write();
            known.cilium.insert(&mut txn, Judged::from(object)).unwrap();
            txn.commit();
            followed.look(&known.db.snapshot(), parse::Options::default());
            std::mem::take(&mut followed.open).into_values().next()
        };
        let right = json!({"endpointSelector": {}, "ingress": [{}]});
        let verdict = look(right.clone(), Value::Null).unwrap();
        assert!(verdict.said.valid);
        assert_eq!(look(right, status(&verdict)), None);
        let wrong = json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["nobody"]}]});
        let refused = look(wrong, status(&verdict)).unwrap();
        assert!(!refused.said.valid && refused.said.message.contains("spec.ingress[0]"));
        // Agents with these settings refuse it, too.
        let nodes = json!({"endpointSelector": {}, "ingress": [{"fromNodes": [{}]}]});
        let refused = look(nodes, Value::Null).unwrap();
        assert!(
            refused.said.message.contains("enable-node-selector-labels"),
            "{refused:?}"
        );
    }
    #[test]
    fn groups_of_ranges_are_judged_and_have_no_condition() {
        let known = Known::new().unwrap();
        let mut followed = Followed::of::<Group>(&known.db, &known.groups);
        for (range, wrong) in [("192.0.2.0/24", false), ("192.0.2.0/33", true)] {
            let object =
                json!({"metadata": {"name": "g", "uid": "u"}, "spec": {"externalCIDRs": [range]}});
            let object: Object<Group> = serde_json::from_value(object).unwrap();
            let mut txn = known.db.write();
            known.groups.insert(&mut txn, Judged::from(object)).unwrap();
            txn.commit();
            followed.look(&known.db.snapshot(), parse::Options::default());
            assert_eq!(followed.open.contains_key("g"), wrong);
            assert!(followed.which.with_condition().is_none());
        }
    }
}
