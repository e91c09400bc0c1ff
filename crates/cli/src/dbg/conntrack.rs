//! `bpf ct list`.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use abi::ct_flags;
use api::MapRow;

use super::fields::{Fields, protocol};

/// How the end of an entry's life is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// In seconds of the kernel's monotonic clock.
    Absolute,
    /// In seconds from now.
    From(u64),
}

/// The rows as lines; with `endpoint` only those that belong to it.
#[must_use]
pub fn list(rows: &[MapRow], endpoint: Option<u64>, expiry: Expiry) -> String {
    let wanted =
        |row: &&MapRow| endpoint.is_none_or(|id| Fields::of(row).number(&["endpoint"]) == Some(id));
    rows.iter()
        .filter(wanted)
        .map(|row| line(row, expiry) + "\n")
        .collect()
}

/// Adds the direction as the node sees it: a connection that a local endpoint opened goes out, one that only ends at a local
/// endpoint comes in. A connection between two endpoints of the node has one entry; it is shown as going out.
pub fn add_direction(rows: &mut [MapRow], local: &BTreeSet<IpAddr>) {
    for row in rows {
        let fields = Fields::of(row);
        let flags = fields.count(&["flags"]);
        if fields.text(&["direction"]).is_some() {
            continue;
        }
        let Some((from, to)) = ends(&fields, flags) else {
            continue;
        };
        let comes_in = local.contains(&to.ip()) && !local.contains(&from.ip());
        let word = if comes_in { "in" } else { "out" };
        row.fields.insert("direction".into(), word.into());
    }
}

fn line(row: &MapRow, expiry: Expiry) -> String {
    let fields = Fields::of(row);
    let flags = fields.count(&["flags"]);
    let Some((from, to)) = ends(&fields, flags) else {
        return format!("{} {}", row.key, row.value);
    };
    let direction = fields
        .text(&["direction"])
        .map_or("OUT".into(), |word| word.to_uppercase());
    let expires = fields.count(&["expires"]);
    let life = match expiry {
        Expiry::Absolute => format!("expires={expires}"),
        Expiry::From(now) => format!("remaining: {} sec(s)", expires.saturating_sub(now)),
    };
    // Of a connection that an endpoint opened, what it sent is "transmitted"; of one it accepted, the other way round.
    let (sent, seen) = if direction == "IN" { (1, 0) } else { (0, 1) };
    let tcp = [fields.count(&["orig_tcp"]), fields.count(&["reply_tcp"])];
    let sum = |name: &str| {
        fields.nth(&[name], 0).map_or_else(
            || fields.count(&[name]),
            |n| n + fields.nth(&[name], 1).unwrap_or(0),
        )
    };
    let report = fields.count(&["last_report"]);
    format!(
        "{} {direction} {from} -> {to} {life} Packets={} Bytes={} RxFlagsSeen={:#04x} LastRxReport={report} TxFlagsSeen={:#04x} \
         LastTxReport={report} Flags={flags:#06x} [ {}] RevNAT={} SourceSecurityID={} IfIndex={} BackendID=0",
        protocol(&fields),
        sum("packets"),
        sum("bytes"),
        tcp[seen],
        tcp[sent],
        flag_names(flags),
        fields.count(&["rev_nat"]),
        fields.count(&["src_id", "source_security_id"]),
        fields.count(&["ifindex"]),
    )
}

/// The side that opened the connection, and the other.
fn ends(fields: &Fields<'_>, flags: u64) -> Option<(SocketAddr, SocketAddr)> {
    let src = fields.socket(&["src"], &["sport", "src_port"]);
    let dst = fields.socket(&["dst"], &["dport", "dst_port"]);
    if let (Some(src), Some(dst)) = (src, dst) {
        return Some((src, dst));
    }
    let a = fields.socket(&["a"], &["port_a"])?;
    let b = fields.socket(&["b"], &["port_b"])?;
    let from_b = flags & u64::from(ct_flags::FROM_B) != 0;
    Some(if from_b { (b, a) } else { (a, b) })
}

