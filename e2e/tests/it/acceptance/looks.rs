//! Verbs that only look.

use super::Parts;
use super::shell::Shell;
use super::table::Table;

pub fn all(sh: &Shell, parts: &mut Parts) {
    parts.run("looking: get", || get(sh));
    parts.run("looking: the API server's service", || own_service(sh));
    parts.run("looking: selects", || selects(sh));
    parts.run("looking: describe", || describe(sh));
    parts.run("looking: discovery", || discovery(sh));
    parts.run("looking: config", || config(sh));
    parts.run("looking: refused", || refused(sh));
}

fn get(sh: &Shell) {
    let nodes = Table::of(&sh.ok("kubectl get nodes"));
    assert_eq!(
        nodes.titles(),
        ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    );
    assert_eq!(nodes.column("STATUS"), ["Ready"; 3]);
    let wide = Table::of(&sh.ok("kubectl get node -owide"));
    assert_eq!(wide.cell("k8s-ctr", "INTERNAL-IP"), "192.168.10.100");
    assert_eq!(wide.cell("k8s-w0", "INTERNAL-IP"), "192.168.20.100");
    let pods = Table::of(&sh.ok("kubectl get pods -o wide"));
    let titles = [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "IP",
        "NODE",
        "NOMINATED NODE",
        "READINESS GATES",
    ];
    assert_eq!(pods.titles(), titles);
    assert_eq!(
        (
            pods.cell("curl-pod", "READY"),
            pods.cell("curl-pod", "STATUS")
        ),
        ("1/1", "Running")
    );
    assert_eq!(pods.cell("curl-pod", "NODE"), "k8s-ctr");
    assert!(
        pods.cell("curl-pod", "IP").starts_with("10.244.1."),
        "{pods:?}"
    );
    let every = Table::of(&sh.ok("kubectl get pod -A"));
    assert!(every.column("NAMESPACE").contains(&"kube-system") && every.len() > pods.len());

    let apps = sh.has(
        "kubectl get deploy,svc,ep webpod -owide",
        &[
            "deployment.apps/webpod",
            "service/webpod",
            "endpoints/webpod",
        ],
    );
    for part in [
        "CONTAINERS",
        "traefik/whoami",
        "app=webpod",
        "ClusterIP",
        "80/TCP",
        ":80,",
    ] {
        assert!(apps.contains(part), "no {part} in {apps}");
    }
    let slices = Table::of(&sh.ok("kubectl get endpointslices -l app=webpod"));
    assert_eq!(slices.column("ADDRESSTYPE"), ["IPv4"]);
    assert_eq!(slices.column("ENDPOINTS")[0].split(',').count(), 2);

    sh.has(
        "kubectl get pod curl-pod -o yaml",
        &[
            "apiVersion: v1",
            "kind: Pod",
            "nodeName: k8s-ctr",
            "phase: Running",
        ],
    );
    sh.has("kubectl get pod curl-pod -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"status\"][\"phase\"])'", &["Running"]);
    assert_eq!(
        sh.ok("kubectl get pod curl-pod -o jsonpath='{.spec.nodeName}'"),
        "k8s-ctr"
    );
    assert_eq!(sh.ok("kubectl get pod curl-pod -o name"), "pod/curl-pod\n");
    assert_eq!(
        sh.ok("kubectl get pod curl-pod -o go-template='{{.metadata.name}}'"),
        "curl-pod"
    );
    let custom = sh.ok("kubectl get pods -o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image --sort-by=.metadata.name");
    assert_eq!(
        Table::of(&custom).cell("curl-pod", "IMAGE"),
        "nicolaka/netshoot"
    );
    sh.has(
        "kubectl get all",
        &[
            "pod/curl-pod",
            "service/webpod",
            "deployment.apps/webpod",
            "replicaset.apps/webpod-",
        ],
    );
    sh.has("kubectl get pods --show-labels", &["LABELS", "app=curl"]);
    sh.has("kubectl get pods -L app", &["APP", "webpod"]);
    sh.fails(
        "kubectl get pod nobody",
        &["Error from server (NotFound): pods \"nobody\" not found"],
    );
    sh.has(
        "kubectl get pods -n kube-public",
        &["No resources found in kube-public namespace."],
    );
}

