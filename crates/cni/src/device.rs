//! The pod's interface: made with two batches of kernel requests, one on each side.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
};

use api::{DeviceMode, IpamResponse};
use netlink::{
    AddrGenMode, Address, Errno, Family, Handle, LinkChange, LinkKind, Mac, NetkitMode,
    NetkitPolicy, Netns, NewLink, Peer, Request, Route, Scope, netns, sysctl,
};

use crate::{CniError, Invocation, code, host_interface, host_mac, pod_mac};

/// Everything that is known before the interface is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// Name of the host side.
    pub host_name: String,
    /// Link-layer address of the host side, where the kind has one.
    pub host_mac: Option<Mac>,
    /// Name of the pod's side.
    pub pod_name: String,
    /// Link-layer address of the pod's side, where the kind has one.
    pub pod_mac: Option<Mac>,
    /// What kind of pair.
    pub mode: DeviceMode,
    /// MTU of both sides.
    pub device_mtu: u32,
    /// MTU of the pod's routes.
    pub route_mtu: u32,
    /// IPv4 address and gateway.
    pub v4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// IPv6 address and gateway.
    pub v6: Option<(Ipv6Addr, Ipv6Addr)>,
}

/// What the kernel chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Index of the host side.
    pub host_index: u32,
    /// Index of the pod's side, in the pod's namespace.
    pub pod_index: u32,
}

impl PodInterface {
    /// The interface of an invocation with the addresses that the agent gave.
    pub fn new(invocation: &Invocation, given: &IpamResponse) -> Self {
        let (container, interface) = (&invocation.container_id, &invocation.interface);
        let has_mac = given.device_mode != DeviceMode::Netkit;
        Self {
            host_name: host_interface(container, interface),
            host_mac: has_mac.then(|| host_mac(container, interface)),
            pod_name: interface.clone(),
            pod_mac: has_mac.then(|| pod_mac(container, interface)),
            mode: given.device_mode,
            device_mtu: given.device_mtu,
            route_mtu: given.route_mtu,
            v4: given.ipv4.as_ref().map(|a| a.ip).zip(given.gateway4),
            v6: given.ipv6.as_ref().map(|a| a.ip).zip(given.gateway6),
        }
    }

