//! Roles: what the chart grants is what agent and operator ask for. The API server refuses what no role allows, and every request is
//! noted down.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Authorization, ServerOptions};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hypha_install::render;
use k8s::crd::{self, Crd};
use k8s::events::{About, Events};
use k8s::lease::{Elector, LeaseSettings, Try};
use k8s::write::{Meant, Objects};
use k8s::{Presence, Watcher};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, Config};
use runtime::health::Health;
use runtime::settings::OperatorSettings;
use runtime::stop;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cluster::release;

/// `group resource verb`.
type Right = String;
type Notes = Arc<Mutex<(BTreeSet<Right>, BTreeSet<String>)>>;

/// What a request asks for; nothing for discovery and versions.
fn right(method: &str, path: &str, query: &str) -> Option<Right> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, inner, more @ ..] => [&[*inner], more].concat(),
        _ => rest.to_vec(),
    };
    let (resource, name, sub) = (rest.first()?, rest.get(1), rest.get(2));
    let verb = match (method, name) {
        ("GET", None) if query.contains("watch=") => "watch",
        ("GET", None) => "list",
        ("GET", Some(_)) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        _ => "delete",
    };
    let resource = sub.map_or((*resource).to_owned(), |sub| format!("{resource}/{sub}"));
    Some(format!("{group} {resource} {verb}"))
}

/// What the roles of a service account grant.
fn granted(objects: &[Value], names: &[&str]) -> BTreeSet<Right> {
    let list = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let roles = objects.iter().filter(|object| {
        matches!(object["kind"].as_str(), Some("ClusterRole" | "Role"))
            && names.contains(&object["metadata"]["name"].as_str().unwrap())
    });
    let mut out = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    out.insert(format!("{group} {resource} {verb}"));
                }
            }
        }
    }
    out
}

struct World {
    server: ApiServer,
    url: String,
    notes: Notes,
    admin: Client,
    objects: Vec<Value>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

impl World {
    /// An API server with the chart in it. Requests of the service account `who` are noted down.
    async fn start(values: Value, who: &'static str) -> Self {
        let server = ApiServer::open(ServerOptions {
            authorization: Authorization::Rbac,
            ..ServerOptions::default()
        })
        .unwrap();
        let notes = Notes::default();
        let noting = notes.clone();
        let note = move |request: Request, next: Next| {
            let noting = noting.clone();
            async move { noted(&noting, who, request, next).await }
        };
        let router = server.router().layer(from_fn(note));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let admin = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let mut quiet = |_: &str| {};
        let mut release = release(&admin, false, &mut quiet);
        let history = release.history().await.unwrap();
        let plan = release.plan(history, values.clone()).await.unwrap();
        release.carry_out(plan).await.unwrap();
        let objects = render(&hypha_install::Request {
            values,
            ..hypha_install::Request::default()
        });
        Self {
            server,
            url,
            notes,
            admin,
            objects: objects.unwrap(),
        }
    }

    /// A client with the rights of a service account.
    fn client(&self, who: &str) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.auth_info.impersonate = Some(format!("system:serviceaccount:kube-system:{who}"));
        Client::try_from(config).unwrap()
    }

    /// What was asked for, once nothing was refused.
    fn used(&self) -> BTreeSet<Right> {
        let notes = self.notes.lock().unwrap();
        assert_eq!(notes.1, BTreeSet::new(), "refused");
        notes.0.clone()
    }

