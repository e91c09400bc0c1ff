//! The task with a kernel of its own making: what is written when, and what holds at every moment.
mod layer7;
mod names;
mod world;

use super::Policy;
use super::core::{Options, START};
use super::writer::Behind;
use crate::endpoint::Enforcer;
use abi::{endpoint_flags::POLICY_AUDIT, identity::HOST};
use ipnet::IpNet;
use model::{Endpoint, PolicyObject};
use policy::kernel::Verdict;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use world::{DB, OTHER, WEB, World, from, ingress, options};

#[test]
fn a_policy_is_in_the_kernel_with_the_step_that_sees_it() {
    let mut world = World::complete();
    assert_eq!(
        world.ask(WEB, OTHER, 80),
        Verdict::Allow,
        "nothing selects it"
    );
    let epoch = world.kernel.0.lock().unwrap().epoch;
    world.policy("a", from("db", 80));
    let next = world.step();
    assert!(next.settled && next.again.is_none());
    assert_eq!(world.ask(WEB, DB, 80), Verdict::Allow);
    assert_eq!(world.ask(WEB, DB, 81), Verdict::Unmatched);
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Unmatched);
    assert!(world.kernel.0.lock().unwrap().epoch > epoch);
    assert_eq!((world.core.revision, world.core.realized_by_all()), (1, 1));
    world.drop_policy("a");
    world.step();
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow);
}

#[test]
fn endpoints_hear_when_policy_begins_to_decide_and_only_then() {
    let mut world = World::complete();
    assert_eq!(world.core.enforcing(WEB), [false; 2]);
    world.policy("a", from("db", 80));
    assert_eq!(world.step().refresh, [2].into());
    assert_eq!(world.core.enforcing(WEB), [true, false]);
    world.policy("a", from("db", 81));
    world.policy("b", from("other", 80));
    assert!(world.step().refresh.is_empty());
    world.drop_policy("a");
    assert!(world.step().refresh.is_empty());
    world.drop_policy("b");
    assert_eq!(world.step().refresh, [2].into());
    assert_eq!(world.core.enforcing(WEB), [false; 2]);
}

#[test]
fn a_second_pod_of_an_identity_costs_no_write_and_the_last_takes_the_rows_along() {
    let mut world = World::complete();
    let writes = world.writes();
    world.endpoint(3, WEB, "web");
    world.step();
    assert_eq!(world.writes(), writes);
    world.endpoint(4, DB, "db");
    assert!(
        world.writes() > writes,
        "written before the endpoint's row is"
    );
    world.step();
    for id in [2_u16, 3] {
        let mut txn = world.tables.db.write();
        world.tables.endpoints.delete(&mut txn, &id);
        txn.commit();
        world.step();
        world.step();
    }
    let left: BTreeSet<u32> = world.rows().iter().map(|(key, _)| key.subject).collect();
    assert_eq!(left, [DB].into());
}

#[test]
fn until_all_is_known_the_kernel_keeps_what_it_had_and_then_only_differences_are_written() {
    let mut world = World::complete();
    world.policy("a", from("db", 80));
    world.policy("b", from("other", 90));
    world.step();
    let (rows, writes) = (world.rows(), world.writes());
    world.restart(options());
    world.step();
    assert_eq!(
        (world.rows(), world.writes()),
        (rows, writes),
        "the same rows, number by number"
    );
    assert_eq!(world.core.realized_by_all(), world.core.revision);

    // Another agent: this time one policy is gone, and not all is known at once.
    world.drop_policy("b");
    let mut later = World::new();
    later.kernel = world.kernel.clone();
    later.restart(options());
    later.endpoint(2, WEB, "web");
    later.policy("a", from("db", 80));
    // What both agents agree upon holds all the time.
    let mut state = world.kernel.0.lock().unwrap();
    state.fixed = vec![
        (ingress(WEB, DB, 80), Verdict::Allow),
        (ingress(WEB, DB, 90), Verdict::Unmatched),
    ];
    drop(state);
    let next = later.step();
    assert!(!next.settled && later.core.missing().is_some());
    assert_eq!(later.writes(), writes);
    later.know_all();
    later.step();
    assert_eq!(later.writes(), writes + 1, "one row goes");
    assert_eq!(later.ask(WEB, OTHER, 90), Verdict::Unmatched);
}

