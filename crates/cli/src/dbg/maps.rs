//! Rows of the kernel maps, in the layouts that users know.
use std::net::{IpAddr, SocketAddr};

use api::MapRow;
use ipnet::IpNet;

use super::fields::{Fields, protocol};
use crate::table::Table;

/// `bpf endpoint list`.
#[must_use]
pub fn endpoints(rows: &[MapRow]) -> String {
    let mut table = Table::new(&["IP ADDRESS", "LOCAL ENDPOINT INFO"]);
    for row in rows {
        let fields = Fields::of(row);
        let address = fields
            .ip(&["ip", "address"])
            .map_or_else(|| row.key.clone(), |ip| SocketAddr::new(ip, 0).to_string());
        table.row(&[address, endpoint_info(row, &fields)]);
    }
    table.render()
}

fn endpoint_info(row: &MapRow, fields: &Fields<'_>) -> String {
    let Some(id) = fields.number(&["id", "endpoint", "endpoint_id"]) else {
        return row.value.clone();
    };
    let flags = fields.count(&["flags"]);
    if flags & u64::from(abi::endpoint_flags::HOST) != 0 {
        return "(localhost)".into();
    }
    let mac = |name: &str| fields.text(&[name]).unwrap_or_default().to_uppercase();
    format!(
        "id={id:<5} sec_id={:<5} flags=0x{flags:04X} ifindex={:<3} mac={} nodemac={}",
        fields.count(&["sec_id", "identity"]),
        fields.count(&["ifindex"]),
        mac("mac"),
        mac("node_mac"),
    )
}

/// `bpf ipcache list`.
#[must_use]
pub fn ipcache(rows: &[MapRow]) -> String {
    let mut table = Table::new(&["IP PREFIX/ADDRESS", "IDENTITY"]);
    for row in rows {
        table.row(&[prefix(row), ipcache_info(row)]);
    }
    table.render()
}

/// The prefix of an ipcache row.
#[must_use]
pub fn prefix(row: &MapRow) -> String {
    let fields = Fields::of(row);
    if let Some(prefix) = fields.text(&["prefix", "cidr"]) {
        return prefix;
    }
    match (
        fields.ip(&["ip", "address"]),
        fields.number(&["prefix_len"]),
    ) {
        (Some(ip), Some(bits)) => format!(
            "{ip}/{}",
            bits.saturating_sub(abi::IpcacheKey::STATIC_BITS.into())
        ),
        _ => row.key.clone(),
    }
}

/// The node behind which an ipcache row's addresses are.
fn tunnel(fields: &Fields<'_>) -> Option<IpAddr> {
    fields
        .ip(&["tunnel", "tunnel_endpoint"])
        .filter(|ip| !ip.is_unspecified())
}

fn ipcache_info(row: &MapRow) -> String {
    let fields = Fields::of(row);
    let Some(identity) = fields.number(&["sec_id", "identity"]) else {
        return row.value.clone();
    };
    let none: IpAddr = [0; 4].into();
    let flags = match fields.count(&["flags"]) & u64::from(abi::ipcache_flags::SKIP_TUNNEL) {
        0 => "<none>",
        _ => "skiptunnel",
    };
    format!(
        "identity={identity} encryptkey={} tunnelendpoint={} flags={flags}",
        fields.count(&["key", "encrypt_key"]),
        tunnel(&fields).unwrap_or(none),
    )
}

/// `bpf tunnel list`: the pod ranges of other nodes, out of the ipcache.
#[must_use]
pub fn tunnels(rows: &[MapRow]) -> String {
    let mut table = Table::new(&["TUNNEL", "VALUE"]);
    for row in rows {
        if let Some((network, node)) = tunnel_row(row) {
            table.row(&[
                SocketAddr::new(network, 0).to_string(),
                SocketAddr::new(node, 0).to_string(),
            ]);
        }
    }
    table.render()
}

/// A range (not a single address) and the node that it is behind.
#[must_use]
pub fn tunnel_row(row: &MapRow) -> Option<(IpAddr, IpAddr)> {
    let node = tunnel(&Fields::of(row))?;
    let prefix = prefix(row);
    let (network, bits) = prefix.split_once('/')?;
    let network: IpAddr = network.parse().ok()?;
    let whole = if network.is_ipv4() { "32" } else { "128" };
    (bits != whole).then_some((network, node))
}

