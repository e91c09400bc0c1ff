//! The roles and bindings that every cluster has from the start, as users know them.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const CREATE: &[&str] = &["create"];
const GROUP: &str = "rbac.authorization.k8s.io";

/// Verbs on resources of one group.
type Grant = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const VIEW: &[Grant] = &[
    (
        "",
        &[
            "bindings",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "pods/log",
            "pods/status",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
            "serviceaccounts",
            "services",
            "services/status",
        ],
        READ,
    ),
    ("discovery.k8s.io", &["endpointslices"], READ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
        READ,
    ),
    (
        "autoscaling",
        &[
            "horizontalpodautoscalers",
            "horizontalpodautoscalers/status",
        ],
        READ,
    ),
    (
        "batch",
        &["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
        READ,
    ),
    (
        "networking.k8s.io",
        &["ingresses", "ingresses/status", "networkpolicies"],
        READ,
    ),
    (
        "policy",
        &["poddisruptionbudgets", "poddisruptionbudgets/status"],
        READ,
    ),
];

const EDIT: &[Grant] = &[
    (
        "",
        &[
            "pods/attach",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "secrets",
            "services/proxy",
        ],
        READ,
    ),
    (
        "",
        &[
            "configmaps",
            "events",
            "persistentvolumeclaims",
            "pods",
            "pods/attach",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
            "services/proxy",
        ],
        WRITE,
    ),
    ("", &["serviceaccounts"], &["impersonate"]),
    ("", &["pods/eviction", "serviceaccounts/token"], CREATE),
    (
        "apps",
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
        WRITE,
    ),
    ("autoscaling", &["horizontalpodautoscalers"], WRITE),
    ("batch", &["cronjobs", "jobs"], WRITE),
    (
        "networking.k8s.io",
        &["ingresses", "networkpolicies"],
        WRITE,
    ),
    ("policy", &["poddisruptionbudgets"], WRITE),
    ("coordination.k8s.io", &["leases"], READ),
    ("coordination.k8s.io", &["leases"], WRITE),
];

const ADMIN: &[Grant] = &[
    (
        "authorization.k8s.io",
        &["localsubjectaccessreviews"],
        CREATE,
    ),
    (GROUP, &["rolebindings", "roles"], READ),
    (GROUP, &["rolebindings", "roles"], WRITE),
];

/// What the kubelet of a node needs. In other clusters a list of its own says which objects of these are the node's.
const NODE: &[Grant] = &[
    ("authentication.k8s.io", &["tokenreviews"], CREATE),
    (
        "authorization.k8s.io",
        &["localsubjectaccessreviews", "subjectaccessreviews"],
        CREATE,
    ),
    (
        "",
        &[
            "services",
            "configmaps",
            "secrets",
            "persistentvolumeclaims",
            "persistentvolumes",
        ],
        READ,
    ),
    (
        "",
        &["nodes"],
        &["create", "get", "list", "watch", "update", "patch"],
    ),
    ("", &["nodes/status"], &["patch", "update"]),
    ("", &["events"], &["create", "patch", "update"]),
    ("", &["pods"], &["get", "list", "watch", "create", "delete"]),
    ("", &["pods/status"], &["patch", "update"]),
    ("", &["pods/eviction", "serviceaccounts/token"], CREATE),
    ("", &["endpoints"], &["get"]),
    (
        "certificates.k8s.io",
        &["certificatesigningrequests"],
        &["create", "get", "list", "watch"],
    ),
    (
        "coordination.k8s.io",
        &["leases"],
        &["create", "delete", "get", "patch", "update"],
    ),
    ("storage.k8s.io", &["volumeattachments"], &["get"]),
    ("storage.k8s.io", &["csidrivers"], READ),
    (
        "storage.k8s.io",
        &["csinodes"],
        &["create", "delete", "get", "patch", "update"],
    ),
    ("node.k8s.io", &["runtimeclasses"], READ),
];

/// Paths without resources that everybody who is known may read, and those that just anybody may.
const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// The tables of the roles and of the bindings.
const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// Every initial role and binding: table and object.
pub(in super::super) fn initial() -> Vec<(&'static str, Value)> {
    let everything = json!([
        { "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] },
        { "verbs": ["*"], "nonResourceURLs": ["*"] },
    ]);
    let reviews = [
        (
            "authorization.k8s.io",
            ["selfsubjectaccessreviews", "selfsubjectrulesreviews"].as_slice(),
            CREATE,
        ),
        (
            "authentication.k8s.io",
            ["selfsubjectreviews"].as_slice(),
            CREATE,
        ),
    ];
    let paths = |paths: &[&str]| json!([{ "verbs": ["get"], "nonResourceURLs": paths }]);
    let mut objects = vec![
        role("cluster-admin", everything),
        role("system:basic-user", rules(&reviews)),
        role("system:discovery", paths(DISCOVERY)),
        role("system:public-info-viewer", paths(PUBLIC)),
        role("system:node", rules(NODE)),
    ];
    // Each of the three is made of those with its label; the smaller ones are parts of the bigger ones.
    let bigger = ["view", "edit", "admin"];
    for (i, (name, grants)) in bigger.into_iter().zip([VIEW, EDIT, ADMIN]).enumerate() {
        let label = |of: &str| format!("{GROUP}/aggregate-to-{of}");
        let mut whole = role(name, json!([]));
        whole["aggregationRule"] =
            json!({ "clusterRoleSelectors": [{ "matchLabels": { label(name): "true" } }] });
        if let Some(next) = bigger.get(i + 1) {
            whole["metadata"]["labels"][label(next)] = json!("true");
        }
        let mut part = role(&format!("system:aggregate-to-{name}"), rules(grants));
        part["metadata"]["labels"][label(name)] = json!("true");
        objects.extend([whole, part]);
    }
    let roles = objects.into_iter().map(|object| (ROLES, object));
    let known = ["system:authenticated"];
    let bindings = [
        binding("cluster-admin", &["system:masters"]),
        binding("system:basic-user", &known),
        binding("system:discovery", &known),
        binding(
            "system:public-info-viewer",
            &["system:authenticated", "system:unauthenticated"],
        ),
        binding("system:node", &["system:nodes"]),
    ];
    roles
        .chain(bindings.map(|object| (BINDINGS, object)))
        .collect()
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } })
}

fn role(name: &str, rules: Value) -> Value {
    json!({ "metadata": metadata(name), "rules": rules })
}

fn rules(grants: &[Grant]) -> Value {
    let rule = |(group, resources, verbs): &Grant| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    grants.iter().map(rule).collect()
}

fn binding(role: &str, groups: &[&str]) -> Value {
    let subject = |group: &&str| json!({ "kind": "Group", "name": group });
    json!({ "metadata": metadata(role), "roleRef": { "kind": "ClusterRole", "name": role },
        "subjects": groups.iter().map(subject).collect::<Vec<_>>() })
}
