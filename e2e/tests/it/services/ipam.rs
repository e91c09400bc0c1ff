//! Addresses of load balancers as people see them: pools applied and changed with `kubectl`, the operator killed in between.

use hypha_e2e::cluster::Cluster;
use nix::sys::signal::Signal;
use testkit::skip_unless_root;

use crate::acceptance::shell::{Release, Shell};

fn pool(name: &str, blocks: &str, more: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {{name: {name}}}\n\
         spec: {{blocks: {blocks}{more}}}\n"
    )
}

fn service(name: &str, annotations: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{{annotations}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: none}}, ports: [{{port: {port}}}]}}\n"
    )
}

/// The address that `kubectl get service` shows, and why there is none.
fn shows(sh: &Shell, name: &str, address: &str, reason: &str) {
    sh.until(
        &format!("kubectl get service {name}"),
        &["EXTERNAL-IP", address],
    );
    let condition = "{.status.conditions[?(@.type==\"cilium.io/IPAMRequestSatisfied\")].reason}";
    sh.until(
        &format!("kubectl get service {name} -o jsonpath='{condition}'"),
        &[reason],
    );
}

fn apply(sh: &Shell, text: &str) {
    sh.file("objects.yaml", text);
    sh.ok("kubectl apply -f objects.yaml");
}

fn sharing(sh: &Shell) {
    let key = "lbipam.cilium.io/sharing-key: one";
    apply(sh, &service("http", key, 80));
    shows(sh, "http", "192.0.2.2", "satisfied");
    apply(sh, &service("https", key, 443));
    shows(sh, "https", "192.0.2.2", "satisfied");
}

/// What nobody can have, and what becomes of it.
fn lacking(sh: &Shell) {
    apply(sh, &service("taken", "lbipam.cilium.io/ips: 192.0.2.1", 80));
    shows(sh, "taken", "<pending>", "already_allocated");
    apply(sh, &service("far", "lbipam.cilium.io/ips: 203.0.113.9", 80));
    shows(sh, "far", "<pending>", "no_pool");
    apply(sh, &service("late", "", 80));
    shows(sh, "late", "<pending>", "out_of_ips");
    sh.until(
        "kubectl get events --field-selector involvedObject.name=late",
        &["NoAddress", "no IPv4 address is left"],
    );
    sh.until("kubectl get ippools blue", &["blue", "false", "False", "0"]);
}

fn pools(sh: &Shell) {
    apply(sh, &pool("copy", "[{cidr: 192.0.2.0/24}]", ""));
    let text = "192.0.2.0/24 overlaps 192.0.2.1 - 192.0.2.2 of pool blue";
    sh.until("kubectl get lbippool copy", &["True"]);
    sh.until("kubectl describe ippool copy", &["cidr_overlap", text]);
    // A pool for some services only, switched off at first.
    let some = ", serviceSelector: {matchLabels: {app: late}}";
    apply(
        sh,
        &pool(
            "red",
            "[{cidr: 198.51.100.8/30}]",
            &format!("{some}, disabled: true, allowFirstLastIPs: \"No\""),
        ),
    );
    sh.until("kubectl get ippool red", &["true", "False", "2"]);
    shows(sh, "late", "<pending>", "out_of_ips");
    sh.ok("kubectl patch ippool red --type merge -p '{\"spec\":{\"disabled\":false}}'");
    shows(sh, "late", "198.51.100.9", "satisfied");
    apply(
        sh,
        &service("far", "lbipam.cilium.io/ips: 198.51.100.10", 80),
    );
    shows(sh, "far", "<pending>", "pool_selector_mismatch");
    sh.fails(
        "kubectl patch ippool red --type merge -p '{\"spec\":{\"blocks\":[{\"cidr\":\"nonsense\"}]}}'",
        &["cidr"],
    );
    // What no schema can say: told, and services keep what they have.
    sh.ok("kubectl patch ippool red --type merge -p '{\"spec\":{\"blocks\":[{\"start\":\"192.0.2.9\",\"stop\":\"fd00::1\"}]}}'");
    sh.until("kubectl describe ippool red", &["is no range"]);
    shows(sh, "late", "198.51.100.9", "satisfied");
}

#[test]
fn e2e_services_ipam() {
    if skip_unless_root() {
        return;
    }
    // The lease of an operator that was killed is soon over.
    let quick = [
        "leader-election-lease-duration=3s",
        "leader-election-renew-deadline=2s",
        "leader-election-retry-period=500ms",
    ];
    let mut args = vec!["--nodes", "1", "--ipv4"];
    args.extend(quick.iter().flat_map(|one| ["--agent-config", one]));
    let cluster = Cluster::up("e2e-lbipam", &args);
    let Some(sh) = &Shell::new(&cluster, Release::New) else {
        return;
    };
    sh.has(
        "kubectl explain ippool.spec.blocks",
        &["cidr", "start", "stop"],
    );
    sh.has(
        "kubectl explain l2announcement.spec",
        &["loadBalancerIPs", "interfaces"],
    );
    sh.has(
        "kubectl explain clrp.spec.redirectFrontend",
        &["addressMatcher", "serviceMatcher"],
    );
    sh.has(
        "kubectl get ippools,l2announcement,clrp",
        &["No resources found"],
    );
    apply(sh, &service("first", "", 80));
    shows(sh, "first", "<pending>", "");
    apply(
        sh,
        &pool("blue", "[{start: 192.0.2.1, stop: 192.0.2.2}]", ""),
    );
    shows(sh, "first", "192.0.2.1", "satisfied");
    sharing(sh);
    lacking(sh);
    pools(sh);

    // Killed while somebody gives an address up: the next one gives it to who waits for it, and takes nothing from the others.
    let killed = cluster.operator_process().expect("an operator runs");
    assert!(
        killed.signal(Signal::SIGKILL),
        "the operator ended by itself"
    );
    sh.ok("kubectl delete service first");
    shows(sh, "taken", "192.0.2.1", "satisfied");
    shows(sh, "http", "192.0.2.2", "satisfied");
    shows(sh, "https", "192.0.2.2", "satisfied");
    shows(sh, "late", "198.51.100.9", "satisfied");

    // Another type: the address is free again.
    sh.ok("kubectl patch service taken --type merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'");
    sh.until("kubectl get service taken", &["ClusterIP", "<none>"]);
    apply(sh, &service("heir", "", 80));
    shows(sh, "heir", "192.0.2.1", "satisfied");
    sh.ok("kubectl delete ippool blue copy red");
    shows(sh, "heir", "<pending>", "no_pool");
}
