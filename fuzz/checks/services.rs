//! Objects that services are made of, as a watch may bring them: read or refused with a place, planned into rows that fit their maps,
//! each written before it is removed; and nothing is left when the objects are gone.

use hypha_k8s::{
    policy::{L2Announcement, LoadBalancerPool, Object, Redirect},
    service::{EndpointSlice, Service},
};
use hypha_lb::{
    Change, Limits, Planner, Settings,
    input::Node,
    parse::{self, Wrong},
    rows::{Op, Row, RowKey},
};
use model::{Declared, service::Slice};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};

/// Objects of one input that are looked at.
const MOST: usize = 40;
/// So small that inputs fill them.
const LIMITS: Limits = Limits {
    services: 60,
    backends: 12,
    affinity: 12,
    sources: 8,
    tables: 4,
};

pub fn run(data: &[u8]) {
    let Ok(Value::Array(objects)) = serde_json::from_slice(data) else {
        return;
    };
    let mut planner = Planner::new(
        Settings {
            limits: LIMITS,
            ..Settings::default()
        },
        Vec::new(),
    );
    planner.apply(Change::Node(Node {
        name: "n1".into(),
        addresses: vec![
            [192, 0, 2, 1].into(),
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        ],
        ..Node::default()
    }));
    let (mut kernel, mut gone) = (BTreeSet::new(), Vec::new());
    for object in objects.iter().take(MOST) {
        let Some((change, removal)) = change(object) else {
            continue;
        };
        planner.apply(change);
        gone.push(removal);
        write(&mut planner, &mut kernel);
    }
    for problem in planner.problems() {
        assert!(!problem.1.to_string().is_empty());
    }
    for removal in gone {
        planner.apply(removal);
    }
    write(&mut planner, &mut kernel);
    assert!(kernel.is_empty(), "{kernel:?}");
}

/// What an object changes, and what changes when it is gone.
fn change(object: &Value) -> Option<(Change, Change)> {
    let declared = || row::<Object<Redirect>, Declared>(object);
    Some(match object["kind"].as_str()? {
        "Service" => {
            let service: model::Service = row::<Service, _>(object)?;
            assert!(service.ports.iter().all(|port| port.port != 0));
            told(&service.problems);
            let key = service.key.clone();
            (
                Change::Service(key.clone(), Some(Arc::new(service))),
                Change::Service(key, None),
            )
        }
        "EndpointSlice" => {
            let slice: Slice = row::<EndpointSlice, _>(object)?;
            let mut families = slice.endpoints.iter().map(|one| one.address.is_ipv6());
            let first = families.next();
            assert!(families.all(|one| Some(one) == first));
            told(&slice.problems);
            let key = slice.key.clone();
            (
                Change::Slice(key.clone(), Some(Arc::new(slice))),
                Change::Slice(key, None),
            )
        }
        "CiliumLocalRedirectPolicy" => {
            let redirect = read(parse::redirect_of(&declared()?))?;
            let key = redirect.key.clone();
            (
                Change::Redirect(key.clone(), Some(Arc::new(redirect))),
                Change::Redirect(key, None),
            )
        }
        "CiliumLoadBalancerIPPool" => {
            let pool: Declared = row::<Object<LoadBalancerPool>, _>(object)?;
            read(parse::pool_of(&pool));
            return None;
        }
        "CiliumL2AnnouncementPolicy" => {
            let policy: Declared = row::<Object<L2Announcement>, _>(object)?;
            read(parse::l2_policy_of(&policy));
            return None;
        }
        _ => return None,
    })
}

fn row<Object: DeserializeOwned, Row: From<Object>>(object: &Value) -> Option<Row> {
    // Some parts are kept as they are written, which a value no longer knows.
    let text = object.to_string();
    serde_json::from_str::<Object>(&text).ok().map(Row::from)
}

fn read<T>(outcome: Result<T, Wrong>) -> Option<T> {
    outcome.map_err(|wrong| told(&[wrong.to_string()])).ok()
}

fn told(problems: &[String]) {
    for text in problems {
        assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    }
}

/// Writes all that is planned.
fn write(planner: &mut Planner, kernel: &mut BTreeSet<RowKey>) {
    for round in 0.. {
        assert!(round < 1000, "there is always more to write");
        let diff = planner.flush();
        for op in diff.ops {
            match op {
                Op::Put(row) => drop(kernel.insert(key(&row))),
                Op::Delete(key) => assert!(kernel.remove(&key), "{key:?} was not there"),
            }
        }
        if !diff.again {
            break;
        }
    }
    let usage = planner.usage();
    for ipv6 in [0, 1] {
        assert!(usage.services[ipv6] <= LIMITS.services && usage.backends[ipv6] <= LIMITS.backends);
        assert!(usage.sources[ipv6] <= LIMITS.sources && usage.tables[ipv6] <= LIMITS.tables);
    }
    assert!(usage.affinity <= LIMITS.affinity);
    assert_eq!(planner.rows().len(), kernel.len());
}

fn key(row: &Row) -> RowKey {
    match row {
        Row::Address(address) => RowKey::Address(*address),
        Row::Frontend(key, _) => RowKey::Frontend(*key),
        Row::Slot(key, slot, _) => RowKey::Slot(*key, *slot),
        Row::Backend(id, key, _) => RowKey::Backend(*id, key.address.is_ipv6()),
        Row::Reverse(id, address, _) => RowKey::Reverse(*id, address.is_ipv6()),
        Row::Affinity(id, backend) => RowKey::Affinity(*id, *backend),
        Row::Source(id, net, _) => RowKey::Source(*id, *net),
        Row::Maglev(id, ipv6, _) => RowKey::Maglev(*id, *ipv6),
        Row::Skip(pod, key) => RowKey::Skip(pod.clone(), *key),
    }
}
