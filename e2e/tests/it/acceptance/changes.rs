//! Verbs that change objects.

use super::Parts;
use super::shell::Shell;
use super::table::Table;

const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red, size: small}\n";

pub fn all(sh: &Shell, parts: &mut Parts) {
    parts.run("changing: create and delete", || create_and_delete(sh));
    parts.run("changing: patches", || patches(sh));
    parts.run("changing: marks", || marks(sh));
    parts.run("changing: server side", || server_side(sh));
    parts.run("changing: rollouts", || rollouts(sh));
    parts.run("changing: exposes", || exposes(sh));
    parts.run("changing: wrong", || wrong(sh));
}

fn create_and_delete(sh: &Shell) {
    sh.file("settings.yaml", SETTINGS);
    sh.has(
        "kubectl create -f settings.yaml",
        &["configmap/settings created"],
    );
    sh.fails("kubectl create -f settings.yaml", &["AlreadyExists"]);
    sh.has(
        "kubectl apply -f settings.yaml",
        &["configmap/settings configured"],
    );
    sh.has(
        "kubectl apply -f settings.yaml",
        &["configmap/settings unchanged"],
    );
    sh.has(
        "sed s/red/green/ settings.yaml | kubectl replace -f -",
        &["configmap/settings replaced"],
    );
    sh.fails(
        "sed s/red/blue/ settings.yaml | kubectl diff -f -",
        &["-  colour: green", "+  colour: blue"],
    );
    sh.has(
        "sed s/red/blue/ settings.yaml | kubectl apply -f -",
        &["configmap/settings configured"],
    );
    sh.has("sed 's/red/x/; s/, size: small//' settings.yaml | kubectl apply -f - && kubectl get cm settings -o jsonpath='{.data}'", &["{\"colour\":\"x\"}"]);
    sh.has(
        "kubectl replace --force -f settings.yaml",
        &[
            "configmap \"settings\" deleted",
            "configmap/settings replaced",
        ],
    );
    sh.has(
        "EDITOR='sed -i s/small/large/' kubectl edit cm settings",
        &["configmap/settings edited"],
    );
    assert_eq!(
        sh.ok("kubectl get cm settings -o jsonpath='{.data.size}'"),
        "large"
    );
    sh.has("EDITOR=true kubectl edit cm settings", &["no changes made"]);
    sh.has(
        "kubectl delete -f settings.yaml",
        &["configmap \"settings\" deleted"],
    );
    sh.has("kubectl delete -f settings.yaml --ignore-not-found", &[]);
    sh.fails(
        "kubectl delete cm settings",
        &["configmaps \"settings\" not found"],
    );
    sh.ok("kubectl create cm a --from-literal=k=v && kubectl create secret generic s --from-literal=k=v && kubectl create ns study");
    sh.has("kubectl get secret s", &["Opaque"]);
    sh.has(
        "kubectl get secret s -o jsonpath='{.data.k}' | base64 -d",
        &["v"],
    );
    sh.has(
        "kubectl create cm c --from-literal=k=w --dry-run=server -o yaml",
        &["k: w"],
    );
    sh.has("kubectl create cm b --dry-run=client -o yaml", &["name: b"]);
    sh.ok("kubectl run inside -n study --image=traefik/whoami && kubectl wait -n study --for=condition=Ready pod/inside --timeout=15s");
    // A namespace goes with everything in it.
    sh.has(
        "kubectl delete cm/a secret/s ns/study",
        &["namespace \"study\" deleted"],
    );
    sh.fails("kubectl get pod -n study inside", &["not found"]);
}

fn patches(sh: &Shell) {
    sh.has("kubectl patch deploy webpod -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"webpod\",\"env\":[{\"name\":\"A\",\"value\":\"1\"}]}]}}}}'", &["deployment.apps/webpod patched"]);
    assert_eq!(sh.ok("kubectl get deploy webpod -o jsonpath='{.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[0].value}'"), "traefik/whoami 1");
    sh.has("kubectl patch deploy webpod --type=merge -p '{\"metadata\":{\"annotations\":{\"note\":\"x\"}}}'", &["patched"]);
    sh.has("kubectl patch deploy webpod --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/annotations/note\"},{\"op\":\"remove\",\"path\":\"/spec/template/spec/containers/0/env\"}]'", &["patched"]);
    // While the rollout goes on, its status changes the object beside.
    sh.until("kubectl patch deploy webpod --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":2}]'", &["patched (no change)"]);
    sh.fails("kubectl patch deploy webpod --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":9}]'", &["replicas"]);
    sh.has("kubectl patch deploy webpod --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'", &["patched"]);
    sh.ok("kubectl rollout status deploy/webpod --timeout=20s");
}

