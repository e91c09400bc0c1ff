//! Every kind of service, both traffic policies, backends on the client's node and on another, from pods, nodes and outside, over TCP and
//! UDP, in both families.

use std::collections::BTreeMap;

use hypha_e2e::services::{Protocol, Question, Source, Stage, Way, ask};
use testkit::skip_unless_root;

/// Services may have backends of the other family.
const ACROSS: [&str; 2] = ["--agent-config", "enable-nat46x64-gateway=true"];

/// Asks everything, prints what was asked, and fails with what is wrong.
#[track_caller]
fn check(way: Way, args: &[&str]) {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::new(way, args);
    check_all(&stage, true, args.contains(&ACROSS[1]), |_| Source::Node);
    stage.cluster.assert_clean();
}

/// Asks everything that the outside asks, and what pods and nodes ask if `inside`; backends of other nodes must see `seen`; and what services of one family
/// are asked by the other if `across`.
#[track_caller]
pub fn check_all(stage: &Stage, inside: bool, across: bool, seen: fn(Protocol) -> Source) {
    let mut wrong = Vec::new();
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let mut round = |questions: Vec<Question>, by: &str| {
        for question in &questions {
            let family = if question.frontend.is_ipv4() {
                "ipv4"
            } else {
                "ipv6"
            };
            let line = format!(
                "{:8} {by:10} {:28} {:?} {family}",
                question.client, question.name, question.protocol
            );
            *asked.entry(line).or_default() += 1;
        }
        let bad = ask(&stage.cluster, &questions);
        wrong.extend(bad.into_iter().map(|line| format!("{line} {by}")));
    };
    if inside {
        round(stage.inside(), "");
    }
    for node in ["node1", "node2"] {
        stage.route_by(node);
        round(stage.outside(node, seen), &format!("by {node}"));
    }
    if across {
        round(stage.across(), "");
    }
    for (line, count) in &asked {
        println!("{line}: {count}");
    }
    let total: usize = asked.values().sum();
    println!("{total} questions, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn e2e_services_matrix_vxlan() {
    check(
        Way::Sockets,
        &[&["--routing", "vxlan"][..], &ACROSS].concat(),
    );
}

#[test]
fn e2e_services_matrix_native() {
    check(Way::Sockets, &["--routing", "native"]);
}

#[test]
fn e2e_services_matrix_packets_vxlan() {
    check(Way::Packets, &["--routing", "vxlan"]);
}

#[test]
fn e2e_services_matrix_packets_native() {
    check(
        Way::Packets,
        &[&["--routing", "native"][..], &ACROSS].concat(),
    );
}
