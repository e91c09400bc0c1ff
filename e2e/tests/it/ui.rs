//! The page of flows in a cluster: where people reach it, and that it is told of real packets and of the policy that refused them.

use hypha_e2e::cluster::Cluster;
use serde_json::Value;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell};

#[test]
fn e2e_ui() {
    if skip_unless_root() {
        return;
    }
    let _ = hypha_e2e::program("hypha-cni");
    let builder = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-ui");
    let cluster = Cluster::of(builder.up());
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    let refused = sh.run("hypha hubble ui --open-browser=false");
    assert!(
        refused.code == 1 && refused.stderr.lines().count() == 1,
        "{refused:?}"
    );
    sh.ok("kubectl create -f $MANIFESTS/deathstar.yaml");
    let refused = sh.run(
        "hypha upgrade --reuse-values --set hubble.ui.enabled=true,hubble.relay.enabled=false",
    );
    assert!(
        refused
            .stderr
            .contains("it needs hubble.relay.enabled=true"),
        "{refused:?}"
    );
    sh.ok("hypha upgrade --reuse-values --set hubble.relay.enabled=true,hubble.ui.enabled=true");
    sh.ok("kubectl -n kube-system rollout status deployment/hubble-relay --timeout 60s");
    sh.ok("kubectl rollout status deployment/deathstar --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod/tiefighter pod/xwing --timeout 60s");
    let forward = sh.start("hypha hubble ui --port-forward 0 --open-browser=false");
    let said = forward.says_such("where the page is", |text| text.ends_with('\n'));
    let (_, page) = said.trim().rsplit_once(' ').unwrap();
    assert!(
        said.contains("Hubble UI is available at http://localhost:"),
        "{said}"
    );
    sh.has(&format!("curl -s {page}"), &["<div id=\"app\">"]);
    sh.until(
        &format!("curl -s {page}/api/status"),
        &["\"num_connected_nodes\":3"],
    );
    // Where there is a desktop, it is opened.
    sh.file("bin/xdg-open", "#!/bin/sh\necho \"$1\" > opened\n");
    let opening = sh.start("chmod +x bin/xdg-open; PATH=$PWD/bin:$PATH hypha hubble ui 0");
    opening.says("in your browser");
    sh.until("cat opened", &["http://localhost:"]);
    // The same by its service.
    let service = sh.start("kubectl -n kube-system port-forward svc/hubble-ui :80");
    let said = service.says_such("the port", |text| text.contains(" -> "));
    let port = said.split(" -> ").next().unwrap().rsplit(':').next();
    let at = format!("http://127.0.0.1:{}", port.unwrap());
    sh.has(&format!("curl -s {at}/"), &["<div id=\"app\">"]);
    // Whoever follows is told of a packet that is refused, and of the service's way to a pod.
    sh.ok("kubectl apply -f $MANIFESTS/rule1.yaml");
    let follow = sh.start(&format!(
        "curl -sN -G {page}/api/flows -d follow=true --data-urlencode 'whitelist={{\"source_pod\":[\"default/xwing\"]}}'"
    ));
    let start = std::time::Instant::now();
    while !follow.said().lines().any(is_refused) {
        assert!(
            start.elapsed().as_secs() < 60,
            "no drop is told of: {}",
            follow.said()
        );
        sh.run("kubectl exec xwing -- curl -s --connect-timeout 1 -XPOST deathstar.default.svc.cluster.local/v1/request-landing");
    }
    sh.ok("kubectl exec tiefighter -- curl -s --max-time 5 -XPOST deathstar.default.svc.cluster.local/v1/request-landing");
    let ask = format!(
        "curl -s -G {page}/api/flows --data-urlencode 'whitelist={{\"source_pod\":[\"default/tiefighter\"],\"event_type\":[{{\"type\":5}}]}}'"
    );
    sh.until(&ask, &["\"ingress_allowed_by\":[{\"name\":\"rule1\""]);
    // The policy itself, as the API server has it.
    sh.has(
        &format!(
            "curl -s '{page}/api/policy?kind=CiliumNetworkPolicy&namespace=default&name=rule1'"
        ),
        &["kind: CiliumNetworkPolicy", "name: rule1", "org: empire"],
    );
    let wrong = sh.ok(&format!("curl -s '{page}/api/flows?last=3'"));
    assert!(
        wrong.starts_with("last=3: there is no such parameter"),
        "{wrong}"
    );
    drop((forward, opening, service, follow));
    cluster.assert_clean();
}

fn is_refused(line: &str) -> bool {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    let flow = &line["flow"];
    flow["verdict"] == "DROPPED"
        && flow["drop_reason_desc"] == "POLICY_DENIED"
        && flow["destination"]["workloads"][0]["name"] == "deathstar"
}
