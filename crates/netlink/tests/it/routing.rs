use std::net::IpAddr;

use hypha_netlink as netlink;
use netlink::{
    Address, Family, Handle, Mac, Neighbour, NeighbourState, NewLink, Request, Route, RouteFilter,
    RouteKind, Rule, Scope, protocol,
};

use crate::{pair, sandbox};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn device(h: &mut Handle) -> u32 {
    pair(h, "d0").index
}

#[test]
fn host_addresses_are_usable_at_once() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let d = device(&mut h);
    for text in ["10.1.2.3", "fd00::5"] {
        let address = Address::host(d, ip(text));
        h.address_add(&address).unwrap();
        assert!(h.address_add(&address).unwrap_err().is_exists());
        h.address_replace(&address).unwrap();
        let found = h
            .addresses(Some(d))
            .unwrap()
            .into_iter()
            .find(|a| a.ip == ip(text))
            .unwrap();
        assert!(!found.tentative && found.permanent);
        assert_eq!(found.prefix_len, Family::of(found.ip).bits());
        h.address_delete(&address).unwrap();
        h.address_delete_if_exists(&address).unwrap();
        assert!(h.address_delete(&address).unwrap_err().is_not_found());
    }
}

#[test]
fn addresses_with_scope() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let d = device(&mut h);
    h.address_add(&Address::new(d, ip("10.0.0.1"), 24).scope(Scope::Link))
        .unwrap();
    let found = h.addresses(Some(d)).unwrap();
    assert!(
        found
            .iter()
            .any(|a| a.scope == Scope::Link && a.prefix_len == 24)
    );
    let bad = h
        .address_add(&Address::new(d, ip("10.0.0.1"), 33))
        .unwrap_err();
    assert!(bad.to_string().contains("longer than the address"), "{bad}");
}

#[test]
fn the_routes_of_a_pod() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let d = device(&mut h);
    let (g4, g6) = (ip("10.244.1.1"), ip("fd00:244:1::1"));
    let want = [
        Route::to_host(g4).dev(d).scope(Scope::Link).mtu(1450),
        Route::default_of(Family::V4).via(g4).dev(d).mtu(1450),
        Route::to_host(g6).dev(d).mtu(1450),
        Route::default_of(Family::V6).via(g6).dev(d).mtu(1450),
    ];
    let mut requests = vec![
        Request::address_add(&Address::host(d, ip("10.244.1.7"))),
        Request::address_add(&Address::host(d, ip("fd00:244:1::7"))),
    ];
    requests.extend(want.iter().map(Request::route_replace));
    h.batch_all(&requests).unwrap();
    let routes = h
        .routes(&RouteFilter {
            dev: Some(d),
            ..RouteFilter::main()
        })
        .unwrap();
    for route in &want {
        let found = routes
            .iter()
            .find(|r| r.dst == route.dst)
            .unwrap_or_else(|| panic!("{route}"));
        assert_eq!(
            (found.gateway, found.mtu, found.dev),
            (route.gateway, Some(1450), Some(d)),
            "{route}"
        );
    }
    assert!(h.route_add(&want[1]).unwrap_err().is_exists());
    for route in &want {
        h.route_delete(route).unwrap();
        h.route_delete_if_exists(route).unwrap();
    }
}

#[test]
fn routes_with_every_attribute_come_back_as_written() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let d = device(&mut h);
    h.address_add(&Address::host(d, ip("10.9.9.9"))).unwrap();
    let route = Route::to(ip("10.5.0.0"), 16)
        .via(ip("192.168.7.1"))
        .onlink()
        .dev(d)
        .src(ip("10.9.9.9"))
        .mtu(1400)
        .table(2004)
        .protocol(protocol::KERNEL)
        .priority(7);
    h.route_add(&route).unwrap();
    let filter = RouteFilter {
        table: Some(2004),
        family: Some(Family::V4),
        protocol: Some(protocol::KERNEL),
        dev: None,
    };
    assert_eq!(h.routes(&filter).unwrap(), std::slice::from_ref(&route));
    let other = Route {
        gateway: Some(ip("192.168.7.2")),
        ..route.clone()
    };
    h.route_replace(&other).unwrap();
    assert_eq!(h.routes(&filter).unwrap(), [other]);
    h.route_add(&Route::to(ip("10.6.0.0"), 16).kind(RouteKind::Unreachable))
        .unwrap();
    let mixed = h
        .route_add(&Route::to(ip("10.7.0.0"), 16).via(ip("fd00::1")).dev(d))
        .unwrap_err();
    assert!(mixed.to_string().contains("family"), "{mixed}");
}

#[test]
fn errors_carry_the_kernels_words() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let d = device(&mut h);
    let error = h
        .route_add(&Route::to(ip("10.5.0.0"), 16).via(ip("192.168.7.1")).dev(d))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("add route 10.5.0.0/16 via 192.168.7.1"),
        "{error}"
    );
    assert!(
        error.to_string().contains("Nexthop has invalid gateway"),
        "{error}"
    );
}

#[test]
fn neighbours_are_permanent() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    let d = h.link_create(&NewLink::bridge("d0").up()).unwrap().index;
    for text in ["10.0.0.9", "fd00::9"] {
        let first = Neighbour::permanent(d, ip(text), Mac([2, 0, 0, 0, 0, 1]));
        let second = Neighbour::permanent(d, ip(text), Mac([2, 0, 0, 0, 0, 2]));
        h.neighbour_replace(&first).unwrap();
        h.neighbour_replace(&second).unwrap();
        let found: Vec<_> = h
            .neighbours(Some(d))
            .unwrap()
            .into_iter()
            .filter(|n| n.ip == ip(text))
            .collect();
        assert_eq!(found, std::slice::from_ref(&second));
        assert_eq!(found[0].state, NeighbourState::Permanent);
        h.neighbour_delete_if_exists(&second).unwrap();
        h.neighbour_delete_if_exists(&second).unwrap();
    }
}

#[test]
fn rules_lead_to_tables() {
    let Some((_ns, mut h)) = sandbox() else {
        return;
    };
    for (family, from) in [(Family::V4, "10.0.0.0"), (Family::V6, "fd00::")] {
        let rule = Rule {
            from: Some((ip(from), 8)),
            mark: Some((0x200, 0xf00)),
            ..Rule::new(family, 9, 2004)
        };
        match h.rule_ensure(&rule) {
            Err(e) if e.is_unsupported() => {
                return eprintln!("skipped: this kernel has no routing rules");
            }
            other => other.unwrap(),
        }
        h.rule_ensure(&rule).unwrap();
        assert_eq!(
            h.rules(family)
                .unwrap()
                .iter()
                .filter(|r| **r == rule)
                .count(),
            1
        );
        h.rule_delete_if_exists(&rule).unwrap();
        h.rule_delete_if_exists(&rule).unwrap();
        assert!(!h.rules(family).unwrap().contains(&rule));
    }
}
