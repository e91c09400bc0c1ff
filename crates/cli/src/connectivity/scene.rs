//! From a running lab to the places of the matrix.
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::thread;

use anyhow::{Context, Result, bail};
use lab::spec::{LabSpec, Routing};
use lab::state::{LabState, MachineState, PodRecord};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

use super::plan::{Family, NodePlace, Place, RouterPlace, Scene};
use crate::labs::{self, RunningLab};

/// The places of `lab`, with those of `pods` that have an address.
///
/// # Errors
/// If the lab's records cannot be read.
pub fn of(lab: &RunningLab, pods: &[PodRecord]) -> Result<Scene> {
    let segments = Segments::of(&lab.state);
    let mut places: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for pod in pods {
        if let Some(place) = pod_place(pod)? {
            places.entry(pod.node.clone()).or_default().push(place);
        }
    }
    let nodes = lab.state.nodes.iter().map(|machine| NodePlace {
        place: place(machine),
        segment: segments.of_machine(machine),
        pods: places.remove(&machine.name).unwrap_or_default(),
    });
    let spec = &lab.state.spec;
    let tunnel = spec.routing != Routing::Native;
    Ok(Scene {
        tunnel,
        pods_routed: tunnel || spec.router_routes,
        masquerade: Family::ALL
            .into_iter()
            .filter(|family| masquerades(spec, *family))
            .collect(),
        nodes: nodes.collect(),
        router: Some(router(&lab.state.router, &segments)),
    })
}

/// It is on unless the lab was started with a setting that says otherwise.
fn masquerades(spec: &LabSpec, family: Family) -> bool {
    let key = format!("enable-{}-masquerade", family.text());
    let set = spec
        .agent_config
        .iter()
        .rev()
        .find(|(name, _)| *name == key);
    set.is_none_or(|(_, value)| value != "false")
}

fn place(machine: &MachineState) -> Place {
    let addresses = machine
        .addresses
        .iter()
        .filter_map(|text| address(text))
        .collect();
    Place {
        name: machine.name.clone(),
        netns: labs::netns(machine.holder.pid),
        addresses,
    }
}

/// The address of `192.0.2.1/24`.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// The network of `192.0.2.1/24`: which bits must be equal on one L2 network.
fn network(text: &str) -> Option<(u128, bool)> {
    let (ip, bits) = text.split_once('/')?;
    let bits: u32 = bits.parse().ok()?;
    let (value, length, ipv4) = match ip.parse().ok()? {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32, true),
        IpAddr::V6(ip) => (ip.to_bits(), 128, false),
    };
    Some((
        value
            .checked_shr(u32::checked_sub(length, bits)?)
            .unwrap_or(0),
        ipv4,
    ))
}

/// The L2 networks that nodes are on, in the order of the nodes.
struct Segments(Vec<Vec<(u128, bool)>>);

impl Segments {
    fn of(state: &LabState) -> Self {
        let mut segments: Vec<Vec<(u128, bool)>> = Vec::new();
        for node in &state.nodes {
            let networks: Vec<_> = node
                .addresses
                .iter()
                .filter_map(|text| network(text))
                .collect();
            if !segments
                .iter()
                .any(|known| known.iter().any(|network| networks.contains(network)))
            {
                segments.push(networks);
            }
        }
        Self(segments)
    }

    fn find(&self, text: &str) -> Option<usize> {
        let wanted = network(text)?;
        self.0
            .iter()
            .position(|networks| networks.contains(&wanted))
    }

    fn of_machine(&self, machine: &MachineState) -> usize {
        machine
            .addresses
            .iter()
            .find_map(|text| self.find(text))
            .unwrap_or(self.0.len())
    }
}

fn router(machine: &MachineState, segments: &Segments) -> RouterPlace {
    let mut on_segment = vec![Vec::new(); segments.0.len()];
    let mut behind = Vec::new();
    for text in &machine.addresses {
        if let Some(ip) = address(text) {
            segments
                .find(text)
                .map_or(&mut behind, |segment| &mut on_segment[segment])
                .push(ip);
        }
    }
    RouterPlace {
        place: place(machine),
        on_segment,
        behind,
    }
}

fn pod_place(pod: &PodRecord) -> Result<Option<Place>> {
    let Some(container) = pod.containers.first() else {
        return Ok(None);
    };
    let netns = labs::netns(container.process.pid);
    let Ok(file) = File::open(&netns) else {
        return Ok(None);
    };
    let name = format!("{}/{}", pod.namespace, pod.name);
    let addresses = addresses_inside(file)
        .with_context(|| format!("cannot read the addresses of pod {name}"))?;
    Ok((!addresses.is_empty()).then_some(Place {
        name,
        netns,
        addresses,
    }))
}

/// The addresses of `eth0` in a network namespace that other hosts can use.
fn addresses_inside(netns: File) -> Result<Vec<IpAddr>> {
    let look = move || -> Result<Vec<IpAddr>> {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let interfaces = getifaddrs()?.filter(|interface| interface.interface_name == "eth0");
        let mut found: Vec<IpAddr> = interfaces
            .filter_map(|interface| storage_ip(interface.address?))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    };
    match thread::spawn(look).join() {
        Ok(result) => result,
        Err(_) => bail!("the thread in its namespace ended early"),
    }
}

fn storage_ip(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(v4.ip().into());
    }
    let v6 = address.as_sockaddr_in6()?.ip();
    (!v6.is_unicast_link_local()).then_some(v6.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_tell_l2_segments_apart() {
        assert_eq!(network("192.0.2.1/25"), network("192.0.2.100/25"));
        assert_ne!(network("192.0.2.1/25"), network("192.0.2.130/25"));
        assert_eq!(network("2001:db8::1/64"), network("2001:db8::200/64"));
        assert_ne!(network("2001:db8:0:1::1/64"), network("2001:db8:0:2::1/64"));
        for bad in ["192.0.2.1", "192.0.2.1/33", "x/24", ""] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }
}
