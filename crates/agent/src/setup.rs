//! The kernel's side of a node: devices, sysctls, programs, and the rows that must be there before the first packet.
use crate::{
    machine,
    plan::{attach_mode, map_sizes},
    policy::HOST_SUBJECT,
    targets::kernel_route,
};
use anyhow::{Context, Result};
use datapath::{
    Datapath, Object, OpenOptions, OpenReport,
    devices::{self, Families, HostDevices, TunnelKind},
    proxy::{self, ProxyLink, ProxyNetns},
};
use model::{Endpoint, LocalNode, Mac, RouteOrigin};
use netlink::Handle;
use routing::{Encapsulation, HostPair, Mtus, Plan};
use runtime::settings::{Settings, Value};
use std::{net::IpAddr, sync::Arc};

/// What [`datapath`] made.
#[derive(Debug)]
pub struct Kernel {
    /// The datapath, attached to the node's devices.
    pub datapath: Arc<Datapath>,
    /// What opening it did.
    pub report: OpenReport,
    /// Packet sizes.
    pub mtus: Mtus,
    /// Our devices.
    pub pair: HostPair,
}

/// Number of the node's own endpoint.
const HOST_ENDPOINT: u16 = 1;

/// Makes devices, loads or adopts the programs, and attaches them to the node's devices. `endpoints` are written before the
/// new programs run if the kernel's map of them was lost.
///
/// # Errors
/// The kernel refuses; what ran before goes on.
pub fn datapath(
    settings: &Settings,
    plan: &Plan,
    local: &LocalNode,
    endpoints: &[Endpoint],
    mut proxy: Option<&mut ProxyNetns>,
) -> Result<Kernel> {
    let mtus = routing::mtus(plan, local);
    let mut handle = Handle::new().context("opening a netlink socket")?;
    let pair = make_devices(&mut handle, plan, local, mtus)?;
    let link = proxy_link(&mut handle, proxy.as_deref_mut(), mtus)?;
    let names: Vec<&str> = local
        .devices
        .iter()
        .map(|device| device.name.as_str())
        .chain([routing::HOST_DEVICE])
        .chain(link.map(|_| proxy::DEVICE))
        .collect();
    let families = Families {
        ipv4: plan.ipv4,
        ipv6: plan.ipv6,
    };
    let changed = devices::ensure_sysctls(families, &names).context("setting kernel parameters")?;
    if !changed.is_empty() {
        tracing::info!(parameters = changed.join(" "), "kernel parameters set");
    }
    let config = abi::DatapathConfig {
        host_firewall: settings.enable_host_firewall.into(),
        bind_protection: settings.node_port_bind_protection.into(),
        proxy_ifindex: link.map_or(0, |link| link.ifindex),
        proxy_mac: link.map_or([0; 6], |link| link.mac),
        proxy_node_mac: link.map_or([0; 6], |link| link.node_mac),
        ..routing::datapath_config(plan, local, &pair)
    };
    let options = OpenOptions {
        bpffs: settings.bpf_root.clone().into(),
        config: crate::services::settings::config(settings, host_netns(), config),
        sizes: map_sizes(settings, machine::memory()),
        attach: attach_mode(settings),
        object: object(settings)?,
    };
    let (mut opened, mut report) = Datapath::prepare(&options).context("opening the datapath")?;
    if settings.enable_host_firewall {
        let rows = opened.policy()?;
        crate::policy::open_host(&rows).context("opening the host's policy")?;
    }
    write_addresses(&opened, settings, local, &pair)?;
    if report
        .emptied()
        .any(|map| map == abi::names::LXC || map == abi::names::LXC_IFINDEX)
    {
        let maps = opened.endpoints()?;
        endpoints
            .iter()
            .try_for_each(|endpoint| maps.upsert(&endpoint.abi_local()))
            .context("filling the endpoint map")?;
    }
    report.replaced = opened.activate().context("putting the programs in place")?;
    if let Some((netns, link)) = proxy.zip(link) {
        opened
            .attach_proxy(netns, &link)
            .with_context(|| format!("attaching to {}", proxy::DEVICE))?;
    }
    attach(&opened, plan, local, &pair, link.is_some())?;
    accelerate(&opened, settings, local)?;
    if settings.enable_host_firewall {
        know_older_connections(&opened, options.config.ct_tcp);
    }
    router_routes(&mut handle, plan, local, &pair)?;
    Ok(Kernel {
        datapath: Arc::new(opened),
        report,
        mtus,
        pair,
    })
}

