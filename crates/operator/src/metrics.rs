//! Metrics of the operator, with the prefix `cilium_operator_`.
use lb::lbipam::{PoolStatus, Totals};
use model::Text;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{collections::BTreeMap, sync::atomic::AtomicU64};

/// Labels of a run of a controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Run {
    status: &'static str,
    group_name: &'static str,
}

/// Labels of what became of identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Identities {
    status: &'static str,
    identity_type: &'static str,
}

/// Labels of the removal of identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
    identity_type: &'static str,
}

/// Labels of a number of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Category {
    category: &'static str,
}

/// Labels of a range.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Subnet {
    subnet_id: String,
}

/// Labels of giving ranges.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Allocation {
    r#type: &'static str,
    status: &'static str,
    subnet_id: &'static str,
}

/// Labels of a pool of addresses for services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pool {
    pool: String,
}

/// Addresses of services.
#[derive(Clone, Debug, Default)]
struct Addresses {
    conflicting: Gauge,
    matching: Gauge,
    unsatisfied: Gauge,
    available: Family<Pool, Gauge>,
    used: Family<Pool, Gauge>,
}

impl Addresses {
    fn register(&self, all: &mut Registry) {
        let gauges = [
            (
                "conflicting_pools_total",
                "Pools that conflict",
                &self.conflicting,
            ),
            (
                "services_matching_total",
                "Services that pools give addresses to",
                &self.matching,
            ),
            (
                "services_unsatisfied_total",
                "Of them, those that have not what they ask for",
                &self.unsatisfied,
            ),
        ];
        for (name, help, gauge) in gauges {
            all.register(name, help, gauge.clone());
        }
        let (free, used) = (self.available.clone(), self.used.clone());
        all.register(
            "ips_available_total",
            "Addresses that are left in a pool",
            free,
        );
        all.register(
            "ips_used_total",
            "Addresses of a pool that services have",
            used,
        );
    }
}

/// How long giving ranges took.
#[derive(Clone, Debug)]
struct Allocations(Family<Allocation, Histogram, fn() -> Histogram>);

impl Default for Allocations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| {
            Histogram::new([
                0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
            ])
        }))
    }
}

/// Everything that is counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    runs: Family<Run, Counter>,
    nodes: Family<Category, Gauge>,
    given: Family<Subnet, Gauge>,
    resyncs: Gauge,
    identities: Family<Identities, Gauge>,
    identity_runs: Family<Outcome, Gauge>,
    identity_latency: Family<Outcome, Gauge<f64, AtomicU64>>,
    allocations: Allocations,
    unmanaged: Gauge,
    leading: Gauge,
    addresses: Addresses,
}

/// How identities are kept.
const CRD: &str = "crd";

impl Metrics {
    /// A registry with all of them.
    pub fn registry(&self) -> Registry {
        let mut whole = Registry::default();
        self.addresses
            .register(whole.sub_registry_with_prefix("cilium_lbipam"));
        let all = whole.sub_registry_with_prefix("cilium_operator");
        all.register(
            "controllers_group_runs",
            "Runs of controllers",
            self.runs.clone(),
        );
        all.register("ipam_nodes", "Nodes by what they lack", self.nodes.clone());
        all.register(
            "ipam_ip_allocation_ops",
            "Ranges given to nodes",
            self.given.clone(),
        );
        all.register(
            "ipam_resync_total",
            "Times that all nodes were looked at",
            self.resyncs.clone(),
        );
        all.register(
            "identity_gc_entries",
            "Identities alive and removed at the last look",
            self.identities.clone(),
        );
        all.register(
            "identity_gc_runs",
            "Looks for unused identities",
            self.identity_runs.clone(),
        );
        all.register(
            "identity_gc_latency",
            "Seconds of the last look for unused identities",
            self.identity_latency.clone(),
        );
        all.register(
            "ipam_allocation_duration_seconds",
            "Seconds that writing a node's ranges took",
            self.allocations.0.clone(),
        );
        all.register(
            "unmanaged_pods",
            "Pods that no agent has connected, of those that are restarted for it",
            self.unmanaged.clone(),
        );
        all.register("leader", "1 while this process leads", self.leading.clone());
        whole
    }

    /// A controller ran.
    pub fn ran(&self, group_name: &'static str, well: bool) {
        let status = if well { "success" } else { "failure" };
        self.runs.get_or_create(&Run { status, group_name }).inc();
    }

    /// All nodes were looked at: how many there are, and how many lack something.
    pub fn nodes(&self, total: usize, lacking: usize) {
        let set = |category, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.nodes.get_or_create(&Category { category }).set(count);
        };
        set("total", total);
        set("in-deficit", lacking);
        self.resyncs.inc();
    }

    /// A node got a range of a pool.
    pub fn gave(&self, pool: &str) {
        let subnet_id = pool.to_owned();
        self.given.get_or_create(&Subnet { subnet_id }).inc();
    }

    /// Ranges were written to a node's object, or not.
    pub fn allocation(&self, given: bool, seconds: f64) {
        let labels = Allocation {
            r#type: "ranges",
            status: if given { "success" } else { "failed" },
            subnet_id: "",
        };
        self.allocations.0.get_or_create(&labels).observe(seconds);
    }

    /// So many pods are not connected.
    pub fn unmanaged(&self, count: usize) {
        self.unmanaged.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Identities were looked at.
    pub fn identities(&self, alive: usize, deleted: usize, well: bool, seconds: f64) {
        let identity_type = CRD;
        let outcome = Outcome {
            outcome: if well { "success" } else { "fail" },
            identity_type,
        };
        self.identity_runs.get_or_create(&outcome).inc();
        self.identity_latency.get_or_create(&outcome).set(seconds);
        for (status, count) in [("alive", alive), ("deleted", deleted)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let labels = Identities {
                status,
                identity_type,
            };
            self.identities.get_or_create(&labels).set(count);
        }
    }

    /// Services got addresses out of these pools.
    pub fn addresses(&self, totals: Totals, pools: &BTreeMap<Text, PoolStatus>) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let own = &self.addresses;
        own.conflicting.set(count(totals.conflicting));
        own.matching.set(count(totals.matching));
        own.unsatisfied.set(count(totals.unsatisfied));
        // A pool that is gone is no longer shown.
        own.available.clear();
        own.used.clear();
        for (name, status) in pools {
            let pool = Pool {
                pool: name.to_string(),
            };
            let number = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
            own.available
                .get_or_create(&pool)
                .set(number(status.available()));
            own.used.get_or_create(&pool).set(number(status.used));
        }
    }

    /// Whether this process leads.
    pub fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }
}
