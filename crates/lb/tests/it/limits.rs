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
        limits: Limits {
            services,
            backends,
            ..Limits::default()
        },
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
    let (mut planner, ops) = planned(limited(9, 100), changes);
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
    let (mut planner, ops) = planned(limited(10, 6), [web(1, 3), web(2, 3)].into_iter().flatten());
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
            let rows = sim.addresses.len() + sim.masters.len() + sim.slots.len();
            assert!(rows <= 10, "round {round}");
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

#[test]
fn full_of_what_only_some_need() {
    let limits = |affinity, sources, tables| Settings {
        algorithm: hypha_lb::frontend::Algorithm::Maglev,
        limits: Limits {
            affinity,
            sources,
            tables,
            ..Limits::default()
        },
        ..Settings::default()
    };
    let balanced = |n: u8| {
        let [slice, _] = web(n, 2);
        let name = format!("a/s{n}");
        let service = service(&name, &[&format!("10.96.0.{n}")], &[("http", 80, 0)]);
        let mut service = crate::kit::balanced(service, &[&format!("198.51.100.{n}")]);
        service.affinity = Some(60);
        service.source_ranges = vec!["10.0.0.0/8".into(), "192.0.2.0/24".into()];
        [slice, put_service(service)]
    };
    let outcome = |settings| {
        let (planner, ops) = planned(settings, [balanced(1), balanced(2)].into_iter().flatten());
        Sim::default().run(&ops);
        let outside = planner
            .frontends()
            .filter(|frontend| frontend.ranges.is_some());
        let rows: Vec<_> = outside.map(|frontend| planner.row(&frontend.key)).collect();
        let texts: Vec<_> = planner
            .problems()
            .iter()
            .map(|(_, problem)| problem.to_string())
            .collect();
        (rows, texts.join("\n"))
    };
    // Four frontends keep their clients at two backends each.
    let (rows, problems) = outcome(limits(7, 9, 9));
    assert_eq!(rows[1].map(|row| row.count), Some(1), "{problems}");
    assert!(problems.contains("1 of 2 backends"), "{problems}");
    let (rows, problems) = outcome(limits(8, 3, 9));
    assert!(rows[0].is_some() && rows[1].is_none(), "{problems}");
    assert!(
        problems.contains("198.51.100.2:80/TCP is not served"),
        "{problems}"
    );
    let (rows, problems) = outcome(limits(8, 4, 1));
    let algorithms: Vec<_> = rows.iter().flatten().map(|row| row.algorithm).collect();
    assert!(algorithms[0] != algorithms[1], "{algorithms:?} {problems}");
    assert!(
        problems.contains("198.51.100.2:80/TCP has no Maglev table"),
        "{problems}"
    );
    assert_eq!(outcome(limits(8, 4, 2)).1, "");
}
