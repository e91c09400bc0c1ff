//! Why a frontend has its backends: the words, and that they say what the plan does.
use crate::generate::{Dice, change, settings};
use crate::kit::*;
use crate::model::World;
use hypha_lb::input::Mark;
use hypha_lb::{Change, Planner, Settings};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[test]
fn each_reason_has_its_words() {
    let mut service = balanced(
        service("a/s", &["10.96.0.1"], &[("http", 80, 0)]),
        &["198.51.100.1"],
    );
    service = local(service, true, false);
    service.affinity = Some(60);
    service.source_ranges = vec!["10.0.0.0/8".into()];
    let endpoints = vec![
        hinted("10.0.0.1", "n1", &["z1"], &[]),
        hinted("10.0.0.2", "n2", &["z2"], &[]),
        not_ready("10.0.0.3", "n1"),
        terminating("10.0.0.4", "n1", true),
        terminating("10.0.0.5", "n1", false),
        hinted("10.0.0.6", "n1", &["z1"], &[]),
        hinted("10.0.0.7", "n1", &["z1"], &[]),
    ];
    let settings = Settings {
        topology: true,
        ..Settings::default()
    };
    let mut changes = vec![
        put_slice(slice(&service, 80, endpoints)),
        put_service(service),
    ];
    changes.push(Change::Mark(
        backend("10.0.0.6:80"),
        Some(Mark::Quarantined),
    ));
    changes.push(Change::Mark(
        backend("10.0.0.7:80"),
        Some(Mark::Maintenance),
    ));
    let (planner, _) = planned(settings, changes);
    assert_eq!(
        planner.why(&key("10.96.0.1:80")).unwrap().to_string(),
        "\
10.96.0.1:80/TCP  ClusterIP of service a/s, number 1
  10.0.0.1:80/TCP  used  (node n1)
  10.0.0.2:80/TCP  left out: hints give it to zone z2  (node n2)
  10.0.0.3:80/TCP  left out: not ready  (node n1)
  10.0.0.4:80/TCP  left out: terminating, and others serve  (node n1)
  10.0.0.5:80/TCP  left out: terminating, and no longer serving  (node n1)
  10.0.0.6:80/TCP  left out: its health check fails, and others serve  (node n1)
  10.0.0.7:80/TCP  left out: in maintenance  (node n1)
  a client keeps its backend for 60 s"
    );
    let outside = planner.why(&key("198.51.100.1:80")).unwrap().to_string();
    for line in [
        "10.0.0.2:80/TCP  left out: on node n2, and the traffic policy is Local",
        "allowed clients: 10.0.0.0/8",
        "see another frontend, /i",
    ] {
        assert!(outside.contains(line), "{outside}");
    }
    assert!(planner.why(&key("10.96.0.9:80")).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_it_says_is_what_is(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (settings, mut world) = (settings(&mut dice), World::default());
        let mut planner = Planner::new(settings, Vec::new());
        for _ in 0..40 {
            planner.apply(change(&mut dice, &mut world));
        }
        planner.flush();
        for frontend in planner.frontends() {
            let why = planner.why(&frontend.key).unwrap();
            let said: BTreeSet<_> = why.backends.iter().filter(|judged| judged.used).map(|judged| judged.key).collect();
            let used: BTreeSet<_> = frontend.selection.used.iter().map(|backend| backend.key).collect();
            prop_assert_eq!(said, used, "{}", why);
        }
    }
}

#[test]
fn frontends_are_read_as_they_are_printed() {
    for text in [
        "10.96.0.1:80/TCP",
        "[fd00::1]:53/UDP",
        "192.0.2.1:30080/SCTP/i",
    ] {
        assert_eq!(key(text).to_string(), text);
    }
    assert_eq!(key("10.96.0.1:80"), key("10.96.0.1:80/tcp"));
    for bad in [
        "",
        "10.96.0.1",
        "10.96.0.1:80/X",
        "web:80",
        "10.96.0.1:80/TCP/e",
    ] {
        let refused = bad.parse::<hypha_lb::frontend::FrontendKey>();
        assert!(refused.unwrap_err().contains("accepted"), "{bad}");
    }
}