    async fn create(
        &self,
        api_version: &str,
        kind: &str,
        plural: &str,
        value: Value,
    ) -> DynamicObject {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let mut whole = json!({"apiVersion": api_version, "kind": kind});
        whole
            .as_object_mut()
            .unwrap()
            .extend(value.as_object().unwrap().clone());
        let api: Api<DynamicObject> = match whole["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        };
        let status = whole["status"].clone();
        let made = api
            .create(
                &kube::api::PostParams::default(),
                &serde_json::from_value(whole).unwrap(),
            )
            .await
            .unwrap();
        if !status.is_null() {
            let name = made.metadata.name.clone().unwrap();
            // A kind without the subresource has its status already.
            let _ = api
                .patch_status(
                    &name,
                    &PatchParams::default(),
                    &Patch::Merge(json!({"status": status})),
                )
                .await;
        }
        made
    }
}

async fn noted(notes: &Notes, who: &str, request: Request, next: Next) -> Response {
    let user = request
        .headers()
        .get("impersonate-user")
        .and_then(|user| user.to_str().ok());
    let ours = user.is_some_and(|user| user.ends_with(&format!(":{who}")));
    let uri = request.uri().clone();
    let right = right(
        request.method().as_str(),
        uri.path(),
        uri.query().unwrap_or_default(),
    );
    let response = next.run(request).await;
    if let Some(right) = right.filter(|_| ours) {
        let mut notes = notes.lock().unwrap();
        if response.status().as_u16() == 403 {
            notes.1.insert(format!("{right} ({uri})"));
        }
        notes.0.insert(right);
    }
    response
}

fn kind(name: &str) -> Crd {
    *crd::ALL.iter().find(|crd| crd.kind == name).unwrap()
}

/// Waits until nothing is lacking.
async fn eventually<F: Future<Output = Vec<String>>>(what: &str, mut lacking: impl FnMut() -> F) {
    let began = Instant::now();
    loop {
        let left = lacking().await;
        if left.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{what}: {left:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn unless(holds: bool, what: &str) -> Vec<String> {
    if holds {
        Vec::new()
    } else {
        vec![what.to_owned()]
    }
}

fn operator_settings(mode: &str) -> OperatorSettings {
    let mut settings = OperatorSettings::default();
    for (key, value) in [
        ("ipam", mode),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/23"),
        ("enable-ipv6", "false"),
        (
            "auto-create-cilium-pod-ip-pools",
            r#"{"default":"ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:27"}"#,
        ),
        ("operator-api-serve-addr", ""),
        ("operator-prometheus-serve-addr", ""),
        ("leader-election-lease-duration", "1s"),
        ("leader-election-renew-deadline", "500ms"),
        ("leader-election-retry-period", "50ms"),
        ("cilium-endpoint-gc-interval", "100ms"),
        ("nodes-gc-interval", "100ms"),
        ("identity-gc-interval", "100ms"),
        ("identity-heartbeat-timeout", "200ms"),
        ("unmanaged-pod-watcher-interval", "1"),
    ] {
        settings.set(key, value, "test").unwrap();
    }
    settings
}

/// Something of everything that the operator looks after.
async fn fill(world: &World) {
    let blocks = json!([{"cidr": "192.0.2.0/24"}]);
    let pool = json!({"metadata": {"name": "blue"}, "spec": {"blocks": blocks}});
    let (version, plural) = ("cilium.io/v2alpha1", "ciliumloadbalancerippools");
    world
        .create(version, "CiliumLoadBalancerIPPool", plural, pool)
        .await;
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    world.create("v1", "Service", "services", service).await;
    let taint = json!([{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}]);
    world
        .create(
            "v1",
            "Node",
            "nodes",
            json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": {"taints": taint}}),
        )
        .await;
    let pod = |name: &str, app: &str, namespace: &str| {
        json!({"metadata": {"name": name, "namespace": namespace, "labels": {"k8s-app": app}},
            "spec": {"nodeName": "n1", "hostNetwork": app == "cilium", "containers": [{"name": "c", "image": "x"}]},
            "status": {"phase": "Running", "podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}], "startTime": "2020-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    world
        .create(
            "v1",
            "Pod",
            "pods",
            pod("cilium-x", "cilium", "kube-system"),
        )
        .await;
    world
        .create("v1", "Pod", "pods", pod("dns", "kube-dns", "kube-system"))
        .await;
    world
        .create("v1", "Pod", "pods", pod("lives", "web", "default"))
        .await;
    // What is asked of pools counts in the multi-pool mode alone, where one of them does not exist.
    let ask = |pool: &str| json!({"pool": pool, "needed": {"ipv4-addrs": 8}});
    let spec = json!({"ipam": {"pools": {"requested": [ask("default"), ask("mars")]}}});
    for name in ["n1", "gone", "third"] {
        let node = json!({"metadata": {"name": name}, "spec": spec});
        Objects::of(&world.admin, &kind("CiliumNode"))
            .create(node)
            .await
            .unwrap();
    }
    let identity = json!({"metadata": {"name": "1001"}, "security-labels": {"k8s:app": "x"}});
    Objects::of(&world.admin, &kind("CiliumIdentity"))
        .create(identity)
        .await
        .unwrap();
    for (kind_name, namespace) in [
        ("CiliumNetworkPolicy", Some("default")),
        ("CiliumClusterwideNetworkPolicy", None),
    ] {
        let objects = match namespace {
            Some(namespace) => Objects::within(&world.admin, &kind(kind_name), namespace),
            None => Objects::of(&world.admin, &kind(kind_name)),
        };
        let mut policy =
            json!({"metadata": {"name": "p"}, "spec": {"endpointSelector": {}, "ingress": [{}]}});
        if let Some(namespace) = namespace {
            policy["metadata"]["namespace"] = namespace.into();
        }
        objects.create(policy).await.unwrap();
    }
    for name in ["gone", "lives"] {
        let endpoint = json!({"metadata": {"name": name, "namespace": "default"}, "status": {"state": "ready"}});
        Objects::within(&world.admin, &kind("CiliumEndpoint"), "default")
            .create(endpoint)
            .await
            .unwrap();
    }
}

/// A Secret that a policy names comes, changes and goes; its copy follows.
async fn copied(world: &World) {
    let own = Objects::core(&world.admin, "Secret", "secrets", Some("default"));
    let copies = Objects::core(&world.admin, "Secret", "secrets", Some("cilium-secrets"));
    let secret =
        |data: Value| json!({"metadata": {"name": "token", "namespace": "default"}, "data": data});
    own.create(secret(json!({"a": "YQ=="}))).await.unwrap();
    let rule = json!({"headerMatches": [{"name": "x", "secret": {"name": "token"}}]});
    let item = json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [rule]}});
    let policy = json!({"metadata": {"name": "secretive", "namespace": "default"},
        "spec": {"endpointSelector": {}, "ingress": [{"toPorts": [item]}]}});
    Objects::within(&world.admin, &kind("CiliumNetworkPolicy"), "default")
        .create(policy)
        .await
        .unwrap();
    let is_copied = async |data: Option<Value>| {
        eventually("the copy follows", || async {
            let copy = copies.get("default.token").await.unwrap();
            let copy = copy.map(|copy| copy.data["data"].clone());
            unless(copy == data, &format!("{copy:?}"))
        })
        .await;
    };
    is_copied(Some(json!({"a": "YQ=="}))).await;
    let other = json!({"data": {"a": null, "b": "Yg=="}});
    own.merge("token", other, None).await.unwrap();
    is_copied(Some(json!({"b": "Yg=="}))).await;
    own.delete("token", Meant::default()).await.unwrap();
    is_copied(None).await;
}

/// With one mode of giving addresses go endpoint slices and identities made by the operator, with the other none.
async fn run_operator(mode: &'static str) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let all = mode == "multi-pool";
    let management = if all { "operator" } else { "agent" };
    let values = json!({"ipam": {"mode": mode}, "ciliumEndpointSlice": {"enabled": all}, "identityManagementMode": management,
        "nodeIPAM": {"enabled": all}, "l7Proxy": true});
    let world = World::start(values, "cilium-operator").await;
    let (stopper, stop) = stop::channel();
    let mut settings = operator_settings(mode);
    for (key, value) in [
        ("enable-cilium-endpoint-slice", all.to_string().as_str()),
        ("identity-management-mode", management),
        ("enable-node-ipam", all.to_string().as_str()),
        ("enable-l7-proxy", "true"),
        ("hubble-tls-auto-renew", "true"),
    ] {
        settings.set(key, value, "test").unwrap();
    }
    let secrets = Objects::core(&world.admin, "Secret", "secrets", Some("kube-system"));
    let old = json!({"metadata": {"annotations": {"hypha.io/renew-after": "1000"}}});
    secrets
        .merge("hubble-server-certs", old, None)
        .await
        .unwrap();
    let task = tokio::spawn(operator::run_until(
        settings,
        world.client("cilium-operator"),
        stop,
    ));
    let client = world.client("cilium-operator");
    let settings = k8s::config::config_map(&client, "kube-system", "cilium-config");
    settings.await.unwrap();
    let last = Objects::of(&world.admin, &kind("CiliumPodIPPool"));
    let others = Objects::within(&world.admin, &kind("CiliumLocalRedirectPolicy"), "default");
    eventually("kinds are installed", || async {
        unless(
            last.list().await.is_ok() && others.list().await.is_ok(),
            "some kind",
        )
    })
    .await;
    fill(&world).await;
    copied(&world).await;
    let granted = granted(
        &world.objects,
        &["cilium-operator", "cilium-operator-policy-secrets"],
    );
    // What only happens now and then.
    let rare = rare();
    eventually("all rights are used", || async {
        let (used, refused) = world.notes.lock().unwrap().clone();
        let idle = granted
            .difference(&used)
            .filter(|right| !rare.contains(*right));
        idle.cloned()
            .chain(refused.iter().map(|one| format!("refused: {one}")))
            .collect()
    })
    .await;
    stopper.stop();
    let _ = task.await;
    (world.used(), granted)
}

/// Rights that this scenario does not use each time, each with its use.
fn rare() -> BTreeSet<Right> {
    [
        // An event that is seen again.
        " events patch",
        // A number that somebody else was quicker to take; a slice that another endpoint comes into, or that becomes empty.
        "cilium.io ciliumidentities get",
        "cilium.io ciliumendpointslices patch",
        "cilium.io ciliumendpointslices delete",
        // Definitions of an earlier release; `update` where the server has no server-side apply.
        "apiextensions.k8s.io customresourcedefinitions patch",
        "apiextensions.k8s.io customresourcedefinitions update",
    ]
    .map(str::to_owned)
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_has_the_rights_that_it_uses_and_no_others() {
    for mode in ["cluster-pool", "multi-pool"] {
        let (used, granted) = run_operator(mode).await;
        assert_eq!(
            used.difference(&granted).collect::<Vec<_>>(),
            Vec::<&Right>::new(),
            "{mode}: used, not granted"
        );
        let idle: BTreeSet<Right> = granted.difference(&used).cloned().collect();
        assert!(
            idle.is_subset(&rare()),
            "{mode}: granted, not used: {idle:?}"
        );
    }
}

/// The definitions that the operator may change are those that it installs.
#[test]
fn definitions_are_named_one_by_one() {
    let objects = render(&hypha_install::Request::default()).unwrap();
    let role = objects
        .iter()
        .find(|one| one["kind"] == "ClusterRole" && one["metadata"]["name"] == "cilium-operator");
    let rules = role.unwrap()["rules"].as_array().unwrap().clone();
    let named = rules
        .iter()
        .find(|rule| rule["resourceNames"].is_array())
        .unwrap();
    let mut ours: Vec<String> = crd::ALL.iter().map(Crd::name).collect();
    ours.sort();
    assert_eq!(named["resourceNames"], json!(ours));
}

/// Kinds that the agent watches: nodes, pods, namespaces, what our kinds say of nodes, endpoints, slices and identities, four kinds
/// of policies and groups, Secrets, services and what is behind them, what is announced and what is redirected.
const WATCHES: usize = 16;

/// The agent itself needs a kernel; this asks what it asks, by the functions that it asks with.
/// The page of flows shows a policy that somebody looks at, and the relay may ask for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_has_the_rights_that_it_uses_and_no_others() {
    let values = json!({"hubble": {"relay": {"enabled": true}, "ui": {"enabled": true}}});
    let world = World::start(values, "hubble-relay").await;
    for crd in crd::ALL {
        crd::install(&world.admin, crd).await.unwrap();
    }
    let noted = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "about": "shop"});
    let policy = json!({"metadata": {"name": "p", "namespace": "default", "annotations": noted},
        "spec": {"endpointSelector": {}, "ingress": [{}]}});
    Objects::within(&world.admin, &kind("CiliumNetworkPolicy"), "default")
        .create(policy)
        .await
        .unwrap();
    let client = world.client("hubble-relay");
    for (kind, namespace) in [
        ("CiliumNetworkPolicy", Some("default")),
        ("CiliumClusterwideNetworkPolicy", None),
        ("NetworkPolicy", Some("default")),
        ("AdminNetworkPolicy", None),
        ("BaselineAdminNetworkPolicy", None),
    ] {
        let none = k8s::policy::object(&client, kind, namespace, "none").await;
        assert_eq!(none.unwrap(), None, "{kind}");
    }
    let found = k8s::policy::object(&client, "CiliumNetworkPolicy", Some("default"), "p").await;
    let found = found.unwrap().unwrap();
    assert_eq!(
        (&found["kind"], &found["metadata"]["annotations"]),
        (&json!("CiliumNetworkPolicy"), &json!({"about": "shop"}))
    );
    assert_eq!(world.used(), granted(&world.objects, &["hubble-ui"]));
    let without = json!({"hubble": {"relay": {"enabled": true}, "ui": {"enabled": true, "policies": {"enabled": false}}}});
    let without = render(&hypha_install::Request {
        values: without,
        ..hypha_install::Request::default()
    });
    let without = without.unwrap();
    assert!(granted(&without, &["hubble-ui"]).is_empty());
    for (objects, asks) in [(&world.objects, true), (&without, false)] {
        let is_relay = |object: &&Value| {
            object["kind"] == "Deployment" && object["metadata"]["name"] == "hubble-relay"
        };
        let relay = objects.iter().find(is_relay).unwrap();
        let spec = &relay["spec"]["template"]["spec"];
        assert_eq!(spec["automountServiceAccountToken"], asks);
        let args = spec["containers"][0]["args"].as_array().unwrap();
        assert_eq!(args.iter().any(|arg| arg == "--ui-policies"), asks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_has_the_rights_that_it_uses_and_no_others() {
    let world = World::start(
        json!({"ipam": {"mode": "crd"}, "ciliumEndpointSlice": {"enabled": true}, "localRedirectPolicy": true,
            "l2announcements": {"enabled": true}, "l7Proxy": true}),
        "cilium",
    )
    .await;
    for crd in crd::ALL {
        crd::install(&world.admin, crd).await.unwrap();
    }
    world
        .create("v1", "Node", "nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let client = world.client("cilium");
    let settings = k8s::config::of_node(&client, "kube-system", "cilium-config", "n1")
        .await
        .unwrap();
    assert!(settings.config_map.is_some());
    let tables = model::Tables::new().unwrap();
    let (stopper, stop) = stop::channel();
    let interest = k8s::Interest {
        node: "n1".to_owned(),
        slices: false,
    };
    let _connection = k8s::watch_all(&client, &tables, &interest, &Health::default(), &stop);
    let watcher = Watcher::new(&client, &tables.db, &Health::default(), &stop);
    k8s::policy::follow(&watcher, &tables.policies, true, Some("cilium-secrets"));
    let wanted = k8s::service::Wanted {
        redirects: true,
        l2: true,
    };
    k8s::service::follow(&watcher, &tables.services, wanted);
    // Slices are read in place of endpoints, where the settings say so.
    watcher.follow::<crd::CiliumEndpointSlice, _>(&tables.endpoint_slices, Presence::Always);
    let nodes: Api<k8s::Node> = Api::all(client.clone());
    nodes.get("n1").await.unwrap();
    let pods: Api<k8s::Pod> = Api::namespaced(client.clone(), "default");
    assert!(pods.get_opt("p").await.unwrap().is_none());
    let own = Objects::of(&client, &kind("CiliumNode"));
    own.create(json!({"metadata": {"name": "n1"}, "spec": {}}))
        .await
        .unwrap();
    own.get("n1").await.unwrap();
    own.merge("n1", json!({"metadata": {"labels": {"a": "b"}}}), None)
        .await
        .unwrap();
    own.merge_status("n1", json!({"ipam": {}})).await.unwrap();
    let endpoints = Objects::within(&client, &kind("CiliumEndpoint"), "default");
    endpoints.create(json!({"metadata": {"name": "p", "namespace": "default"}, "status": {"state": "ready"}})).await.unwrap();
    endpoints.get("p").await.unwrap();
    endpoints
        .merge("p", json!({"status": {"state": "ready"}}), None)
        .await
        .unwrap();
    endpoints.delete("p", Meant::default()).await.unwrap();
    let identities = Objects::of(&client, &kind("CiliumIdentity"));
    let identity = json!({"metadata": {"name": "300"}, "security-labels": {"k8s:app": "x"}});
    identities.create(identity).await.unwrap();
    identities.get("300").await.unwrap();
    let policies = Objects::of(&client, &kind("CiliumL2AnnouncementPolicy"));
    let admins = Objects::of(&world.admin, &kind("CiliumL2AnnouncementPolicy"));
    admins
        .create(json!({"metadata": {"name": "all"}, "spec": {}}))
        .await
        .unwrap();
    let status = json!({"conditions": []});
    policies.merge_status("all", status).await.unwrap();
    let lease = |identity: &str| LeaseSettings {
        namespace: "kube-system".to_owned(),
        name: "cilium-l2announce-default-web".to_owned(),
        identity: identity.to_owned(),
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(5),
        retry_period: Duration::from_secs(2),
    };
    let mut elector = Elector::new(client.clone(), lease("n1"));
    assert_eq!(elector.attempt().await, Try::Leading);
    elector.release().await;
    let events = Events::new(&client, "cilium-agent");
    let about = About {
        kind: "Pod",
        api_version: "v1".to_owned(),
        namespace: "default".to_owned(),
        name: "p".to_owned(),
        uid: "u".to_owned(),
    };
    for _ in 0..2 {
        events.warn(&about, "NoIdentity", "none is left").await;
    }
    let granted = granted(
        &world.objects,
        &["cilium", "cilium-config-agent", "cilium-policy-secrets"],
    );
    eventually("watches run", || async {
        let notes = world.notes.lock().unwrap().clone();
        let watches = notes.0.iter().filter(|right| right.ends_with(" watch"));
        unless(watches.count() == WATCHES, &format!("{notes:?}"))
    })
    .await;
    stopper.stop();
    // Kinds of policies that this server does not have are looked for, again and again.
    let optional = ["adminnetworkpolicies", "baselineadminnetworkpolicies"];
    let optional = optional.map(|kind| format!("policy.networking.k8s.io {kind} watch"));
    let expected: BTreeSet<Right> = granted.difference(&optional.into()).cloned().collect();
    assert_eq!(world.used(), expected);
    // Not in the way of others: another namespace's settings, secrets, pods' ends.
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(client.clone(), "default");
    assert!(maps.get_opt("cilium-config").await.is_err());
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(client.clone(), "kube-system");
    assert!(
        secrets
            .list(&kube::api::ListParams::default())
            .await
            .is_err()
    );
}