#[test]
fn before_policies_are_known_a_new_pod_is_reached_by_the_host_alone() {
    let mut world = World::new();
    world.endpoint(2, WEB, "web");
    world.step();
    assert_eq!(world.rows().len(), 1);
    assert_eq!(world.ask(WEB, HOST, 80), Verdict::Allow);
    assert_eq!(world.ask(WEB, DB, 80), Verdict::Unmatched);
    // Others are not kept waiting for ever.
    assert!(!world.step_at(Duration::from_secs(1)).settled);
    assert!(world.step_at(START).settled);
}

#[test]
fn a_range_has_its_identity_before_the_rule_that_names_it_counts() {
    let mut world = World::complete();
    let net: IpNet = "10.1.0.0/16".parse().unwrap();
    let local = 0x0100_0001;
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"fromEntities": ["all"]}], "ingressDeny": [{"fromCIDR": ["10.1.0.0/16"]}],
    });
    world.policy("a", from("db", 80));
    world.step();
    world.policy("a", spec);
    assert!(world.step().again.is_some());
    assert_eq!(
        world.ask(WEB, OTHER, 80),
        Verdict::Unmatched,
        "not half applied"
    );
    assert_eq!((world.core.revision, world.core.realized_by_all()), (2, 1));
    let snapshot = world.tables.db.snapshot();
    assert!(world.tables.used_prefixes.get(&snapshot, &net).is_some());
    world.range(net, local);
    assert!(
        world.step().again.is_some(),
        "the address cache does not have it yet"
    );
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Unmatched);
    world.kernel.0.lock().unwrap().cache.insert(net, local);
    assert!(world.step().again.is_none());
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow);
    assert_eq!(world.ask(WEB, local, 80), Verdict::Deny);
    assert_eq!(world.core.realized_by_all(), 2);
}

#[test]
fn what_leaves_out_a_range_that_gets_no_identity_lets_nobody_in() {
    let mut world = World::complete();
    let (wide, part) = (
        "10.1.0.0/16".parse().unwrap(),
        "10.1.7.0/24".parse().unwrap(),
    );
    let (wide_id, part_id) = (0x0100_0001, 0x0100_0002);
    world.range(wide, wide_id);
    world.kernel.0.lock().unwrap().cache.insert(wide, wide_id);
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [
            {"fromCIDRSet": [{"cidr": "10.1.0.0/16", "except": ["10.1.7.0/24"]}]},
            {"fromEndpoints": [{"matchLabels": {"app": "db"}}]},
        ],
    });
    world.policy("a", spec);
    world.step();
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow, "not yet");
    assert!(world.core.late().is_none());
    world.step_at(Duration::from_secs(3));
    // Its addresses would have the identity of the rest.
    assert_eq!(world.ask(WEB, wide_id, 80), Verdict::Unmatched);
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Unmatched);
    assert_eq!(world.ask(WEB, DB, 80), Verdict::Allow);
    assert_eq!(world.core.late().unwrap().1, part);
    assert_eq!((world.core.revision, world.core.realized_by_all()), (1, 0));
    world.range(part, part_id);
    assert!(world.step_at(Duration::from_secs(4)).again.is_some());
    world.kernel.0.lock().unwrap().cache.insert(part, part_id);
    world.step_at(Duration::from_secs(5));
    assert_eq!(world.ask(WEB, wide_id, 80), Verdict::Allow);
    assert_eq!(world.ask(WEB, part_id, 80), Verdict::Unmatched);
    assert!(world.core.late().is_none());
    assert_eq!(world.core.realized_by_all(), 1);
}

