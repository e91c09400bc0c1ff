//! Giving services addresses and node ports that nobody else has.
//!
//! What is taken is read from the services themselves each time: nothing can leak, and nothing has to be given back.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::super::kind::Networks;
use super::super::validate::FieldErrors;

/// What other services have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Taken {
    /// Adds addresses that are somebody's whether there is a service with them or not.
    pub(super) fn reserve(&mut self, addresses: Vec<IpAddr>) {
        self.addresses.extend(addresses);
    }

    /// Adds what a service has.
    pub(super) fn add(&mut self, service: &Value) {
        let spec = &service["spec"];
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
        self.addresses
            .extend(addresses.filter_map(|a| a.as_str()?.parse::<IpAddr>().ok()));
        let ports = spec["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| &p["nodePort"]);
        let ports = ports.chain([&spec["healthCheckNodePort"]]);
        self.ports.extend(ports.filter_map(port_number));
    }
}

fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn family_of(cidr: &IpNet) -> &'static str {
    family(&cidr.addr())
}

fn texts(spec: &Map<String, Value>, field: &str) -> Vec<String> {
    let list = spec
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Settles families and cluster addresses of a service.
pub(super) fn addresses(
    spec: &mut Map<String, Value>,
    old: Option<&Value>,
    networks: &Networks,
    taken: &Taken,
    errors: &mut FieldErrors,
) {
    if spec.get("type").is_some_and(|t| t == "ExternalName") {
        return;
    }
    let given = texts(spec, "clusterIPs");
    let headless = given.first().is_some_and(|a| a == "None");
    let Some(families) = families(spec, &given, headless, networks, errors) else {
        return;
    };
    spec.insert("ipFamilies".to_owned(), json!(families));
    if headless {
        return;
    }
    let had = old
        .map(|o| o["spec"]["clusterIPs"].clone())
        .unwrap_or_default();
    let mut result: Vec<String> = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let Some(cidr) = networks
            .service_cidrs
            .iter()
            .find(|c| family_of(c) == *family)
        else {
            continue;
        };
        match given.get(i).and_then(|a| a.parse::<IpAddr>().ok()) {
            // What the service has already it may keep, wherever it comes from.
            Some(address) if had.get(i).is_some_and(|a| *a == address.to_string()) => {
                result.push(address.to_string())
            }
            Some(address) => match refuse(address, cidr, taken) {
                None => result.push(address.to_string()),
                Some(why) => {
                    errors.invalid(
                        "spec.clusterIPs",
                        &json!(given),
                        &format!("failed to allocate IP {address}: {why}"),
                    );
                    return;
                }
            },
            None => match free_address(cidr, &taken.addresses) {
                Some(address) => result.push(address.to_string()),
                None => {
                    let why = format!("failed to allocate a serviceIP: the range {cidr} is full");
                    errors.invalid("spec.clusterIPs", &json!(given), &why);
                    return;
                }
            },
        }
    }
    if let Some(first) = result.first() {
        spec.insert("clusterIP".to_owned(), json!(first));
        spec.insert("clusterIPs".to_owned(), json!(result));
    }
}

fn refuse(address: IpAddr, cidr: &IpNet, taken: &Taken) -> Option<String> {
    if !cidr.contains(&address) || address == cidr.network() {
        return Some(format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is {cidr}"
        ));
    }
    taken
        .addresses
        .contains(&address)
        .then(|| "provided IP is already allocated".to_owned())
}

/// Which families a service has; writes the policy.
fn families(
    spec: &mut Map<String, Value>,
    given: &[String],
    headless: bool,
    networks: &Networks,
    errors: &mut FieldErrors,
) -> Option<Vec<&'static str>> {
    let mut served: Vec<&'static str> = networks.service_cidrs.iter().map(family_of).collect();
    served.dedup();
    let wanted = texts(spec, "ipFamilies");
    let mut families: Vec<&'static str> = Vec::new();
    for (i, name) in wanted.iter().enumerate() {
        match served.iter().find(|f| *f == name) {
            Some(family) => families.push(family),
            None => {
                errors.invalid(
                    format!("spec.ipFamilies[{i}]"),
                    &json!(name),
                    "not configured on this cluster",
                );
                return None;
            }
        }
    }
    let of_addresses = given
        .iter()
        .filter_map(|a| a.parse::<IpAddr>().ok())
        .map(|a| family(&a));
    for (i, family) in of_addresses.enumerate() {
        match families.get(i) {
            None => families.push(family),
            Some(other) if *other != family => {
                let why = format!("expected an {other} value as indicated by `ipFamilies[{i}]`");
                errors.invalid(format!("spec.clusterIPs[{i}]"), &json!(given), &why);
                return None;
            }
            Some(_) => {}
        }
    }
    let unselective = headless
        && spec
            .get("selector")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty);
    if !spec.contains_key("ipFamilyPolicy") {
        let dual = families.len() > 1 || (unselective && served.len() > 1 && wanted.is_empty());
        spec.insert(
            "ipFamilyPolicy".to_owned(),
            json!(if dual {
                "RequireDualStack"
            } else {
                "SingleStack"
            }),
        );
    }
    if families.is_empty() {
        families.extend(served.first());
    }
    let policy = spec
        .get("ipFamilyPolicy")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if policy == "RequireDualStack" && served.len() < 2 && !unselective {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid("spec.ipFamilyPolicy", &json!(policy), why);
        return None;
    }
    if policy != "SingleStack" {
        for family in served {
            if !families.contains(&family) {
                families.push(family);
            }
        }
    } else {
        families.truncate(1);
    }
    Some(families)
}

/// How many addresses at the start of a range are for those who ask for one.
const RESERVED: u128 = 256;

