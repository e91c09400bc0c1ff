//! What the machine has: devices, addresses, memory.
use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use model::{Device, Mac};
use netlink::{Handle, RouteFilter};
use runtime::settings::Settings;
use std::{collections::BTreeMap, fs, net::IpAddr};

/// Names of devices that are ours or never join a node to its network.
const NOT_DEVICES: [&str; 5] = ["lo", "lxc", "cilium_", "docker", "veth"];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Devices that the datapath works on.
    pub devices: Vec<Device>,
    /// Every address of the node but those of the loopback and of our own devices.
    pub addresses: Vec<IpAddr>,
}

/// Looks at devices and addresses, and chooses the devices.
///
/// # Errors
/// The kernel does not answer, or no device fits.
pub fn inspect(settings: &Settings) -> Result<Machine> {
    let mut handle = Handle::new().context("opening a netlink socket")?;
    let links = handle.links().context("listing devices")?;
    let addresses = handle.addresses(None).context("listing addresses")?;
    let routes = handle
        .routes(&RouteFilter::main())
        .context("listing routes")?;
    let mut by_device: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for address in &addresses {
        if let Ok(net) = IpNet::new(address.ip, address.prefix_len) {
            by_device.entry(address.index).or_default().push(net);
        }
    }
    let leads_out = |index: u32| {
        routes
            .iter()
            .any(|route| route.dst.1 == 0 && route.dev == Some(index))
    };
    let all: Vec<Device> = links
        .iter()
        .map(|link| Device {
            name: link.name.clone(),
            ifindex: link.index,
            mac: Mac(link.mac.map(|mac| mac.0).unwrap_or_default()),
            mtu: link.mtu,
            addresses: by_device.get(&link.index).cloned().unwrap_or_default(),
            default_route: leads_out(link.index),
        })
        .collect();
    let ours = |name: &str| name == "lo" || name.starts_with("cilium_") || name.starts_with("lxc");
    let own = all
        .iter()
        .filter(|device| !ours(&device.name))
        .flat_map(|device| &device.addresses);
    let addresses = own
        .map(IpNet::addr)
        .filter(|ip| !is_link_local(*ip))
        .collect();
    Ok(Machine {
        devices: choose(all, &settings.devices)?,
        addresses,
    })
}

/// The devices that the settings name; without any, those of the default routes; without such, those with addresses.
fn choose(all: Vec<Device>, wanted: &[String]) -> Result<Vec<Device>> {
    let names: Vec<String> = all.iter().map(|device| device.name.clone()).collect();
    let fits = |device: &Device| wanted.iter().any(|pattern| matches(pattern, &device.name));
    let candidate = |device: &Device| {
        !NOT_DEVICES
            .iter()
            .any(|prefix| device.name.starts_with(prefix))
            && !device.addresses.is_empty()
    };
    let chosen: Vec<Device> = if !wanted.is_empty() {
        all.into_iter().filter(fits).collect()
    } else if all.iter().any(|device| device.default_route) {
        all.into_iter()
            .filter(|device| device.default_route)
            .collect()
    } else {
        all.into_iter().filter(candidate).collect()
    };
    if chosen.is_empty() && wanted.is_empty() {
        bail!(
            "no device has a default route or an address; name the node's devices with `devices` (there are {})",
            names.join(", ")
        );
    }
    if chosen.is_empty() {
        bail!(
            "devices={} fits none of the node's devices ({})",
            wanted.join(","),
            names.join(", ")
        );
    }
    Ok(chosen)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

/// An address as it stands in the kernel's maps.
#[must_use]
pub fn abi_address(family: u8, bytes: [u8; 16]) -> IpAddr {
    match (family, bytes) {
        (abi::family::V4, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
        (_, bytes) => IpAddr::from(bytes),
    }
}

/// Bytes of memory that the machine has; a gigabyte if it does not tell.
#[must_use]
pub fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.map_or(1 << 30, |kib| kib * 1024)
}

/// Bytes of memory that this process uses.
#[must_use]
pub fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}

/// Release of the running kernel.
#[must_use]
pub fn kernel() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The node's name where the settings have none: the host name.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, default_route: bool, address: bool) -> Device {
        let addresses = if address {
            vec!["192.0.2.1/24".parse().unwrap()]
        } else {
            Vec::new()
        };
        Device {
            name: name.to_owned(),
            default_route,
            addresses,
            ..Device::default()
        }
    }

    fn chosen(all: &[Device], wanted: &[&str]) -> Result<Vec<String>> {
        let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        Ok(choose(all.to_vec(), &wanted)?
            .into_iter()
            .map(|device| device.name)
            .collect())
    }

    #[test]
    fn devices_are_chosen_by_name_then_default_route_then_address() {
        let all = [
            device("lo", false, true),
            device("eth0", true, true),
            device("eth1", false, true),
            device("lxc1", false, true),
        ];
        assert_eq!(chosen(&all, &[]).unwrap(), ["eth0"]);
        assert_eq!(chosen(&all, &["eth+"]).unwrap(), ["eth0", "eth1"]);
        assert_eq!(chosen(&all[2..], &[]).unwrap(), ["eth1"]);
        assert!(
            chosen(&all, &["ens1"])
                .unwrap_err()
                .to_string()
                .contains("devices=ens1")
        );
        assert!(chosen(&all[..1], &[]).is_err());
    }
}
