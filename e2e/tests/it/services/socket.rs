//! Sockets in the cluster: what a process asks for, what the kernel does instead, and what the process is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use api::{MonitorEvent, MonitorKind, MonitorQuery};
use hypha_e2e::cluster::{Cluster, pod_yaml};
use testkit::{skip_unless_root, wait_until};

const SERVERS: [(&str, &str); 2] = [("near", "node1"), ("far", "node2")];
const CLIENTS: [&str; 2] = ["ask", "node1"];
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_280;

/// A server, a service of one kind for it alone, and one that nobody serves.
fn manifests() -> String {
    let server = |(name, node): &(&str, &str)| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.40
    args: [netexec, --http-port=8080, --udp-port=8080]
    readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
---
{}",
            service(name, "type: ClusterIP", "")
        )
    };
    let servers: Vec<String> = SERVERS.iter().map(server).collect();
    let client = pod_yaml("ask", "node1");
    format!(
        "{}---\n{}---\n{client}",
        servers.join("---\n"),
        [
            service("nobody", "type: ClusterIP", ""),
            service("far-ports", "type: NodePort", ", nodePort: 30280")
                .replace("{app: far-ports}", "{app: far}"),
        ]
        .join("---\n")
    )
}

fn service(name: &str, kind: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  {kind}
  ipFamilyPolicy: RequireDualStack
  selector: {{app: {name}}}
  ports:
  - {{name: t, protocol: TCP, port: 80, targetPort: 8080{more}}}
  - {{name: u, protocol: UDP, port: 80, targetPort: 8080{more}}}
"
    )
}

/// Addresses of a service, of both families.
fn frontends(cluster: &Cluster, name: &str) -> Vec<SocketAddr> {
    let path = "jsonpath={.spec.clusterIPs[*]}";
    let shown = cluster.kubectl(&["get", "svc", name, "-o", path]);
    let ips = shown
        .split_whitespace()
        .map(|ip| ip.parse().expect("an address"));
    ips.map(|ip: IpAddr| SocketAddr::new(ip, PORT)).collect()
}

/// Connects (`tcp`, `udp`) or sends without that (`sendto`), asks for the server's name, and prints it with whom the socket
/// says it talks to and where the answer came from. Prints the number of the error of a call that fails.
const ASK: &str = r#"
import socket, sys
how, ip, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in ip else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM)
s.settimeout(20)
try:
    if how == "sendto":
        s.sendto(b"hostname", (ip, port))
    else:
        s.connect((ip, port))
        s.send(b"GET /hostname HTTP/1.0\r\n\r\n" if how == "tcp" else b"hostname")
except OSError as e:
    print("errno", e.errno)
    sys.exit()
peer = "-" if how == "sendto" else s.getpeername()[0]
if how == "tcp":
    text = b""
    while part := s.recv(4096): text += part
    print(text.split(b"\r\n\r\n")[1].decode().strip(), peer, peer)
else:
    text, source = s.recvfrom(4096)
    print(text.decode().strip(), peer, source[0])
"#;

fn ask(cluster: &Cluster, client: &str, how: &str, to: SocketAddr) -> String {
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let command = ["python3", "-c", ASK, how, &ip, &port];
    let run = cluster.lab.exec(client, &command);
    assert!(run.ok(), "{client} {how} {to}: {}", run.stderr);
    run.stdout.trim().to_owned()
}

/// Waits until the node's programs know a service: its first answer.
fn wait_served(cluster: &Cluster, to: SocketAddr) {
    wait_until("service", std::time::Duration::from_secs(30), || {
        let said = ask(cluster, "ask", "tcp", to);
        (!said.starts_with("errno")).then_some(())
    });
}

#[test]
fn e2e_services_sockets() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-sockets", &["--timeout", "120"]);
    cluster.lab.apply(&manifests());
    for (server, _) in SERVERS {
        cluster.kubectl(&[
            "wait",
            "--for=condition=Ready",
            &format!("pod/{server}"),
            "--timeout=60s",
        ]);
        for to in frontends(&cluster, server) {
            wait_served(&cluster, to);
        }
    }
    everybody_means_the_service(&cluster);
    nobody_serves(&cluster);
    ports_of_nodes(&cluster);
    the_kernel_goes_elsewhere(&cluster);
    packets_show_the_backend(&cluster);
    translations_are_told(&cluster);
    cluster.assert_clean();
}

/// Pods and nodes, both families, near and far, TCP and UDP, connected and not: the server answers, and the process sees the
/// service and nothing else.
fn everybody_means_the_service(cluster: &Cluster) {
    let mut asked = 0;
    for client in CLIENTS {
        for (server, _) in SERVERS {
            for to in frontends(cluster, server) {
                for how in ["tcp", "udp", "sendto"] {
                    let peer = if how == "sendto" {
                        "-".to_owned()
                    } else {
                        to.ip().to_string()
                    };
                    let wanted = format!("{server} {peer} {}", to.ip());
                    assert_eq!(ask(cluster, client, how, to), wanted, "{client} {how} {to}");
                    asked += 1;
                }
            }
        }
    }
    println!("{asked} questions by sockets");
}

/// A service without backends refuses at once: the error comes from the call itself.
fn nobody_serves(cluster: &Cluster) {
    // Kernels before 6.1 have but one error for all that programs refuse.
    let refused = ["errno 113", "errno 1"];
    for client in CLIENTS {
        for to in frontends(cluster, "nobody") {
            for how in ["tcp", "udp", "sendto"] {
                let said = ask(cluster, client, how, to);
                assert!(
                    refused.contains(&said.as_str()),
                    "{client} {how} {to}: {said}"
                );
            }
        }
    }
}

