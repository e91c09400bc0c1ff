//! Carries a [`Topology`] out: links, addresses and routes, a few batches of netlink requests per machine.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use netlink::{Address, Handle, LinkChange, NewLink, Peer, Request, Result, Route, protocol};

use crate::topology::{Link, Machine, Topology};

/// Brings the loopback of the calling thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    Handle::new()?.link_up("lo")
}

/// Makes the bridges in the fabric and a pair of links per machine link, one end in the machine.
pub fn connect(
    topology: &Topology,
    fabric: BorrowedFd<'_>,
    machines: &BTreeMap<&str, BorrowedFd<'_>>,
) -> Result<()> {
    let mut handle = Handle::in_netns(fabric)?;
    let bridges: Vec<Request> = topology
        .bridges
        .iter()
        .map(|b| Request::link_create(&NewLink::bridge(b).up()))
        .collect();
    handle.batch_all(&bridges)?;
    let index: BTreeMap<String, u32> = handle
        .links()?
        .into_iter()
        .map(|l| (l.name, l.index))
        .collect();
    let pairs = topology
        .machines()
        .filter_map(|m| Some((m, machines.get(m.name.as_str())?)));
    let pairs = pairs.flat_map(|(m, net)| {
        m.links
            .iter()
            .map(|l| pair(l, index.get(&l.bridge).copied(), *net))
    });
    let pairs: Vec<Request> = pairs.collect();
    handle.batch_all(&pairs)
}

fn pair(link: &Link, bridge: Option<u32>, machine: BorrowedFd<'_>) -> Request {
    let peer = Peer::new(&link.name).in_netns(machine);
    let mut new = NewLink::veth(&link.fabric_end, peer).up();
    new.master = bridge;
    Request::link_create(&new)
}

/// Brings a machine's links up and gives it its addresses, then its routes.
pub fn configure(machine: &Machine, net: BorrowedFd<'_>) -> Result<()> {
    let mut handle = Handle::in_netns(net)?;
    let index: BTreeMap<String, u32> = handle
        .links()?
        .into_iter()
        .map(|l| (l.name, l.index))
        .collect();
    let up = machine
        .links
        .iter()
        .map(|l| Request::link_change(&l.name, &LinkChange::new().up()));
    let addresses = machine
        .links
        .iter()
        .filter_map(|l| Some((l, *index.get(&l.name)?)))
        .flat_map(|(l, index)| {
            l.addresses.iter().map(move |a| {
                Request::address_add(&Address::new(index, a.addr(), a.prefix_len()).nodad())
            })
        });
    let routes = machine.routes.iter().map(|r| {
        let route = Route::to(r.to.addr(), r.to.prefix_len())
            .via(r.via)
            .protocol(protocol::STATIC);
        Request::route_add(&route)
    });
    let all: Vec<Request> = up.chain(addresses).chain(routes).collect();
    handle.batch_all(&all)
}
