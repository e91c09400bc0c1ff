//! Rules by name, with real lookups and connections to addresses outside the cluster: names that are looked up are reached at the
//! first try, others are not, and neither the agent's end nor the proxy's changes that.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::thread;
use std::time::Duration;

use hypha_e2e::cluster::{Cluster, Place};
use netlink::{Address, Handle};
use nix::sys::signal::Signal;
use testkit::{LabBuilder, skip_unless_root, wait_until};

use crate::acceptance::shell::{Release, Shell};

const SOON: Duration = Duration::from_secs(30);

/// Names outside the cluster, as services without pods: cluster DNS has their addresses.
const OUTSIDE: [(&str, &str, &str, &str); 5] = [
    ("out", "web", "203.0.113.11", "2001:db8:f::11"),
    ("out", "other", "203.0.113.12", "2001:db8:f::12"),
    ("wild", "one", "203.0.113.13", "2001:db8:f::13"),
    ("wild", "two", "203.0.113.14", "2001:db8:f::14"),
    ("wild", "three", "203.0.113.15", "2001:db8:f::15"),
];

/// Where the outside serves.
const PORT: u16 = 8099;

const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  nodeName: node1
  containers: [{name: c, image: nicolaka/netshoot, command: [sleep, infinity]}]
";

/// Everything of services of the cluster may be looked up, but two names alone may be connected to.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: by-name}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, k8s-app: kube-dns}}]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*.out.svc.cluster.local"}, {matchPattern: "*.wild.svc.cluster.local"}]}
  - toFQDNs: [{matchName: web.out.svc.cluster.local}, {matchPattern: "*.wild.svc.cluster.local"}]
    toPorts: [{ports: [{port: "8099", protocol: TCP}]}]
"#;

fn name(index: usize) -> String {
    let (namespace, service, ..) = OUTSIDE[index];
    format!("{service}.{namespace}.svc.cluster.local.")
}

fn objects() -> String {
    let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: out}\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: wild}\n"
        .to_owned();
    for (namespace, name, v4, v6) in OUTSIDE {
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{clusterIP: None, ipFamilyPolicy: RequireDualStack, ports: [{{port: {PORT}}}]}}\n"
        );
        for (family, ip) in [("IPv4", v4), ("IPv6", v6)] {
            let slice = format!("{name}-{}", family.to_lowercase());
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
                 metadata: {{name: {slice}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
                 ports: [{{port: {PORT}}}]\nendpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]\n"
            );
        }
    }
    text
}

/// A web server at the addresses outside, on the lab's router.
fn serve_outside(router: &Place) {
    let mut handle = Handle::in_netns(&router.netns).unwrap();
    for ip in OUTSIDE.iter().flat_map(|(_, _, v4, v6)| [v4, v6]) {
        let ip: IpAddr = ip.parse().unwrap();
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        handle.address_add(&Address::new(1, ip, bits)).unwrap();
    }
    let bind = || TcpListener::bind(("::", PORT));
    let listener = router.netns.run(bind).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\noutside\n",
                );
            });
        }
    });
}

fn inside(command: &str) -> String {
    format!("kubectl exec client -- {command}")
}

/// A request by name, with one lookup and one connection.
fn by_name(family: u8, index: usize) -> String {
    inside(&format!(
        "curl -s -{family} --max-time 10 http://{}:{PORT}/",
        name(index)
    ))
}

/// A request to an address, whoever has looked up what.
fn by_address(index: usize, v4: bool) -> String {
    let (.., four, six) = OUTSIDE[index];
    let host = if v4 {
        four.to_owned()
    } else {
        format!("'[{six}]'")
    };
    inside(&format!(
        "curl -s --connect-timeout 2 http://{host}:{PORT}/"
    ))
}

fn dig(index: usize, kind: &str) -> String {
    inside(&format!("dig +short {} {kind}", name(index)))
}

fn lab() -> Cluster {
    let _ = hypha_e2e::program("hypha-cni");
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-l7-dns").args(&[
        "--nodes",
        "2",
        // Machines that run tests are busy; nobody is to connect before the kernel knows.
        "--agent-config",
        "tofqdns-proxy-response-max-delay=8s",
    ]);
    Cluster::of(lab.up())
}

fn stage(cluster: &Cluster) -> Option<Shell> {
    let sh = Shell::new(cluster, Release::New)?;
    serve_outside(&cluster.host("router"));
    cluster.lab.apply(&objects());
    cluster.lab.apply(CLIENT);
    sh.ok("kubectl wait --for=condition=Ready pod/client --timeout 60s");
    for (index, (_, _, v4, v6)) in OUTSIDE.iter().enumerate() {
        sh.until(&dig(index, "A"), &[v4]);
        sh.until(&dig(index, "AAAA"), &[v6]);
    }
    // Without a policy everything is reached.
    sh.has(&by_address(1, true), &["outside"]);
    sh.has(&by_address(1, false), &["outside"]);
    cluster.lab.apply(POLICY);
    sh.until("kubectl get cnp", &["by-name", "True"]);
    sh.until(
        &inside("dig kubernetes.default.svc.cluster.local."),
        &["REFUSED"],
    );
    Some(sh)
}

