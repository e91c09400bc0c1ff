//! This node's `CiliumNode`: what it is to say, and the loop that says it and listens.
use super::ranges::Shared;
use ipnet::IpNet;
use k8s::{
    Client,
    crd::{self, Crd},
    error::{is_conflict, is_not_found, says},
    write::Objects,
};
use model::{CiliumNode, LocalNode, Node, Tables};
use runtime::{
    health::Component,
    settings::{IpamMode, Settings},
    stop::Stop,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Read;

/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Least time between two rounds, and how long to wait for what should change by itself.
const REST: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_secs(30);

/// What the object is to say, as far as this agent writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Say {
    /// Addresses of the node: `InternalIP`, `ExternalIP`.
    pub internal: Vec<IpAddr>,
    /// Further ones.
    pub external: Vec<IpAddr>,
    /// `CiliumInternalIP`; nothing before they are chosen.
    pub routers: Option<Vec<IpAddr>>,
    /// The pod ranges, where they are not the operator's.
    pub pod_cidrs: Option<Vec<IpNet>>,
    /// What is asked for of pools.
    pub requested: Option<BTreeMap<String, (u32, u32)>>,
    /// What is left of the pools' ranges after some were given back.
    pub allocated: Option<BTreeMap<String, Vec<IpNet>>>,
    /// Whether what policy denies the node passes; none where no policy is enforced for it, or that is not known yet.
    pub audit: Option<bool>,
}

/// What to say of a node.
#[must_use]
pub fn say(mode: IpamMode, object: &Node, local: Option<&LocalNode>) -> Say {
    let routers = |local: &LocalNode| {
        [local.router(false), local.router(true)]
            .into_iter()
            .flatten()
            .collect()
    };
    Say {
        internal: object.addresses.clone(),
        external: object.external.clone(),
        routers: local.map(routers),
        pod_cidrs: local
            .filter(|_| mode == IpamMode::Kubernetes)
            .map(|local| local.node.pod_cidrs.clone()),
        requested: None,
        allocated: None,
        audit: None,
    }
}

/// What has to be merged into the object to make it say so; nothing if it does.
#[must_use]
pub fn difference(row: &CiliumNode, say: &Say) -> Option<Value> {
    let routers = say.routers.as_ref().unwrap_or(&row.routers);
    let mut spec = json!({});
    if row.addresses != say.internal || row.external != say.external || row.routers != *routers {
        spec["addresses"] = addresses(say, routers);
    }
    if let Some(wanted) = &say.pod_cidrs
        && row.pod_cidrs != *wanted
    {
        spec["ipam"]["podCIDRs"] = json!(wanted);
    }
    if let Some(wanted) = &say.requested
        && row.requested != *wanted
    {
        spec["ipam"]["pools"]["requested"] = requests(wanted);
    }
    if let Some(wanted) = &say.allocated
        && row.pools != *wanted
    {
        spec["ipam"]["pools"]["allocated"] = allocations(wanted);
    }
    let mut patch = json!({});
    if spec != json!({}) {
        patch["spec"] = spec;
    }
    if row.audit != say.audit {
        let text = say.audit.map(|audit| audit.to_string());
        patch["metadata"] = json!({"annotations": {(crd::NODE_AUDIT): text}});
    }
    (patch != json!({})).then_some(patch)
}

fn addresses(say: &Say, routers: &[IpAddr]) -> Value {
    let row = |kind: &str, ip: &IpAddr| json!({"type": kind, "ip": ip});
    let internal = say.internal.iter().map(|ip| row("InternalIP", ip));
    let external = say.external.iter().map(|ip| row("ExternalIP", ip));
    let routers = routers.iter().map(|ip| row("CiliumInternalIP", ip));
    internal.chain(external).chain(routers).collect()
}

fn requests(wanted: &BTreeMap<String, (u32, u32)>) -> Value {
    wanted
        .iter()
        .map(|(pool, (v4, v6))| json!({"pool": pool, "needed": {"ipv4-addrs": v4, "ipv6-addrs": v6}}))
        .collect()
}

fn allocations(pools: &BTreeMap<String, Vec<IpNet>>) -> Value {
    pools
        .iter()
        .filter(|(_, nets)| !nets.is_empty())
        .map(|(pool, nets)| json!({"pool": pool, "cidrs": nets}))
        .collect()
}

