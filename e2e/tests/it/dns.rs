//! Cluster DNS over the pod network: both families carry both kinds of records, by UDP and TCP, on one node and between two. Pods ask
//! the addresses of the service, which their resolv.conf names, and those of the DNS pod.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hypha_e2e::cluster::{Cluster, Place};
use serde_json::Value;
use testkit::{LabBuilder, skip_unless_root, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(3);
const A: u16 = 1;
const AAAA: u16 = 28;

/// A service of both families without an address of its own: its records are its pods'.
const SERVICE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: names}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: names}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: named, labels: {app: names}}
spec:
  nodeName: node1
  containers: [{name: c, image: traefik/whoami}]
";

fn lab(prefix: &str, args: &[&str]) -> Cluster {
    let _ = hypha_e2e::program("hypha-cni");
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), prefix)
        .args(&["--nodes", "2", "--sample"])
        .args(args);
    Cluster::of(lab.up())
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    // Number 7, recursion desired, one question.
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1u16.to_be_bytes());
    bytes
}

/// The addresses in an answer: behind the question, each record with a name of two bytes (a pointer).
fn addresses(answer: &[u8], question: &[u8]) -> Vec<IpAddr> {
    assert_eq!(answer[..2], question[..2], "an answer to something else");
    assert_eq!(answer[3] & 15, 0, "an error: {answer:?}");
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut rest = &answer[question.len()..];
    let mut found = Vec::new();
    for _ in 0..count {
        assert!(rest[0] >= 0xc0, "a name in full: {answer:?}");
        let length = usize::from(u16::from_be_bytes([rest[10], rest[11]]));
        let data = &rest[12..12 + length];
        found.extend(<[u8; 4]>::try_from(data).map(IpAddr::from).ok());
        found.extend(<[u8; 16]>::try_from(data).map(IpAddr::from).ok());
        rest = &rest[12 + length..];
    }
    found
}

/// Asks from inside a pod.
fn ask(from: &Place, server: IpAddr, tcp: bool, name: &str, kind: u16) -> Vec<IpAddr> {
    let question = question(name, kind);
    let sent = question.clone();
    let exchange = move || -> std::io::Result<Vec<u8>> {
        let to = SocketAddr::new(server, 53);
        let mut answer = vec![0; 1500];
        if tcp {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER)?;
            stream.set_read_timeout(Some(ANSWER))?;
            let length = (sent.len() as u16).to_be_bytes();
            stream.write_all(&[&length[..], &sent].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            answer.truncate(usize::from(u16::from_be_bytes(length)));
            stream.read_exact(&mut answer)?;
        } else {
            let any: IpAddr = match server {
                IpAddr::V4(_) => [0; 4].into(),
                IpAddr::V6(_) => [0; 16].into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(ANSWER))?;
            socket.send(&sent)?;
            let length = socket.recv(&mut answer)?;
            answer.truncate(length);
        }
        Ok(answer)
    };
    let answer = from
        .netns
        .run(exchange)
        .unwrap()
        .unwrap_or_else(|e| panic!("{} asks {server} for {name}, TCP {tcp}: {e}", from.name));
    addresses(&answer, &question)
}

fn ips(value: &Value) -> Vec<IpAddr> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|ip| ip["ip"].as_str().or(ip.as_str())?.parse().ok())
        .collect()
}

#[test]
fn e2e_dns_over_both_families() {
    if skip_unless_root() {
        return;
    }
    let cluster = lab("e2e-dns", &[]);
    cluster.lab.apply(SERVICE);
    let pods = cluster.list("/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns");
    let servers = ips(&pods[0]["status"]["podIPs"]);
    assert!(
        servers.iter().any(IpAddr::is_ipv4) && servers.iter().any(IpAddr::is_ipv6),
        "{servers:?}"
    );
    let services = cluster.list("/api/v1/namespaces/kube-system/services");
    let dns = services
        .iter()
        .find(|s| s["metadata"]["name"] == "kube-dns");
    let own = ips(&dns.unwrap()["spec"]["clusterIPs"]);
    assert_eq!(own.len(), 2, "the service has both families: {own:?}");

    let named = cluster.pod("named").ips;
    let (name, api) = (
        "names.default.svc.cluster.local",
        "kube-dns.kube-system.svc.cluster.local",
    );
    let asker = cluster.pod("echo-node1-a");
    let first = servers[0];
    wait_until("the name of the pod", LIMIT, || {
        (!ask(&asker, first, false, name, A).is_empty()).then_some(())
    });
    let named_servers = nameservers(&cluster, "echo-node1-a");
    assert_eq!(
        named_servers, own,
        "resolv.conf has the service's addresses"
    );
    // The DNS pod is on one of the nodes: one asks its neighbour, the other one across.
    for asker in [&asker, &cluster.pod("echo-node2-a")] {
        for &server in servers.iter().chain(&own) {
            for tcp in [false, true] {
                for (kind, v4) in [(A, true), (AAAA, false)] {
                    let of = |list: &[IpAddr]| -> Vec<IpAddr> {
                        list.iter()
                            .copied()
                            .filter(|ip| ip.is_ipv4() == v4)
                            .collect()
                    };
                    let what = format!("{} asks {server}, TCP {tcp}, IPv4 {v4}", asker.name);
                    assert_eq!(ask(asker, server, tcp, name, kind), of(&named), "{what}");
                    assert_eq!(ask(asker, server, tcp, api, kind), of(&own), "{what}");
                }
            }
        }
    }
}

/// What a pod's resolv.conf names.
fn nameservers(cluster: &Cluster, pod: &str) -> Vec<IpAddr> {
    let conf = cluster.lab.exec(pod, &["cat", "/etc/resolv.conf"]).stdout;
    let lines = conf.lines();
    lines
        .filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok())
        .collect()
}

/// Where nothing balances the load of services, pods ask the pods of cluster DNS.
#[test]
fn e2e_dns_by_pods() {
    if skip_unless_root() {
        return;
    }
    let cluster = lab("e2e-dnsp", &["--cluster-dns", "pod"]);
    let pods = cluster.list("/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns");
    let mut servers = ips(&pods[0]["status"]["podIPs"]);
    servers.sort();
    wait_until("the addresses of the pod", LIMIT, || {
        (nameservers(&cluster, "echo-node2-a") == servers).then_some(())
    });
    let names = ["getent", "hosts", "kube-dns.kube-system"];
    wait_until("an answer to the pod's resolver", LIMIT, || {
        cluster.lab.exec("echo-node2-a", &names).ok().then_some(())
    });
}

/// Where there is no IPv4, resolvers use what their resolv.conf has.
#[test]
fn e2e_dns_with_ipv6_alone() {
    if skip_unless_root() {
        return;
    }
    let cluster = lab("e2e-dns6", &["--ipv6"]);
    for pod in ["echo-node1-a", "echo-node2-a"] {
        let servers = nameservers(&cluster, pod);
        assert_eq!(servers, ["fd00:96::a".parse::<IpAddr>().unwrap()]);
        let found = wait_until("an answer to the pod's resolver", LIMIT, || {
            let names = ["getent", "ahostsv6", "kube-dns.kube-system"];
            let run = cluster.lab.exec(pod, &names);
            run.ok().then_some(run.stdout)
        });
        assert!(found.contains("fd00:96::a"), "{found}");
    }
}
