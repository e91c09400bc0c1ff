//! An agent's socket that answers each path with the same invented values.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// The listening socket; removed with the value.
pub struct FakeAgent {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl FakeAgent {
    /// Starts to listen on a socket of its own.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                thread::spawn(move || serve(&stream, &log));
            }
        });
        Self {
            socket,
            asked,
            _dir: dir,
        }
    }

    /// Path of the socket.
    pub fn socket(&self) -> &str {
        self.socket.to_str().expect("text")
    }

    /// Paths that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn serve(stream: &UnixStream, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        for line in lines.by_ref() {
            if line.map_or(true, |line| line.is_empty()) {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().expect("no panic").push(path.clone());
        if path.starts_with("/v1/monitor") {
            let _ = monitor(stream);
            return;
        }
        let (status, body) = match answer(&path) {
            Some(body) => ("200 OK", body),
            None => (
                "404 Not Found",
                json!({"code": "not-found", "message": format!("{path} does not exist")}),
            ),
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if { stream }.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn monitor(mut stream: &UnixStream) -> std::io::Result<()> {
    let event = json!({
        "kind": "trace", "timestampNs": 1, "point": "to-endpoint", "endpoint": 904, "srcIdentity": 21565, "dstIdentity": 31007, "ctState": "new",
        "src": "10.7.1.12", "dst": "10.7.2.9", "srcPort": 40112, "dstPort": 80, "protocol": 6, "tcpFlags": 2, "ifname": "lxcab12",
    });
    let mut dropped = event.clone();
    dropped["kind"] = "drop".into();
    dropped["reason"] = "Policy denied".into();
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for event in [event, dropped] {
        let line = event.to_string() + "\n";
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
    }
    stream.write_all(b"0\r\n\r\n")
}

fn row(fields: Value) -> Value {
    json!([{"key": "key", "value": "value", "fields": fields}])
}

fn answer(path: &str) -> Option<Value> {
    Some(match path {
        "/v1/healthz" => json!({
            "state": "ok", "version": "9.9.9", "node": "n1", "uptimeSeconds": 9, "addresses": {"10.7.1.12": "shop/cart-0"},
            "routing": {"mode": "tunnel", "tunnelProtocol": "vxlan", "host": "BPF"}, "endpoints": {"ready": 1},
        }),
        "/v1/config" => {
            json!([{"name": "routing-mode", "value": "tunnel", "default": "tunnel", "source": "default"}])
        }
        "/v1/endpoint" => json!([endpoint()]),
        "/v1/endpoint/904" => endpoint(),
        "/v1/map" => json!([{"name": "cilium_lxc", "entries": 1}]),
        "/v1/map/cilium_lxc" => {
            row(json!({"ip": "10.7.1.12", "id": 904, "sec_id": 21565, "flags": 0, "ifindex": 12}))
        }
        "/v1/map/cilium_ipcache" => row(
            json!({"prefix": "10.7.2.0/24", "sec_id": 31007, "tunnel": "192.0.2.12", "flags": 1}),
        ),
        "/v1/map/cilium_ct4_global" => row(json!({
            "a": "10.7.1.12", "b": "10.7.2.9", "port_a": 40112, "port_b": 80, "proto": 6, "flags": 0x10, "endpoint": 904,
        })),
        "/v1/map/cilium_snat_v4_external" => row(json!({
            "src": "10.7.1.12", "sport": 1, "dst": "198.51.100.7", "dport": 2, "proto": 6, "flags": 0, "addr": "192.0.2.11", "port": 3, "created": 0,
        })),
        "/v1/map/cilium_metrics" => row(
            json!({"reason": 133, "direction": 1, "packets": 5, "bytes": 370, "line": 7, "file": 2}),
        ),
        "/v1/ip" => json!([
            {"prefix": "0.0.0.0/0", "identity": 2, "source": "generated"},
            {"prefix": "10.7.2.0/24", "identity": 2, "source": "k8s"},
        ]),
        "/v1/cluster/nodes" => json!([{"name": "n1", "local": true, "ipv4": "192.0.2.11"}]),
        "/v1/statedb" => json!([{"name": "endpoints", "rows": 1}]),
        "/v1/statedb/endpoints" => {
            json!({"name": "endpoints", "columns": ["Pod"], "rows": [["cart-0"]]})
        }
        "/v1/check" => json!({
            "checked": {"devices": 3},
            "findings": [{"severity": "leak", "rule": "device-without-endpoint", "object": "lxcab12", "message": "no endpoint uses it"}],
        }),
        "/v1/policy" => json!({"revision": 7, "policies": [{
            "kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "web", "source": "k8s",
            "labels": ["k8s:io.cilium.k8s.policy.name=web"], "rules": [{"endpointSelector": {}, "ingress": [{}]}]}]}),
        "/v1/policy/selectors" => {
            json!([{"selector": "any:app=cart", "users": 1, "policies": ["shop/web"], "identities": [21565]}])
        }
        "/v1/policy/revision" => json!({"revision": 7, "realized": 6}),
        path if path.starts_with("/v1/policy/revision?wait=7&") => {
            json!({"revision": 7, "realized": 7})
        }
        path if path.starts_with("/v1/policy/revision?wait=9&") => {
            json!({"revision": 7, "realized": 7})
        }
        "/v1/identity" => json!([{"id": 1, "labels": ["reserved:host"]}, identity()]),
        "/v1/identity/21565" => identity(),
        "/v1/map/cilium_policy" | "/v1/map/cilium_policy?subject=31" => row(json!({
            "subject": 31, "endpoints": [904], "direction": "ingress", "remote": 21566, "labels": ["k8s:app=web"],
            "traffic": "80/TCP", "prefix": 24, "verdict": "allow", "precedence": 1,
            "rules": ["CiliumNetworkPolicy shop/web: spec.ingress[0]"]})),
        _ => return None,
    })
}

fn identity() -> Value {
    json!({"id": 21565, "labels": ["k8s:app=cart"], "scope": "cluster", "endpoints": 1})
}

fn endpoint() -> Value {
    json!({"id": 904, "state": "ready", "identity": 21565, "labels": ["k8s:app=cart"], "ipv4": "10.7.1.12", "hostIfname": "lxcab12", "subject": 31, "policyIngress": true})
}
