//! The policy demo of the notes, its step of peers and ports, as a person does it: with `kubectl`.

use hypha_e2e::cluster::Cluster;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell};

/// A request to land, by the address of one death star: there are no service addresses yet.
fn landing(ship: &str) -> String {
    format!(
        "IP=$(kubectl get pod -l class=deathstar -o jsonpath='{{.items[0].status.podIP}}'); \
         kubectl exec {ship} -- curl -s --connect-timeout 1 -XPOST $IP/v1/request-landing"
    )
}

/// The first death star's node and what asks its agent.
fn agent(sh: &Shell) -> String {
    let node = sh.ok("kubectl get pod -l class=deathstar -o jsonpath='{.items[0].spec.nodeName}'");
    format!("hypha dbg --name $LAB --node {node}")
}

#[test]
fn e2e_policy_star_wars() {
    if skip_unless_root() {
        return;
    }
    let _ = hypha_e2e::program("hypha-cni");
    let builder = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-star-wars");
    let cluster = Cluster::of(builder.up());
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    sh.ok("kubectl create -f $MANIFESTS/deathstar.yaml");
    sh.ok("kubectl rollout status deployment/deathstar --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod/tiefighter pod/xwing --timeout 60s");
    let dbg = agent(&sh);
    everybody_lands_without_policy(&sh, &dbg);
    what_a_policy_would_do(&sh);

    let monitor = sh.start(&format!("{dbg} monitor -t drop -t policy-verdict"));
    monitor.says("Press Ctrl-C");
    sh.has("kubectl apply -f $MANIFESTS/rule1.yaml", &["rule1 created"]);
    sh.until(
        "kubectl get cnp",
        &["NAME    AGE", "VALID", "rule1", "True"],
    );
    sh.has("kubectl describe cnp rule1", &["Conditions:", "Valid"]);
    sh.until(&format!("{dbg} policy wait"), &["Revision: "]);
    // The rule came to this node with the revision that the wait was about, or does so now.
    sh.until(
        &format!("{dbg} endpoint list | grep -B8 -A8 class=deathstar"),
        &["Enabled            Disabled"],
    );

    sh.has(&landing("tiefighter"), &["Ship landed"]);
    let refused = sh.run(&landing("xwing"));
    assert!(
        !refused.ok() && !refused.stdout.contains("Ship landed"),
        "the x-wing lands: {refused:?}"
    );
    let said = monitor.says_such("that the x-wing's packet was dropped", |text| {
        text.lines()
            .any(|line| line.starts_with("xx drop (Policy denied)") && line.contains(":80 tcp SYN"))
    });
    let verdicts = |action: &str| {
        said.lines().any(|line| {
            line.starts_with("Policy verdict log:")
                && line.contains(&format!("ingress, action {action}, auth: disabled, match "))
        })
    };
    assert!(verdicts("deny") && verdicts("allow"), "{said}");
    assert!(
        said.contains("default/rule1: spec.ingress[0]"),
        "no event names the rule:\n{said}"
    );

    what_the_agent_has(&sh, &dbg);
    why_and_what_for(&sh);
    sh.ok("kubectl delete -f $MANIFESTS/rule1.yaml");
    sh.until(&landing("xwing"), &["Ship landed"]);
    sh.until(&format!("{dbg} policy get"), &["[]\nRevision: "]);
    cluster.assert_clean();
}

fn everybody_lands_without_policy(sh: &Shell, dbg: &str) {
    for ship in ["tiefighter", "xwing"] {
        sh.until(&landing(ship), &["Ship landed"]);
    }
    let list = sh.ok(&format!("{dbg} endpoint list"));
    assert!(
        list.contains("k8s:class=deathstar") && !list.contains("Enabled"),
        "{list}"
    );
    sh.has(&format!("{dbg} policy get"), &["[]\nRevision: "]);
}

fn what_a_policy_would_do(sh: &Shell) {
    sh.has(
        "hypha policy check --name $LAB -f $MANIFESTS/rule1.yaml",
        &[
            "rule1.yaml:3: CiliumNetworkPolicy default/rule1: valid",
            "selects 2: default/deathstar-",
            "which is new for 2",
        ],
    );
    sh.fails(
        "hypha policy diff --name $LAB -f $MANIFESTS/rule1.yaml",
        &[
            "- ",
            "default/xwing",
            "→ default/deathstar-",
            "0 pairs opened",
        ],
    );
    sh.file("broken.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: broken}\nspec:\n  endpointSelector: {}\n  ingress:\n  - toPorts:\n    - ports:\n      - port: \"80\"\n        protocol: TPC\n");
    sh.fails(
        "hypha policy check --name $LAB -f broken.yaml",
        &["broken.yaml:10: CiliumNetworkPolicy default/broken: spec.ingress[0].toPorts[0].ports[0].protocol: ", "accepted: "],
    );
}

fn what_the_agent_has(sh: &Shell, dbg: &str) {
    sh.has(
        &format!("{dbg} policy get"),
        &[
            "\"class\": \"deathstar\"",
            "\"port\": \"80\"",
            "\nRevision: ",
        ],
    );
    sh.has(
        &format!("{dbg} policy selectors"),
        &["SELECTOR", "org=empire", "default/rule1"],
    );
    sh.has(
        &format!("{dbg} identity list k8s:class=xwing"),
        &[
            "ID",
            "k8s:class=xwing",
            "k8s:io.kubernetes.pod.namespace=default",
            "k8s:org=alliance",
        ],
    );
    let id = sh.ok(&format!(
        "{dbg} endpoint get -l class=deathstar -o 'jsonpath={{[0].id}}'"
    ));
    let rows = sh.ok(&format!("{dbg} bpf policy get {}", id.trim()));
    for part in [
        "POLICY   DIRECTION   LABELS (source:key[=value])",
        "Allow    Ingress",
        "80/TCP",
        "k8s:class=tiefighter",
        "default/rule1",
    ] {
        assert!(rows.contains(part), "no {part} in\n{rows}");
    }
    assert!(!rows.contains("alliance"), "{rows}");
    sh.has(
        &format!("{dbg} bpf policy get --all -n"),
        &[
            "Endpoint ID: ",
            "Path: /sys/fs/bpf/tc/globals/cilium_policy",
            "IDENTITY",
        ],
    );
}

fn why_and_what_for(sh: &Shell) {
    let why = "hypha policy why --name $LAB";
    let star = "$(kubectl get pod -l class=deathstar -o jsonpath='{.items[0].metadata.name}')";
    sh.has(
        &format!("{why} default/tiefighter default/{star} 80/TCP"),
        &[
            "80/TCP: allowed",
            "CiliumNetworkPolicy default/rule1: spec.ingress[0]",
            "| fromEndpoints:",
        ],
    );
    sh.fails(
        &format!("{why} default/xwing default/{star} 80/TCP"),
        &[
            "80/TCP: denied",
            "allows this port, but not this peer",
            "needed: ",
            "org=alliance",
        ],
    );
    sh.has(
        &format!("{why} tiefighter {star} -o 'jsonpath={{.answers[0].verdict}}'"),
        &["allowed"],
    );
    sh.fails(
        &format!("{why} nobody {star}"),
        &["there is no pod default/nobody", "accepted: "],
    );
}
