//! Annotations come from anybody: what cannot be read is complained of, and nothing breaks.
use crate::generate::Dice;
use crate::kit::{balanced, endpoint, labels, planned, put_service, put_slice, service, slice};
use hypha_lb::annotations::{self, AddressNotes, ServiceNotes, weight};
use hypha_lb::frontend::Algorithm;
use hypha_lb::input::ServiceType;
use hypha_lb::selector::Selector;
use hypha_lb::{Forwarding, Problem, Settings};
use proptest::prelude::*;

#[test]
fn what_is_accepted() {
    let all = labels(&[
        (annotations::TYPE, "NodePort, ClusterIP"),
        (annotations::NODE, "edge"),
        (annotations::NODE_SELECTOR, "role=worker"),
        (annotations::SOURCE_RANGES_POLICY, " deny "),
        (annotations::ALGORITHM, "maglev"),
        (annotations::FORWARDING, "dsr"),
    ]);
    let (notes, problems) = ServiceNotes::read(&all);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        notes.types,
        Some(vec![ServiceType::NodePort, ServiceType::ClusterIp])
    );
    assert_eq!((notes.node.as_deref(), notes.deny), (Some("edge"), true));
    assert_eq!(
        (notes.algorithm, notes.forwarding),
        (Some(Algorithm::Maglev), Some(Forwarding::Dsr))
    );
    assert!(notes.serves(&labels(&[(annotations::NODE, "edge"), ("role", "worker")])));
    assert!(!notes.serves(&labels(&[(annotations::NODE, "edge")])));
}

#[test]
fn what_is_not_counts_as_absent_and_is_named() {
    for (name, text) in [
        (annotations::TYPE, "ClusterIP,Cloud"),
        (annotations::NODE_SELECTOR, "a in b"),
        (annotations::SOURCE_RANGES_POLICY, "Deny"),
        (annotations::ALGORITHM, "best"),
        (annotations::FORWARDING, "hybrid"),
    ] {
        let (notes, problems) = ServiceNotes::read(&labels(&[(name, text)]));
        assert_eq!(notes, ServiceNotes::default(), "{name}");
        assert!(
            problems.len() == 1 && problems[0].to_string().starts_with(name),
            "{problems:?}"
        );
    }
    assert_eq!(weight(&labels(&[(annotations::WEIGHT_OF_SLICE, "7")])).0, 7);
    assert!(matches!(
        weight(&labels(&[(annotations::WEIGHT_OF_SLICE, "-1")])),
        (100, Some(Problem::Field { .. }))
    ));
}

#[test]
fn addresses_by_annotation_old_name_or_field() {
    let read = |pairs: &[(&str, &str)], field: &str| {
        AddressNotes::read(&labels(pairs), field).map(|notes| notes.ips.len())
    };
    assert_eq!(
        read(
            &[("lbipam.cilium.io/ips", "192.0.2.1, fd00::1,,192.0.2.1")],
            ""
        ),
        Ok(2)
    );
    assert_eq!(
        read(
            &[("io.cilium/lb-ipam-ips", "192.0.2.1")],
            "192.0.2.9,192.0.2.8"
        ),
        Ok(1)
    );
    assert_eq!(read(&[], "192.0.2.9"), Ok(1));
    let refused = read(&[("lbipam.cilium.io/ips", "192.0.2.1;192.0.2.2")], "")
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("lbipam.cilium.io/ips: \"192.0.2.1;192.0.2.2\" is no address"),
        "{refused}"
    );
}

/// Texts near what is accepted, and far from it.
fn text(dice: &mut Dice) -> String {
    let pieces = [
        "ClusterIP",
        "NodePort",
        ",",
        " ",
        "allow",
        "deny",
        "maglev",
        "a",
        "=",
        "!=",
        "!",
        "in",
        "notin",
        "(",
        ")",
        "10.0.0.1",
        "fd00::1",
        "/8",
        "*",
        "é",
        "\u{0}",
        "65536",
        "-",
        "dsr",
        "%s",
        "true",
    ];
    (0..dice.below(8)).map(|_| dice.pick(&pieces)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_breaks_anything(seed in any::<u64>(), odd in any::<String>()) {
        let mut dice = Dice::new(seed);
        let names = [
            annotations::TYPE, annotations::NODE, annotations::NODE_SELECTOR, annotations::SOURCE_RANGES_POLICY,
            annotations::ALGORITHM, annotations::FORWARDING, annotations::WEIGHT_OF_SLICE, annotations::IPS[0],
            annotations::SHARING_KEY[0], annotations::SHARING_NAMESPACES[1], annotations::NODE_IPAM_NODES,
        ];
        let mut texts: Vec<String> = names.iter().map(|_| text(&mut dice)).collect();
        texts[dice.below(names.len())] = odd.clone();
        let pairs: Vec<(&str, &str)> = names.iter().copied().zip(texts.iter().map(String::as_str)).collect();
        let notes = labels(&pairs);
        let (read, problems) = ServiceNotes::read(&notes);
        prop_assert!(problems.iter().all(|problem| problem.to_string().contains("accepted: ")));
        prop_assert!(read.types.is_some() || problems.iter().any(|p| p.to_string().starts_with(annotations::TYPE)));
        if let Ok(read) = AddressNotes::read(&notes, &odd) {
            prop_assert!(read.namespaces.iter().all(|name| !name.is_empty() && !name.contains(',')));
        }
        if let Ok(selector) = Selector::parse(&odd) {
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector.clone()), "{}", selector);
        }
        // A service with all of them is planned, or left out as a whole; and its neighbour is served.
        let mut service = balanced(service("a/s", &["10.96.0.1"], &[("http", 80, 30_080)]), &["198.51.100.1"]);
        service.annotations = notes.clone();
        service.source_ranges = vec![odd.as_str().into()];
        let mut of = slice(&service, 80, vec![endpoint("10.0.0.1", "n1")]);
        of.annotations = notes;
        let neighbour = crate::kit::service("a/t", &["10.96.0.2"], &[("http", 80, 0)]);
        let (planner, ops) = planned(Settings::default(), [put_slice(of), put_service(service), put_service(neighbour)]);
        crate::sim::Sim::default().run(&ops);
        prop_assert!(planner.frontend(&crate::kit::key("10.96.0.2:80")).is_some());
    }
}
