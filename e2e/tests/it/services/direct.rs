//! Direct answers: what the outside asks of one node is answered by the node of the backend, and the backend sees who asks.

use std::net::IpAddr;

use hypha_e2e::services::{Protocol, Source, Stage, Way};
use testkit::skip_unless_root;

use super::{matrix::check_all, tables::dbg};

/// Asks a frontend, and prints the link-layer addresses that its answers came from.
const WHO_ANSWERS: &str = r#"
import socket, sys
protocol, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
packed = socket.inet_pton(family, address)
at, size, proto = (22, 16, 20) if family == socket.AF_INET6 else (26, 4, 23)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
with socket.socket(family, kind) as client:
    client.settimeout(3)
    client.connect((address, port))
    client.send(b"GET /hostname HTTP/1.0\r\n\r\n" if protocol == "TCP" else b"hostname")
    assert client.recv(1024)
wire.setblocking(False)
seen = set()
try:
    while frame := wire.recv(2048):
        if frame[at:at + size] == packed and frame[proto] in (6, 17):
            seen.add(frame[6:12].hex(":"))
except BlockingIOError:
    pass
print(" ".join(seen))
"#;

/// The nodes whose devices the answers came from.
fn answered_by(stage: &Stage, protocol: &str, address: IpAddr, port: u16) -> Vec<&'static str> {
    let lab = &stage.cluster.lab;
    let (address, port) = (address.to_string(), port.to_string());
    let args = ["python3", "-c", WHO_ANSWERS, protocol, &address, &port];
    let run = lab.exec("router", &args);
    assert!(run.ok(), "{protocol} {address}: {}", run.stderr);
    let sent = |node: &&str| {
        let links = lab.sh(node, "ip -o link");
        run.stdout.split_whitespace().any(|mac| links.contains(mac))
    };
    ["node1", "node2", "node3"]
        .into_iter()
        .filter(sent)
        .collect()
}

/// Asks everything from outside; then node 1 for what a pod of node 2 serves, to see who answers.
#[track_caller]
fn check(mode: &str, seen: fn(Protocol) -> Source) {
    if skip_unless_root() {
        return;
    }
    let setting = format!("bpf-lb-mode={mode}");
    let args = ["--routing", "native", "--agent-config", &setting];
    let stage = Stage::new(Way::Sockets, &args);
    check_all(&stage, false, false, seen);
    let (backend, port) = stage.remote_node_port();
    for protocol in Protocol::ALL {
        let expected = match seen(protocol) {
            Source::Client => backend,
            _ => "node1",
        };
        for address in &stage.cluster.machine("node1").ips {
            let by = answered_by(&stage, protocol.text(), *address, port);
            assert_eq!(by, [expected], "{mode} {protocol:?} {address}");
        }
    }
    let status = dbg(&stage.cluster, "node1", &["status", "--verbose"]);
    let shown = match mode {
        "dsr" => "DSR   (DSR Dispatch Mode: IP Option/Extension)",
        _ => "Hybrid   (DSR Dispatch Mode: IP Option/Extension)",
    };
    assert!(status.contains(shown), "{status}");
    stage.cluster.assert_clean();
}

#[test]
fn e2e_services_direct_answers() {
    check("dsr", |_| Source::Client);
}

#[test]
fn e2e_services_direct_answers_of_tcp_alone() {
    check("hybrid", |protocol| match protocol {
        Protocol::Tcp => Source::Client,
        Protocol::Udp => Source::Node,
    });
}
