//! What policies say of requests, with real pods and `kubectl`: the demo of the notes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hypha_e2e::cluster::Cluster;
use testkit::{LabBuilder, skip_unless_root, wait_until};

use crate::acceptance::shell::{Release, Shell};

const SOON: Duration = Duration::from_secs(30);
const LAND: &str = "-XPOST";
const EXHAUST: &str = "-XPUT";

pub fn lab(prefix: &str, args: &[&str]) -> Cluster {
    let _ = hypha_e2e::program("hypha-cni");
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), prefix)
        .args(&["--nodes", "2"])
        .args(args);
    Cluster::of(lab.up())
}

/// Lands twice from the same port; the proxy ends the first connection before the client does.
const AGAIN: &str = r#"
import socket, sys
to = sys.argv[1].strip("[]")
for _ in range(2):
    family, kind, _, _, at = socket.getaddrinfo(to, 80, type=socket.SOCK_STREAM)[0]
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(5)
    s.bind(("", 45000))
    s.connect(at)
    s.send(b"POST /v1/request-landing HTTP/1.1\r\nHost: star\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    print(b"".join(iter(lambda: s.recv(4096), b"")))
    s.close()
print("landed twice")
"#;

/// A request of a ship to a death star.
fn call(ship: &str, method: &str, star: &str) -> String {
    let path = match method {
        LAND => "request-landing",
        _ => "exhaust-port",
    };
    format!("kubectl exec {ship} -- curl -s --max-time 5 {method} http://{star}/v1/{path}")
}

/// Addresses of all death stars, of both families, as URLs have them.
fn stars(sh: &Shell) -> Vec<String> {
    addresses(sh, "deathstar")
}

pub fn addresses(sh: &Shell, class: &str) -> Vec<String> {
    let list = sh.ok(&format!(
        "kubectl get pod -l class={class} -o jsonpath='{{.items[*].status.podIPs[*].ip}}'"
    ));
    let url = |ip: &str| {
        if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        }
    };
    list.split_whitespace().map(url).collect()
}

pub(crate) fn stage(cluster: &Cluster) -> Option<Shell> {
    let sh = Shell::new(cluster, Release::New)?;
    sh.ok("kubectl create -f $MANIFESTS/deathstar.yaml");
    sh.ok("kubectl rollout status deployment/deathstar --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod/tiefighter pod/xwing --timeout 60s");
    for node in ["node1", "node2"] {
        sh.until(
            &format!("hypha dbg --name $LAB --node {node} status"),
            &["Proxy Status:", "OK, ip "],
        );
    }
    Some(sh)
}

fn demo(cluster: &Cluster) {
    let Some(sh) = stage(cluster) else { return };
    sh.has(&call("tiefighter", EXHAUST, "deathstar"), &["exploded"]);
    sh.has(
        "kubectl apply -f $MANIFESTS/rule1-l7.yaml",
        &["rule1 created"],
    );
    sh.until("kubectl get cnp", &["rule1", "True"]);
    let node = sh.ok("kubectl get pod -l class=deathstar -o jsonpath='{.items[0].spec.nodeName}'");
    let monitor = sh.start(&format!(
        "hypha dbg --name $LAB --node {node} monitor -v --type l7"
    ));
    monitor.says("Press Ctrl-C");
    let mut targets = stars(&sh);
    assert!(targets.len() >= 2, "{targets:?}");
    targets.push("deathstar".to_owned());
    for star in &targets {
        sh.until(&call("tiefighter", EXHAUST, star), &["Access denied"]);
        sh.has(&call("tiefighter", LAND, star), &["Ship landed"]);
        sh.has(
            &format!("kubectl exec tiefighter -- python3 -c '{AGAIN}' '{star}'"),
            &["Ship landed", "landed twice"],
        );
        let refused = sh.run(&call("xwing", LAND, star));
        assert!(
            !refused.ok() && refused.stdout.is_empty(),
            "the x-wing is answered by {star}: {refused:?}"
        );
    }
    monitor.says_such("what was denied, and what passed", |text| {
        let has = |parts: &[&str]| {
            text.lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        };
        has(&[
            "<- Request http from ",
            "k8s:class=tiefighter",
            "verdict Denied PUT http://",
            "/v1/exhaust-port => 403",
        ]) && has(&[
            "<- Response http from ",
            "verdict Forwarded POST http://",
            "=> 200",
        ])
    });
    docking(&sh);
    monitor.says_such("a name that was denied", |text| {
        text.lines().any(|line| {
            line.contains("<- Request tls from ")
                && line.contains("verdict Denied server name base.rebels.org")
        })
    });
    cluster.assert_clean();
}

/// Names of servers in TLS: of both ends, on the same node and another one, in both families.
fn docking(sh: &Shell) {
    sh.ok("kubectl apply -f $MANIFESTS/https.yaml");
    sh.ok("kubectl rollout status ds/https --timeout 60s");
    sh.until("kubectl get cnp names", &["names", "True"]);
    let targets = addresses(sh, "https");
    assert!(targets.len() >= 2, "{targets:?}");
    let dock = |name: &str, at: &str| {
        let to = format!("--resolve {name}:443:{at} https://{name}/");
        format!("kubectl exec tiefighter -- curl -sSk --max-time 5 {to} || true")
    };
    for at in &targets {
        // Denied by the client's rules, and by the server's.
        sh.until(&dock("moon.empire.org", at), &["access denied"]);
        sh.until(&dock("base.rebels.org", at), &["access denied"]);
        sh.until(&dock("dock.empire.org", at), &["Docked"]);
    }
}

#[test]
fn e2e_layer7_star_wars_by_tunnel() {
    if !skip_unless_root() {
        demo(&lab("e2e-l7-vxlan", &["--routing", "vxlan"]));
    }
}

#[test]
fn e2e_layer7_star_wars_native() {
    if !skip_unless_root() {
        demo(&lab("e2e-l7-native", &["--routing", "native"]));
    }
}

/// Asks again and again while something happens; how many were answered so, and what the others heard.
pub fn asking_while(
    sh: &Shell,
    line: &str,
    answer: &str,
    what: impl FnOnce(),
) -> (usize, Vec<String>) {
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = thread::scope(|scope| {
        let lands = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let run = sh.run(line);
                if run.ok() && run.stdout.contains(answer) {
                    done.fetch_add(1, Ordering::Relaxed);
                } else {
                    failed.push(format!("{run:?}"));
                }
            }
            failed
        });
        what();
        let enough = done.load(Ordering::Relaxed) + 5;
        wait_until("requests are answered afterwards", SOON, || {
            (done.load(Ordering::Relaxed) >= enough).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        lands.join().unwrap()
    });
    (done.load(Ordering::Relaxed), failed)
}