fn free_address(cidr: &IpNet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    let at = |offset: u128| match cidr.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).ok()?;
            Some(IpAddr::from(
                u32::from(base).checked_add(offset)?.to_be_bytes(),
            ))
        }
        IpAddr::V6(base) => Some(IpAddr::from(
            u128::from(base).checked_add(offset)?.to_be_bytes(),
        )),
    };
    // The last address of an IPv4 range is for broadcasts; the first of any names the range.
    let end = size - u128::from(cidr.addr().is_ipv4() && size > 2);
    let first = if size > 4 * RESERVED { RESERVED } else { 1 };
    let start = first
        + u128::from(RandomState::new().hash_one(taken.len())) % end.saturating_sub(first).max(1);
    // Never more steps than there are taken addresses before a free one.
    let steps = (taken.len() as u128).saturating_add(2).min(end);
    let upper =
        (0..steps).map(|step| first + (start - first + step) % end.saturating_sub(first).max(1));
    let lower = (1..first).take(taken.len() + 2);
    upper
        .chain(lower)
        .filter(|o| *o < end)
        .filter_map(at)
        .find(|address| !taken.contains(address))
}

/// Settles the node ports of a service: `wanted`, and whether it needs one for health checks.
pub(super) fn node_ports(
    spec: &mut Map<String, Value>,
    (wanted, health): (bool, bool),
    range: &RangeInclusive<u16>,
    taken: &mut Taken,
    errors: &mut FieldErrors,
) {
    let check = |number: u16, taken: &Taken| {
        if !range.contains(&number) {
            let (first, last) = (range.start(), range.end());
            return Some(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        }
        taken
            .ports
            .contains(&number)
            .then(|| "provided port is already allocated".to_owned())
    };
    let mut own: Vec<(Value, u16)> = Vec::new();
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    let ports: Vec<&mut Value> = ports.into_iter().flatten().collect();
    for (i, port) in ports.iter().enumerate() {
        let Some(number) = port_number(&port["nodePort"]) else {
            continue;
        };
        let field = format!("spec.ports[{i}].nodePort");
        let twice = own
            .iter()
            .any(|(p, n)| *n == number && *p == port["protocol"]);
        let why = check(number, taken)
            .or_else(|| twice.then(|| "provided port is already allocated".to_owned()));
        if let Some(why) = why {
            errors.invalid(field, &port["nodePort"], &why);
            return;
        }
        own.push((port["protocol"].clone(), number));
    }
    taken.ports.extend(own.iter().map(|(_, number)| *number));
    let mut given: Vec<(Value, Value, u16)> = ports
        .iter()
        .filter_map(|p| {
            Some((
                p["port"].clone(),
                p["protocol"].clone(),
                port_number(&p["nodePort"])?,
            ))
        })
        .collect();
    for port in ports.into_iter().filter(|_| wanted) {
        if port_number(&port["nodePort"]).is_some() {
            continue;
        }
        // One number for one port of several protocols.
        let shared = given
            .iter()
            .find(|(n, protocol, _)| *n == port["port"] && *protocol != port["protocol"]);
        let Some(number) = shared
            .map(|(_, _, number)| *number)
            .or_else(|| free_port(range, &taken.ports))
        else {
            errors.invalid(
                "spec.ports",
                &Value::Null,
                "failed to allocate a nodePort: the range is full",
            );
            return;
        };
        taken.ports.insert(number);
        given.push((port["port"].clone(), port["protocol"].clone(), number));
        port["nodePort"] = json!(number);
    }
    match spec.get("healthCheckNodePort").and_then(port_number) {
        Some(number) => {
            if let Some(why) = check(number, taken) {
                errors.invalid("spec.healthCheckNodePort", &json!(number), &why);
            }
        }
        None if health => {
            if let Some(number) = free_port(range, &taken.ports) {
                spec.insert("healthCheckNodePort".to_owned(), json!(number));
            }
        }
        None => {}
    }
}

fn free_port(range: &RangeInclusive<u16>, taken: &BTreeSet<u16>) -> Option<u16> {
    let size = u64::from(range.end().saturating_sub(*range.start())) + 1;
    let start = RandomState::new().hash_one(taken.len()) % size;
    let port = |step: u64| u16::try_from(u64::from(*range.start()) + (start + step) % size).ok();
    (0..size)
        .filter_map(port)
        .find(|port| !taken.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Until a range is full there is always an address, and it is always a free one of the range.
        #[test]
        fn addresses_are_given_until_there_are_none(prefix in 24u8..=30) {
            let cidr: IpNet = format!("10.0.0.0/{prefix}").parse().unwrap();
            let mut taken = BTreeSet::new();
            let hosts = (1_usize << (32 - prefix)) - 2;
            for _ in 0..hosts {
                let address = free_address(&cidr, &taken).unwrap();
                prop_assert!(cidr.contains(&address) && taken.insert(address));
            }
            prop_assert_eq!(free_address(&cidr, &taken), None);
        }
    }

    #[test]
    fn large_ranges_leave_their_start_to_those_who_ask() {
        let cidr: IpNet = "fd00:96::/112".parse().unwrap();
        let mut taken = BTreeSet::new();
        for _ in 0..50 {
            let address = free_address(&cidr, &taken).unwrap();
            assert!(
                address >= "fd00:96::100".parse::<IpAddr>().unwrap() && cidr.contains(&address)
            );
            taken.insert(address);
        }
    }

    #[test]
    fn ports_are_given_until_there_are_none() {
        let mut taken = BTreeSet::new();
        while let Some(port) = free_port(&(30_000..=30_009), &taken) {
            assert!((30_000..=30_009).contains(&port) && taken.insert(port));
        }
        assert_eq!(taken.len(), 10);
    }
}
