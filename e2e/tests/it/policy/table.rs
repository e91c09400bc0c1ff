//! Every scenario: who reaches whom by what, in full, against the reference model.

use std::time::{Duration, Instant};

use hypha_e2e::policy::expect::Rules;
use hypha_e2e::policy::objects::wait_in_force;
use testkit::skip_unless_root;

use super::scenarios::{Scenario, all};
use super::theatre::{SETTLED, Theatre};

impl Theatre {
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
            asked += self.questions();
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
    let cells = theatre.questions();
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