    /// Address and gateway of each family.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let v4 = self.v4.map(|(ip, gateway)| (ip.into(), gateway.into()));
        v4.into_iter()
            .chain(self.v6.map(|(ip, gateway)| (ip.into(), gateway.into())))
    }

    /// The pod's routes: the gateway on the link, and everything through the gateway.
    pub fn routes(&self, pod_index: u32) -> Vec<Route> {
        let mut routes = Vec::new();
        for (ip, gateway) in self.addresses() {
            let link = Route::to_host(gateway).dev(pod_index).scope(Scope::Link);
            let rest = Route::default_of(Family::of(ip))
                .via(gateway)
                .dev(pod_index);
            routes.extend([link, rest]);
        }
        if self.route_mtu < self.device_mtu {
            routes.iter_mut().for_each(|r| r.mtu = Some(self.route_mtu));
        }
        routes
    }

    fn pair<'a>(&self, netns: BorrowedFd<'a>) -> NewLink<'a> {
        let mut peer = Peer::new(&self.pod_name)
            .in_netns(netns)
            .mtu(self.device_mtu);
        peer.mac = self.pod_mac;
        let netkit = |mode, peer| {
            // Without our program nothing gets out of the pod; with it the program decides.
            let (policy, peer_policy) = (NetkitPolicy::Forward, NetkitPolicy::Blackhole);
            LinkKind::Netkit {
                mode,
                policy,
                peer_policy,
                peer,
            }
        };
        let kind = match self.mode {
            DeviceMode::Veth => LinkKind::Veth(peer),
            DeviceMode::Netkit => netkit(NetkitMode::L3, peer),
            DeviceMode::NetkitL2 => netkit(NetkitMode::L2, peer),
        };
        let mut pair = NewLink::new(&self.host_name, kind).mtu(self.device_mtu);
        pair.mac = self.host_mac;
        pair
    }

    /// What is asked of the node's side; the first request makes the pair.
    pub fn host_requests(&self, netns: BorrowedFd<'_>) -> [Request; 4] {
        let change = |change: LinkChange| Request::link_change(&self.host_name, &change);
        [
            Request::link_create(&self.pair(netns)),
            change(LinkChange::new().rp_filter(0)),
            // Our programs answer for the node: a link-local address would only make noise.
            change(LinkChange::new().addr_gen_mode(AddrGenMode::None)),
            change(LinkChange::new().up()),
        ]
    }

    /// What is asked of the pod's side. Asking again changes nothing.
    pub fn pod_requests(&self, pod_index: u32) -> Vec<Request> {
        let mut requests = vec![Request::link_change(pod_index, &LinkChange::new().up())];
        requests.extend(
            self.addresses()
                .map(|(ip, _)| Request::address_replace(&Address::host(pod_index, ip))),
        );
        requests.extend(self.routes(pod_index).iter().map(Request::route_replace));
        requests
    }

    /// Makes the pair and sets both sides up; on failure nothing is left. An interface that is there already stays as it is.
    pub fn create(&self, node: &mut Handle, pod: &Netns) -> Result<Attached, CniError> {
        let mut results = node.batch(&self.host_requests(pod.as_fd()))?.into_iter();
        if let Some(Err(refused)) = results.next() {
            return Err(self.explain(node, refused));
        }
        // A kernel without IPv6 has no link-local addresses to switch off.
        let rest = results
            .filter(|r| !r.as_ref().is_err_and(netlink::Error::is_unsupported))
            .collect();
        self.finish(node, pod, rest)
            .map_err(|e| match remove(node, &self.host_name) {
                Ok(()) => e,
                Err(more) => e.and(more),
            })
    }

    fn finish(
        &self,
        node: &mut Handle,
        pod: &Netns,
        host: netlink::Result<()>,
    ) -> Result<Attached, CniError> {
        host?;
        let host = node.link(&self.host_name)?;
        let pod_index = host.peer.ok_or_else(|| {
            CniError::new(code::FAILED, format!("{} has no peer", self.host_name))
        })?;
        self.set_pod_up(pod, pod_index)?;
        Ok(Attached {
            host_index: host.index,
            pod_index,
        })
    }

    fn set_pod_up(&self, pod: &Netns, pod_index: u32) -> Result<(), CniError> {
        let requests = self.pod_requests(pod_index);
        let mut inside = netns::visit(pod, Handle::new)??;
        match inside.batch_all(&requests) {
            // Some runtimes switch IPv6 off in new namespaces.
            Err(e) if e.errno() == Some(Errno::EACCES) && self.v6.is_some() => {
                let name = format!("net/ipv6/conf/{}/disable_ipv6", self.pod_name);
                netns::visit(pod, || sysctl::write(&name, "0"))??;
                Ok(inside.batch_all(&requests)?)
            }
            other => Ok(other?),
        }
    }

    /// The kernel says only that a name is taken; say which.
    fn explain(&self, node: &mut Handle, refused: netlink::Error) -> CniError {
        if !refused.is_exists() {
            return refused.into();
        }
        let taken = match node.find_link(&self.host_name) {
            Ok(Some(_)) => format!("host interface {}", self.host_name),
            _ => format!("interface {} in the pod", self.pod_name),
        };
        CniError::new(
            code::EXISTS,
            format!("the attachment exists already: {taken} is there"),
        )
        .details("run DEL first")
    }
}

/// Removes the pair by its host side; content when it is not there.
pub(crate) fn remove(node: &mut Handle, host_name: &str) -> Result<(), netlink::Error> {
    node.link_delete_if_exists(host_name)
}
