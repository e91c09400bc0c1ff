//! Which nodes stand for leases of services, and who answers for which address on which device.
use crate::input::{Node, Service, ServiceType, names};
use crate::lbipam::L2_CLASS;
use crate::selector::Selector;
use model::Text;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Begin of the names of leases.
pub const LEASE: &str = "cilium-l2announce-";
/// Condition of policies whose selector of services cannot be read.
pub const BAD_SERVICE_SELECTOR: &str = "io.cilium/bad-service-selector";

/// A CiliumL2AnnouncementPolicy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name.
    pub name: Text,
    /// `externalIPs` of services are announced.
    pub external_ips: bool,
    /// Addresses in the status of services are announced.
    pub load_balancer_ips: bool,
    /// Devices, any of which may match; empty: all.
    pub interfaces: Vec<Regex>,
    /// Nodes.
    pub nodes: Selector,
    /// Services.
    pub services: Selector,
}

/// A lease that a node should stand for, and what it announces as long as it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// `namespace/name` of the service.
    pub service: Text,
    /// Addresses and devices.
    pub entries: BTreeSet<(IpAddr, Text)>,
}

/// Name of the lease of a service.
#[must_use]
pub fn lease_name(service: &str) -> String {
    let (namespace, name) = names(service);
    format!("{LEASE}{namespace}-{name}")
}

/// The lease that this node should stand for on account of a service; none where no policy wants that.
#[must_use]
pub fn lease<'a>(
    service: &Service,
    policies: impl IntoIterator<Item = &'a Policy>,
    node: &Node,
    devices: &[Text],
) -> Option<Lease> {
    let class = service.class.is_empty() || service.class == *L2_CLASS;
    if !class || service.kind == ServiceType::ExternalName {
        return None;
    }
    let mut entries = BTreeSet::new();
    for policy in policies {
        let selected = policy.nodes.matches(|label| node.labels.get(label))
            && policy
                .services
                .matches_service(&service.key, &service.labels);
        if !selected {
            continue;
        }
        for device in devices.iter().filter(|device| policy.covers(device)) {
            entries.extend(policy.addresses(service).map(|ip| (ip, device.clone())));
        }
    }
    (!entries.is_empty()).then(|| Lease {
        name: lease_name(&service.key),
        service: service.key.clone(),
        entries,
    })
}

impl Policy {
    fn covers(&self, device: &str) -> bool {
        self.interfaces.is_empty()
            || self
                .interfaces
                .iter()
                .any(|interface| interface.is_match(device))
    }

    fn addresses<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = IpAddr> + 'a {
        let external = service
            .external_ips
            .iter()
            .copied()
            .filter(|_| self.external_ips);
        let wanted = self.load_balancer_ips && service.kind == ServiceType::LoadBalancer;
        let ingress = service
            .ingress
            .iter()
            .filter(move |ingress| wanted && !ingress.proxy);
        external.chain(ingress.map(|ingress| ingress.address))
    }
}

/// What changes for this node with its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Leases to stand for from now on.
    pub stand: Vec<String>,
    /// Leases to give up.
    pub drop: Vec<String>,
    /// Addresses and devices to answer for from now on: neighbours should be told at once (gratuitous ARP, unsolicited
    /// neighbour advertisement).
    pub announce: Vec<(IpAddr, Text)>,
    /// Addresses and devices no longer to answer for.
    pub withdraw: Vec<(IpAddr, Text)>,
}

/// The leases of this node, those it has among them. Takes changes one by one.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    leases: BTreeMap<Text, Lease>,
    held: BTreeSet<String>,
    announced: BTreeSet<(IpAddr, Text)>,
}

impl Leases {
    /// Takes what a service wants now.
    pub fn set(&mut self, service: &Text, lease: Option<Lease>) -> Change {
        let mut change = Change::default();
        let old = self.leases.remove(service);
        match (old, lease) {
            (None, None) => {}
            (Some(old), None) => {
                // Names run together: namespace a-b, service c; namespace a, service b-c.
                if !self.leases.values().any(|lease| lease.name == old.name) {
                    self.held.remove(&old.name);
                    change.drop.push(old.name);
                }
            }
            (old, Some(lease)) => {
                if old.is_none() {
                    change.stand.push(lease.name.clone());
                }
                self.leases.insert(service.clone(), lease);
            }
        }
        self.settle(change)
    }

    /// Takes that a lease was won, or lost.
    pub fn hold(&mut self, name: &str, held: bool) -> Change {
        if held {
            self.held.insert(name.to_owned());
        } else {
            self.held.remove(name);
        }
        self.settle(Change::default())
    }

    /// What this node answers for.
    pub fn announced(&self) -> impl Iterator<Item = &(IpAddr, Text)> {
        self.announced.iter()
    }

    fn settle(&mut self, mut change: Change) -> Change {
        let held = self
            .leases
            .values()
            .filter(|lease| self.held.contains(&lease.name));
        let now: BTreeSet<_> = held
            .flat_map(|lease| lease.entries.iter().cloned())
            .collect();
        change.announce = now.difference(&self.announced).cloned().collect();
        change.withdraw = self.announced.difference(&now).cloned().collect();
        self.announced = now;
        change
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// The link-layer address of everybody, and of all IPv6 nodes.
const BROADCAST: [u8; 6] = [0xFF; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: [u8; 16] = [0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Protocol number of ICMPv6.
const ICMPV6: u8 = 58;

/// The frame that tells all neighbours at once who has an address now: an ARP request for itself, or an unsolicited neighbour
/// advertisement.
#[must_use]
pub fn announcement(address: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => {
            let mut frame = header(BROADCAST, mac, 0x0806);
            // Ethernet, IPv4, their lengths, request.
            frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend(ip.octets());
            frame.extend([0; 6]);
            frame.extend(ip.octets());
            frame
        }
        IpAddr::V6(ip) => {
            let mut frame = header(ALL_NODES_MAC, mac, 0x86DD);
            // Neighbour advertisement with the flag to override what was known, and the option with the sender's address.
            let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            body.extend(ip.octets());
            body.extend([2, 1]);
            body.extend(mac);
            let mut sum = wire::checksum::add(0, &ip.octets());
            sum = wire::checksum::add(sum, &ALL_NODES);
            sum = wire::checksum::add(sum, &[0, body.len() as u8, 0, ICMPV6]);
            let check = !wire::checksum::fold(wire::checksum::add(sum, &body));
            // Sums are of words as they lie in memory.
            body[2..4].copy_from_slice(&check.to_ne_bytes());
            frame.extend([0x60, 0, 0, 0, 0, body.len() as u8, ICMPV6, 255]);
            frame.extend(ip.octets());
            frame.extend(ALL_NODES);
            frame.extend(body);
            frame
        }
    }
}

fn header(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + 72);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}