/// The longest prefix that holds `ip`, and its identity.
#[must_use]
pub fn lookup(rows: &[MapRow], ip: IpAddr) -> Option<(String, u64)> {
    let known = rows.iter().filter_map(|row| {
        let prefix: IpNet = prefix(row).parse().ok()?;
        let identity = Fields::of(row).number(&["sec_id", "identity"])?;
        prefix.contains(&ip).then_some((prefix, identity))
    });
    known
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .map(|(prefix, identity)| (prefix.to_string(), identity))
}

/// `bpf nat list`.
#[must_use]
pub fn nat(rows: &[MapRow], now_ns: u64) -> String {
    rows.iter()
        .map(|row| nat_line(row, now_ns) + "\n")
        .collect()
}

fn nat_line(row: &MapRow, now_ns: u64) -> String {
    let fields = Fields::of(row);
    let ends = (
        fields.socket(&["src"], &["sport", "src_port"]),
        fields.socket(&["dst"], &["dport", "dst_port"]),
    );
    let to = fields.socket(&["addr", "to_addr", "to"], &["port", "to_port"]);
    let (Some(src), Some(dst), Some(to)) = (ends.0, ends.1, to) else {
        return format!("{} {}", row.key, row.value);
    };
    let inwards = match fields.text(&["direction"]) {
        Some(word) => word.eq_ignore_ascii_case("in"),
        None => fields.count(&["flags"]) == u64::from(abi::snat_flags::IN),
    };
    let (direction, verb) = if inwards {
        ("IN", "XLATE_DST")
    } else {
        ("OUT", "XLATE_SRC")
    };
    let age = now_ns.saturating_sub(fields.count(&["created"])) / 1_000_000_000;
    format!(
        "{} {direction} {src} -> {dst} {verb} {to} Created={age}sec ago NeedsCT=0",
        protocol(&fields)
    )
}

/// `bpf metrics list`.
#[must_use]
pub fn metrics(rows: &[MapRow]) -> String {
    let mut lines: Vec<[String; 6]> = rows.iter().map(metrics_row).collect();
    lines.sort();
    let mut table = Table::new(&["REASON", "DIRECTION", "PACKETS", "BYTES", "LINE", "FILE"]);
    for line in &lines {
        table.row(line);
    }
    table.render()
}

fn metrics_row(row: &MapRow) -> [String; 6] {
    let fields = Fields::of(row);
    let reason = match fields.number(&["reason"]) {
        Some(0) => "Success".into(),
        Some(number) => drop_text(number),
        None => fields.text(&["reason"]).unwrap_or_else(|| row.key.clone()),
    };
    let direction = match fields.number(&["direction"]) {
        Some(number) => abi::Direction::from_index(number as u32).text().to_owned(),
        None => fields
            .text(&["direction"])
            .unwrap_or_default()
            .to_uppercase(),
    };
    let file = match fields.number(&["file"]) {
        Some(number) => abi::source_file::name(number as u8).to_owned(),
        None => fields.text(&["file"]).unwrap_or_default(),
    };
    let count = |name: &str| fields.count(&[name]).to_string();
    [
        reason,
        direction,
        count("packets"),
        count("bytes"),
        count("line"),
        file,
    ]
}

fn drop_text(number: u64) -> String {
    let known = u8::try_from(number).ok().and_then(abi::DropReason::from_u8);
    known.map_or_else(
        || format!("Reason {number}"),
        |reason| reason.text().to_owned(),
    )
}