#[test]
fn ranges_of_a_family_that_no_packet_has_are_not_waited_for() {
    let mut world = World::complete();
    world.restart(Options {
        families: [true, false],
        ..options()
    });
    world.step();
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromCIDR": ["fd00::/64"]}],
    });
    world.policy("a", spec);
    assert!(world.step().again.is_none());
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Unmatched);
}

#[test]
fn a_range_that_gets_no_identity_does_not_hold_a_policy_back_for_ever() {
    let mut world = World::complete();
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromCIDR": ["10.1.0.0/16"]}],
    });
    world.policy("a", spec);
    world.step();
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow);
    world.step_at(Duration::from_secs(3));
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Unmatched);
}

#[test]
fn a_refused_policy_has_no_part_in_force_and_its_reason_is_kept() {
    let mut world = World::complete();
    world.policy("a", from("db", 80));
    world.policy(
        "bad",
        json!({"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "x!"}]}]}]}),
    );
    world.step();
    assert_eq!((refused(&world), world.core.counts.objects), (1, [1, 1]));
    assert_eq!(world.ask(WEB, DB, 80), Verdict::Allow);
    world.policy("bad", from("other", 80));
    world.step();
    assert_eq!(refused(&world), 0);
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow);
}

#[test]
fn a_refused_update_leaves_the_version_before_it_in_force() {
    let mut world = World::complete();
    world.policy("a", from("db", 80));
    world.step();
    let (rows, writes) = (world.rows(), world.writes());
    for spec in [by_name(), json!({"endpointSelector": 7}), by_name()] {
        world.policy("a", spec);
        assert!(world.step().refresh.is_empty());
        assert_eq!((world.rows(), world.writes()), (rows.clone(), writes));
        assert_eq!(
            (refused(&world), world.core.engine.policies().count()),
            (1, 1)
        );
        let taken = world.core.inputs.taken.values().next().unwrap();
        assert!(taken.former().unwrap().json.contains("fromEndpoints"));
    }
    // Right again, then refused again, then gone.
    world.policy("a", from("other", 80));
    world.step();
    assert_eq!(
        (refused(&world), world.ask(WEB, DB, 80)),
        (0, Verdict::Unmatched)
    );
    world.policy("a", by_name());
    world.step();
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow);
    world.drop_policy("a");
    world.step();
    assert_eq!(world.core.engine.policies().count(), 0);
    assert_eq!(
        (refused(&world), world.ask(WEB, DB, 80)),
        (0, Verdict::Allow)
    );
}

#[test]
fn another_object_under_the_name_ends_what_the_first_said() {
    let mut world = World::complete();
    let object = |uid: &str, spec: serde_json::Value| {
        let value =
            json!({"metadata": {"name": "a", "namespace": "shop", "uid": uid}, "spec": spec});
        PolicyObject {
            key: "shop/a".into(),
            kind: "CiliumNetworkPolicy".into(),
            json: value.to_string().into(),
        }
    };
    for row in [object("first", from("db", 80)), object("second", by_name())] {
        let mut txn = world.tables.db.write();
        world.tables.policies.cilium.insert(&mut txn, row).unwrap();
        txn.commit();
        world.step();
    }
    assert_eq!(
        (refused(&world), world.core.engine.policies().count()),
        (1, 0)
    );
    assert_eq!(world.ask(WEB, OTHER, 80), Verdict::Allow);
}

