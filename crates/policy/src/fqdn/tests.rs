use super::*;
use proptest::prelude::*;
use proptest::sample::select;

/// The same, spelled out: no index, no counts.
#[derive(Default)]
struct Plain {
    limits: Limits,
    live: BTreeMap<(u32, String, IpAddr), Entry>,
    dead: BTreeSet<(u32, String, IpAddr)>,
    /// When an address of an endpoint was alive last, and whether somebody has looked since.
    graves: BTreeMap<(u32, IpAddr), (u64, bool)>,
}

impl Plain {
    fn learn(&mut self, id: u32, name: &str, ips: &[IpAddr], ttl: u32, now: u64) {
        let ttl = ttl.max(self.limits.min_ttl);
        for ip in ips {
            let key = (id, name.to_owned(), *ip);
            let fresh = Entry { learned: now, ttl };
            let before = self.live.get(&key).copied().unwrap_or(fresh);
            let later = if before.expires() <= fresh.expires() {
                fresh
            } else {
                before
            };
            self.live.insert(key.clone(), later);
            self.dead.remove(&key);
        }
        loop {
            let own = self
                .live
                .iter()
                .filter(|((i, n, _), _)| *i == id && n == name);
            if own.clone().count() <= self.limits.addresses {
                break;
            }
            let first = own.min_by_key(|((_, _, ip), entry)| (entry.expires(), *ip));
            let key = first.map(|(key, _)| key.clone()).unwrap();
            self.die(key, now);
        }
        self.tidy();
    }

    fn die(&mut self, key: (u32, String, IpAddr), now: u64) {
        self.live.remove(&key);
        let grave = self.graves.entry((key.0, key.2)).or_insert((now, false));
        *grave = (grave.0.max(now), false);
        self.dead.insert(key);
    }

    fn collect(&mut self, now: u64, lives: impl Fn(u32, IpAddr) -> bool) -> u64 {
        let before = self.dead.len();
        let grace = self.limits.grace;
        let mut over = BTreeSet::new();
        for ((id, ip), (alive, looked)) in &mut self.graves {
            if lives(*id, *ip) {
                *alive = now;
            } else if *looked && now >= *alive + grace {
                over.insert((*id, *ip));
            }
            *looked = true;
        }
        self.dead.retain(|(id, _, ip)| !over.contains(&(*id, *ip)));
        let mut gone = before - self.dead.len();
        self.tidy();
        let ended = self.live.iter().filter(|(_, entry)| entry.expires() <= now);
        let ended: Vec<_> = ended.map(|(key, _)| key.clone()).collect();
        ended.into_iter().for_each(|key| self.die(key, now));
        for id in 0..3 {
            let own = self.graves.iter().filter(|((i, _), _)| *i == id);
            let mut own: Vec<_> = own.map(|((_, ip), (alive, _))| (*alive, *ip)).collect();
            own.sort_unstable();
            own.truncate(own.len().saturating_sub(self.limits.zombies));
            let before = self.dead.len();
            self.dead
                .retain(|(i, _, ip)| *i != id || !own.iter().any(|(_, other)| other == ip));
            gone += before - self.dead.len();
        }
        self.tidy();
        gone as u64
    }

    /// Nobody's grave is none.
    fn tidy(&mut self) {
        let dead = &self.dead;
        let used = |id: u32, ip: IpAddr| dead.iter().any(|(i, _, other)| *i == id && *other == ip);
        self.graves.retain(|(id, ip), _| used(*id, *ip));
    }