/// The whole object, for when there is none. `local` is there if pods run with ranges that this node had before.
#[must_use]
pub fn creation(mode: IpamMode, object: &Node, local: Option<&LocalNode>, say: &Say) -> Value {
    let routers = say.routers.clone().unwrap_or_default();
    let mut ipam = json!({});
    match (mode, local) {
        (IpamMode::Kubernetes | IpamMode::ClusterPool, Some(local)) => {
            ipam["podCIDRs"] = json!(local.node.pod_cidrs);
        }
        (IpamMode::MultiPool, Some(local)) => {
            ipam["pools"]["allocated"] = allocations(&local.pools);
        }
        _ => {}
    }
    if let Some(wanted) = &say.requested {
        ipam["pools"]["requested"] = requests(wanted);
    }
    json!({
        "metadata": {
            "name": object.name,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": object.name, "uid": object.uid}],
        },
        "spec": {"addresses": addresses(say, &routers), "encryption": {"key": 0}, "ipam": ipam},
    })
}

/// Says and listens.
pub struct Publisher {
    /// The API server.
    pub client: Client,
    /// All tables.
    pub tables: Tables,
    /// The settings.
    pub settings: Settings,
    /// Name of this node.
    pub name: String,
    /// The addresses, once there are any.
    pub addresses: Shared,
    /// How it is.
    pub health: Component,
}

/// What the loop remembers.
#[derive(Debug, Default)]
struct Memory {
    /// The object was there in this process's life.
    seen: bool,
    /// When addresses in use were reported last, and which.
    reported: Option<(Instant, Value)>,
}

/// How a round ended.
enum Round {
    /// Nothing to do until something changes.
    Idle,
    /// Something was written, and will be seen.
    Written,
    /// Look again soon.
    Soon,
}

impl Publisher {
    /// Works until `stop`.
    pub async fn run(self, stop: Stop) {
        if !self.settings.auto_create_cilium_node_resource {
            return self.health.ok("not asked for");
        }
        let tables = &self.tables;
        let watch = tables
            .node_objects
            .watch()
            .and(tables.cilium_nodes.watch())
            .and(tables.local_node.watch())
            .and(tables.allocations.watch());
        let mut memory = Memory::default();
        let mut pause = FIRST_PAUSE;
        loop {
            let seen = tables.db.snapshot().revision();
            let Some(outcome) = stop.or(self.round(&mut memory)).await else {
                return;
            };
            let wait = match outcome {
                Ok(Round::Idle) => LOOK,
                Ok(Round::Written) => Duration::from_secs(5),
                Ok(Round::Soon) | Err(_) => pause,
            };
            match &outcome {
                Ok(Round::Soon) | Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
                Ok(_) => pause = FIRST_PAUSE,
            }
            let failed = outcome.is_err();
            if let Err(error) = outcome {
                self.health.degraded(error);
            }
            let next = async {
                tokio::time::sleep(REST).await;
                tokio::select! {
                    () = watch.changed(seen), if !failed => {}
                    () = self.addresses.wanted(), if !failed => {}
                    () = tokio::time::sleep(wait) => {}
                }
            };
            if stop.or(next).await.is_none() {
                return;
            }
        }
    }

    async fn round(&self, memory: &mut Memory) -> Result<Round, String> {
        let snapshot = self.tables.db.snapshot();
        let mode = self.settings.ipam;
        let Some(object) = self.tables.node_objects.get(&snapshot, &self.name) else {
            self.health.degraded("the node object has not been seen");
            return Ok(Round::Idle);
        };
        if !self.tables.cilium_nodes.initialized(&snapshot) {
            self.health
                .degraded("the API server has not listed the CiliumNodes yet");
            return Ok(Round::Idle);
        }
        let local = self.tables.local_node.iter(&snapshot).next().cloned();
        match self.tables.cilium_nodes.get(&snapshot, &self.name).cloned() {
            Some(row) => {
                memory.seen = true;
                self.update(memory, &row, object, local.as_ref()).await
            }
            None if memory.seen && local.is_some() && by_operator(mode) => {
                self.health.degraded(
                    "the CiliumNode of this node was deleted, and with it its right to the pod ranges that it uses; restart the agent to get new ones",
                );
                Ok(Round::Idle)
            }
            None => self.create(object, local.as_ref()).await,
        }
    }

    async fn create(&self, object: &Node, local: Option<&Arc<LocalNode>>) -> Result<Round, String> {
        let mode = self.settings.ipam;
        let local = local.map(AsRef::as_ref);
        let mut say = say(mode, object, local);
        if mode == IpamMode::MultiPool {
            say.requested = Some(self.addresses.requests(&self.settings));
        }
        let value = creation(mode, object, local, &say);
        match within(self.objects().create(value)).await? {
            Ok(_) => {
                tracing::info!(node = self.name, "CiliumNode made");
                Ok(Round::Written)
            }
            Err(error) if is_conflict(&error) => Ok(Round::Soon),
            Err(error) if is_not_found(&error) => {
                let text = "the API server has no CiliumNodes yet; the operator installs them";
                if by_operator(mode) {
                    self.health.degraded(text);
                } else {
                    self.health.ok(text);
                }
                Ok(Round::Soon)
            }
            Err(error) => Err(says(&error)),
        }
    }