/// The service by which pods find the API server: as in any cluster, and not to be got rid of.
fn own_service(sh: &Shell) {
    let shown = || {
        let service = Table::of(&sh.ok("kubectl get svc kubernetes"));
        let row = ["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)"];
        let row = row.map(|column| service.cell("kubernetes", column).to_owned());
        assert_eq!(row, ["ClusterIP", "10.96.0.1", "<none>", "443/TCP"]);
        let endpoints = Table::of(&sh.ok("kubectl get ep kubernetes"));
        assert_eq!(
            endpoints.cell("kubernetes", "ENDPOINTS"),
            "192.168.10.100:6443"
        );
        sh.has(
            "kubectl get endpointslices -l kubernetes.io/service-name=kubernetes",
            &["IPv4", "6443", "192.168.10.100", "IPv6", "fd00:10::100"],
        );
    };
    shown();
    sh.ok("kubectl delete svc/kubernetes ep/kubernetes endpointslice/kubernetes");
    sh.ok("kubectl patch ep kubernetes --type=merge -p '{\"subsets\":[]}'");
    shown();
    sh.fails(
        "kubectl create svc clusterip greedy --clusterip=10.96.0.1 --tcp=80",
        &["10.96.0.1", "already allocated"],
    );
    sh.has(
        "kubectl exec curl-pod -- env",
        &[
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "KUBERNETES_SERVICE_PORT=443",
        ],
    );
    // The way there, with what every pod has.
    sh.has(
        "kubectl exec curl-pod -- sh -c 'cd /var/run/secrets/kubernetes.io/serviceaccount && curl -s --max-time 5 --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" https://192.168.10.100:6443/version'",
        &["gitVersion"],
    );
    // To other nodes it is the entity kube-apiserver.
    sh.until(
        "kubectl exec -n kube-system $(kubectl get pod -n kube-system -l k8s-app=cilium --field-selector spec.nodeName=k8s-w1 -o name) -- cilium-dbg ip list",
        &["192.168.10.100/32", "reserved:kube-apiserver"],
    );
}

fn selects(sh: &Shell) {
    let count = |line: &str| sh.ok(line).lines().count();
    assert_eq!(count("kubectl get pods -l app=webpod -o name"), 2);
    assert_eq!(
        count("kubectl get pods -l 'app in (webpod,curl),app!=webpod' -o name"),
        1
    );
    assert_eq!(
        count(
            "kubectl get pods --field-selector spec.nodeName=k8s-ctr,status.phase=Running -l app=curl -o name"
        ),
        1
    );
    assert_eq!(
        count(
            "kubectl get pods -A --field-selector metadata.namespace!=default,status.phase!=Running -o name"
        ),
        0
    );
    // A watch shows what is there, then every change.
    let watch = sh.start("kubectl get pods -w -l app=curl");
    watch.says("curl-pod");
    sh.ok("kubectl label pod curl-pod seen=yes");
    watch.says_such("a second row", |text| text.matches("curl-pod").count() == 2);
    sh.ok("kubectl label pod curl-pod seen-");
    let events = sh.start("kubectl get cm -w --watch-only --output-watch-events");
    // Nothing tells when it has begun: changes until it shows one whole.
    let whole = |text: &str| text.contains("ADDED") && text.contains("DELETED");
    for _ in 0..50 {
        if whole(&events.said()) {
            return;
        }
        sh.ok("kubectl create cm seen --from-literal=a=b && kubectl delete cm seen");
    }
    events.says_such("ADDED and DELETED", whole);
}

fn describe(sh: &Shell) {
    let node = sh.ok("kubectl describe node k8s-ctr");
    for part in [
        "Roles:",
        "InternalIP:  192.168.10.100",
        "PodCIDR:                      10.244.1.0/24",
        "Non-terminated Pods:",
        "curl-pod",
        "KubeletReady",
    ] {
        assert!(node.contains(part), "no {part} in {node}");
    }
    let pod = sh.ok("kubectl describe pod curl-pod");
    for part in [
        "Node:",
        "k8s-ctr/192.168.10.100",
        "Image:",
        "nicolaka/netshoot",
        "State:",
        "Running",
        "QoS Class:",
        "Events:",
        "Started",
    ] {
        assert!(pod.contains(part), "no {part} in {pod}");
    }
    sh.has(
        "kubectl describe deploy webpod",
        &[
            "RollingUpdateStrategy:  25% max unavailable, 25% max surge",
            "ScalingReplicaSet",
            "2 desired | 2 updated | 2 total",
        ],
    );
    sh.has(
        "kubectl describe svc webpod",
        &["Type:", "ClusterIP", "TargetPort:", "80/TCP", "Endpoints:"],
    );
    sh.has(
        "kubectl describe ciliumnode k8s-w1",
        &["Kind:", "CiliumNode", "192.168.10.101", "10.244.2.0/24"],
    );
    sh.has(
        "kubectl events --for pod/curl-pod",
        &["Started", "Pod/curl-pod"],
    );
    sh.has(
        "kubectl get events --field-selector involvedObject.name=curl-pod",
        &["REASON", "Pulled", "Created", "Started"],
    );
}

