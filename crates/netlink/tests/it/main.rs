//! The wrapper against the running kernel, in namespaces of its own. Skips when not root.
#![allow(clippy::unwrap_used, reason = "tests")]

mod links;
mod namespaces;
mod routing;

use std::os::fd::AsFd;

use hypha_netlink::{Handle, Link, Netns, NewLink, Peer, netns};

/// A namespace without a name and a handle in it; gone when dropped. `None` (with one line) when not root.
fn sandbox() -> Option<(Netns, Handle)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root for network namespaces");
        return None;
    }
    let ns = netns::create_unnamed().unwrap();
    let handle = Handle::in_netns(ns.as_fd()).unwrap();
    Some((ns, handle))
}

/// One end of a pair whose ends are both up and in the same namespace, so that it has a carrier.
fn pair(handle: &mut Handle, name: &str) -> Link {
    let peer = format!("{name}-peer");
    handle
        .link_create(&NewLink::veth(name, Peer::new(&peer)).up())
        .unwrap();
    handle.link_up(&peer).unwrap();
    handle.link(name).unwrap()
}
