use super::*;
use model::{Identity, IdentityKind, Prefix, PrefixSource};

/// The kernel's address cache, as the test says.
#[derive(Default, Clone)]
struct Kernel(Arc<Mutex<BTreeMap<IpNet, u32>>>);

impl AddressCache for Kernel {
    fn identity(&self, row: &Prefix) -> Option<u32> {
        self.0.lock().unwrap().get(&row.prefix).copied()
    }
}

struct World {
    tables: Tables,
    kernel: Kernel,
    settings: Settings,
    names: Names,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(crate::boot::STATE)).unwrap();
        let settings = Settings {
            state_dir: dir.path().to_str().unwrap().to_owned(),
            ..Settings::default()
        };
        let (tables, kernel) = (Tables::new().unwrap(), Kernel::default());
        let names = Names::open(&tables, Box::new(kernel.clone()), &settings);
        Self {
            tables,
            kernel,
            settings,
            names,
            _dir: dir,
        }
    }

    fn restart(&mut self) {
        self.tables = Tables::new().unwrap();
        self.names = Names::open(&self.tables, Box::new(self.kernel.clone()), &self.settings);
    }

    fn labels(&self, ip: &str) -> String {
        let snapshot = self.tables.db.snapshot();
        let prefix = IpNet::from(ip.parse::<IpAddr>().unwrap());
        let row = self.tables.named_prefixes.get(&snapshot, &prefix);
        row.map(|row| row.labels.to_string()).unwrap_or_default()
    }
}

fn learned(name: &str, ips: &[&str]) -> Learned {
    Learned {
        endpoint: 7,
        name: name.to_owned(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: 60,
    }
}

fn rules(patterns: &[&str]) -> BTreeSet<DnsRule> {
    let rule = |text: &&str| DnsRule::MatchPattern((*text).to_owned());
    patterns.iter().map(rule).collect()
}

#[test]
fn addresses_have_the_labels_of_the_rules_that_speak_of_their_names() {
    let mut world = World::new();
    let one = learned("www.example.org", &["192.0.2.1", "2001:db8::1"]);
    world.names.learn(&one, 0);
    assert!(!world.names.is_realised(&one.ips), "no rules are known yet");
    assert_eq!(world.labels("192.0.2.1"), "");
    assert!(world.names.select(rules(&["*.example.org", "other.org"])));
    assert!(!world.names.select(rules(&["*.example.org", "other.org"])));
    assert_eq!(world.labels("192.0.2.1"), "fqdn:*.example.org");
    assert_eq!(world.labels("2001:db8::1"), "fqdn:*.example.org");
    world
        .names
        .learn(&learned("other.org", &["192.0.2.1", "192.0.2.2"]), 0);
    assert_eq!(
        world.labels("192.0.2.1"),
        "fqdn:*.example.org,fqdn:other.org"
    );
    world
        .names
        .learn(&learned("nobody.asked", &["192.0.2.9"]), 0);
    assert_eq!(world.labels("192.0.2.9"), "");
    // What was learned is known after a restart, and means the same as soon as rules are known.
    world.restart();
    assert!(world.names.select(rules(&["*.example.org", "other.org"])));
    assert_eq!(
        world.labels("192.0.2.1"),
        "fqdn:*.example.org,fqdn:other.org"
    );
    assert_eq!(world.names.lookups().len(), 3);
    assert_eq!(world.names.clear("*.example.org"), 2);
    assert_eq!(world.labels("192.0.2.1"), "fqdn:other.org");
    assert_eq!(world.labels("2001:db8::1"), "");
    world.names.select(BTreeSet::new());
    assert_eq!(world.labels("192.0.2.1"), "");
    assert!(
        world
            .tables
            .named_prefixes
            .is_empty(&world.tables.db.snapshot())
    );
}

#[tokio::test]
async fn nobody_connects_before_the_kernel_knows() {
    let world = World::new();
    world.names.select(rules(&["*"]));
    let one = learned("a.org", &["192.0.2.1"]);
    world.names.learn(&one, 0);
    let (names, ips) = (world.names.clone(), one.ips.clone());
    let waiting = tokio::spawn(async move { names.realised(&ips).await });
    let prefix = IpNet::from(one.ips[0]);
    let write = |identity: u32, labels: &[&str]| {
        let mut txn = world.tables.db.write();
        let known = Identity {
            id: identity,
            labels: labels.iter().map(|text| (*text).to_owned()).collect(),
            kind: IdentityKind::Local,
        };
        world.tables.identities.insert(&mut txn, known).unwrap();
        let row = Prefix {
            prefix,
            identity,
            tunnel: None,
            source: PrefixSource::Generated,
            owner: "".into(),
        };
        world.tables.prefixes.insert(&mut txn, row).unwrap();
        txn.commit();
    };
    let local = 0x0100_0007;
    write(local, &["cidr:192.0.2.1/32"]);
    world.kernel.0.lock().unwrap().insert(prefix, local);
    assert!(
        !world.names.is_realised(&one.ips),
        "the address has another identity"
    );
    write(local, &["fqdn:*", "reserved:world"]);
    world.kernel.0.lock().unwrap().insert(prefix, 9);
    assert!(
        !world.names.is_realised(&one.ips),
        "the kernel has another one"
    );
    assert!(!waiting.is_finished());
    world.kernel.0.lock().unwrap().insert(prefix, local);
    waiting.await.unwrap();
    // A pod is who it is, whatever its name.
    write(300, &["k8s:app=web"]);
    world.kernel.0.lock().unwrap().insert(prefix, 300);
    assert!(world.names.is_realised(&one.ips));
}

#[test]
fn both_readings_of_patterns_are_one() {
    use proptest::prelude::*;
    let label = "[ab*_-]{1,4}";
    let pattern = proptest::collection::vec(label, 1..4).prop_map(|labels| labels.join("."));
    let name = proptest::collection::vec("[ab\\\\_-]{1,5}", 1..4).prop_map(|l| l.join("."));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let outcome = runner.run(&(pattern, name), |(pattern, name)| {
        let rule = DnsRule::MatchPattern(pattern);
        let snapshot = proxy::config::Snapshot {
            settings: proxy::config::Settings {
                names: vec![crate::layer7::dns_rule(&rule)],
                ..proxy::config::Settings::default()
            },
            ..proxy::config::Snapshot::default()
        };
        let compiled = proxy::policy::Policy::compile(&snapshot, None);
        prop_assert_eq!(compiled.awaits(&name), rule.is_met_by(&name));
        Ok(())
    });
    outcome.unwrap();
}
