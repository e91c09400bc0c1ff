//! Random operations on the pool and on the simplest thing that could be right.

use std::{collections::BTreeMap, net::IpAddr};

use hypha_ipam::{Pool, Release};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::net;

#[derive(Debug, Clone)]
enum Op {
    Allocate(u8),
    Specific(u16, u8),
    Release(u16, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..4u8).prop_map(Op::Allocate),
        1 => (0..40u16, 0..4u8).prop_map(|(n, who)| Op::Specific(n, who)),
        3 => (0..40u16, 0..4u8).prop_map(|(n, who)| Op::Release(n, who)),
    ]
}

/// All addresses in order, which of them are usable, and who has them.
struct Naive {
    all: Vec<IpAddr>,
    taken: BTreeMap<IpAddr, u8>,
}

impl Naive {
    fn new(cidr: IpNet) -> Self {
        let edge = |ip: &IpAddr| {
            cidr.max_prefix_len() - cidr.prefix_len() > 1
                && (*ip == cidr.network() || (ip.is_ipv4() && *ip == cidr.broadcast()))
        };
        let all: Vec<IpAddr> = match cidr {
            IpNet::V4(c) => (u32::from(c.network())..=u32::from(c.broadcast()))
                .map(|n| IpAddr::V4(n.into()))
                .collect(),
            IpNet::V6(c) => (u128::from(c.network())..=u128::from(c.broadcast()))
                .map(|n| IpAddr::V6(n.into()))
                .collect(),
        };
        Self {
            all: all.into_iter().filter(|ip| !edge(ip)).collect(),
            taken: BTreeMap::new(),
        }
    }
    /// The free address that follows `last`, going round.
    fn next(&self, last: Option<IpAddr>) -> Option<IpAddr> {
        let free = |ip: &&IpAddr| !self.taken.contains_key(ip);
        let after = self
            .all
            .iter()
            .filter(free)
            .find(|ip| last.is_none_or(|l| **ip > l));
        after.or_else(|| self.all.iter().find(free)).copied()
    }
}

proptest! {
    #[test]
    fn the_pool_does_as_the_model(
        cidr in prop_oneof![Just("10.0.0.0/28"), Just("10.0.0.0/27"), Just("10.0.0.4/31"), Just("10.0.0.4/32"), Just("fd00::/123"), Just("fd00::/126"), Just("255.255.255.240/28")],
        ops in prop::collection::vec(op(), 0..200),
    ) {
        let cidr = net(cidr);
        let (mut pool, mut naive) = (Pool::new(cidr), Naive::new(cidr));
        prop_assert_eq!(pool.capacity(), naive.all.len() as u128);
        let mut last = None;
        for op in ops {
            match op {
                Op::Allocate(who) => {
                    let want = naive.next(last);
                    prop_assert_eq!(pool.allocate(who.to_string().as_str()).ok(), want);
                    if let Some(ip) = want {
                        naive.taken.insert(ip, who);
                        last = Some(ip);
                    }
                }
                Op::Specific(n, who) => {
                    let ip = naive.all[usize::from(n) % naive.all.len()];
                    let done = pool.allocate_specific(ip, who.to_string().as_str()).is_ok();
                    prop_assert_eq!(done, !naive.taken.contains_key(&ip));
                    if done {
                        naive.taken.insert(ip, who);
                        last = Some(ip);
                    }
                }
                Op::Release(n, who) => {
                    let ip = naive.all[usize::from(n) % naive.all.len()];
                    let outcome = pool.release(ip, &who.to_string());
                    match naive.taken.get(&ip) {
                        None => prop_assert_eq!(outcome, Release::NotAllocated),
                        Some(by) if *by != who => prop_assert!(matches!(outcome, Release::NotOwner(_))),
                        Some(_) => {
                            prop_assert!(outcome.is_released());
                            naive.taken.remove(&ip);
                        }
                    }
                }
            }
            let seen: Vec<_> = pool.iter().map(|(ip, owner)| (ip, owner.key.clone())).collect();
            let want: Vec<_> = naive.taken.iter().map(|(ip, who)| (*ip, who.to_string())).collect();
            prop_assert_eq!(seen, want);
        }
    }
}
