//! An invented lab, and the cells it gives.
use std::collections::BTreeSet;

use expect_test::expect;

use super::*;

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn place(name: &str, addresses: &[&str]) -> Place {
    Place {
        name: name.into(),
        netns: format!("/ns/{name}").into(),
        addresses: ips(addresses),
    }
}

/// Three nodes, one of them on another network, and the router.
#[must_use]
pub fn scene() -> Scene {
    let node = |number: usize, address: &str, segment| NodePlace {
        place: place(
            &format!("n{number}"),
            &[address, &format!("2001:db8::{number}")],
        ),
        segment,
        pods: vec![
            place(
                &format!("p{number}-0"),
                &[
                    &format!("10.7.{number}.10"),
                    &format!("2001:db8:7::{number}"),
                ],
            ),
            place(&format!("p{number}-1"), &[&format!("10.7.{number}.11")]),
        ],
    };
    let behind = [
        "198.51.100.1",
        "203.0.113.1",
        "2001:db8:a::1",
        "2001:db8:b::1",
    ];
    Scene {
        tunnel: false,
        pods_routed: true,
        masquerade: Family::ALL.to_vec(),
        nodes: vec![
            node(1, "192.0.2.1", 0),
            node(2, "192.0.2.2", 0),
            node(3, "192.0.2.130", 1),
        ],
        router: Some(RouterPlace {
            place: place("outside", &["192.0.2.100"]),
            on_segment: vec![
                ips(&["192.0.2.100", "2001:db8::100"]),
                ips(&["192.0.2.200"]),
            ],
            behind: ips(&behind),
        }),
    }
}

fn rows(cases: &[Case]) -> String {
    let mut seen = BTreeSet::new();
    let rows = cases
        .iter()
        .filter(|case| seen.insert((case.path.clone(), case.target)));
    rows.map(|c| {
        format!(
            "{}: {} {} {} {:?}\n",
            c.path, c.from, c.to, c.target, c.source
        )
    })
    .collect()
}

#[test]
fn the_whole_matrix() {
    let cases = cases(&scene(), 0);
    expect![[r#"
        pod → pod, same node: p1-0 p1-1 10.7.1.11 Untranslated
        pod → pod, other node: p1-0 p2-0 10.7.2.10 Untranslated
        pod → pod, other node: p1-0 p2-0 2001:db8:7::2 Untranslated
        pod → pod, node behind the router: p1-0 p3-0 10.7.3.10 Untranslated
        pod → pod, node behind the router: p1-0 p3-0 2001:db8:7::3 Untranslated
        host → pod, local: n1 p1-0 10.7.1.10 Untranslated
        host → pod, local: n1 p1-0 2001:db8:7::1 Untranslated
        host → pod, other node: n1 p2-0 10.7.2.10 Untranslated
        host → pod, other node: n1 p2-0 2001:db8:7::2 Untranslated
        host → pod, node behind the router: n1 p3-0 10.7.3.10 Untranslated
        host → pod, node behind the router: n1 p3-0 2001:db8:7::3 Untranslated
        pod → own host: p1-0 n1 192.0.2.1 Untranslated
        pod → own host: p1-0 n1 2001:db8::1 Untranslated
        pod → other node's host: p1-0 n2 192.0.2.2 Untranslated
        pod → other node's host: p1-0 n2 2001:db8::2 Untranslated
        pod → host behind the router: p1-0 n3 192.0.2.130 Untranslated
        pod → host behind the router: p1-0 n3 2001:db8::3 Untranslated
        pod → outside host: p1-0 outside 192.0.2.100 Node([192.0.2.1])
        pod → outside host: p1-0 outside 2001:db8::100 Node([2001:db8::1])
        pod → outside network 198.51.100.1: p1-0 outside 198.51.100.1 Node([192.0.2.1])
        pod → outside network 198.51.100.1: p1-0 outside 2001:db8:a::1 Node([2001:db8::1])
        pod → outside network 203.0.113.1: p1-0 outside 203.0.113.1 Node([192.0.2.1])
        pod → outside network 203.0.113.1: p1-0 outside 2001:db8:b::1 Node([2001:db8::1])
    "#]]
    .assert_eq(&rows(&cases));
    assert_eq!(cases.len(), 23 * 9);
}

#[test]
fn a_tunnel_translates_on_the_way_to_other_nodes_only() {
    let expected = |scene: &Scene, path: &str| {
        let found = cases(scene, 0).into_iter().find(|case| case.path == path);
        found.map(|case| case.source)
    };
    let node = Some(Source::Node(ips(&["192.0.2.1"])));
    let mut scene = Scene {
        tunnel: true,
        ..scene()
    };
    assert_eq!(expected(&scene, "pod → other node's host"), node);
    assert_eq!(expected(&scene, "pod → host behind the router"), node);
    assert_eq!(
        expected(&scene, "pod → own host"),
        Some(Source::Untranslated)
    );
    scene.masquerade.clear();
    assert_eq!(
        expected(&scene, "pod → outside host"),
        Some(Source::Untranslated)
    );
    scene.pods_routed = false;
    assert_eq!(expected(&scene, "pod → host behind the router"), None);
    assert_eq!(expected(&scene, "pod → pod, node behind the router"), None);
    assert!(expected(&scene, "pod → pod, other node").is_some());
}

#[test]
fn a_lone_node_has_the_paths_that_exist() {
    let mut scene = scene();
    scene.nodes.truncate(1);
    scene.router = None;
    let paths: BTreeSet<String> = cases(&scene, 0).into_iter().map(|case| case.path).collect();
    assert_eq!(
        paths.into_iter().collect::<Vec<_>>(),
        [
            "host → pod, local",
            "pod → own host",
            "pod → pod, same node"
        ]
    );
    assert!(cases(&scene, 1).is_empty());
}

#[test]
fn from_the_far_node_there_is_no_neighbour() {
    let paths: BTreeSet<String> = cases(&scene(), 2)
        .into_iter()
        .map(|case| case.path)
        .collect();
    assert!(
        !paths.contains("pod → pod, other node")
            && paths.contains("pod → pod, node behind the router")
    );
}
