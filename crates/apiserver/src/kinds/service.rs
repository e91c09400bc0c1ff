//! `Service`: defaults, validation, and its addresses and ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::super::kind::{Others, Strategy};
use super::super::object::{Key, child_mut, set_default};
use super::super::store::own::is_own_service;
use super::super::validate::{FieldErrors, check_dns_label, check_dns_subdomain};
use super::allocate::{self, Taken};
use super::podspec;

pub(super) struct ServiceStrategy;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn text<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a service of this type has ports on nodes.
fn has_node_ports(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

fn needs_health_port(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None"
}

impl Strategy for ServiceStrategy {
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        set_default(spec, "type", "ClusterIP");
        set_default(spec, "sessionAffinity", "None");
        if text(spec, "sessionAffinity") == "ClientIP" {
            set_default(
                spec,
                "sessionAffinityConfig",
                json!({ "clientIP": { "timeoutSeconds": 10_800 } }),
            );
        }
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(port) = port.as_object_mut() {
                set_default(port, "protocol", "TCP");
                let number = port.get("port").cloned().unwrap_or(Value::Null);
                let empty = |v: &Value| v == &json!("") || v == &json!(0);
                if port.get("targetPort").is_none_or(empty) && number.is_number() {
                    port.insert("targetPort".to_owned(), number);
                }
            }
        }
        if text(spec, "type") != "ExternalName" {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if text(spec, "type") == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        one_address_two_names(spec);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({ "loadBalancer": {} });
    }

    /// What the server gave stays, unless the new type has no use for it.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let before = &old["spec"];
        let (was_external, becomes_external) = (
            before["type"] == "ExternalName",
            new["spec"]["type"] == "ExternalName",
        );
        let ports = has_node_ports(&new["spec"]);
        let health = needs_health_port(&new["spec"]);
        let spec = child_mut(new, "spec");
        if becomes_external && !was_external {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(field) == before.get(field) {
                    spec.remove(field);
                }
            }
        } else if !was_external {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = before.get(field) {
                    set_default(spec, field, value.clone());
                }
            }
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if let Some(value) = before.get(field) {
                    set_default(spec, field, value.clone());
                }
            }
            one_address_two_names(spec);
        }
        keep_node_ports(spec, before, ports);
        if health {
            if let Some(port) = before.get("healthCheckNodePort") {
                set_default(spec, "healthCheckNodePort", port.clone());
            }
        } else if spec.get("healthCheckNodePort") == before.get("healthCheckNodePort") {
            spec.remove("healthCheckNodePort");
        }
        for (field, kept) in [
            ("externalTrafficPolicy", ports),
            (
                "allocateLoadBalancerNodePorts",
                spec["type"] == "LoadBalancer",
            ),
        ] {
            if !kept && spec.get(field) == before.get(field) {
                spec.remove(field);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        if !spec["type"].as_str().is_some_and(|t| TYPES.contains(&t)) {
            errors.unsupported("spec.type", &spec["type"], &TYPES);
        }
        if !matches!(spec["sessionAffinity"].as_str(), Some("None" | "ClientIP")) {
            errors.unsupported(
                "spec.sessionAffinity",
                &spec["sessionAffinity"],
                &["ClientIP", "None"],
            );
        }
        for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
            if !matches!(spec[field].as_str(), None | Some("Cluster" | "Local")) {
                errors.unsupported(format!("spec.{field}"), &spec[field], &["Cluster", "Local"]);
            }
        }
        if !spec["externalTrafficPolicy"].is_null()
            && !has_node_ports(spec)
            && spec["externalIPs"].is_null()
        {
            let why = "may only be set for externally-accessible services";
            errors.invalid(
                "spec.externalTrafficPolicy",
                &spec["externalTrafficPolicy"],
                why,
            );
        }
        if spec["type"] == "ExternalName" {
            match spec["externalName"].as_str().filter(|n| !n.is_empty()) {
                None => errors.required("spec.externalName", ""),
                Some(name) => {
                    if let Err(why) = check_dns_subdomain(name.trim_end_matches('.')) {
                        errors.invalid("spec.externalName", &spec["externalName"], why);
                    }
                }
            }
            if spec["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty()) {
                errors.forbidden(
                    "spec.clusterIPs[0]",
                    "may not be set when `type` is 'ExternalName'",
                );
            }
        }
        if is_headless(spec) && has_node_ports(spec) {
            let why = format!(
                "may not be set to 'None' for {} services",
                spec["type"].as_str().unwrap_or_default()
            );
            errors.invalid("spec.clusterIPs[0]", &spec["clusterIP"], &why);
        }
        podspec::labels(&spec["selector"], "spec.selector", errors);
        validate_addresses(spec, errors);
        validate_ports(spec, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (before, after) = (&old["spec"], &new["spec"]);
        let kept = |spec: &Value| spec["type"] != "ExternalName" && !spec["clusterIP"].is_null();
        if kept(before) && kept(after) && before["clusterIP"] != after["clusterIP"] {
            errors.invalid(
                "spec.clusterIPs[0]",
                &after["clusterIPs"],
                "may not change once set",
            );
        }
    }

    fn settle(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        others: &dyn Others,
        errors: &mut FieldErrors,
    ) {
        let own = Key::of(new);
        let mut taken = Taken::default();
        if !is_own_service(&own) {
            taken.reserve(others.networks().own_addresses());
        }
        others.each("services", &mut |service| {
            if Key::of(service) != own {
                taken.add(service);
            }
        });
        allocate::addresses(
            child_mut(new, "spec"),
            old,
            others.networks(),
            &taken,
            errors,
        );
        let health = needs_health_port(&new["spec"]);
        let wanted =
            has_node_ports(&new["spec"]) && new["spec"]["allocateLoadBalancerNodePorts"] != false;
        allocate::node_ports(
            child_mut(new, "spec"),
            (wanted, health),
            &others.networks().node_ports,
            &mut taken,
            errors,
        );
    }

    fn field_labels(&self) -> &[&str] {
        &["spec.clusterIP", "spec.type"]
    }
}