fn flag_names(flags: u64) -> String {
    let names = [
        (ct_flags::ORIG_CLOSING, "TxClosing"),
        (ct_flags::REPLY_CLOSING, "RxClosing"),
        (ct_flags::RESET, "Reset"),
        (ct_flags::SEEN_NON_SYN, "SeenNonSyn"),
        (ct_flags::SEEN_REPLY, "SeenReply"),
        (ct_flags::TUNNEL, "FromTunnel"),
        (ct_flags::SNAT, "SNAT"),
        (ct_flags::PROXIED, "ProxyRedirect"),
    ];
    names
        .iter()
        .filter(|(bit, _)| flags & u64::from(*bit) != 0)
        .map(|(_, name)| format!("{name} "))
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::{Value, json};

    use super::*;

    fn row(fields: Value) -> MapRow {
        MapRow {
            key: "key".into(),
            value: "value".into(),
            fields: serde_json::from_value(fields).unwrap(),
        }
    }

    fn rows() -> [MapRow; 3] {
        [
            row(json!({
                "a": "10.7.1.12", "b": "10.7.2.9", "port_a": 40112, "port_b": 80, "proto": 6, "expires": 12345, "packets": [3, 2], "bytes": [300, 200],
                "orig_tcp": 27, "reply_tcp": 26, "last_report": 12000, "flags": 0x30, "src_id": 21565, "endpoint": 904, "direction": "out",
            })),
            row(json!({
                "a": "2001:db8::1", "b": "2001:db8::2", "port_a": 53, "port_b": 5000, "proto": 17, "expires": 99, "flags": 1, "endpoint": 7,
                "direction": "in",
            })),
            MapRow {
                key: "odd".into(),
                value: "undecoded".into(),
                ..MapRow::default()
            },
        ]
    }

    #[test]
    fn lines() {
        expect![[r#"
            TCP OUT 10.7.1.12:40112 -> 10.7.2.9:80 expires=12345 Packets=5 Bytes=500 RxFlagsSeen=0x1a LastRxReport=12000 TxFlagsSeen=0x1b LastTxReport=12000 Flags=0x0030 [ SeenNonSyn SeenReply ] RevNAT=0 SourceSecurityID=21565 IfIndex=0 BackendID=0
            UDP IN [2001:db8::2]:5000 -> [2001:db8::1]:53 expires=99 Packets=0 Bytes=0 RxFlagsSeen=0x00 LastRxReport=0 TxFlagsSeen=0x00 LastTxReport=0 Flags=0x0001 [ ] RevNAT=0 SourceSecurityID=0 IfIndex=0 BackendID=0
            odd undecoded
        "#]].assert_eq(&list(&rows(), None, Expiry::Absolute));
    }

    #[test]
    fn of_one_endpoint_with_time_left() {
        expect![[r#"
            TCP OUT 10.7.1.12:40112 -> 10.7.2.9:80 remaining: 45 sec(s) Packets=5 Bytes=500 RxFlagsSeen=0x1a LastRxReport=12000 TxFlagsSeen=0x1b LastTxReport=12000 Flags=0x0030 [ SeenNonSyn SeenReply ] RevNAT=0 SourceSecurityID=21565 IfIndex=0 BackendID=0
        "#]].assert_eq(&list(&rows(), Some(904), Expiry::From(12300)));
    }

    #[test]
    fn the_direction_is_that_of_the_local_endpoint() {
        let direction = |local: &str| {
            let fields =
                json!({"src": "10.7.1.12", "sport": 1, "dst": "10.7.2.9", "dport": 2, "proto": 6});
            let mut rows = [row(fields)];
            add_direction(&mut rows, &BTreeSet::from([local.parse().unwrap()]));
            rows[0].fields["direction"].as_str().unwrap().to_owned()
        };
        assert_eq!(
            ["10.7.1.12", "10.7.2.9", "192.0.2.1"].map(direction),
            ["out", "in", "out"]
        );
    }
}