#[track_caller]
fn is_cut(sh: &Shell, command: &str) {
    let run = sh.run(command);
    assert!(!run.ok() && run.stdout.is_empty(), "$ {command}\n{run:?}");
}

/// What is looked up is reached at the first try, and nothing else is.
fn lookups_open_the_way(sh: &Shell) {
    for v4 in [true, false] {
        is_cut(sh, &by_address(0, v4));
    }
    for family in [4, 6] {
        sh.has(&by_name(family, 0), &["outside"]);
        sh.has(&by_name(family, 2), &["outside"]);
        // May be looked up, but not connected to.
        is_cut(sh, &by_name(family, 1));
        is_cut(sh, &by_address(3, family == 4));
    }
    sh.has(&dig(1, "A"), &[OUTSIDE[1].2]);
    let dbg = "hypha dbg --name $LAB --node node1";
    let listed = sh.has(
        &format!("{dbg} fqdn cache list"),
        &[
            "ExpirationTime",
            "web.out.svc.cluster.local.",
            OUTSIDE[2].2,
            OUTSIDE[2].3,
        ],
    );
    assert!(!listed.contains(OUTSIDE[3].2), "{listed}");
    sh.has(
        &format!("{dbg} fqdn names"),
        &[
            "MatchPattern: *.wild.svc.cluster.local",
            "FQDNPolicySelectors",
        ],
    );
    sh.has(
        &format!("{dbg} identity list"),
        &[
            "fqdn:web.out.svc.cluster.local",
            "fqdn:*.wild.svc.cluster.local",
        ],
    );
}

/// Which rule, which lookup and which addresses it is that let names in, and what goes to the proxy for it.
fn names_are_explained(sh: &Shell) {
    let why = |index: usize| {
        let name = name(index);
        format!("hypha policy why default/client {name} {PORT}/TCP")
    };
    sh.has(
        &why(0),
        &[
            "8099/TCP: allowed",
            "CiliumNetworkPolicy default/by-name: spec.egress[1]",
            "may look up web.out.svc.cluster.local. by CiliumNetworkPolicy default/by-name: spec.egress[0].toPorts[0].rules.dns[0]",
            "node1 knows web.out.svc.cluster.local. as 203.0.113.11 (until ",
            ", 2001:db8:f::11 (until ",
        ],
    );
    sh.has(
        &why(3),
        &["8099/TCP: allowed", "node1 knows no address of two.wild."],
    );
    sh.fails(
        &why(1),
        &[
            "8099/TCP to 203.0.113.12: denied",
            "8099/TCP to 2001:db8:f::12: denied",
            "toFQDNs matchName other.out.svc.cluster.local.",
        ],
    );
    sh.has(
        "hypha dbg --name $LAB --node node1 status --all-redirects",
        &["  dns ", ":egress:UDP:53:", ":egress:TCP:53:", "15003"],
    );
}

/// The agent is killed after a lookup, and while there is none names are looked up: what was open stays open, and what was learned
/// meanwhile is open once it is back.
fn agents_come_and_go(sh: &Shell, cluster: &Cluster) {
    let old = cluster.kill_agent("node1");
    sh.has(&by_address(0, true), &["outside"]);
    sh.has(&by_address(2, false), &["outside"]);
    sh.has(&dig(3, "A"), &[OUTSIDE[3].2]);
    cluster.wait_replaced("node1", Some(&old));
    for v4 in [true, false] {
        sh.has(&by_address(0, v4), &["outside"]);
        sh.has(&by_address(2, v4), &["outside"]);
        is_cut(sh, &by_address(1, v4));
    }
    wait_until("what was looked up meanwhile is open", SOON, || {
        sh.run(&by_address(3, true)).ok().then_some(())
    });
    // The first lookup of a name by a new agent.
    sh.has(&by_name(4, 4), &["outside"]);
}

#[test]
fn e2e_layer7_dns_names_open_the_way() {
    if skip_unless_root() {
        return;
    }
    let cluster = lab();
    let Some(sh) = stage(&cluster) else { return };
    lookups_open_the_way(&sh);
    names_are_explained(&sh);
    agents_come_and_go(&sh, &cluster);
    let proxy = cluster.proxy_process("node1").expect("a proxy runs");
    assert!(proxy.signal(Signal::SIGKILL));
    sh.has(&by_address(0, true), &["outside"]);
    sh.until(&dig(0, "A"), &[OUTSIDE[0].2]);
    sh.has(&by_name(6, 0), &["outside"]);
    sh.has(
        &inside("dig kubernetes.default.svc.cluster.local."),
        &["REFUSED"],
    );
    // Without the rule the names mean nothing.
    sh.ok("kubectl patch cnp by-name --type=json -p '[{\"op\": \"remove\", \"path\": \"/spec/egress/1\"}]'");
    wait_until("the way is shut", SOON, || {
        (!sh.run(&by_address(0, true)).ok()).then_some(())
    });
    cluster.assert_clean();
}