/// The node's connections from before its firewall go on as what they are. Where that cannot be had, they may be taken for incoming.
fn know_older_connections(datapath: &Datapath, lifetime: u32) {
    let adopted = datapath
        .conntrack()
        .map_err(anyhow::Error::from)
        .and_then(|conntrack| crate::policy::adopt_older(&conntrack, lifetime));
    match adopted {
        Ok(0) => {}
        Ok(connections) => {
            tracing::info!(connections, "the node's connections from before are known")
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "who opened the node's connections from before is not known"
            );
        }
    }
}

fn make_devices(
    handle: &mut Handle,
    plan: &Plan,
    local: &LocalNode,
    mtus: Mtus,
) -> Result<HostPair> {
    let addresses: Vec<IpAddr> = [local.router(false), local.router(true)]
        .into_iter()
        .flatten()
        .collect();
    let wanted = HostDevices {
        addresses,
        mtu: mtus.device,
    };
    let host =
        devices::ensure_host(handle, &wanted).context("making cilium_host and cilium_net")?;
    let tunnel_ifindex = match plan.tunnel {
        Some((encapsulation, port)) => {
            let kind = match encapsulation {
                Encapsulation::Vxlan => TunnelKind::Vxlan,
                Encapsulation::Geneve => TunnelKind::Geneve,
            };
            devices::ensure_tunnel(handle, kind, port, mtus.device).with_context(|| {
                format!(
                    "making {} (tunnel-protocol={})",
                    encapsulation.device(),
                    encapsulation.text()
                )
            })?
        }
        None => {
            devices::remove_tunnels(handle).context("removing tunnel devices")?;
            0
        }
    };
    Ok(HostPair {
        host_ifindex: host.host_ifindex,
        host_mac: Mac(host.host_mac),
        net_mac: Mac(host.net_mac),
        tunnel_ifindex,
    })
}

/// The way to the proxy, if there is one; else what is left of it goes.
fn proxy_link(
    handle: &mut Handle,
    netns: Option<&mut ProxyNetns>,
    mtus: Mtus,
) -> Result<Option<ProxyLink>> {
    match netns {
        Some(netns) => netns
            .ensure_link(handle, mtus.device)
            .map(Some)
            .with_context(|| format!("making {}", proxy::DEVICE)),
        None => {
            proxy::remove_link(handle).with_context(|| format!("removing {}", proxy::DEVICE))?;
            Ok(None)
        }
    }
}

/// Number of the node's own network namespace; zero where the kernel does not tell.
fn host_netns() -> u64 {
    datapath::netns_cookie().ok().flatten().unwrap_or_default()
}

/// The programs: those built in, unless a file is named.
fn object(settings: &Settings) -> Result<Object> {
    if settings.bpf_object.is_empty() {
        return Ok(Object::embedded());
    }
    let bytes = std::fs::read(&settings.bpf_object)
        .with_context(|| format!("bpf-object={} cannot be read", settings.bpf_object))?;
    Ok(Object::from_bytes(bytes))
}

/// The node's own addresses in the endpoint map; those that it no longer has are removed.
///
/// # Errors
/// The map is full or the kernel refuses.
pub fn write_addresses(
    datapath: &Datapath,
    settings: &Settings,
    local: &LocalNode,
    pair: &HostPair,
) -> Result<()> {
    let maps = datapath.endpoints()?;
    let firewall = settings.enable_host_firewall;
    let audit = local.policy_audit.unwrap_or(settings.policy_audit_mode) && firewall;
    let audit = u16::from(audit) * abi::endpoint_flags::POLICY_AUDIT;
    let info = abi::EndpointInfo {
        ifindex: pair.host_ifindex,
        sec_id: abi::identity::HOST,
        id: HOST_ENDPOINT,
        flags: abi::endpoint_flags::HOST | audit,
        mac: pair.host_mac.0,
        node_mac: pair.net_mac.0,
        subject: if firewall { HOST_SUBJECT } else { 0 },
    };
    let wanted = host_keys(local);
    for key in &wanted {
        maps.upsert_address(key, &info)
            .context("writing the node's addresses")?;
    }
    for (key, found) in maps
        .dump_addresses()
        .context("listing the node's addresses")?
    {
        if found.flags & abi::endpoint_flags::HOST != 0 && !wanted.contains(&key) {
            maps.remove_address(&key)
                .context("removing an address that the node no longer has")?;
        }
    }
    Ok(())
}