fn marks(sh: &Shell) {
    sh.has(
        "kubectl label pod curl-pod tier=front",
        &["pod/curl-pod labeled"],
    );
    sh.fails(
        "kubectl label pod curl-pod tier=back",
        &["already has a value"],
    );
    sh.has(
        "kubectl label pod curl-pod tier=back --overwrite",
        &["labeled"],
    );
    assert_eq!(
        sh.ok("kubectl get pods -l tier=back -o name"),
        "pod/curl-pod\n"
    );
    sh.has("kubectl label pod curl-pod tier-", &["unlabeled"]);
    sh.has(
        "kubectl annotate pod curl-pod kubernetes.io/egress-bandwidth=10M",
        &["annotated"],
    );
    sh.has(
        "kubectl describe pod curl-pod | grep Annotations",
        &["kubernetes.io/egress-bandwidth: 10M"],
    );
    sh.has(
        "kubectl get pod curl-pod -o json | sed -e 's|10M|5M|g' | kubectl apply -f -",
        &["pod/curl-pod configured"],
    );
    assert_eq!(sh.ok("kubectl get pod curl-pod -o jsonpath='{.metadata.annotations.kubernetes\\.io/egress-bandwidth}'"), "5M");
    sh.has(
        "kubectl annotate pod curl-pod kubernetes.io/egress-bandwidth-",
        &["annotated"],
    );
}

fn server_side(sh: &Shell) {
    sh.file("owned.yaml", SETTINGS);
    sh.has(
        "kubectl apply --server-side -f owned.yaml",
        &["configmap/settings serverside-applied"],
    );
    sh.fails(
        "sed s/red/green/ owned.yaml | kubectl apply --server-side --field-manager=other -f -",
        &["Apply failed with 1 conflict", ".data.colour"],
    );
    sh.has("sed s/red/green/ owned.yaml | kubectl apply --server-side --field-manager=other --force-conflicts -f -", &["serverside-applied"]);
    sh.has(
        "kubectl get cm settings -o yaml --show-managed-fields",
        &["manager: other", "f:colour"],
    );
    sh.ok("kubectl delete cm settings");
}

fn rollouts(sh: &Shell) {
    sh.has(
        "kubectl scale deploy webpod --replicas=3",
        &["deployment.apps/webpod scaled"],
    );
    sh.has(
        "kubectl rollout status deploy/webpod --timeout=20s",
        &["successfully rolled out"],
    );
    let shown = Table::of(&sh.ok("kubectl get deploy webpod"));
    assert_eq!(
        (
            shown.cell("webpod", "READY"),
            shown.cell("webpod", "AVAILABLE")
        ),
        ("3/3", "3")
    );
    let before = sh.ok("kubectl get pods -l app=webpod -o name");
    sh.has(
        "kubectl rollout restart deploy/webpod",
        &["deployment.apps/webpod restarted"],
    );
    sh.has(
        "kubectl rollout status deploy webpod --timeout=30s",
        &["successfully rolled out"],
    );
    let after =
        sh.ok("kubectl get pods -l app=webpod --field-selector status.phase=Running -o name");
    assert!(
        after.lines().all(|pod| !before.contains(pod)),
        "a restart makes other pods: {before} {after}"
    );
    sh.has("kubectl set image deploy/webpod webpod=traefik/whoami:v1.10 && kubectl rollout status deploy/webpod --timeout=30s", &["image updated"]);
    sh.has(
        "kubectl rollout history deploy/webpod",
        &["REVISION", "CHANGE-CAUSE"],
    );
    sh.has("kubectl rollout undo deploy/webpod", &["rolled back"]);
    sh.ok("kubectl rollout status deploy/webpod --timeout=30s");
    assert_eq!(
        sh.ok("kubectl get deploy webpod -o jsonpath='{.spec.template.spec.containers[0].image}'"),
        "traefik/whoami"
    );
    // What was there before is used again: no third set of replicas.
    sh.ok("kubectl create deploy again --image=nginx && kubectl rollout status deploy/again --timeout=30s");
    sh.ok("kubectl set image deploy/again nginx=traefik/whoami && kubectl rollout status deploy/again --timeout=30s");
    sh.ok("kubectl rollout undo deploy/again && kubectl rollout status deploy/again --timeout=30s");
    assert_eq!(
        sh.ok("kubectl get rs -l app=again -o name").lines().count(),
        2
    );
    sh.has(
        "kubectl describe deploy again",
        &["NewReplicaSet:", "(1/1 replicas created)"],
    );
    sh.ok("kubectl delete deploy again");
    sh.has(
        "kubectl rollout pause deploy/webpod && kubectl rollout resume deploy/webpod",
        &["paused", "resumed"],
    );
    // An image that the lab has not: the old pods stay, and the message says how to add it.
    sh.ok("kubectl set image deploy/webpod webpod=example.org/none:1");
    sh.until(
        "kubectl describe pods -l app=webpod",
        &["example.org/none:1", "hypha lab image add"],
    );
    sh.until("kubectl get pods -l app=webpod", &["ImagePullBackOff"]);
    sh.fails(
        "kubectl rollout status deploy/webpod --timeout=1s",
        &["timed out"],
    );
    sh.ok(
        "kubectl rollout undo deploy/webpod && kubectl rollout status deploy/webpod --timeout=20s",
    );
    sh.ok("kubectl scale deploy webpod --replicas=2 --current-replicas=3 && kubectl rollout status deploy/webpod --timeout=20s");
}

