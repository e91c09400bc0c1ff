//! Addresses: what is held, waited for and given back.
use super::*;
use ipam::DEFAULT_POOL;
use model::Node;

fn addresses(cidr: &str) -> Addresses {
    let node = Node {
        name: "n".to_owned(),
        pod_cidrs: vec![cidr.parse().unwrap()],
        ..Node::default()
    };
    let local = LocalNode {
        node,
        router4: Some("10.0.0.1".parse().unwrap()),
        pools: [(DEFAULT_POOL.to_owned(), vec![cidr.parse().unwrap()])].into(),
        ..LocalNode::default()
    };
    Addresses::new(Tables::new().unwrap(), &local)
}

fn wish(name: &str) -> Wish {
    let families = Families {
        v4: true,
        v6: false,
    };
    Wish {
        owner: format!("ns/{name}"),
        key: format!("cni-attachment-id:{name}:eth0"),
        families,
        pools: [DEFAULT_POOL, DEFAULT_POOL].map(str::to_owned),
        expire: None,
    }
}

fn rows(addresses: &Addresses) -> Vec<String> {
    let snapshot = addresses.tables.db.snapshot();
    addresses
        .tables
        .allocations
        .iter(&snapshot)
        .map(|row| row.owner.clone())
        .collect()
}

#[test]
fn an_exhausted_pool_is_named_and_a_retired_address_comes_back() {
    let all = addresses("10.0.0.0/30");
    assert_eq!(rows(&all), ["router"]);
    let given: Vec<IpAddr> = all.allocate(&wish("a")).unwrap().iter().collect();
    let error = all.allocate(&wish("b")).unwrap_err();
    assert_eq!(error.code, ErrorCode::PoolExhausted);
    assert!(error.to_string().contains("10.0.0.0/30"), "{error}");
    all.retire(given.iter().copied());
    assert!(
        !all.release(given[0]),
        "a retired address is not freed by a second release"
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| all.allocate(&wish("b")));
        std::thread::sleep(Duration::from_millis(20));
        all.release_retired(given.iter().copied());
        assert_eq!(
            waiting.join().unwrap().unwrap().iter().collect::<Vec<_>>(),
            given
        );
    });
    assert_eq!(rows(&all), ["router", "ns/b"]);
}

#[test]
fn an_address_is_held_by_its_owner_or_taken_when_free() {
    let all = addresses("10.0.0.0/29");
    let given: Vec<IpAddr> = all.allocate(&wish("a")).unwrap().iter().collect();
    let key = |name: &str| format!("cni-attachment-id:{name}:eth0");
    all.hold(given.iter().copied(), "ns/a", &key("a")).unwrap();
    let other: IpAddr = "10.0.0.6".parse().unwrap();
    let error = all
        .hold([other, given[0]].into_iter(), "ns/b", &key("b"))
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Busy, "with another address it works");
    assert!(
        all.taken().iter().all(|(ip, ..)| *ip != other),
        "nothing is taken by a refused request"
    );
    all.hold([other].into_iter(), "ns/b", &key("b")).unwrap();
    all.release_of(&key("b"));
    assert_eq!(rows(&all), ["router", "ns/a"]);
}

#[test]
fn a_pool_that_grows_is_waited_for_and_asked_for() {
    let all = addresses("10.0.0.0/30");
    all.let_grow();
    let mut red = wish("a");
    red.pools = ["red", "red"].map(str::to_owned);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| all.allocate(&red));
        std::thread::sleep(Duration::from_millis(20));
        let used = all.in_use();
        assert_eq!((used["default"], used["red"]), ((1, 0), (1, 0)));
        let mut ranges = all.ranges();
        ranges.insert("red".to_owned(), vec!["10.7.0.0/29".parse().unwrap()]);
        all.set_pools(&ranges);
        let given = waiting.join().unwrap().unwrap();
        assert_eq!(given.v4, Some("10.7.0.1".parse().unwrap()));
    });
    let requests =
        |v4| BTreeMap::from([("default".to_owned(), (1, 0)), ("red".to_owned(), (v4, 0))]);
    assert_eq!(all.give_back(&requests(0)).len(), 2, "in use");
    all.release("10.7.0.1".parse().unwrap());
    assert_eq!(all.give_back(&requests(4)).len(), 2, "asked for");
    assert_eq!(all.give_back(&requests(0)).len(), 1);
}

#[test]
fn what_is_never_used_falls_back() {
    let all = addresses("10.0.0.0/29");
    all.allocate(&Wish {
        expire: Some(Duration::ZERO),
        ..wish("a")
    })
    .unwrap();
    assert_eq!(all.expire(), 1);
    assert_eq!(rows(&all), ["router"]);
}