/// Keys of the node's own addresses.
#[must_use]
pub fn host_keys(local: &LocalNode) -> Vec<abi::EndpointKey> {
    let routers = [local.router(false), local.router(true)]
        .into_iter()
        .flatten();
    let mut keys: Vec<abi::EndpointKey> = local
        .addresses
        .iter()
        .copied()
        .chain(routers)
        .map(|ip| match ip {
            IpAddr::V4(v4) => abi::EndpointKey::v4(v4.octets()),
            IpAddr::V6(v6) => abi::EndpointKey::v6(v6.octets()),
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn attach(
    datapath: &Datapath,
    plan: &Plan,
    local: &LocalNode,
    pair: &HostPair,
    has_proxy: bool,
) -> Result<()> {
    for device in &local.devices {
        datapath
            .attach_device(&device.name, device.ifindex)
            .with_context(|| format!("attaching to {}", device.name))?;
    }
    if let Some((encapsulation, _)) = plan.tunnel {
        datapath
            .attach_overlay(encapsulation.device(), pair.tunnel_ifindex)
            .context("attaching to the tunnel device")?;
    }
    datapath
        .attach_host(routing::HOST_DEVICE, pair.host_ifindex)
        .context("attaching to cilium_host")?;
    detach_former(datapath, plan, local, has_proxy)
}

/// Has services balanced in the drivers of the node's devices, if that is asked for. What was attached before and is no longer wanted was
/// taken off with the program.
fn accelerate(datapath: &Datapath, settings: &Settings, local: &LocalNode) -> Result<()> {
    let Some(how) = crate::services::settings::acceleration(settings) else {
        return Ok(());
    };
    let devices: Vec<(&str, u32)> = local
        .devices
        .iter()
        .map(|device| (device.name.as_str(), device.ifindex))
        .collect();
    datapath.accelerate(&devices, how).with_context(|| {
        format!(
            "bpf-lb-acceleration={}",
            settings.bpf_lb_acceleration.show()
        )
    })?;
    Ok(())
}

/// Takes the programs off devices that are no longer the node's.
fn detach_former(
    datapath: &Datapath,
    plan: &Plan,
    local: &LocalNode,
    has_proxy: bool,
) -> Result<()> {
    let ours = |name: &str| {
        name == routing::HOST_DEVICE
            || has_proxy && name == proxy::DEVICE
            || plan
                .tunnel
                .is_some_and(|(encapsulation, _)| name == encapsulation.device())
            || local.devices.iter().any(|device| device.name == name)
    };
    for attachment in datapath.attachments().context("listing attachments")? {
        if let datapath::Owner::Device(name) = &attachment.owner
            && !ours(name)
            && datapath
                .detach_device(name)
                .with_context(|| format!("detaching from {name}"))?
        {
            tracing::info!(
                device = name,
                "programs taken off a device that is no longer in use"
            );
        }
    }
    Ok(())
}

/// The routes to the router addresses, which the other routes need as their next hop.
fn router_routes(
    handle: &mut Handle,
    plan: &Plan,
    local: &LocalNode,
    pair: &HostPair,
) -> Result<()> {
    let planned = routing::own_routes(plan, local);
    for route in planned
        .iter()
        .filter(|route| route.origin == RouteOrigin::Router)
    {
        handle
            .route_replace(&kernel_route(route, pair.host_ifindex))
            .with_context(|| format!("adding the route to {}", route.destination))?;
    }
    Ok(())
}
