//! Whether policies can be used: the condition `Valid` of Cilium's kinds, and an event for those of Kubernetes and for groups of
//! ranges, which have no place for it. One process says so for the cluster, by the parsers that the agents use; an agent writes
//! nothing.
use crate::controller::Context;
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
use model::{PolicyObject, Text};
use policy::{
    parse::{self, Refused},
    rule::PolicyKind,
};
use runtime::{health::Component, stop::Stop};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
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
    let watch = known
        .cilium
        .watch()
        .and(known.clusterwide.watch())
        .and(known.kubernetes.watch())
        .and(known.groups.watch());
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
        drop(snapshot);
        let work = stream::iter(&mut kinds).for_each(|kind| kind.write(&context));
        if stop.or(work).await.is_none() {
            return;
        }
        let open = kinds.iter().map(|kind| kind.open.len()).sum::<usize>();
        tell(&health, &kinds, open);
        let next = async {
            tokio::select! {
                () = watch.changed(seen) => tokio::time::sleep(REST).await,
                () = tokio::time::sleep(AGAIN), if open > 0 => {}
            }
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

fn tell(health: &Component, kinds: &[Followed], open: usize) {
    let invalid: usize = kinds.iter().map(|kind| kind.invalid.len()).sum();
    if open > 0 {
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

    fn check(self, object: &PolicyObject, options: parse::Options) -> Result<(), Refused> {
        let value: Value = serde_json::from_str(&object.json).unwrap_or_default();
        match self.policy {
            Some(kind) => parse::policy_of_kind(kind, &value, options).map(drop),
            None => parse::cidr_group(&value).map(drop),
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
}

/// What is to be said of a policy.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    uid: String,
    said: Said,
}

impl Followed {
    fn of<K: Kind>(db: &Db, table: &Table<Judged>) -> Self {
        Self {
            which: Which::of::<K>(),
            tracker: db.track(table),
            open: BTreeMap::new(),
            invalid: BTreeSet::new(),
        }
    }

    /// Judges what has changed.
    fn look(&mut self, snapshot: &tables::Snapshot, options: parse::Options) {
        for change in self.tracker.changes(snapshot) {
            let row = change.row;
            let key = row.object.key.clone();
            self.open.remove(&key);
            self.invalid.remove(&key);
            if change.kind == ChangeKind::Delete {
                continue;
            }
            let said = verdict(self.which, &row.object, options);
            if !said.valid {
                self.invalid.insert(key.clone());
            }
            // Where there is no condition, only what is wrong is told.
            let told = match self.which.with_condition() {
                None => said.valid,
                Some(_) => row.said.as_ref() == Some(&said),
            };
            if !told {
                let uid = row.uid.clone();
                self.open.insert(key, Verdict { uid, said });
            }
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

/// What the parsers say of an object.
fn verdict(which: Which, object: &PolicyObject, options: parse::Options) -> Said {
    match which.check(object, options) {
        Ok(()) => Said {
            valid: true,
            message: VALID.to_owned(),
        },
        Err(refused) => Said {
            valid: false,
            message: format!("{refused}; {KEPT}"),
        },
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
        let message = format!("refused: {}", verdict.said.message);
        context.events.warn(&about, "InvalidPolicy", &message).await;
    }
    let Some(crd) = which.with_condition() else {
        return true;
    };
    let objects = if namespace.is_empty() {
        Objects::of(&context.client, crd)
    } else {
        Objects::within(&context.client, crd, namespace)
    };
    match objects.merge_status(name, status(&verdict.said)).await {
        Ok(_) => true,
        Err(error) if is_not_found(&error) => true,
        Err(error) => {
            let error = says(&error);
            tracing::warn!(kind = which.kind, policy = %key, error, "the status could not be written; it is tried again");
            false
        }
    }
}

fn status(said: &Said) -> Value {
    json!({"conditions": [{
        "type": "Valid",
        "status": if said.valid { "True" } else { "False" },
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "reason": if said.valid { "Accepted" } else { "Refused" },
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
        assert_eq!(look(right, status(&verdict.said)), None);
        let wrong = json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["nobody"]}]});
        let refused = look(wrong, status(&verdict.said)).unwrap();
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
