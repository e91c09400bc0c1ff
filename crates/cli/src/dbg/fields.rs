//! Reading the named parts of a decoded map row.
use std::net::{IpAddr, SocketAddr};

use api::MapRow;
use serde_json::Value;

/// The parts of one row, found by any of several names; `sec_id`, `secId` and `sec-id` are the same name.
pub struct Fields<'a>(&'a MapRow);

impl<'a> Fields<'a> {
    /// The parts of `row`.
    #[must_use]
    pub fn of(row: &'a MapRow) -> Self {
        Self(row)
    }

    fn value(&self, names: &[&str]) -> Option<&'a Value> {
        let fields = &self.0.fields;
        names.iter().find_map(|name| {
            fields
                .iter()
                .find(|(key, _)| same_name(key, name))
                .map(|(_, value)| value)
        })
    }

    /// A number, also if it is written as text.
    #[must_use]
    pub fn number(&self, names: &[&str]) -> Option<u64> {
        match self.value(names)? {
            Value::Number(number) => number.as_u64(),
            Value::Bool(yes) => Some(u64::from(*yes)),
            Value::String(text) => match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => text.parse().ok(),
            },
            _ => None,
        }
    }

    /// A number, zero if there is none.
    #[must_use]
    pub fn count(&self, names: &[&str]) -> u64 {
        self.number(names).unwrap_or(0)
    }

    /// The `place`th number of a list.
    #[must_use]
    pub fn nth(&self, names: &[&str], place: usize) -> Option<u64> {
        self.value(names)?.as_array()?.get(place)?.as_u64()
    }

    /// A text; numbers as they are written.
    #[must_use]
    pub fn text(&self, names: &[&str]) -> Option<String> {
        match self.value(names)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    /// An address.
    #[must_use]
    pub fn ip(&self, names: &[&str]) -> Option<IpAddr> {
        self.value(names)?.as_str()?.parse().ok()
    }

    /// An address with the port that stands beside it.
    #[must_use]
    pub fn socket(&self, address: &[&str], port: &[&str]) -> Option<SocketAddr> {
        let port = u16::try_from(self.count(port)).ok()?;
        self.ip(address)
            .map(|ip| SocketAddr::new(ip, port))
            .or_else(|| self.value(address)?.as_str()?.parse().ok())
    }
}

fn same_name(a: &str, b: &str) -> bool {
    let plain = |text: &str| {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect::<String>()
    };
    plain(a) == plain(b)
}

/// The name of an IP protocol as the map commands print it.
#[must_use]
pub fn protocol(fields: &Fields<'_>) -> String {
    let names = ["proto", "protocol"];
    match fields.number(&names) {
        Some(number) => protocol_name(number),
        None => fields
            .text(&names)
            .unwrap_or_else(|| "ANY".into())
            .to_uppercase(),
    }
}

fn protocol_name(number: u64) -> String {
    match number {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_forms() {
        let fields: BTreeMap<String, Value> =
            serde_json::from_value(json!({"secId": 7, "flags": "0x10", "src": "2001:db8::1", "sport": 80, "dst": "192.0.2.1:9", "list": [1, 2], "proto": "tcp"}))
                .unwrap();
        let row = MapRow {
            fields,
            ..MapRow::default()
        };
        let fields = Fields::of(&row);
        assert_eq!(fields.number(&["sec_id"]), Some(7));
        assert_eq!(fields.number(&["nothing", "flags"]), Some(16));
        assert_eq!(
            fields.socket(&["src"], &["sport"]).unwrap().to_string(),
            "[2001:db8::1]:80"
        );
        assert_eq!(
            fields.socket(&["dst"], &["dport"]).unwrap().to_string(),
            "192.0.2.1:9"
        );
        assert_eq!(fields.nth(&["list"], 1), Some(2));
        assert_eq!(protocol(&fields), "TCP");
    }
}
