//! Allocation by example and against a naive model.
#![allow(clippy::unwrap_used, reason = "tests")]

mod model;
mod node;
mod planner;
mod pool;
mod pools;

use std::net::IpAddr;

use ipnet::IpNet;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
