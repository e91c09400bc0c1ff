//! Rules above the transport: the proxy is told before rows send anything to it.
use super::super::layer7::{Announce, Layer7};
use super::world::{DB, Fake, WEB, World, from, ingress, options};
use policy::{
    kernel::Verdict,
    rule::{L7Kind, L7Rules},
};
use serde_json::json;
use std::sync::{Arc, Mutex};

/// Notes how many subjects it was told of, and how the kernel answered then.
struct Witness {
    kernel: Fake,
    seen: Mutex<Vec<(usize, Option<L7Kind>)>>,
}

impl Announce for Witness {
    fn announced(&self, layer7: &Arc<Layer7>) {
        let outcome = self
            .kernel
            .0
            .lock()
            .unwrap()
            .rows
            .ask(&ingress(WEB, DB, 80));
        let seen = (layer7.subjects.len(), outcome.l7);
        self.seen.lock().unwrap().push(seen);
    }
}

fn http(method: &str) -> serde_json::Value {
    let mut spec = from("db", 80);
    spec["ingress"][0]["toPorts"][0]["rules"] = json!({"http": [{"method": method}]});
    spec
}

fn with_proxy() -> World {
    let mut world = World::complete();
    let mut with = options();
    with.parse.l7 = true;
    world.restart(with);
    world.step();
    world
}

#[test]
fn rules_are_told_before_the_rows_that_need_them() {
    let mut world = with_proxy();
    let witness = Arc::new(Witness {
        kernel: world.kernel.clone(),
        seen: Mutex::default(),
    });
    world.core.layer7.announce_by(witness.clone());
    let rules = world.core.layer7.subscribe();
    world.policy("a", http("GET"));
    world.step();
    let kind = |world: &World| world.rows().ask(&ingress(WEB, DB, 80)).l7;
    assert_eq!(kind(&world), Some(L7Kind::Http));
    assert_eq!(*witness.seen.lock().unwrap(), [(1, None)]);
    let told = rules.borrow().clone();
    let own = &told.subjects[&WEB];
    assert_eq!((own.len(), own[0].first, own[0].last), (1, 80, 80));
    assert!(
        own[0]
            .origin
            .contains("shop/a: spec.ingress[0].toPorts[0].rules.http")
    );
    assert!(
        own[0]
            .peers
            .as_ref()
            .is_some_and(|peers| peers.contains(&DB))
    );

    // Another rule: no row is written, and the proxy hears of it.
    let writes = world.writes();
    world.policy("a", http("POST"));
    world.step();
    assert_eq!(world.writes(), writes);
    assert_eq!(witness.seen.lock().unwrap().len(), 2);
    let told = rules.borrow().clone();
    let Some(L7Rules::Http(rules_now)) = told.subjects[&WEB][0].rules.as_deref() else {
        panic!("no http rules");
    };
    assert_eq!(rules_now[0].method.as_deref(), Some("POST"));
    world.drop_policy("a");
    world.step();
    assert_eq!((kind(&world), rules.borrow().subjects.len()), (None, 0));
}

#[test]
fn a_restart_tells_the_proxy_again() {
    let mut world = with_proxy();
    world.policy("a", http("GET"));
    world.step();
    let mut with = options();
    with.parse.l7 = true;
    world.restart(with);
    let witness = Arc::new(Witness {
        kernel: world.kernel.clone(),
        seen: Mutex::default(),
    });
    world.core.layer7.announce_by(witness.clone());
    let writes = world.writes();
    world.step();
    assert_eq!(*witness.seen.lock().unwrap(), [(1, Some(L7Kind::Http))]);
    assert_eq!(world.writes(), writes, "the rows are there");
}

#[test]
fn without_a_proxy_such_policies_are_refused_by_the_name_of_the_option() {
    let mut world = World::complete();
    world.policy("a", http("GET"));
    world.step();
    assert_eq!(world.ask(WEB, DB, 80), Verdict::Allow, "nothing selects it");
    let refused = world
        .core
        .inputs
        .taken
        .values()
        .find_map(|taken| taken.refused.clone());
    assert!(refused.is_some_and(|why| why.to_string().contains("enable-l7-proxy")));
}

#[test]
fn policies_that_do_not_go_together_say_so() {
    let mut world = with_proxy();
    let mut kafka = from("db", 80);
    kafka["ingress"][0]["toPorts"][0]["rules"] = json!({"kafka": [{"role": "consume"}]});
    world.policy("a", http("GET"));
    world.policy("b", kafka);
    world.step();
    assert_eq!(world.core.conflicts.len(), 2, "{:?}", world.core.conflicts);
    world.drop_policy("b");
    world.step();
    assert!(world.core.conflicts.is_empty());
}