fn discovery(sh: &Shell) {
    let kinds = Table::of(&sh.ok("kubectl api-resources"));
    assert_eq!(
        kinds.titles(),
        ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]
    );
    assert_eq!(kinds.cell("deployments", "SHORTNAMES"), "deploy");
    assert_eq!(kinds.cell("ciliumnodes", "SHORTNAMES"), "cn,ciliumn");
    assert_eq!(kinds.cell("ciliumendpoints", "SHORTNAMES"), "cep,ciliumep");
    sh.has(
        "kubectl api-resources --api-group=cilium.io --namespaced=false -o name",
        &["ciliumnodes.cilium.io", "ciliumidentities.cilium.io"],
    );
    sh.has(
        "kubectl api-versions",
        &[
            "v1\n",
            "apps/v1\n",
            "cilium.io/v2\n",
            "discovery.k8s.io/v1\n",
            "networking.k8s.io/v1\n",
        ],
    );
    sh.has(
        "kubectl explain pod.spec.nodeName",
        &["FIELD: nodeName <string>"],
    );
    sh.has(
        "kubectl explain deployment.spec.strategy.rollingUpdate",
        &["maxSurge", "maxUnavailable"],
    );
    sh.has("kubectl explain ciliumnode.spec.ipam", &["podCIDRs"]);
    sh.has(
        "kubectl cluster-info",
        &["Kubernetes control plane", "is running at", "CoreDNS"],
    );
    sh.has(
        "kubectl cluster-info dump",
        &[
            "\"kind\": \"NodeList\"",
            "\"name\": \"k8s-ctr\"",
            "\"podCIDR\": \"10.244.1.0/24\"",
        ],
    );
    sh.ok("kubectl cluster-info dump --output-directory=dump -n default && test -s dump/default/pods.json");
    sh.has(
        "kubectl version",
        &["Client Version: v1.", "Server Version: v1."],
    );
    sh.has("kubectl get --raw /healthz", &["ok"]);
    sh.has("kubectl get --raw /readyz", &["ok"]);
    let crds = sh.ok("kubectl get crd -o name");
    for name in [
        "ciliumnodes",
        "ciliumendpoints",
        "ciliumidentities",
        "ciliumpodippools",
        "ciliumnodeconfigs",
    ] {
        assert!(
            crds.contains(&format!("/{name}.cilium.io")),
            "no {name} in {crds}"
        );
    }
    sh.has("kubectl get cilium -A", &["ciliumnode.cilium.io/k8s-ctr"]);
    sh.has("kubectl auth can-i create pods", &["yes"]);
    sh.has(
        "kubectl auth whoami",
        &["kubernetes-admin", "system:masters"],
    );
}

/// On a copy: a person's kubeconfig is the person's.
fn config(sh: &Shell) {
    sh.ok("cp $KUBECONFIG mine");
    let with = |args: &str| sh.ok(&format!("KUBECONFIG=mine kubectl config {args}"));
    let context = with("current-context");
    with(&format!("rename-context {} CiliumLab", context.trim()));
    assert_eq!(with("current-context"), "CiliumLab\n");
    assert_eq!(with("get-contexts -o name"), "CiliumLab\n");
    with("set-context --current --namespace=kube-system");
    assert!(with("view --minify").contains("namespace: kube-system"));
    sh.has("KUBECONFIG=mine kubectl get pods", &["kube-dns-"]);
    with("use-context CiliumLab");
    sh.fails(
        "KUBECONFIG=mine kubectl config use-context nothing",
        &["no context exists"],
    );
    assert!(with("view").contains("DATA+OMITTED"), "keys are not shown");
}

fn refused(sh: &Shell) {
    sh.fails("kubectl top nodes", &["Metrics API not available"]);
    sh.fails("kubectl top pods", &["Metrics API not available"]);
    sh.fails(
        "kubectl get frobs",
        &["the server doesn't have a resource type \"frobs\""],
    );
}

/// A representative part, with the old release.
pub fn old(sh: &Shell) {
    let pods = Table::of(&sh.ok("kubectl get pods -o wide"));
    assert_eq!(pods.cell("curl-pod", "NODE"), "k8s-ctr");
    let nodes = Table::of(&sh.ok("kubectl get cn"));
    assert_eq!(nodes.cell("k8s-w0", "CILIUMINTERNALIP"), "10.244.3.1");
    sh.has(
        "kubectl get pod,svc -A -o wide",
        &["pod/curl-pod", "service/kube-dns"],
    );
    sh.has(
        "kubectl get deploy webpod -o yaml",
        &["kind: Deployment", "image: traefik/whoami"],
    );
    sh.has(
        "kubectl describe pod curl-pod",
        &["nicolaka/netshoot", "Started"],
    );
    sh.has("kubectl describe node k8s-w1", &["10.244.2.0/24"]);
    sh.has("kubectl api-resources", &["ciliumendpoints", "deployments"]);
    sh.has(
        "kubectl explain service.spec.type",
        &["FIELD:    type <string>"],
    );
    sh.has("kubectl cluster-info", &["is running at"]);
    let watch = sh.start("kubectl get pods -w -l app=curl");
    watch.says("curl-pod");
    sh.ok("kubectl label pod curl-pod seen=yes && kubectl label pod curl-pod seen-");
    watch.says_such("more rows", |text| text.matches("curl-pod").count() >= 2);
    sh.fails("kubectl top nodes", &["Metrics API not available"]);
}
