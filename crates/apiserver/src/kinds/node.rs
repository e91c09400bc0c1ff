//! `Node`.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::kind::Strategy;
use super::super::object::child_mut;
use super::super::validate::FieldErrors;

pub(super) struct NodeStrategy;

impl Strategy for NodeStrategy {
    /// `podCIDR` and the first of `podCIDRs` say the same.
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
        let single = spec.get("podCIDR").cloned();
        match (single, first) {
            (None, Some(first)) => drop(spec.insert("podCIDR".to_owned(), first)),
            (Some(single), None) => drop(spec.insert("podCIDRs".to_owned(), json!([single]))),
            _ => {}
        }
    }

    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        let cidrs = spec["podCIDRs"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (i, cidr) in cidrs.iter().enumerate() {
            if !cidr.as_str().is_some_and(is_cidr) {
                errors.invalid(
                    format!("spec.podCIDRs[{i}]"),
                    cidr,
                    "must be a CIDR (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                );
            }
        }
        if cidrs.first().is_some_and(|first| *first != spec["podCIDR"]) {
            errors.invalid(
                "spec.podCIDR",
                &spec["podCIDR"],
                "must be the first of spec.podCIDRs",
            );
        }
        let families: Vec<bool> = cidrs
            .iter()
            .filter_map(Value::as_str)
            .map(|c| c.contains(':'))
            .collect();
        if families.len() > 2 || matches!(families.as_slice(), [a, b] if a == b) {
            errors.invalid(
                "spec.podCIDRs",
                &spec["podCIDRs"],
                "may hold at most one CIDR of each IP family",
            );
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        for field in ["podCIDRs", "podCIDR", "providerID"] {
            let (before, after) = (&old["spec"][field], &new["spec"][field]);
            if !before.is_null() && before != after {
                errors.forbidden(
                    format!("spec.{field}"),
                    "may be set once and not changed or cleared afterwards",
                );
            }
        }
    }

    fn field_labels(&self) -> &[&str] {
        &["spec.unschedulable"]
    }

    fn absent_field(&self, _label: &str) -> &str {
        "false"
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    length
        .parse::<u8>()
        .is_ok_and(|n| n <= if address.is_ipv4() { 32 } else { 128 })
}
