//! Rules by name: what their names mean is known before they are enforced, after a restart, too.
use super::world::{Fake, WEB, World, options};
use crate::fqdn::Names;
use ipnet::IpNet;
use model::{Identity, IdentityKind, PrefixIdentity, Tables};
use policy::{
    kernel::{Question, Verdict},
    rule::Direction,
};
use proxy::dns::Learned;
use runtime::settings::Settings;
use serde_json::json;
use std::path::Path;

const LOCAL: u32 = 0x0100_0007;

fn names(tables: &Tables, kernel: &Fake, dir: &Path) -> Names {
    let settings = Settings {
        state_dir: dir.to_str().unwrap().to_owned(),
        ..Settings::default()
    };
    Names::open(tables, Box::new(kernel.clone()), &settings)
}

/// Another agent takes over; its names are those of the file.
fn restart(world: &mut World, dir: &Path) -> Names {
    let mut with = options();
    with.parse.l7 = true;
    world.restart(with);
    let names = names(&world.tables, &world.kernel, dir);
    world.core.names = Some(names.clone());
    names
}

fn asked(remote: u32) -> Question {
    Question {
        subject: WEB,
        direction: Direction::Egress,
        remote,
        protocol: 6,
        port: Some(80),
    }
}

/// As the keeper of identities does it.
fn give_number(world: &World, address: IpNet) {
    let tables = &world.tables;
    let snapshot = tables.db.snapshot();
    let named = tables.named_prefixes.get(&snapshot, &address).unwrap();
    assert_eq!(named.labels.to_string(), "fqdn:*.example.org");
    let identity = Identity {
        id: LOCAL,
        labels: named.labels.clone(),
        kind: IdentityKind::Local,
    };
    let number = PrefixIdentity {
        prefix: address,
        identity: LOCAL,
    };
    let mut txn = tables.db.write();
    tables.identities.insert(&mut txn, identity).unwrap();
    tables.prefix_identities.insert(&mut txn, number).unwrap();
    txn.commit();
}

#[test]
fn names_are_known_before_their_rules_are_enforced() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(crate::boot::STATE)).unwrap();
    let mut world = World::complete();
    let names = restart(&mut world, dir.path());
    world.step();
    world.policy(
        "a",
        json!({
            "endpointSelector": {"matchLabels": {"app": "web"}},
            "egress": [{"toFQDNs": [{"matchPattern": "*.example.org"}], "toPorts": [{"ports": [{"port": "80"}]}]}],
        }),
    );
    world.step();
    let ask = |world: &World| world.rows().ask(&asked(LOCAL)).verdict;
    assert_eq!(ask(&world), Verdict::Unmatched);
    let address: IpNet = "192.0.2.1/32".parse().unwrap();
    let learned = Learned {
        endpoint: 2,
        name: "www.example.org".to_owned(),
        ips: vec![address.addr()],
        ttl: 3600,
    };
    names.learn(&learned, 0);
    give_number(&world, address);
    world.step();
    assert_eq!(ask(&world), Verdict::Allow);

    // The next agent knows the name, waits for its number, and changes nothing.
    let mut txn = world.tables.db.write();
    world.tables.prefix_identities.delete(&mut txn, &address);
    world.tables.named_prefixes.delete(&mut txn, &address);
    txn.commit();
    restart(&mut world, dir.path());
    let writes = world.writes();
    world.step();
    assert!(!world.core.is_complete(), "the names have just been told");
    world.step();
    assert_eq!(
        world.core.missing(),
        Some("identities of the ranges that policies name")
    );
    give_number(&world, address);
    world.step();
    assert!(world.core.is_complete());
    assert_eq!((ask(&world), world.writes()), (Verdict::Allow, writes));
    world.drop_policy("a");
    world.step();
    let snapshot = world.tables.db.snapshot();
    assert!(world.tables.named_prefixes.is_empty(&snapshot));
}
