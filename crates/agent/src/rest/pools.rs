//! Which pools a pod's addresses come from.
use crate::agent::Agent;
use api::{ApiError, ErrorCode};
use model::{Namespace, Pod, PoolNames, Tables};
use runtime::settings::IpamMode;
use std::time::{Duration, Instant};
use tables::Snapshot;

/// How long to wait for the object of a pod that is not known yet.
const WAIT: Duration = Duration::from_secs(1);

/// The pools for IPv4 and IPv6 of `owner`, a pod as `namespace/name`. Blocks shortly if the pod's object has not been seen.
///
/// # Errors
/// It is still not known: the wrong pool would be for good.
pub(super) fn of(agent: &Agent, owner: &str) -> Result<[String; 2], ApiError> {
    let settings = &agent.loaded.settings;
    if settings.ipam != IpamMode::MultiPool {
        return Ok([ipam::DEFAULT_POOL, ipam::DEFAULT_POOL].map(str::to_owned));
    }
    let default = &settings.ipam_default_ip_pool;
    let deadline = Instant::now() + WAIT;
    let watch = agent.tables.pods.watch();
    loop {
        let snapshot = agent.tables.db.snapshot();
        if let Some(pools) = choose(&agent.tables, &snapshot, owner, default) {
            return Ok(pools);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!(
                    "the object of {owner} has not been seen, and with it the pool that it asks for; try again"
                ),
            ));
        }
        watch.wait_timeout(agent.tables.pods.revision(&snapshot), left);
    }
}

/// What the pod asks for, else its namespace, else the default. None while the pod should be known and is not.
fn choose(tables: &Tables, snapshot: &Snapshot, owner: &str, default: &str) -> Option<[String; 2]> {
    let pod = tables.pods.get(snapshot, owner);
    // Without the API server there are no new pods, and what is asked for was known before the restart or never.
    if pod.is_none() && owner.contains('/') && tables.pods.initialized(snapshot) {
        return None;
    }
    let namespace = owner.split_once('/').map_or("", |(namespace, _)| namespace);
    let namespace = tables.namespaces.get(snapshot, namespace);
    let of_pod = pod.and_then(|pod: &std::sync::Arc<Pod>| pod.pools.as_deref());
    let of_namespace =
        namespace.and_then(|namespace: &std::sync::Arc<Namespace>| namespace.pools.as_deref());
    let get = |part: fn(&PoolNames) -> Option<&String>| {
        of_pod
            .and_then(part)
            .or_else(|| of_namespace.and_then(part))
            .map_or_else(|| default.to_owned(), Clone::clone)
    };
    Some([
        get(|names| names.ipv4.as_ref()),
        get(|names| names.ipv6.as_ref()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::KUBERNETES;

    fn names(ipv4: Option<&str>, ipv6: Option<&str>) -> Option<Box<PoolNames>> {
        Some(Box::new(PoolNames {
            ipv4: ipv4.map(str::to_owned),
            ipv6: ipv6.map(str::to_owned),
        }))
    }

    #[test]
    fn the_pod_asks_before_its_namespace() {
        let tables = Tables::new().unwrap();
        let pod = |name: &str, pools| Pod {
            pools,
            ..Pod::named("shop", name)
        };
        let ask = |owner: &str| choose(&tables, &tables.db.snapshot(), owner, "default");
        let both = |a: &str, b: &str| Some([a.to_owned(), b.to_owned()]);
        assert_eq!(ask("shop/new"), both("default", "default"));
        let mut txn = tables.db.write();
        tables
            .pods
            .insert(&mut txn, pod("a", names(Some("red"), None)))
            .unwrap();
        tables.pods.insert(&mut txn, pod("b", None)).unwrap();
        let namespace = Namespace {
            name: "shop".to_owned(),
            pools: names(Some("blue"), Some("green")),
            ..Namespace::default()
        };
        tables.namespaces.insert(&mut txn, namespace).unwrap();
        tables.pods.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        assert_eq!(ask("shop/a"), both("red", "green"));
        assert_eq!(ask("shop/b"), both("blue", "green"));
        assert_eq!(ask("shop/new"), None);
        assert_eq!(ask("somebody"), both("default", "default"));
    }
}