/// A node's own processes mean a node port by any address of theirs, loopback included, and cannot bind it; pods have
/// addresses and ports of their own.
fn ports_of_nodes(cluster: &Cluster) {
    for ip in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(ip.parse().expect("an address"), NODE_PORT);
        for how in ["tcp", "udp", "sendto"] {
            let said = ask(cluster, "node1", how, to);
            assert!(said.starts_with("far "), "{how} {to}: {said}");
        }
        let said = ask(cluster, "ask", "tcp", to);
        assert_eq!(said, "errno 111", "{to}");
    }
    for ip in &cluster.machine("node2").ips {
        for client in CLIENTS {
            let said = ask(cluster, client, "tcp", SocketAddr::new(*ip, NODE_PORT));
            assert_eq!(said, format!("far {ip} {ip}"), "{client}");
        }
    }
    let bind = |place: &str, port: u16| {
        let script = format!(
            "import socket\nfor kind in 'AF_INET', 'AF_INET6':\n  s = socket.socket(getattr(socket, kind))\n  s.bind(('', {port}))"
        );
        cluster.lab.exec(place, &["python3", "-c", &script]).ok()
    };
    assert!(!bind("node1", NODE_PORT));
    assert!(bind("node1", NODE_PORT + 1));
    assert!(bind("ask", NODE_PORT));
}

/// What strace sees of a connection: the process names the service, and is told of the service.
fn the_kernel_goes_elsewhere(cluster: &Cluster) {
    for to in frontends(cluster, "far") {
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        let traced = cluster.lab.exec(
            "ask",
            &[
                "strace",
                "-f",
                "-e",
                "trace=connect,getpeername",
                "python3",
                "-c",
                ASK,
                "tcp",
                &ip,
                &port,
            ],
        );
        assert!(traced.ok(), "{}", traced.stderr);
        let calls = |name: &str| {
            let lines = traced.stderr.lines();
            let named =
                lines.filter(|line| line.contains(name) && line.contains(&format!("\"{ip}\"")));
            named.filter(|line| line.contains("htons(80)")).count()
        };
        assert!(calls("connect(") > 0, "{}", traced.stderr);
        assert!(calls("getpeername(") > 0, "{}", traced.stderr);
    }
}

/// What tcpdump sees in the pod: the backend's address and port, and never the service's.
fn packets_show_the_backend(cluster: &Cluster) {
    let backends = cluster.pod("far").ips;
    for to in frontends(cluster, "far") {
        let backend = backends.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
        let backend = SocketAddr::new(*backend.expect("an address"), 8080);
        let shown = |ip: IpAddr, port: u16| format!("{ip}.{port}");
        let script = format!(
            ": >/tmp/said; timeout 60 tcpdump -i eth0 -nn -l -c 6 tcp >/tmp/seen 2>/tmp/said & dump=$!
             until grep -q listening /tmp/said; do sleep 0.01; done
             curl -s -m 20 http://{to}/hostname; wait $dump; cat /tmp/seen"
        );
        let seen = cluster.lab.sh("ask", &script);
        assert!(seen.starts_with("far"), "{seen}");
        assert!(
            seen.contains(&shown(backend.ip(), backend.port())),
            "{seen}"
        );
        assert!(!seen.contains(&shown(to.ip(), to.port())), "{seen}");
    }
}

/// What users see of it live: frontend and backend, there and back, of pods and of the node.
fn translations_are_told(cluster: &Cluster) {
    let query = MonitorQuery::default().kinds(&[MonitorKind::TraceSock]);
    let heard = cluster.agent("node1").monitor(&query).expect("a stream");
    let mut heard = heard.map(|event| event.expect("an event"));
    let backends = cluster.pod("far").ips;
    for client in CLIENTS {
        let own = (client != "node1").then(|| cluster.pod(client).ips);
        for to in frontends(cluster, "far") {
            let backend = backends.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
            let backend = SocketAddr::new(*backend.expect("an address"), 8080);
            ask(cluster, client, "tcp", to);
            // Others talk, too; what one socket does is told in order.
            let mut sockets: BTreeMap<u64, Vec<MonitorEvent>> = BTreeMap::new();
            let told = loop {
                let event = heard.next().expect("more events");
                let place = event.dst.map(|ip| SocketAddr::new(ip, event.dst_port));
                if place == Some(to) || place == Some(backend) {
                    let told = sockets.entry(event.socket_cookie).or_default();
                    told.push(event);
                    if told.len() == 4 {
                        break std::mem::take(told);
                    }
                }
            };
            let shown: Vec<_> = told
                .iter()
                .map(|event| {
                    let ip = event.dst.expect("an address");
                    (event.point.as_str(), SocketAddr::new(ip, event.dst_port))
                })
                .collect();
            let wanted = [
                ("pre-xlate-fwd", to),
                ("post-xlate-fwd", backend),
                ("pre-xlate-rev", backend),
                ("post-xlate-rev", to),
            ];
            assert_eq!(shown, wanted, "{client}");
            for event in &told {
                assert_eq!(event.src.is_some(), own.is_some(), "{event:?}");
                let known = event.src.is_none_or(|src| {
                    own.as_ref().is_some_and(|own| own.contains(&src)) && event.endpoint != 0
                });
                assert!(known && event.cgroup_id != 0, "{event:?}");
            }
        }
    }
}
