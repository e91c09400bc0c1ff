//! Full maps: loud, and the others go on.
use crate::kit::{endpoint, planned, put_service, put_slice, service, slice};
use crate::sim::Sim;
use hypha_lb::{Change, Limits, Planner, Problem, Settings};

fn web(n: u8, backends: u8) -> [Change; 2] {
    let service = service(
        &format!("a/s{n}"),
        &[&format!("10.96.0.{n}")],
        &[("http", 80, 0)],
    );
    let endpoints = (1..=backends)
        .map(|b| endpoint(&format!("10.0.{n}.{b}"), "n1"))
        .collect();
    [
        put_slice(slice(&service, 8080, endpoints)),
        put_service(service),
    ]
}

fn limited(services: usize, backends: usize) -> Settings {
    Settings {
        limits: Limits { services, backends },
        ..Settings::default()
    }
}

/// Backends that found room, of each frontend.
fn placed(planner: &Planner) -> Vec<Option<u16>> {
    planner
        .frontends()
        .map(|frontend| planner.row(&frontend.key).map(|row| row.count))
        .collect()
}

#[test]
fn what_does_not_fit_waits_and_the_rest_is_served() {
    let changes = [web(1, 3), web(2, 3), web(3, 1)].into_iter().flatten();
    let (mut planner, ops) = planned(limited(7, 100), changes);
    let mut sim = Sim::default();
    sim.run(&ops);
    assert_eq!(placed(&planner), [Some(3), Some(2), None]);
    let full: Vec<_> = planner
        .problems()
        .into_iter()
        .map(|(owner, problem)| (owner.key().to_string(), problem.to_string()))
        .collect();
    assert_eq!(full.len(), 2, "{full:?}");
    assert!(
        full[0].1.contains("2 of 3 backends") && full[1].1.contains("is not served"),
        "{full:?}"
    );

    // Somebody goes: what waited comes, once the rows are gone.
    planner.apply(Change::Service("a/s1".into(), None));
    let diff = planner.flush();
    assert!(diff.again);
    sim.run(&diff.ops);
    let diff = planner.flush();
    sim.run(&diff.ops);
    assert!(!diff.again && planner.problems().is_empty());
    assert_eq!(placed(&planner), [Some(3), Some(1)]);
    sim.whole();
}

#[test]
fn at_no_time_are_there_more_rows_than_room() {
    let (mut planner, ops) = planned(limited(8, 6), [web(1, 3), web(2, 3)].into_iter().flatten());
    let mut sim = Sim::default();
    sim.run(&ops);
    for round in 0..20_u8 {
        for change in web(1 + round % 3, 1 + round % 5) {
            planner.apply(change);
        }
        if round % 4 == 3 {
            planner.apply(Change::Service(
                format!("a/s{}", 1 + (round / 4) % 3).as_str().into(),
                None,
            ));
        }
        for op in planner.flush().ops {
            sim.run(&[op]);
            assert!(sim.masters.len() + sim.slots.len() <= 8, "round {round}");
            assert!(sim.backends.len() <= 6, "round {round}");
        }
    }
}

#[test]
fn full_of_backends() {
    let (planner, ops) = planned(
        limited(100, 4),
        [web(1, 3), web(2, 3)].into_iter().flatten(),
    );
    Sim::default().run(&ops);
    assert_eq!(placed(&planner), [Some(3), Some(1)]);
    let problems = planner.problems();
    assert!(
        matches!(
            problems[0].1,
            Problem::Full {
                placed: Some(1),
                wanted: 3,
                ..
            }
        ),
        "{problems:?}"
    );
}
