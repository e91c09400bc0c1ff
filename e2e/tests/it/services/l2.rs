//! Addresses of services that the outside's router asks its neighbours for: one node answers, and another one when that fails.

use std::time::{Duration, Instant};

use hypha_e2e::cluster::Cluster;
use testkit::{skip_unless_root, wait_until};

use crate::acceptance::shell::{Release, Shell};

const LEASE: &str = "cilium-l2announce-default-web";
/// How long a lease is waited for, as the settings below say, with what a busy machine adds.
const FAIL_OVER: Duration = Duration::from_secs(30);
const ADDRESSES: [&str; 2] = ["192.168.10.211", "fd00:10::211"];

const MANIFEST: &str = "\
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: policy1}
spec:
  externalIPs: true
  loadBalancerIPs: true
  nodeSelector:
    matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [node3]}]
---
apiVersion: cilium.io/v2alpha1
kind: CiliumLoadBalancerIPPool
metadata: {name: pool1}
spec: {blocks: [{start: 192.168.10.211, stop: 192.168.10.212}, {cidr: \"fd00:10::211/128\"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

fn backend(name: &str, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    \
         image: registry.k8s.io/e2e-test-images/agnhost:2.40\n    args: [netexec, --http-port=8080]\n"
    )
}

/// Asks from outside; whether somebody answers.
fn asks(cluster: &Cluster, address: &str) -> bool {
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    let url = format!("http://{host}/hostname");
    let run = cluster.lab.exec(
        "router",
        &["curl", "-s", "-m", "2", "-o", "/dev/null", &url],
    );
    run.ok()
}

/// The link-layer address that the router has for an address; empty without.
fn neighbour(cluster: &Cluster, address: &str) -> String {
    let line = cluster
        .lab
        .sh("router", &format!("ip neigh show {address}"));
    let mut words = line.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).unwrap_or_default().to_owned()
}

fn forget(cluster: &Cluster, address: &str) {
    let line = format!("ip neigh flush to {address} || true");
    cluster.lab.sh("router", &line);
}

fn mac(cluster: &Cluster, node: &str) -> String {
    cluster
        .lab
        .sh(node, "cat /sys/class/net/eth0/address")
        .trim()
        .to_owned()
}

fn holder(sh: &Shell) -> String {
    let line =
        format!("kubectl -n kube-system get lease {LEASE} -o jsonpath='{{.spec.holderIdentity}}'");
    let run = sh.run(&line);
    if run.ok() { run.stdout } else { String::new() }
}

/// The router reaches every address, and by this node.
fn reached_by(cluster: &Cluster, node: &str) {
    let mac = mac(cluster, node);
    for address in ADDRESSES {
        wait_until(&format!("{address} by {node}"), FAIL_OVER, || {
            (asks(cluster, address) && neighbour(cluster, address) == mac).then_some(())
        });
        // Nobody else answers: whoever asks anew, and again, hears of the same node.
        for _ in 0..5 {
            forget(cluster, address);
            assert!(asks(cluster, address), "{address} does not answer");
            assert_eq!(neighbour(cluster, address), mac, "{address}");
        }
    }
}

#[test]
fn e2e_services_l2_announcements() {
    if skip_unless_root() {
        return;
    }
    // A third node would be on another network.
    let cluster = Cluster::up("e2e-l2", &["--nodes", "2"]);
    let Some(sh) = &Shell::new(&cluster, Release::New) else {
        return;
    };
    // The rights come with the chart's value.
    sh.ok("hypha upgrade --reuse-values --set l2announcements.enabled=true --set l2announcements.leaseDuration=5s \
           --set l2announcements.leaseRenewDeadline=2s --set l2announcements.leaseRetryPeriod=500ms");
    sh.until(
        "kubectl -n kube-system rollout status daemonset/cilium --timeout=30s",
        &["successfully rolled out"],
    );
    let text = format!(
        "{MANIFEST}{}{}",
        backend("web1", "node1"),
        backend("web2", "node2")
    );
    cluster.lab.apply(&text);
    sh.until("kubectl get service web", &ADDRESSES);
    let leader = wait_until("a leader", FAIL_OVER, || {
        Some(holder(sh)).filter(|name| !name.is_empty())
    });
    assert!(
        ["node1", "node2"].contains(&&*leader),
        "{leader} is not selected"
    );
    reached_by(&cluster, &leader);
    let said = cluster
        .lab
        .hypha(&["dbg", "statedb", "l2-announce", "--node", &leader]);
    for part in ["IP", "NetworkInterface", ADDRESSES[0], "eth0"] {
        assert!(said.stdout.contains(part), "{}{}", said.stdout, said.stderr);
    }

    // An agent that is killed is back before anybody else takes over, and its node has answered meanwhile.
    let old = cluster.kill_agent(&leader);
    let killed = Instant::now();
    while killed.elapsed() < Duration::from_secs(2) {
        forget(&cluster, ADDRESSES[0]);
        assert!(asks(&cluster, ADDRESSES[0]), "after {:?}", killed.elapsed());
    }
    cluster.wait_replaced(&leader, Some(&old));

    // One that stays away: the other node takes over, and tells the router so.
    cluster.lab.stop_agent(&leader);
    let stopped = Instant::now();
    let next = if leader == "node1" { "node2" } else { "node1" };
    wait_until("another leader", FAIL_OVER, || {
        (holder(sh) == next).then_some(())
    });
    let took = stopped.elapsed();
    let mac = mac(&cluster, next);
    for address in ADDRESSES {
        wait_until("the router is told", FAIL_OVER, || {
            (neighbour(&cluster, address) == mac).then_some(())
        });
    }
    eprintln!(
        "fail-over: another leader after {took:?}, the router knows after {:?}",
        stopped.elapsed()
    );
    reached_by(&cluster, next);
    cluster.lab.start_agent(&leader);
    cluster.wait_replaced(&leader, None);
    assert_eq!(holder(sh), next, "whoever has the lease keeps it");
    reached_by(&cluster, next);

    // Nobody is to announce it any more.
    sh.ok("kubectl delete l2announcement policy1");
    wait_until("nobody answers", FAIL_OVER, || {
        forget(&cluster, ADDRESSES[0]);
        (!asks(&cluster, ADDRESSES[0]) && neighbour(&cluster, ADDRESSES[0]).is_empty())
            .then_some(())
    });
    assert_eq!(holder(sh), "", "the lease is given back");
}
