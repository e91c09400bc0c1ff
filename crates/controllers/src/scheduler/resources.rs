//! Amounts of resources: what pods ask for and what nodes have.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Node, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

/// The resource that counts pods.
pub(super) const PODS: &str = "pods";
/// Resources that a node which does not speak of them has without limit.
const COMMON: [&str; 4] = ["cpu", "memory", "ephemeral-storage", PODS];

/// Amounts in thousandths, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts(pub(super) BTreeMap<String, i128>);

impl Amounts {
    fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let parsed = quantities
            .into_iter()
            .flatten()
            .filter_map(|(name, quantity)| Some((name.clone(), milli(&quantity.0)?)));
        Self(parsed.collect())
    }

    pub(super) fn get(&self, name: &str) -> i128 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() += amount;
        }
    }

    fn at_least(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// A quantity as `1500m`, `2`, `1.5Gi` or `1e3`, in thousandths; none if it is not one.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')));
    let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
    let scale: f64 = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let number: f64 = number.parse().ok()?;
    Some((number * scale * 1000.0).ceil() as i128)
}

fn asked(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut amounts = Amounts::of(resources.and_then(|r| r.requests.as_ref()));
    // A limit without a request is a request.
    for (name, limit) in Amounts::of(resources.and_then(|r| r.limits.as_ref())).0 {
        amounts.0.entry(name).or_insert(limit);
    }
    amounts
}

/// What a pod asks for: its containers together, or the most that its start needs, if that is more.
pub(super) fn requests(spec: &PodSpec) -> Amounts {
    let mut total = Amounts::default();
    for container in &spec.containers {
        total.add(&asked(container));
    }
    // Sidecars stay; the other init containers run one after the other beside the sidecars before them.
    let (mut sidecars, mut start) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let mut now = asked(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&now);
            start.at_least(&sidecars);
        } else {
            now.add(&sidecars);
            start.at_least(&now);
        }
    }
    total.add(&sidecars);
    total.at_least(&start);
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    for (name, amount) in Amounts::of(whole).0 {
        total.0.insert(name, amount);
    }
    total.add(&Amounts::of(spec.overhead.as_ref()));
    total.0.insert(PODS.into(), 1000);
    total
}

/// What a node has to give: its limits.
#[derive(Clone, Debug, Default)]
pub(super) struct Capacity(Amounts);

impl Capacity {
    pub(super) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let mut amounts = Amounts::of(status.and_then(|s| s.capacity.as_ref()));
        amounts
            .0
            .extend(Amounts::of(status.and_then(|s| s.allocatable.as_ref())).0);
        Self(amounts)
    }

    /// The limit of a resource; none if there is no limit.
    pub(super) fn limit(&self, name: &str) -> Option<i128> {
        let known = self.0.0.get(name).copied();
        known.or_else(|| (!COMMON.contains(&name)).then_some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn quantities_in_all_their_forms() {
        for (text, want) in [
            ("100m", 100),
            ("2", 2000),
            ("0.5", 500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("5M", 5_000_000_000),
        ] {
            assert_eq!(milli(text), Some(want), "{text}");
        }
        assert_eq!(milli("lots"), None);
    }

    #[test]
    fn init_containers_count_if_they_need_more() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let spec: PodSpec = from_value(json!({
            "containers": [{"name": "a", "resources": cpu("100m")}, {"name": "b", "resources": {"limits": {"cpu": "200m"}}}],
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": cpu("50m")},
                {"name": "init", "resources": cpu("1")}],
        }))
        .unwrap();
        let total = requests(&spec);
        assert_eq!((total.get("cpu"), total.get(PODS)), (1050, 1000));
    }

    #[test]
    fn unknown_limits() {
        let node: Node = from_value(json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4", "pods": "9"}, "allocatable": {"cpu": "3"}}})).unwrap();
        let capacity = Capacity::of(&node);
        assert_eq!(capacity.limit("cpu"), Some(3000));
        assert_eq!(capacity.limit(PODS), Some(9000));
        assert_eq!(capacity.limit("memory"), None, "not told, not limited");
        assert_eq!(capacity.limit("example.com/gpu"), Some(0));
    }
}