    async fn update(
        &self,
        memory: &mut Memory,
        row: &CiliumNode,
        object: &Node,
        local: Option<&Arc<LocalNode>>,
    ) -> Result<Round, String> {
        let mode = self.settings.ipam;
        let mut say = say(mode, object, local.map(AsRef::as_ref));
        let by_node = local.map(|local| {
            local
                .policy_audit
                .unwrap_or(self.settings.policy_audit_mode)
        });
        say.audit = match by_node {
            Some(audit) => Some(audit).filter(|_| self.settings.enable_host_firewall),
            None => row.audit,
        };
        let mut base = None;
        if mode == IpamMode::MultiPool {
            say.requested = Some(self.addresses.requests(&self.settings));
            // The operator writes the ranges, too: only on top of what is known.
            base = Some(row.version.as_str());
            if local.is_some() {
                say.allocated = Some(self.addresses.take_ranges(&self.settings, row));
            }
        }
        if mode == IpamMode::Crd && local.is_some() {
            self.addresses.take_singles(row);
        }
        if local.is_some() && matches!(mode, IpamMode::MultiPool | IpamMode::Crd) {
            self.follow_ranges();
        }
        let Some(patch) = difference(row, &say) else {
            self.report(memory).await?;
            if row.error.is_empty() {
                self.health.ok("the CiliumNode says what this node is");
            } else {
                self.health.degraded(format!("operator: {}", row.error));
            }
            return Ok(Round::Idle);
        };
        match within(self.objects().merge(&self.name, patch, base)).await? {
            Ok(_) => Ok(Round::Written),
            // The operator was faster; the watch brings what it wrote.
            Err(error) if is_conflict(&error) => Ok(Round::Soon),
            Err(error) if is_not_found(&error) => Ok(Round::Soon),
            Err(error) => Err(says(&error)),
        }
    }

    /// The ranges in use as a row of the own node, for routes and the state file.
    fn follow_ranges(&self) {
        let pools = self.addresses.ranges();
        let snapshot = self.tables.db.snapshot();
        let Some(local) = self.tables.local_node.iter(&snapshot).next() else {
            return;
        };
        if local.pools == pools {
            return;
        }
        let routers = [local.router(false), local.router(true)];
        let mut next = LocalNode::clone(local);
        next.node.pod_cidrs = super::ranges::flat(&pools, &self.settings.ipam_default_ip_pool)
            .into_iter()
            .filter(|net| {
                !routers.contains(&Some(net.addr())) || net.prefix_len() < net.max_prefix_len()
            })
            .collect();
        next.pools = pools;
        let mut txn = self.tables.db.write();
        if self.tables.local_node.insert(&mut txn, next).is_ok() {
            txn.commit();
        }
    }

    /// Which single addresses are in use, not more often than the settings allow.
    async fn report(&self, memory: &mut Memory) -> Result<(), String> {
        if self.settings.ipam != IpamMode::Crd {
            return Ok(());
        }
        let now = Instant::now();
        let rate = self.settings.ipam_cilium_node_update_rate;
        let used = self.addresses.used();
        if let Some((at, before)) = &memory.reported
            && (*before == used || now.duration_since(*at) < rate)
        {
            return Ok(());
        }
        let before = memory.reported.take().map(|(_, before)| before);
        let patch = json!({"ipam": {"used": changed(before.as_ref(), &used, "used"), "ipv6-used": changed(before.as_ref(), &used, "ipv6-used")}});
        within(self.objects().merge_status(&self.name, patch))
            .await?
            .map_err(|error| says(&error))?;
        memory.reported = Some((now, used));
        Ok(())
    }

    fn objects(&self) -> Objects {
        let crd = crd::ALL.iter().find(|crd| crd.kind == "CiliumNode");
        let crd: Crd = *crd.unwrap_or(&crd::ALL[0]);
        Objects::of(&self.client, &crd)
    }
}

/// A merge that leaves exactly `used`: what was there before and is no more is taken out by null.
fn changed(before: Option<&Value>, used: &Value, part: &str) -> Value {
    let mut out = used[part].clone();
    let old = before.and_then(|before| before[part].as_object());
    for key in old.into_iter().flatten().map(|(key, _)| key) {
        if out[key].is_null() {
            out[key] = Value::Null;
        }
    }
    out
}

/// The ranges are the operator's to give.
fn by_operator(mode: IpamMode) -> bool {
    matches!(mode, IpamMode::ClusterPool | IpamMode::MultiPool)
}

async fn within<T>(
    work: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, String> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(outcome) => Ok(outcome),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}

