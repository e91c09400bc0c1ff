//! Verbs about nodes.

use super::Parts;
use super::shell::Shell;

pub fn all(sh: &Shell, parts: &mut Parts) {
    parts.run("nodes: taints", || taints(sh));
    parts.run("nodes: cordons", || cordons(sh));
    parts.run("nodes: drains", || drains(sh));
}

fn taints(sh: &Shell) {
    sh.has(
        "kubectl taint nodes k8s-ctr node-role.kubernetes.io/control-plane=:NoSchedule",
        &["node/k8s-ctr tainted"],
    );
    sh.has(
        "kubectl describe node k8s-ctr | grep Taints",
        &["node-role.kubernetes.io/control-plane:NoSchedule"],
    );
    sh.ok("kubectl run shy --image=traefik/whoami --overrides='{\"spec\":{\"nodeSelector\":{\"kubernetes.io/hostname\":\"k8s-ctr\"}}}'");
    sh.until(
        "kubectl describe pod shy",
        &["FailedScheduling", "untolerated taint"],
    );
    sh.has("kubectl get pod shy", &["Pending"]);
    sh.has(
        "kubectl taint nodes k8s-ctr node-role.kubernetes.io/control-plane-",
        &["untainted"],
    );
    sh.ok("kubectl wait --for=condition=Ready pod/shy --timeout=15s");
    sh.ok("kubectl delete pod shy --now");
    sh.fails("kubectl taint nodes k8s-ctr nothing-", &["not found"]);
}

fn cordons(sh: &Shell) {
    sh.has("kubectl cordon k8s-w1", &["node/k8s-w1 cordoned"]);
    sh.has("kubectl get node k8s-w1", &["Ready,SchedulingDisabled"]);
    sh.ok("kubectl create deploy elsewhere --image=traefik/whoami --replicas=4 && kubectl rollout status deploy/elsewhere --timeout=20s");
    assert_eq!(
        sh.ok("kubectl get pods -l app=elsewhere --field-selector spec.nodeName=k8s-w1 -o name"),
        ""
    );
    sh.has("kubectl uncordon k8s-w1", &["node/k8s-w1 uncordoned"]);
}

fn drains(sh: &Shell) {
    sh.fails(
        "kubectl drain k8s-ctr --ignore-daemonsets",
        &["declare no controller", "curl-pod"],
    );
    sh.ok("kubectl uncordon k8s-ctr");
    let drained = sh.ok(
        "kubectl drain k8s-w0 --ignore-daemonsets --force --delete-emptydir-data --timeout=30s",
    );
    assert!(drained.contains("node/k8s-w0 drained"), "{drained}");
    let left = sh.ok("kubectl get pods --field-selector spec.nodeName=k8s-w0 -o name");
    assert_eq!(left, "", "pods stayed on a drained node");
    sh.ok("kubectl rollout status deploy/elsewhere --timeout=20s && kubectl rollout status deploy/webpod --timeout=20s");
    sh.ok("kubectl uncordon k8s-w0 && kubectl delete deploy elsewhere");
}

/// A representative part, with the old release.
pub fn old(sh: &Shell) {
    sh.has(
        "kubectl taint nodes k8s-w1 old=yes:NoSchedule && kubectl taint nodes k8s-w1 old-",
        &["node/k8s-w1 tainted", "untainted"],
    );
    sh.has(
        "kubectl drain k8s-w1 --ignore-daemonsets --force --delete-emptydir-data --timeout=30s",
        &["node/k8s-w1"],
    );
    sh.has("kubectl uncordon k8s-w1", &["uncordoned"]);
    sh.ok("kubectl rollout status deploy/webpod --timeout=20s");
}