/// `clusterIP` and the first of `clusterIPs` say the same.
fn one_address_two_names(spec: &mut Map<String, Value>) {
    let single = text(spec, "clusterIP").to_owned();
    let first = spec.get("clusterIPs").and_then(|list| list.get(0)).cloned();
    match (single.is_empty(), first) {
        (false, None) => drop(spec.insert("clusterIPs".to_owned(), json!([single]))),
        (true, Some(first)) => drop(spec.insert("clusterIP".to_owned(), first)),
        _ => {}
    }
}

/// Ports that are sent without their node port keep it; ports of a type without node ports lose it.
fn keep_node_ports(spec: &mut Map<String, Value>, before: &Value, wanted: bool) {
    let old = before["ports"].as_array().cloned().unwrap_or_default();
    let same = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let known = old
            .iter()
            .find(|p| same(p, port))
            .map(|p| p["nodePort"].clone());
        let Some(map) = port.as_object_mut() else {
            continue;
        };
        match known.filter(Value::is_number) {
            Some(number) if wanted => set_default(map, "nodePort", number),
            Some(number) if map.get("nodePort") == Some(&number) => drop(map.remove("nodePort")),
            _ => {}
        }
    }
}

fn validate_addresses(spec: &Value, errors: &mut FieldErrors) {
    let list = spec["clusterIPs"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if spec["clusterIP"].is_string() && list.first() != Some(&spec["clusterIP"]) {
        errors.invalid(
            "spec.clusterIPs",
            &spec["clusterIPs"],
            "first value must match `clusterIP`",
        );
    }
    for (i, address) in list.iter().enumerate() {
        let headless = address == "None" && i == 0 && list.len() == 1;
        if !headless
            && address
                .as_str()
                .is_none_or(|a| a.parse::<IpAddr>().is_err())
        {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("spec.clusterIPs[{i}]"), address, why);
        }
    }
    let families = spec["ipFamilies"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for (i, family) in families.iter().enumerate() {
        if !matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            errors.unsupported(format!("spec.ipFamilies[{i}]"), family, &["IPv4", "IPv6"]);
        }
        if families[..i].contains(family) {
            errors.duplicate(format!("spec.ipFamilies[{i}]"), family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if !spec["ipFamilyPolicy"].is_null()
        && !spec["ipFamilyPolicy"]
            .as_str()
            .is_some_and(|p| policies.contains(&p))
    {
        errors.unsupported("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], &policies);
    }
    if families.len() > 1 && spec["ipFamilyPolicy"] == "SingleStack" {
        let why = "when `ipFamilies` has more than one entry, must be 'RequireDualStack' or 'PreferDualStack'";
        errors.invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why);
    }
}

fn validate_ports(spec: &Value, errors: &mut FieldErrors) {
    let ports = spec["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && spec["type"] != "ExternalName" {
        errors.required("spec.ports", "");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let place = format!("spec.ports[{i}]");
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.required(format!("{place}.name"), "");
        } else if !name.is_empty() {
            if let Err(why) = check_dns_label(name) {
                errors.invalid(format!("{place}.name"), &port["name"], why);
            }
            if !names.insert(name) {
                errors.duplicate(format!("{place}.name"), &port["name"]);
            }
        }
        if !port["port"]
            .as_i64()
            .is_some_and(|n| (1..=65_535).contains(&n))
        {
            errors.invalid(
                format!("{place}.port"),
                &port["port"],
                "must be between 1 and 65535, inclusive",
            );
        }
        if let Some(target) = port["targetPort"]
            .as_i64()
            .filter(|n| !(1..=65_535).contains(n))
        {
            errors.invalid(
                format!("{place}.targetPort"),
                &json!(target),
                "must be between 1 and 65535, inclusive",
            );
        }
        if !matches!(port["protocol"].as_str(), Some("TCP" | "UDP" | "SCTP")) {
            errors.unsupported(
                format!("{place}.protocol"),
                &port["protocol"],
                &["SCTP", "TCP", "UDP"],
            );
        }
        if port["nodePort"].as_i64().is_some_and(|n| n != 0) && !has_node_ports(spec) {
            let why = format!(
                "may not be used when `type` is '{}'",
                spec["type"].as_str().unwrap_or_default()
            );
            errors.forbidden(format!("{place}.nodePort"), &why);
        }
        if !numbers.insert((port["port"].to_string(), port["protocol"].to_string())) {
            errors.duplicate(
                place,
                &json!({ "port": port["port"], "protocol": port["protocol"] }),
            );
        }
    }
}