/// What is asked of the API server once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The object.
    There(Box<CiliumNode>),
    /// There is no such object, though objects of the kind are kept.
    Gone,
    /// The API server does not know the kind.
    NoKind,
    /// It does not answer.
    Away,
}

/// Looks for the node object of this node, not longer than `limit`.
pub async fn ask_node(client: &Client, name: &str, limit: Duration) -> Option<Node> {
    let api: kube::Api<k8s::Node> = kube::Api::all(client.clone());
    let found = tokio::time::timeout(limit, api.get(name)).await;
    Some(found.ok()?.ok()?.into())
}

/// Looks for this node's object, not longer than `limit`.
pub async fn ask(client: &Client, name: &str, limit: Duration) -> Answer {
    let api: kube::Api<crd::CiliumNode> = kube::Api::all(client.clone());
    match tokio::time::timeout(limit, api.get(name)).await {
        Ok(Ok(object)) => Answer::There(Box::new(object.into())),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            let named = status.details.as_ref().is_some_and(|d| d.name == name);
            if named { Answer::Gone } else { Answer::NoKind }
        }
        _ => Answer::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Node {
        Node {
            name: "n1".to_owned(),
            uid: "u".to_owned(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..Node::default()
        }
    }

    fn local() -> LocalNode {
        LocalNode {
            node: Node {
                pod_cidrs: vec!["10.0.1.0/24".parse().unwrap()],
                ..object()
            },
            router4: Some("10.0.1.1".parse().unwrap()),
            ..LocalNode::default()
        }
    }

    #[test]
    fn a_new_node_asks_for_ranges_and_one_with_pods_says_what_it_uses() {
        let mode = IpamMode::ClusterPool;
        let fresh = creation(mode, &object(), None, &say(mode, &object(), None));
        assert_eq!(fresh["spec"]["ipam"], json!({}));
        assert_eq!(
            fresh["metadata"]["ownerReferences"][0],
            json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"})
        );
        let local = local();
        let say = say(mode, &object(), Some(&local));
        let again = creation(mode, &object(), Some(&local), &say);
        assert_eq!(again["spec"]["ipam"], json!({"podCIDRs": ["10.0.1.0/24"]}));
        assert_eq!(
            again["spec"]["addresses"],
            json!([{"type": "InternalIP", "ip": "192.0.2.1"}, {"type": "CiliumInternalIP", "ip": "10.0.1.1"}])
        );
    }

    #[test]
    fn only_what_differs_is_written() {
        let (object, local) = (object(), local());
        let cluster = say(IpamMode::ClusterPool, &object, Some(&local));
        let mut row = CiliumNode {
            addresses: object.addresses.clone(),
            routers: vec!["10.0.1.1".parse().unwrap()],
            ..CiliumNode::default()
        };
        assert_eq!(
            difference(&row, &cluster),
            None,
            "the ranges are the operator's"
        );
        let kubernetes = say(IpamMode::Kubernetes, &object, Some(&local));
        assert_eq!(
            difference(&row, &kubernetes),
            Some(json!({"spec": {"ipam": {"podCIDRs": ["10.0.1.0/24"]}}}))
        );
        let audited = Say {
            audit: Some(true),
            ..cluster.clone()
        };
        assert_eq!(
            difference(&row, &audited),
            Some(json!({"metadata": {"annotations": {(crd::NODE_AUDIT): "true"}}}))
        );
        row.audit = Some(false);
        assert_eq!(
            difference(&row, &cluster),
            Some(json!({"metadata": {"annotations": {(crd::NODE_AUDIT): null}}}))
        );
        row.audit = None;
        row.routers.clear();
        let patch = difference(&row, &cluster).unwrap();
        assert_eq!(patch["spec"]["addresses"][1]["type"], "CiliumInternalIP");
        let mut pools = cluster.clone();
        row.routers = vec!["10.0.1.1".parse().unwrap()];
        pools.requested = Some([("default".to_owned(), (8, 0))].into());
        pools.allocated = Some(BTreeMap::new());
        assert_eq!(
            difference(&row, &pools),
            Some(json!({"spec": {"ipam": {"pools": {"requested": [
                {"pool": "default", "needed": {"ipv4-addrs": 8, "ipv6-addrs": 0}}]}}}}))
        );
    }

    #[test]
    fn what_is_no_longer_used_is_taken_out() {
        let before = json!({"used": {"10.0.0.1": {"owner": "a"}, "10.0.0.2": {"owner": "b"}}});
        let used = json!({"used": {"10.0.0.2": {"owner": "b"}}, "ipv6-used": {}});
        assert_eq!(
            changed(Some(&before), &used, "used"),
            json!({"10.0.0.1": null, "10.0.0.2": {"owner": "b"}})
        );
    }
}
