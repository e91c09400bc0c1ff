//! `EndpointSlice` and `Endpoints`: defaults, and addresses that something can be reached at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::kind::Strategy;
use super::super::object::set_default;
use super::super::validate::{FieldErrors, check_dns_label, check_dns_subdomain};
use super::others::{field_is_fixed, objects};

/// Endpoints of a slice, addresses of an endpoint, ports of a slice, zones of a hint: no slice has more.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_ZONES: usize = 8;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn list<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    of[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn defaults(&self, object: &mut Value) {
        for subset in object
            .get_mut("subsets")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            objects(subset, "ports").for_each(|port| set_default(port, "protocol", "TCP"));
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        for (i, subset) in list(object, "subsets").iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                for (j, entry) in list(subset, field).iter().enumerate() {
                    let place = format!("subsets[{i}].{field}[{j}].ip");
                    reachable(&entry["ip"], None, place, errors);
                }
            }
            ports(subset, &format!("subsets[{i}]."), errors);
        }
    }
}

pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn defaults(&self, object: &mut Value) {
        for port in objects(object, "ports") {
            set_default(port, "protocol", "TCP");
            set_default(port, "name", "");
        }
        if let Some(map) = object.as_object_mut() {
            set_default(map, "endpoints", json!([]));
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let kind = &object["addressType"];
        match kind.as_str() {
            None | Some("") => errors.required("addressType", ""),
            Some("IPv4" | "IPv6" | "FQDN") => {}
            Some(_) => errors.unsupported("addressType", kind, &["FQDN", "IPv4", "IPv6"]),
        }
        let endpoints = list(object, "endpoints");
        if endpoints.len() > MAX_ENDPOINTS {
            errors.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(endpoint, kind, &format!("endpoints[{i}]"), errors);
        }
        ports(object, "", errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        field_is_fixed(new, old, "addressType", errors);
    }
}

fn validate_endpoint(endpoint: &Value, kind: &Value, place: &str, errors: &mut FieldErrors) {
    let addresses = list(endpoint, "addresses");
    let at = format!("{place}.addresses");
    match addresses.len() {
        0 => errors.required(at.clone(), "must contain at least 1 address"),
        count if count > MAX_ADDRESSES => errors.too_many(at.clone(), count, MAX_ADDRESSES),
        _ => {}
    }
    for (i, address) in addresses.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match kind.as_str() {
            Some("IPv4") => reachable(address, Some(false), at, errors),
            Some("IPv6") => reachable(address, Some(true), at, errors),
            Some("FQDN") => {
                let name = address.as_str().unwrap_or_default();
                if let Err(why) = check_dns_subdomain(name.trim_end_matches('.')) {
                    errors.invalid(at, address, why);
                }
            }
            _ => {}
        }
    }
    if let Some(Err(why)) = endpoint["nodeName"].as_str().map(check_dns_subdomain) {
        errors.invalid(format!("{place}.nodeName"), &endpoint["nodeName"], why);
    }
    let zones = list(&endpoint["hints"], "forZones").len();
    if zones > MAX_ZONES {
        errors.too_many(format!("{place}.hints.forZones"), zones, MAX_ZONES);
    }
}

/// An address of the family, and one that other machines may have.
fn reachable(value: &Value, ipv6: Option<bool>, place: String, errors: &mut FieldErrors) {
    let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let wanted = match ipv6 {
        None => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        Some(false) => "must be a valid IPv4 address",
        Some(true) => "must be a valid IPv6 address",
    };
    match address {
        Some(address) if ipv6.is_none_or(|ipv6| ipv6 == is_ipv6(address)) => {
            if let Some(why) = special(address) {
                errors.invalid(place, value, why);
            }
        }
        _ => errors.invalid(place, value, wanted),
    }
}

/// An IPv4 address in the clothes of IPv6 is none.
fn is_ipv6(address: IpAddr) -> bool {
    address.is_ipv6() && address.to_canonical().is_ipv6()
}

/// Why nobody else can have the address.
fn special(address: IpAddr) -> Option<&'static str> {
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    Some(match () {
        () if address.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        () if address.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        () if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        () if link_multicast => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        () => return None,
    })
}

fn ports(of: &Value, place: &str, errors: &mut FieldErrors) {
    let ports = list(of, "ports");
    if ports.len() > MAX_PORTS {
        errors.too_many(format!("{place}ports"), ports.len(), MAX_PORTS);
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("{place}ports[{i}].{field}");
        let name = port["name"].as_str().unwrap_or_default();
        if !names.insert(name) {
            errors.duplicate(at("name"), &port["name"]);
        }
        if let (false, Err(why)) = (name.is_empty(), check_dns_label(name)) {
            errors.invalid(at("name"), &port["name"], why);
        }
        if !port["protocol"]
            .as_str()
            .is_some_and(|protocol| PROTOCOLS.contains(&protocol))
        {
            errors.unsupported(at("protocol"), &port["protocol"], &PROTOCOLS);
        }
        let number = &port["port"];
        if !number.is_null() && !number.as_u64().is_some_and(|n| (1..=65535).contains(&n)) {
            let why = "must be between 1 and 65535, inclusive";
            errors.invalid(at("port"), number, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(slice: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        EndpointSlice.validate(slice, &mut errors);
        errors.take().into_iter().map(|cause| cause.field).collect()
    }

    fn slice(kind: &str, addresses: &[&str]) -> Value {
        json!({
            "addressType": kind,
            "endpoints": [{"addresses": addresses}],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        })
    }

    #[test]
    fn addresses_are_of_the_kind_and_reachable() {
        for (kind, good) in [
            ("IPv4", "10.0.0.1"),
            ("IPv6", "fd00::1"),
            ("FQDN", "db.example.com"),
        ] {
            assert_eq!(faults(&slice(kind, &[good])), [""; 0], "{kind} {good}");
        }
        for (kind, bad) in [
            ("IPv4", "fd00::1"),
            ("IPv4", "10.0.0"),
            ("IPv4", "127.0.0.1"),
            ("IPv4", "0.0.0.0"),
            ("IPv4", "169.254.1.1"),
            ("IPv4", "224.0.0.5"),
            ("IPv6", "10.0.0.1"),
            ("IPv6", "::1"),
            ("IPv6", "::"),
            ("IPv6", "fe80::1"),
            ("IPv6", "ff02::1"),
            ("IPv6", "::ffff:10.0.0.1"),
            ("FQDN", "not a name"),
        ] {
            let found = faults(&slice(kind, &[bad]));
            assert_eq!(found, ["endpoints[0].addresses[0]"], "{kind} {bad}");
        }
        assert_eq!(faults(&slice("IPv4", &[])), ["endpoints[0].addresses"]);
        assert_eq!(faults(&slice("IPv5", &["x"])), ["addressType"]);
    }

    #[test]
    fn ports_have_names_of_their_own_and_numbers_that_exist() {
        let with = |ports: Value| {
            let mut slice = slice("IPv4", &["10.0.0.1"]);
            slice["ports"] = ports;
            faults(&slice)
        };
        let port = |name: &str, protocol: &str, number: Value| json!({"name": name, "protocol": protocol, "port": number});
        assert_eq!(
            with(json!([
                port("a", "TCP", json!(1)),
                port("a", "UDP", json!(2))
            ])),
            ["ports[1].name"]
        );
        assert_eq!(
            with(json!([port("", "ICMP", json!(65_536))])),
            ["ports[0].protocol", "ports[0].port"]
        );
        assert_eq!(
            with(json!([port("A b", "TCP", Value::Null)])),
            ["ports[0].name"]
        );
    }
}
