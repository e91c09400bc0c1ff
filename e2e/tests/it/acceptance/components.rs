//! Our own components as people meet them: pods of a DaemonSet and a Deployment in `kube-system`.

use super::Parts;
use super::shell::Shell;
use super::table::Table;

pub fn all(sh: &Shell, parts: &mut Parts) {
    parts.run("components: pods", || pods(sh));
    parts.run("components: inside", || inside(sh));
    parts.run("components: restarts", || restarts(sh));
    parts.run("components: settings", || settings(sh));
}

fn pods(sh: &Shell) {
    let agents = Table::of(&sh.ok("kubectl get pod -n kube-system -l k8s-app=cilium -owide"));
    assert_eq!(agents.column("READY"), ["1/1"; 3]);
    assert_eq!(agents.column("STATUS"), ["Running"; 3]);
    let mut ips = agents.column("IP");
    ips.sort_unstable();
    assert_eq!(
        ips,
        ["192.168.10.100", "192.168.10.101", "192.168.20.100"],
        "they have their nodes' addresses"
    );
    let set = Table::of(&sh.ok("kubectl get ds -n kube-system cilium"));
    assert_eq!(
        (set.cell("cilium", "DESIRED"), set.cell("cilium", "READY")),
        ("3", "3")
    );
    let operator = Table::of(&sh.ok("kubectl get deploy -n kube-system cilium-operator"));
    assert_eq!(operator.cell("cilium-operator", "READY"), "1/1");
    sh.has(
        "kubectl get pods -n kube-system -l name=cilium-operator",
        &["cilium-operator-", "Running"],
    );
    sh.has(
        "kubectl describe pod -n kube-system -l k8s-app=cilium",
        &["Init Containers:", "mount-cgroup:", "cilium-agent:"],
    );
    sh.has("kubectl logs -n kube-system ds/cilium -c mount-cgroup", &[]);
    sh.has(
        "kubectl logs -n kube-system ds/cilium -c cilium-agent --tail=50",
        &["INFO"],
    );
    sh.has(
        "kubectl logs -n kube-system deploy/cilium-operator --tail=50",
        &["INFO"],
    );
    let unmanaged = sh.ok("kubectl get cep -n kube-system -o name");
    assert!(
        !unmanaged.contains("/cilium-"),
        "pods of the nodes' own network are no endpoints: {unmanaged}"
    );
}

/// The aliases of the notes.
fn inside(sh: &Shell) {
    let first = "kubectl exec -n kube-system ds/cilium -c cilium-agent -- ";
    sh.has(
        &format!("{first}cilium-dbg status | grep Masquerading"),
        &["BPF", "[eth0]"],
    );
    sh.has(&format!("{first}cilium status --brief"), &["OK"]);
    sh.has(
        "kubectl -n kube-system exec ds/cilium -- cilium-dbg status --verbose",
        &["KVStore:", "Allocated addresses:", "Controller Status:"],
    );
    let alias = "C0=$(kubectl get -l k8s-app=cilium pods -n kube-system --field-selector spec.nodeName=k8s-ctr -o jsonpath='{.items[0].metadata.name}'); \
        c0() { kubectl exec -it $C0 -n kube-system -c cilium-agent -- cilium \"$@\"; }; ";
    for (line, part) in [
        ("status --all-addresses | grep router", "10.244.1.1"),
        ("status --verbose | grep Allocated -A5", "(router)"),
        ("endpoint list", "k8s:app=curl"),
        ("bpf endpoint list", "LOCAL ENDPOINT INFO"),
        ("map get cilium_lxc", "sync"),
        ("ip list -n", "192.168.10.101/32"),
        ("bpf ipcache list", "tunnelendpoint=192.168.10.101"),
        ("bpf tunnel list", "192.168.20.100"),
        ("node list", "k8s-w0"),
        ("map list --verbose", "## Map: cilium_ipcache"),
        ("bpf ct list global", "expires="),
        ("bpf nat list", ""),
        ("bpf metrics list", "REASON"),
        ("metrics list", "cilium_endpoint_state"),
        ("config", "routing-mode"),
    ] {
        sh.has(&format!("{alias}c0 {line}"), &[part]);
    }
    sh.has(&format!("{first}cilium-dbg version"), &["Daemon:"]);
    let every = "for pod in $(kubectl get pods -n kube-system -l k8s-app=cilium -o name); do \
        kubectl exec -n kube-system $pod -c cilium-agent -- cilium-dbg endpoint list; done";
    assert_eq!(sh.ok(every).matches("ENDPOINT   POLICY").count(), 3);
    sh.has(
        &format!("{first}bpftool prog show"),
        &["cil_from_container"],
    );
    sh.has(&format!("{first}mount | grep /sys/fs/bpf"), &["type bpf"]);
}

/// Restarts lose nothing.
fn restarts(sh: &Shell) {
    let web = sh.ok("kubectl get pods -l app=webpod -o jsonpath='{.items[0].status.podIP}'");
    let traffic = sh.start(&format!(
        "kubectl exec curl-pod -- sh -c 'for i in $(seq 600); do curl -s --max-time 1 {web} | grep Hostname || echo LOST; sleep 0.05; done'"
    ));
    traffic.says("Hostname: webpod-");
    let old = sh.ok("kubectl get pods -n kube-system -l k8s-app=cilium -o name");
    sh.has(
        "kubectl -n kube-system rollout restart ds/cilium deploy/cilium-operator",
        &[
            "daemonset.apps/cilium restarted",
            "deployment.apps/cilium-operator restarted",
        ],
    );
    sh.has(
        "kubectl -n kube-system rollout status ds/cilium --timeout=50s",
        &["successfully rolled out"],
    );
    sh.ok("kubectl -n kube-system rollout status deploy/cilium-operator --timeout=50s");
    let new = sh.ok("kubectl get pods -n kube-system -l k8s-app=cilium -o name");
    assert!(
        new.lines().count() == 3 && new.lines().all(|pod| !old.contains(pod)),
        "{old}{new}"
    );
    sh.ok("kubectl delete pod -n kube-system -l k8s-app=cilium --wait=false");
    sh.until(
        "kubectl -n kube-system rollout status ds/cilium --timeout=10s && kubectl get ds -n kube-system cilium -o jsonpath='{.status.numberReady}'",
        &["3"],
    );
    let said = traffic.said();
    assert!(
        !said.contains("LOST"),
        "connections were lost: {} of {}",
        said.matches("LOST").count(),
        said.lines().count()
    );
}

fn settings(sh: &Shell) {
    sh.has(
        "cilium config set debug true",
        &[
            "Patching ConfigMap cilium-config with debug=true",
            "Restarted",
        ],
    );
    sh.has("cilium config view | grep debug", &["true"]);
    sh.until(
        "kubectl -n kube-system rollout status ds/cilium --timeout=10s",
        &["successfully rolled out"],
    );
    sh.until(
        "kubectl logs -n kube-system ds/cilium -c cilium-agent",
        &["DEBUG"],
    );
    sh.ok("cilium config set debug false");
    sh.ok("kubectl -n kube-system rollout status ds/cilium --timeout=50s");
}
