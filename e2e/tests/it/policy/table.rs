//! Every scenario: who reaches whom by what, in full, against the reference model.

use std::time::{Duration, Instant};

use hypha_e2e::policy::expect::{Rules, expected};
use hypha_e2e::policy::objects::{Server, wait_in_force};
use hypha_e2e::policy::probe::{Cell, Outcome, Prober, whole_table};
use hypha_e2e::policy::stage::Stage;
use testkit::skip_unless_root;

use super::scenarios::{Outside, Scenario, all};

/// How long a scenario may take to be as the model says: what rules by address mean comes after the rules themselves.
const SETTLED: Duration = Duration::from_secs(10);

/// The stage with a prober for each family.
struct Theatre {
    stage: Stage,
    server: Server,
    families: Vec<(Vec<Cell>, Prober)>,
}

impl Theatre {
    #[track_caller]
    fn up(prefix: &str, args: &[&str], families: &[bool]) -> Self {
        let stage = Stage::up(prefix, args);
        let server = Server::of(&stage);
        let families = families
            .iter()
            .map(|ipv4| (whole_table(&stage, *ipv4), Prober::new(&stage, *ipv4)))
            .collect();
        Self {
            stage,
            server,
            families,
        }
    }

    fn outside(&self) -> Outside {
        let router = &self.stage.actors[self.stage.find("router")];
        // A family that the lab does not have is not asked about either.
        Outside {
            ipv4: router.ip(true).unwrap_or([192, 0, 2, 1].into()),
            ipv6: router.ip(false).unwrap_or("2001:db8::1".parse().unwrap()),
        }
    }

    /// Everything that differs from what the model says.
    #[track_caller]
    fn compare(&mut self, rules: &Rules) -> Vec<String> {
        let mut wrong = Vec::new();
        for (cells, prober) in &mut self.families {
            let expected: Vec<(bool, String)> = cells
                .iter()
                .map(|cell| expected(&self.stage, rules, cell))
                .collect();
            let wanted: Vec<bool> = expected.iter().map(|(passes, _)| *passes).collect();
            let outcomes = prober.ask(&self.stage, cells, &wanted);
            for ((cell, outcome), (passes, why)) in cells.iter().zip(outcomes).zip(expected) {
                let what = match (passes, outcome) {
                    (true, Outcome { answered: true, .. }) => continue,
                    (
                        false,
                        Outcome {
                            arrived: false,
                            answered: false,
                        },
                    ) => continue,
                    (true, Outcome { arrived: true, .. }) => "arrived, but the answer did not",
                    (true, _) => "did not pass",
                    (false, _) => "passed",
                };
                wrong.push(format!("{}: {what}; {why}", cell.text(&self.stage)));
            }
        }
        wrong
    }

    /// Plays one scenario after the other; those that differ.
    #[track_caller]
    fn play(&mut self, scenarios: &[Scenario]) -> Vec<String> {
        let start = Instant::now();
        let (mut failed, mut asked, mut again, mut slowest) = (Vec::new(), 0, 0, Duration::ZERO);
        let mut previous: Vec<serde_json::Value> = Vec::new();
        for scenario in scenarios {
            let began = Instant::now();
            let new = [&scenario.objects[..], &scenario.services[..]].concat();
            self.server.create(&scenario.services);
            let created = self.server.create(&scenario.objects);
            self.server.delete(&previous);
            previous = new;
            wait_in_force(&self.stage, &created);
            let rules = scenario.rules();
            let compared = Instant::now();
            let mut wrong = self.compare(&rules);
            while !wrong.is_empty() && compared.elapsed() < SETTLED {
                again += 1;
                wrong = self.compare(&rules);
            }
            asked += self
                .families
                .iter()
                .map(|(cells, _)| cells.len())
                .sum::<usize>();
            slowest = slowest.max(began.elapsed());
            if !wrong.is_empty() {
                eprintln!(
                    "{}: {} answers are wrong:\n  {}",
                    scenario.name,
                    wrong.len(),
                    wrong[..wrong.len().min(12)].join("\n  ")
                );
                failed.push(scenario.name.clone());
            }
        }
        self.server.delete(&previous);
        eprintln!(
            "{} scenarios, {asked} questions in {:.1} s, the slowest scenario {:.2} s, {again} rounds repeated, {} differ",
            scenarios.len(),
            start.elapsed().as_secs_f64(),
            slowest.as_secs_f64(),
            failed.len()
        );
        failed
    }
}

#[track_caller]
fn check(prefix: &str, args: &[&str], families: &[bool], every: usize) {
    if skip_unless_root() {
        return;
    }
    let mut theatre = Theatre::up(prefix, args, families);
    let mut scenarios = all(theatre.outside());
    if let Ok(wanted) = std::env::var("POLICY_SCENARIO") {
        scenarios.retain(|scenario| scenario.name.contains(&wanted));
    } else {
        let mut index = 0;
        scenarios.retain(|_| {
            index += 1;
            (index - 1) % every == 0
        });
    }
    let failed = theatre.play(&scenarios);
    assert!(
        failed.is_empty(),
        "{} scenarios differ from the model: {failed:#?}",
        failed.len()
    );
    theatre.stage.cluster.assert_clean();
}

/// The prober itself: without policy, and without agents that know any, everybody reaches everybody.
#[test]
fn e2e_policy_prober_reaches_everybody() {
    if skip_unless_root() {
        return;
    }
    let mut theatre = Theatre::up("e2e-prober", &[], &[true, false]);
    let wrong = theatre.compare(&Rules::default());
    assert!(wrong.is_empty(), "{wrong:#?}");
    let cells: usize = theatre.families.iter().map(|(cells, _)| cells.len()).sum();
    assert!(cells >= 2 * 72 * 6, "{cells}");
}

#[test]
fn e2e_policy_table_vxlan() {
    check("e2e-table", &["--routing", "vxlan"], &[true, false], 1);
}

/// The same by another way; one in six scenarios.
#[test]
fn e2e_policy_table_native() {
    check("e2e-table-n", &["--routing", "native"], &[true, false], 6);
}

/// Through the node's network stack.
#[test]
fn e2e_policy_table_host_stack() {
    check(
        "e2e-table-s",
        &["--agent-config", "enable-host-legacy-routing=true"],
        &[true, false],
        11,
    );
}