    fn names_of(&self, ip: IpAddr) -> BTreeSet<&str> {
        let all = self.live.keys().chain(&self.dead);
        let own = all.filter(|(_, _, other)| *other == ip);
        own.map(|(_, name, _)| name.as_str()).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u32, &'static str, Vec<IpAddr>, u32),
    Collect(BTreeSet<(u32, IpAddr)>),
    Clear(&'static str),
    Gone(u32),
}

fn ip(n: u8) -> IpAddr {
    if n.is_multiple_of(2) {
        [192, 0, 2, n].into()
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)])
    }
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(vec!["a.org", "b.org", "c.org"]);
    let ips = prop::collection::vec((0..6_u8).prop_map(ip), 1..5);
    let pair = (0..3_u32, (0..6_u8).prop_map(ip));
    prop_oneof![
        6 => (0..3_u32, name(), ips, 0..200_u32).prop_map(|(id, name, ips, ttl)| Step::Learn(id, name, ips, ttl)),
        5 => prop::collection::btree_set(pair, 0..6).prop_map(Step::Collect),
        1 => name().prop_map(Step::Clear),
        1 => (0..3_u32).prop_map(Step::Gone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_says_what_is_spelled_out(
        min_ttl in 0..60_u32, addresses in 1..5_usize, zombies in 1..5_usize, grace in 0..100_u64,
        steps in prop::collection::vec((step(), 0..90_u64), 1..60),
    ) {
        let limits = Limits { min_ttl, addresses, zombies, grace };
        let mut cache = Cache::new(limits);
        let mut plain = Plain { limits, ..Plain::default() };
        let mut told: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        let mut now = 1_000;
        for (step, pause) in steps {
            now += pause;
            match step {
                Step::Learn(id, name, ips, ttl) => {
                    prop_assert!(cache.learn(id, name, &ips, ttl, now));
                    plain.learn(id, name, &ips, ttl, now);
                }
                Step::Collect(alive) => {
                    let lives = |id, ip| alive.contains(&(id, ip));
                    prop_assert_eq!(cache.collect(now, lives), plain.collect(now, lives));
                }
                Step::Clear(name) => {
                    cache.clear(|other| other == name);
                    plain.live.retain(|(_, other, _), _| other != name);
                    plain.dead.retain(|(_, other, _)| other != name);
                    plain.tidy();
                }
                Step::Gone(id) => {
                    cache.keep(|other| other != id);
                    plain.live.retain(|(other, _, _), _| *other != id);
                    plain.dead.retain(|(other, _, _)| *other != id);
                    plain.tidy();
                }
            }
            let entries: BTreeMap<_, _> = cache
                .entries()
                .map(|(id, name, ip, entry)| ((id, name.to_owned(), ip), entry))
                .collect();
            prop_assert_eq!(&entries, &plain.live);
            let dead: BTreeSet<_> = cache
                .zombies()
                .flat_map(|(id, ip, zombie)| zombie.names.iter().map(move |name| (id, name.clone(), ip)))
                .collect();
            prop_assert_eq!(&dead, &plain.dead);
            // Whoever follows what was touched knows all.
            for ip in cache.take_touched() {
                let names: BTreeSet<String> = cache.names_of(ip).map(str::to_owned).collect();
                if names.is_empty() {
                    told.remove(&ip);
                } else {
                    told.insert(ip, names);
                }
            }
            for n in 0..6 {
                let ip = ip(n);
                let names: BTreeSet<&str> = cache.names_of(ip).collect();
                prop_assert_eq!(&names, &plain.names_of(ip));
                let known = told.get(&ip).into_iter().flatten();
                prop_assert_eq!(known.map(String::as_str).collect::<BTreeSet<_>>(), names);
            }
            prop_assert_eq!(cache.addresses().collect::<BTreeSet<_>>(), told.keys().copied().collect());
        }
    }
}

#[test]
fn an_address_outlives_its_answer_while_connections_do() {
    let mut cache = Cache::new(Limits::default());
    let address = ip(2);
    cache.learn(1, "a.org", &[address], 30, 1_000);
    assert_eq!(cache.collect(1_029, |_, _| false), 0);
    assert!(!cache.needs_connections());
    // Its time is over; whoever has just got it may be about to connect.
    assert_eq!(cache.collect(1_060, |_, _| false), 0);
    assert!(cache.needs_connections());
    assert_eq!(cache.collect(1_120, |_, _| true), 0);
    assert_eq!(cache.names_of(address).collect::<Vec<_>>(), ["a.org"]);
    assert_eq!(cache.collect(1_180, |_, _| false), 1);
    assert_eq!(cache.addresses().count(), 0);
}

#[test]
fn what_was_saved_comes_back() {
    let mut cache = Cache::new(Limits::default());
    cache.resume(
        1,
        ip(1),
        BTreeSet::from(["a.org".into(), "b.org".into()]),
        50,
    );
    cache.resume(1, ip(1), BTreeSet::from(["b.org".into()]), 60);
    assert_eq!(
        cache.names_of(ip(1)).collect::<Vec<_>>(),
        ["a.org", "b.org"]
    );
    assert_eq!(cache.collect(70, |_, _| false), 0, "nobody has looked yet");
    assert_eq!(cache.collect(80, |_, _| false), 2);
    assert_eq!(cache.addresses().count(), 0);
}

#[test]
fn an_endpoint_that_invents_names_harms_itself_alone() {
    let mut cache = Cache::new(Limits::default());
    for n in 0..NAMES_MAX {
        assert!(cache.learn(1, &format!("{n}.org"), &[ip(1)], 60, 0));
    }
    assert!(!cache.learn(1, "one.more.org", &[ip(1)], 60, 0));
    assert!(cache.learn(1, "7.org", &[ip(2)], 60, 0));
    assert!(cache.learn(2, "one.more.org", &[ip(1)], 60, 0));
}