fn exposes(sh: &Shell) {
    sh.ok("kubectl run web --image=nginx --port=80 --labels=app=web");
    sh.has(
        "kubectl expose pod web --port=8080 --target-port=80 --name=web-svc",
        &["service/web-svc exposed"],
    );
    let service = Table::of(&sh.ok("kubectl get svc web-svc"));
    assert!(
        service.cell("web-svc", "CLUSTER-IP").starts_with("10.96."),
        "{service:?}"
    );
    assert_eq!(service.cell("web-svc", "PORT(S)"), "8080/TCP");
    sh.has(
        "kubectl patch svc web-svc -p '{\"spec\": {\"type\": \"NodePort\"}}'",
        &["patched"],
    );
    let port: u16 = sh
        .ok("kubectl get svc web-svc -o jsonpath={.spec.ports[0].nodePort}")
        .parse()
        .unwrap();
    assert!((30000..32768).contains(&port), "{port}");
    sh.until(
        "kubectl get endpointslices -l kubernetes.io/service-name=web-svc",
        &["IPv4", "10.244."],
    );
    sh.ok("kubectl delete pod web --now && kubectl delete svc web-svc");
}

/// What is wrong is said clearly, and nothing changes.
fn wrong(sh: &Shell) {
    sh.file("unknown.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {contaners: [], containers: [{name: c, image: nginx, imagePolicy: x}]}\n");
    sh.fails(
        "kubectl apply -f unknown.yaml",
        &["spec.contaners", "unknown field"],
    );
    sh.has(
        "kubectl apply -f unknown.yaml --validate=warn --dry-run=server",
        &["Warning:", "unknown field"],
    );
    sh.file(
        "type.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: eighty}]}\n",
    );
    sh.fails("kubectl apply -f type.yaml", &["port"]);
    sh.file(
        "range.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 80000}]}\n",
    );
    sh.fails(
        "kubectl apply -f range.yaml",
        &["spec.ports[0].port", "80000", "between 1 and 65535"],
    );
    sh.file(
        "kind.yaml",
        "apiVersion: v1\nkind: Pud\nmetadata: {name: x}\n",
    );
    sh.fails(
        "kubectl apply -f kind.yaml",
        &["no matches for kind \"Pud\""],
    );
    sh.file("selector.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: nginx}]}}}\n");
    sh.fails("kubectl apply -f selector.yaml", &["selector"]);
    sh.fails(
        "kubectl patch svc kubernetes -p '{\"spec\":{\"clusterIP\":\"1.2.3.4\"}}'",
        &["spec.clusterIPs[0]", "may not change once set"],
    );
    sh.fails("kubectl scale deploy webpod --replicas=-1", &["replicas"]);
    sh.file("pool.yaml", "apiVersion: cilium.io/v2alpha1\nkind: CiliumPodIPPool\nmetadata: {name: p}\nspec: {ipv4: {cidrs: [10.0.0.0/8], maskSize: many}}\n");
    sh.fails(
        "kubectl apply -f pool.yaml",
        &["spec.ipv4.maskSize", "integer"],
    );
    assert_eq!(
        sh.ok("kubectl get pod,svc,deploy,cpip x p --ignore-not-found -o name"),
        ""
    );
}

/// A representative part, with the old release.
pub fn old(sh: &Shell) {
    sh.file("settings.yaml", SETTINGS);
    sh.has(
        "kubectl apply -f settings.yaml",
        &["configmap/settings created"],
    );
    sh.has(
        "kubectl apply -f settings.yaml",
        &["configmap/settings unchanged"],
    );
    sh.has(
        "sed s/red/green/ settings.yaml | kubectl apply -f -",
        &["configmap/settings configured"],
    );
    sh.has(
        "EDITOR='sed -i s/small/large/' kubectl edit cm settings",
        &["configmap/settings edited"],
    );
    sh.has(
        "kubectl patch cm settings --type=merge -p '{\"data\":{\"size\":null}}'",
        &["patched"],
    );
    sh.has(
        "kubectl label cm settings a=b && kubectl annotate cm settings c=d",
        &["labeled", "annotated"],
    );
    sh.has("kubectl delete cm settings", &["deleted"]);
    sh.has(
        "kubectl apply --server-side -f settings.yaml && kubectl delete -f settings.yaml",
        &["serverside-applied"],
    );
    sh.has("kubectl create deploy oldies --image=traefik/whoami --replicas=2 && kubectl rollout status deploy/oldies --timeout=20s", &["successfully rolled out"]);
    sh.has(
        "kubectl scale deploy oldies --replicas=1 && kubectl expose deploy oldies --port=80",
        &["scaled", "service/oldies exposed"],
    );
    sh.has("kubectl rollout restart deploy/oldies && kubectl rollout status deploy/oldies --timeout=20s", &["restarted"]);
    sh.ok("kubectl delete deploy,svc oldies");
    sh.file("unknown.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {contaners: [], containers: [{name: c, image: nginx}]}\n");
    sh.fails(
        "kubectl apply -f unknown.yaml",
        &["unknown field \"contaners\""],
    );
}
