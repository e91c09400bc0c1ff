//! The stage with who asks and who answers, and what settings and policies must make of the answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hypha_e2e::policy::expect::{Rules, expected};
use hypha_e2e::policy::objects::{self, Server, wait_in_force};
use hypha_e2e::policy::probe::{Cell, Outcome, Prober, host_table, whole_table};
use hypha_e2e::policy::stage::Stage;
use serde_json::Value;

use super::scenarios::Outside;

/// How long it may take until all is as the model says: what rules by address mean comes after the rules themselves.
pub const SETTLED: Duration = Duration::from_secs(10);

/// The stage with a prober for each family.
pub struct Theatre {
    /// The actors.
    pub stage: Stage,
    /// The lab's API server.
    pub server: Server,
    /// For each family, what is asked, and who asks.
    pub families: Vec<(Vec<Cell>, Prober)>,
}

impl Theatre {
    /// Starts a lab.
    #[track_caller]
    pub fn up(prefix: &str, args: &[&str], families: &[bool]) -> Self {
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

    /// Everything that differs from what the model says.
    #[track_caller]
    pub fn compare(&mut self, rules: &Rules) -> Vec<String> {
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

    /// What the outside's addresses are.
    pub fn outside(&self) -> Outside {
        let router = &self.stage.actors[self.stage.find("router")];
        // A family that the lab does not have is not asked about either.
        Outside {
            ipv4: router.ip(true).unwrap_or([192, 0, 2, 1].into()),
            ipv6: router.ip(false).unwrap_or("2001:db8::1".parse().unwrap()),
        }
    }

    /// How many questions a comparison asks.
    pub fn questions(&self) -> usize {
        self.families.iter().map(|(cells, _)| cells.len()).sum()
    }

    /// Asks about nodes as well.
    pub fn ask_about_nodes(&mut self) {
        for (cells, prober) in &mut self.families {
            let more = host_table(&self.stage, prober.is_ipv4());
            let all: BTreeSet<Cell> = cells.iter().copied().chain(more).collect();
            *cells = all.into_iter().collect();
        }
    }

    /// Everything is as the model says, or comes to be soon.
    #[track_caller]
    pub fn expect(&mut self, what: &str, rules: &Rules) {
        let start = Instant::now();
        let mut wrong = self.compare(rules);
        while !wrong.is_empty() && start.elapsed() < SETTLED {
            wrong = self.compare(rules);
        }
        let first = &wrong[..wrong.len().min(12)];
        assert!(
            wrong.is_empty(),
            "{what}: {} of {} answers are wrong:\n  {}",
            wrong.len(),
            self.questions(),
            first.join("\n  ")
        );
        eprintln!("{what}: as the model says after {:?}", start.elapsed());
    }

    /// Puts these policies in force, and compares; they are taken away again.
    #[track_caller]
    pub fn try_out(&mut self, what: &str, wanted: &[Value], rules: impl FnOnce(Rules) -> Rules) {
        let created = self.server.create(wanted);
        wait_in_force(&self.stage, &created);
        let meaning = objects::rules(wanted).unwrap_or_else(|error| panic!("{what}: {error}"));
        self.expect(what, &rules(meaning));
        self.server.delete(&created);
        wait_in_force(&self.stage, &[]);
    }

    /// Gives all agents other settings: those that run are replaced.
    #[track_caller]
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let cluster = &self.stage.cluster;
        cluster.configure(settings);
        for node in &self.stage.nodes {
            let old = cluster.kill_agent(node);
            cluster.wait_replaced(node, Some(&old));
        }
    }
}