#[test]
fn what_is_in_force_of_refused_objects_holds_over_a_restart() {
    let mut world = World::complete();
    let group = |cidrs: serde_json::Value| PolicyObject {
        key: "partners".into(),
        kind: "CiliumCIDRGroup".into(),
        json:
            json!({"metadata": {"name": "partners", "uid": "g"}, "spec": {"externalCIDRs": cidrs}})
                .to_string()
                .into(),
    };
    let put = |world: &World, row: PolicyObject| {
        let mut txn = world.tables.db.write();
        world.tables.policies.groups.insert(&mut txn, row).unwrap();
        txn.commit();
    };
    let (net, id): (IpNet, u32) = ("192.0.2.0/24".parse().unwrap(), 0x0100_0001);
    world.range(net, id);
    world.kernel.0.lock().unwrap().cache.insert(net, id);
    put(&world, group(json!(["192.0.2.0/24"])));
    let of_group = json!({"endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"fromCIDRSet": [{"cidrGroupRef": "partners"}]}]});
    world.policy("a", from("db", 80));
    world.policy("b", of_group);
    world.step();
    assert_eq!(world.ask(WEB, id, 80), Verdict::Allow);
    assert_eq!(world.core.inputs.take_former(&world.tables), None);

    put(&world, group(json!(["192.0.2.0/33"])));
    world.policy("a", by_name());
    world.step();
    assert_eq!(
        (refused(&world), world.ask(WEB, id, 80)),
        (2, Verdict::Allow)
    );
    let former = world.core.inputs.take_former(&world.tables).unwrap();
    assert_eq!(former.len(), 2);
    assert_eq!(world.core.inputs.take_former(&world.tables), None);

    let (rows, writes) = (world.rows(), world.writes());
    world.restart(options());
    world.core.inputs.remember(&world.tables, former.clone());
    world.step();
    assert!(world.core.is_complete());
    assert_eq!((world.rows(), world.writes()), (rows, writes));
    assert_eq!(
        world.core.inputs.take_former(&world.tables),
        Some(former.clone())
    );

    // Mended meanwhile: what was kept is of no use any longer.
    world.policy("a", from("other", 80));
    world.restart(options());
    world.core.inputs.remember(&world.tables, former);
    world.step();
    assert_eq!(world.ask(WEB, DB, 80), Verdict::Unmatched);
    let left = world.core.inputs.take_former(&world.tables).unwrap();
    assert_eq!(left.len(), 1, "the group's");

    // Nobody knows: nothing of it is in force, and it is refused.
    world.policy("a", by_name());
    world.restart(options());
    world.step();
    assert_eq!(
        (refused(&world), world.core.engine.policies().count()),
        (2, 1)
    );
}

/// A rule that is refused while names are not enforced.
fn by_name() -> serde_json::Value {
    json!({"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "x.y"}]}]})
}

fn refused(world: &World) -> usize {
    let taken = world.core.inputs.taken.values();
    taken.filter(|taken| taken.refused.is_some()).count()
}

#[test]
fn rows_that_do_not_fit_leave_the_last_complete_policy_or_lock_down() {
    for lockdown in [false, true] {
        let mut world = World::complete();
        world.restart(Options {
            lockdown,
            ..options()
        });
        world.step();
        world.policy("a", from("db", 80));
        world.step();
        let kept = world.rows();
        world.kernel.0.lock().unwrap().capacity = kept.len() + 3;
        let ports: Vec<_> = (0..60)
            .map(|n| json!({"port": (1000 + 2 * n).to_string(), "protocol": "TCP"}))
            .collect();
        let halves = [&ports[..30], &ports[30..]].map(|half| json!({"ports": half}));
        world.policy("b", json!({"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"toPorts": halves}]}));
        let next = world.step();
        assert_eq!(world.rows(), kept, "nothing of it");
        assert_eq!(world.core.behind(), ([2].into(), Some(Behind::Full)));
        assert_eq!(
            (world.core.realized(WEB), world.core.realized_by_all()),
            (1, 1)
        );
        assert_eq!(world.core.is_locked(WEB), lockdown);
        assert_eq!(
            next.refresh,
            if lockdown {
                [2].into()
            } else {
                BTreeSet::new()
            }
        );
        assert!(next.again.is_some());
        // The next policy of the same subject changes nothing of what holds.
        world.policy("c", from("other", 70));
        world.step();
        assert_eq!(world.ask(WEB, OTHER, 70), Verdict::Unmatched);
        // There is room again.
        world.drop_policy("b");
        let next = world.step();
        assert_eq!(world.core.behind().1, None);
        assert_eq!(world.ask(WEB, OTHER, 70), Verdict::Allow);
        assert_eq!(world.core.realized_by_all(), world.core.revision);
        assert!(!world.core.is_locked(WEB) && next.refresh.contains(&2) == lockdown);
    }
}

#[test]
fn killed_in_the_middle_of_an_import_the_next_agent_ends_where_it_should() {
    const POLICIES: u16 = 2_000;
    let mut expected = World::complete();
    for n in 0..POLICIES {
        expected.policy(
            &format!("p{n}"),
            from(["db", "other"][usize::from(n % 2)], 1000 + n),
        );
    }
    expected.step();
    let total = expected.writes();
    for share in [1, 2, 3] {
        let mut world = World::complete();
        world.policy("p0", from("db", 1000));
        world.step();
        // Nobody gets more than the policies say at any moment, nor loses what the first of them gave.
        let mut state = world.kernel.0.lock().unwrap();
        state.fixed = vec![
            (ingress(WEB, DB, 1000), Verdict::Allow),
            (ingress(WEB, 2, 1000), Verdict::Unmatched),
            (ingress(WEB, DB, 1001), Verdict::Unmatched),
        ];
        state.dies_after = Some(state.writes + total * share / 4);
        drop(state);
        for n in 1..POLICIES {
            world.policy(
                &format!("p{n}"),
                from(["db", "other"][usize::from(n % 2)], 1000 + n),
            );
            if n % 500 == 0 {
                world.step();
            }
        }
        world.step();
        assert!(matches!(world.core.behind().1, Some(Behind::Failed(_))));
        world.restart(options());
        world.step();
        assert_eq!(world.core.behind().1, None);
        assert_eq!(world.rows(), expected.rows());
    }
}

#[test]
fn the_host_is_a_subject_with_the_firewall_on() {
    let mut world = World::complete();
    world.restart(Options {
        host_firewall: true,
        ..options()
    });
    world.step();
    let object = json!({
        "metadata": {"name": "nodes"},
        "spec": {"nodeSelector": {}, "ingress": [{"fromEntities": ["cluster"]}]},
    });
    let row = PolicyObject {
        key: "nodes".into(),
        kind: "CiliumClusterwideNetworkPolicy".into(),
        json: object.to_string().into(),
    };
    let mut txn = world.tables.db.write();
    world
        .tables
        .policies
        .clusterwide
        .insert(&mut txn, row)
        .unwrap();
    txn.commit();
    world.step();
    assert_eq!(world.ask(1, WEB, 22), Verdict::Allow);
    assert_eq!(world.ask(1, 2, 22), Verdict::Unmatched);
}

#[test]
fn an_endpoints_own_audit_counts_more_than_the_nodes_and_its_end_asks_again() {
    for of_node in [false, true] {
        let mut world = World::complete();
        world.core.options.audit = of_node;
        let snapshot = world.tables.db.snapshot();
        let row = world.tables.endpoints.iter(&snapshot).next().cloned();
        let row = row.unwrap();
        let epoch = || world.kernel.0.lock().unwrap().epoch;
        let policy = Policy::of(&world.tables, world.core, None);
        for own in [None, Some(false), Some(true)] {
            let endpoint = Endpoint {
                policy_audit: own,
                ..Endpoint::clone(&row)
            };
            let grant = policy.realise(&endpoint);
            let audit = grant.flags & POLICY_AUDIT != 0;
            assert_eq!((audit, grant.settled), (own.unwrap_or(of_node), true));
            assert_eq!(grant.subject, row.subject, "the rows are the same");
        }
        let before = epoch();
        policy.ask_again();
        assert!(epoch() > before);
    }
}