/// `map get`.
#[must_use]
pub fn generic(rows: &[MapRow]) -> String {
    let mut table = Table::new(&["Key", "Value", "State", "Error"]);
    for row in rows {
        table.row(&[&row.key, &row.value, "sync", ""]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::{Value, json};

    use super::*;

    pub fn row(fields: Value) -> MapRow {
        MapRow {
            key: "key".into(),
            value: "value".into(),
            fields: serde_json::from_value(fields).unwrap(),
        }
    }

    #[test]
    fn endpoint_rows() {
        let rows = [
            row(
                json!({"ip": "10.7.1.12", "id": 904, "sec_id": 21565, "flags": 0, "ifindex": 12, "mac": "aa:00:00:00:00:01", "node_mac": "bb:00:00:00:00:02"}),
            ),
            row(json!({"ip": "2001:db8::11", "id": 0, "sec_id": 1, "flags": 1, "ifindex": 0})),
            MapRow {
                key: "odd".into(),
                value: "undecoded".into(),
                ..MapRow::default()
            },
        ];
        expect![[r#"
            IP ADDRESS         LOCAL ENDPOINT INFO
            10.7.1.12:0        id=904   sec_id=21565 flags=0x0000 ifindex=12  mac=AA:00:00:00:00:01 nodemac=BB:00:00:00:00:02
            [2001:db8::11]:0   (localhost)
            odd                undecoded
        "#]].assert_eq(&endpoints(&rows));
    }

    #[test]
    fn ipcache_and_tunnel_rows() {
        let rows = [
            row(
                json!({"prefix": "10.7.2.9/32", "sec_id": 31007, "key": 0, "tunnel": "192.0.2.12", "flags": 1}),
            ),
            row(
                json!({"ip": "10.7.2.0", "prefix_len": 56, "sec_id": 2, "key": 3, "tunnel": "192.0.2.12", "flags": 5}),
            ),
            row(
                json!({"prefix": "2001:db8:7::/64", "sec_id": 2, "key": 0, "tunnel": "2001:db8::12", "flags": 3}),
            ),
            row(json!({"prefix": "0.0.0.0/0", "sec_id": 2, "key": 0, "flags": 0})),
        ];
        expect![[r#"
            IP PREFIX/ADDRESS   IDENTITY
            10.7.2.9/32         identity=31007 encryptkey=0 tunnelendpoint=192.0.2.12 flags=<none>
            10.7.2.0/24         identity=2 encryptkey=3 tunnelendpoint=192.0.2.12 flags=skiptunnel
            2001:db8:7::/64     identity=2 encryptkey=0 tunnelendpoint=2001:db8::12 flags=<none>
            0.0.0.0/0           identity=2 encryptkey=0 tunnelendpoint=0.0.0.0 flags=<none>
        "#]]
        .assert_eq(&ipcache(&rows));
        expect![[r#"
            TUNNEL             VALUE
            10.7.2.0:0         192.0.2.12:0
            [2001:db8:7::]:0   [2001:db8::12]:0
        "#]]
        .assert_eq(&tunnels(&rows));
        assert_eq!(
            lookup(&rows, [10, 7, 2, 9].into()),
            Some(("10.7.2.9/32".into(), 31007))
        );
        assert_eq!(
            lookup(&rows, [10, 7, 2, 8].into()),
            Some(("10.7.2.0/24".into(), 2))
        );
        assert_eq!(lookup(&rows[..1], [10, 7, 2, 8].into()), None);
    }

    #[test]
    fn nat_rows() {
        let rows = [
            row(
                json!({"proto": 6, "src": "192.0.2.11", "sport": 40112, "dst": "198.51.100.7", "dport": 443, "flags": 0, "addr": "192.0.2.11", "port": 61210, "created": 1_000_000_000}),
            ),
            row(
                json!({"proto": 6, "src": "198.51.100.7", "sport": 443, "dst": "192.0.2.11", "dport": 61210, "flags": 1, "addr": "10.7.1.12", "port": 40112, "created": 1_000_000_000}),
            ),
            row(
                json!({"proto": 58, "src": "2001:db8::1", "sport": 0, "dst": "2001:db8::2", "dport": 7, "direction": "in", "addr": "2001:db8:7::5", "port": 9, "created": 9_000_000_000_u64}),
            ),
        ];
        expect![[r#"
            TCP OUT 192.0.2.11:40112 -> 198.51.100.7:443 XLATE_SRC 192.0.2.11:61210 Created=4sec ago NeedsCT=0
            TCP IN 198.51.100.7:443 -> 192.0.2.11:61210 XLATE_DST 10.7.1.12:40112 Created=4sec ago NeedsCT=0
            ICMPv6 IN [2001:db8::1]:0 -> [2001:db8::2]:7 XLATE_DST [2001:db8:7::5]:9 Created=0sec ago NeedsCT=0
        "#]].assert_eq(&nat(&rows, 5_900_000_000));
    }

    #[test]
    fn metrics_rows() {
        let rows = [
            row(
                json!({"reason": 0, "direction": 2, "packets": 120, "bytes": 9600, "line": 1352, "file": 1}),
            ),
            row(
                json!({"reason": 133, "direction": 1, "packets": 5, "bytes": 370, "line": 2094, "file": "to_container.rs"}),
            ),
            row(
                json!({"reason": "Success", "direction": "ingress", "packets": 1, "bytes": 1, "line": 2, "file": 3}),
            ),
        ];
        expect![[r#"
            REASON          DIRECTION   PACKETS   BYTES   LINE   FILE
            Policy denied   INGRESS     5         370     2094   to_container.rs
            Success         EGRESS      120       9600    1352   from_container.rs
            Success         INGRESS     1         1       2      from_netdev.rs
        "#]]
        .assert_eq(&metrics(&rows));
    }

    #[test]
    fn any_map() {
        expect![[r#"
            Key   Value   State   Error
            key   value   sync
        "#]]
        .assert_eq(&generic(&[row(json!({}))]));
    }
}
