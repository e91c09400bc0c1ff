//! Values to objects.
use std::collections::BTreeMap;

use hypha_install::{Request, chart, notes, render};
use serde_json::{Value, json};

/// The objects for some values.
pub fn objects(values: Value) -> Vec<Value> {
    render(&Request {
        values,
        ..Request::default()
    })
    .unwrap()
}

pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

pub fn config(values: Value) -> BTreeMap<String, String> {
    let objects = objects(values);
    serde_json::from_value(find(&objects, "ConfigMap", "cilium-config")["data"].clone()).unwrap()
}

fn list(objects: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    objects
        .iter()
        .map(|one| format!("{} {}", text(&one["kind"]), text(&one["metadata"]["name"])))
        .collect()
}

fn told(values: Value) -> Vec<String> {
    let request = Request {
        values,
        ..Request::default()
    };
    let notes = notes(&request).unwrap().notes;
    notes
        .lines()
        .filter(|line| line.contains(" has no effect: "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn by_default_it_is_an_agent_and_a_proxy_on_every_node_and_two_operators() {
    let all = objects(json!({}));
    assert_eq!(
        list(&all),
        [
            "Namespace cilium-secrets",
            "ServiceAccount cilium",
            "ServiceAccount cilium-envoy",
            "ServiceAccount cilium-operator",
            "Secret cilium-ca",
            "Secret hubble-server-certs",
            "ConfigMap cilium-config",
            "ClusterRole cilium",
            "ClusterRole cilium-operator",
            "ClusterRoleBinding cilium",
            "ClusterRoleBinding cilium-operator",
            "Role cilium-config-agent",
            "Role cilium-operator",
            "Role cilium-operator-policy-secrets",
            "Role cilium-policy-secrets",
            "RoleBinding cilium-config-agent",
            "RoleBinding cilium-operator",
            "RoleBinding cilium-operator-policy-secrets",
            "RoleBinding cilium-policy-secrets",
            "Service hubble-peer",
            "DaemonSet cilium",
            "DaemonSet cilium-envoy",
            "Deployment cilium-operator",
        ]
    );
    let agents = find(&all, "DaemonSet", "cilium");
    let pod = &agents["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["k8s-app"], "cilium");
    let agent = &pod["spec"]["containers"][0];
    assert_eq!(agent["name"], "cilium-agent");
    assert_eq!(
        agent["image"],
        format!("ghcr.io/hypha/hypha:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        agent["args"],
        json!([
            "agent",
            "--config-map=cilium-config",
            "--k8s-namespace=kube-system"
        ])
    );
    let before: Vec<&Value> = pod["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(
        before,
        [
            "mount-cgroup",
            "mount-bpf-fs",
            "make-proxy-netns",
            "install-cni-binaries"
        ]
    );
    let operator = find(&all, "Deployment", "cilium-operator");
    assert_eq!(operator["spec"]["replicas"], 2);
    assert_eq!(told(json!({})), Vec::<String>::new());
}

/// Every volume that is mounted is there, and every volume that is there is mounted.
#[test]
fn volumes_and_mounts_belong_together() {
    for values in [
        json!({}),
        json!({"securityContext": {"privileged": true}}),
        json!({"hubble": {"tls": {"enabled": false}}}),
        json!({"cni": {"install": false}, "cgroup": {"autoMount": {"enabled": false}}, "bpf": {"autoMount": {"enabled": false}}}),
    ] {
        let all = objects(values);
        let pod = &find(&all, "DaemonSet", "cilium")["spec"]["template"]["spec"];
        let names = |of: &Value| -> Vec<String> {
            let all = of.as_array().cloned().unwrap_or_default();
            all.iter()
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let containers = ["initContainers", "containers"]
            .map(|list| pod[list].as_array().cloned().unwrap_or_default());
        let mut mounted: Vec<String> = containers
            .concat()
            .iter()
            .flat_map(|c| names(&c["volumeMounts"]))
            .collect();
        mounted.sort();
        mounted.dedup();
        let mut there = names(&pod["volumes"]);
        there.sort();
        assert_eq!(mounted, there);
    }
}

#[test]
fn settings_follow_the_values() {
    let default = config(json!({}));
    for (key, value) in [
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/8"),
        ("cluster-pool-ipv4-mask-size", "24"),
        ("routing-mode", "tunnel"),
        ("tunnel-protocol", "vxlan"),
        ("enable-bpf-masquerade", "true"),
        ("enable-ipv6", "false"),
        ("enable-ipv6-masquerade", "false"),
        ("bpf-map-dynamic-size-ratio", "0.0025"),
        ("operator-prometheus-serve-addr", ":9963"),
        ("enable-hubble", "true"),
        ("hubble-listen-address", ":4244"),
        ("hubble-event-buffer-capacity", "4095"),
        ("hubble-tls-cert-file", "/var/lib/cilium/tls/hubble/tls.crt"),
        ("kube-proxy-replacement", "false"),
        ("bpf-lb-mode", "snat"),
        ("bpf-lb-maglev-table-size", "16381"),
        ("tofqdns-min-ttl", "0"),
        ("tofqdns-idle-connection-grace-period", "0s"),
        ("tofqdns-dns-reject-response-code", "refused"),
    ] {
        assert_eq!(default.get(key).map(String::as_str), Some(value), "{key}");
    }
    for absent in [
        "devices",
        "mtu",
        "prometheus-serve-addr",
        "cluster-pool-ipv6-cidr",
        "nodeport-addresses",
    ] {
        assert_eq!(default.get(absent), None, "{absent}");
    }
    let native = config(json!({
        "routingMode": "native", "ipv4NativeRoutingCIDR": "172.20.0.0/16", "autoDirectNodeRoutes": true, "ipv6": {"enabled": true},
        "ipam": {"operator": {"clusterPoolIPv4PodCIDRList": ["172.20.0.0/16", "172.21.0.0/16"], "clusterPoolIPv4MaskSize": 25}},
        "devices": ["eth0", "ens+"], "mtu": 1400, "prometheus": {"enabled": true}, "debug": {"enabled": true},
        "logOptions": {"format": "json", "level": "warn"}, "bpf": {"datapathMode": "netkit", "ctTcpMax": 1_000_000},
        "extraConfig": {"enable-tcx": false, "mine": ""}, "kubeProxyReplacement": true,
        "dnsProxy": {"minTtl": 3600, "endpointMaxIpPerHostname": 50, "maxDeferredConnectionDeletes": 100, "idleConnectionGracePeriod": "1m",
            "proxyResponseMaxDelay": "250ms", "dnsRejectResponseCode": "refused"},
    }));
    for (key, value) in [
        ("ipv4-native-routing-cidr", "172.20.0.0/16"),
        ("auto-direct-node-routes", "true"),
        ("cluster-pool-ipv4-cidr", "172.20.0.0/16 172.21.0.0/16"),
        ("cluster-pool-ipv6-cidr", "fd00::/104"),
        ("enable-ipv6-masquerade", "true"),
        ("devices", "eth0 ens+"),
        ("mtu", "1400"),
        ("prometheus-serve-addr", ":9962"),
        ("debug", "true"),
        ("log-opt", "level=warn,format=json"),
        ("datapath-mode", "netkit-l2"),
        ("bpf-ct-global-tcp-max", "1000000"),
        ("enable-tcx", "false"),
        ("mine", ""),
        ("kube-proxy-replacement", "true"),
        ("tofqdns-min-ttl", "3600"),
        ("tofqdns-endpoint-max-ip-per-hostname", "50"),
        ("tofqdns-max-deferred-connection-deletes", "100"),
        ("tofqdns-idle-connection-grace-period", "1m"),
        ("tofqdns-proxy-response-max-delay", "250ms"),
        ("tofqdns-dns-reject-response-code", "refused"),
    ] {
        assert_eq!(native.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn each_way_of_giving_addresses_has_its_settings() {
    let kubernetes = config(json!({"ipam": {"mode": "kubernetes"}}));
    assert_eq!(kubernetes["ipam"], "kubernetes");
    assert!(!kubernetes.keys().any(|key| key.starts_with("cluster-pool")));
    let pools = json!({"default": {"ipv4": {"cidrs": ["10.10.0.0/16", "10.11.0.0/16"], "maskSize": 27}},
        "mars": {"ipv6": {"cidrs": ["fd00:1::/100"], "maskSize": 120}}});
    let multi = config(
        json!({"ipam": {"mode": "multi-pool", "multiPoolPreAllocation": "default=16",
        "operator": {"autoCreateCiliumPodIPPools": pools}}, "ipv6": {"enabled": true}}),
    );
    assert_eq!(
        multi["auto-create-cilium-pod-ip-pools"],
        r#"{"default":"ipv4-cidrs:10.10.0.0/16,10.11.0.0/16;ipv4-mask-size:27","mars":"ipv6-cidrs:fd00:1::/100;ipv6-mask-size:120"}"#
    );
    assert_eq!(multi["ipam-multi-pool-pre-allocation"], "default=16");
    let crd = objects(json!({"ipam": {"mode": "crd"}}));
    assert!(
        find(&crd, "ClusterRole", "cilium")
            .to_string()
            .contains("ciliumnodes/status")
    );
}

#[test]
fn pods_are_shaped_by_values() {
    let all = objects(json!({
        "image": {"repository": "reg/x", "digest": format!("sha256:{}", "ab".repeat(32))}, "imagePullSecrets": [{"name": "s"}],
        "operator": {"image": {"tag": "t"}, "replicas": 1, "podDisruptionBudget": {"enabled": true}, "extraArgs": ["--debug"]},
        "extraArgs": ["--mtu=1300"], "extraEnv": [{"name": "A", "value": "b"}], "podAnnotations": {"x": "y"}, "commonLabels": {"team": "net"},
        "k8sServiceHost": "192.0.2.1", "k8sServicePort": 6443, "rollOutCiliumPods": true, "resources": {"limits": {"memory": "1Gi"}},
        "prometheus": {"enabled": true, "metricsService": true, "serviceMonitor": {"enabled": true}},
    }));
    let pod = &find(&all, "DaemonSet", "cilium")["spec"]["template"];
    let agent = &pod["spec"]["containers"][0];
    assert_eq!(
        agent["image"],
        format!(
            "reg/x:{}@sha256:{}",
            env!("CARGO_PKG_VERSION"),
            "ab".repeat(32)
        )
    );
    assert_eq!(agent["args"][3], "--mtu=1300");
    assert_eq!(agent["resources"]["limits"]["memory"], "1Gi");
    let env: Vec<&Value> = agent["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(
        env,
        [
            "K8S_NODE_NAME",
            "CILIUM_K8S_NAMESPACE",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_SERVICE_PORT",
            "A"
        ]
    );
    assert_eq!(agent["env"][3]["value"], "6443");
    assert_eq!(pod["metadata"]["annotations"]["x"], "y");
    assert_eq!(
        pod["metadata"]["annotations"]["cilium.io/cilium-configmap-checksum"]
            .as_str()
            .unwrap()
            .len(),
        64
    );
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
    assert!(
        all.iter()
            .all(|object| object["metadata"]["labels"]["team"] == "net")
    );
    let operator = &find(&all, "Deployment", "cilium-operator")["spec"];
    assert_eq!(operator["replicas"], 1);
    assert!(
        operator["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .starts_with("reg/x:t@")
    );
    assert_eq!(
        find(&all, "PodDisruptionBudget", "cilium-operator")["spec"]["maxUnavailable"],
        1
    );
    assert_eq!(
        find(&all, "Service", "cilium-agent")["spec"]["ports"][0]["port"],
        9962
    );
    find(&all, "ServiceMonitor", "cilium-agent");
}

/// A value that is accepted, though nothing is done, is told of in one line; so it is for each of them.
#[test]
fn nothing_is_silent() {
    let lines = told(
        json!({"nodePort": {"enabled": true}, "hubble": {"dropEventEmitter": {"enabled": true}},
        "bpf": {"hostRouting": true, "masquerade": false}, "egressMasqueradeInterfaces": "eth+",
        "dnsProxy": {"enableDnsCompression": false, "enableTransparentMode": false, "preCache": "/names", "proxyPort": 53, "socketLingerTimeout": 5}}),
    );
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        [
            "nodePort.enabled",
            "egressMasqueradeInterfaces",
            "bpf.masquerade",
            "bpf.hostRouting",
            "hubble.dropEventEmitter.enabled",
            "dnsProxy.enableDnsCompression",
            "dnsProxy.enableTransparentMode",
            "dnsProxy.preCache",
            "dnsProxy.proxyPort",
            "dnsProxy.socketLingerTimeout"
        ]
    );
    assert_eq!(
        lines[0],
        "nodePort.enabled=true has no effect: services of all types are served, or none: set kubeProxyReplacement"
    );
}

#[test]
fn every_file_of_the_chart_is_embedded() {
    fn walk(dir: &std::path::Path, root: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/hypha");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort();
    let embedded: Vec<&str> = chart::FILES.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, embedded);
    assert_eq!(
        chart::metadata().unwrap().app_version,
        env!("CARGO_PKG_VERSION")
    );
}

/// Every setting that the chart writes by itself means something to agent or operator, and looks like no mistake to either.
#[test]
fn settings_are_known() {
    use runtime::settings::{Layer, OperatorSettings, Remote, Settings, load_all};
    let values = config(
        json!({"ipv6": {"enabled": true}, "prometheus": {"enabled": true}, "devices": ["eth0"], "mtu": 1400}),
    );
    let known = |key: &str| {
        [Settings::KEYS, OperatorSettings::KEYS]
            .concat()
            .iter()
            .any(|one| one.name == key)
    };
    let unknown: Vec<&String> = values.keys().filter(|key| !known(key)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let remote = Remote {
        config_map: Some(Layer {
            place: "ConfigMap".to_owned(),
            values,
        }),
        node_configs: Vec::new(),
    };
    let none = Vec::<String>::new();
    assert_eq!(
        load_all::<Settings>(&[], std::iter::empty(), &remote)
            .unwrap()
            .warnings,
        none
    );
    assert_eq!(
        load_all::<OperatorSettings>(&[], std::iter::empty(), &remote)
            .unwrap()
            .warnings,
        none
    );
}

#[test]
fn the_proxy_has_pods_of_its_own() {
    let setting = |all: &[Value]| {
        let map = find(all, "ConfigMap", "cilium-config");
        map["data"]["enable-l7-proxy"].as_str().map(str::to_owned)
    };
    let is_there = |all: &[Value]| list(all).contains(&"DaemonSet cilium-envoy".to_owned());
    let off = objects(json!({"l7Proxy": false}));
    assert!(!is_there(&off));
    assert_eq!(setting(&off).as_deref(), Some("false"));
    let all = objects(json!({}));
    assert!(is_there(&all));
    assert_eq!(setting(&all).as_deref(), Some("true"));
    let set = &find(&all, "DaemonSet", "cilium-envoy")["spec"];
    // The new one takes over from the old one, which has to be there still.
    assert_eq!(set["updateStrategy"]["rollingUpdate"]["maxSurge"], 1);
    let pod = &set["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["hostNetwork"], true);
    let container = &pod["containers"][0];
    assert_eq!(container["args"][0], "proxy");
    let given = &container["securityContext"];
    assert_eq!(given["privileged"], Value::Null);
    assert_eq!(given["capabilities"]["drop"], json!(["ALL"]));
    let names = |of: &Value| -> Vec<Value> {
        of.as_array()
            .into_iter()
            .flatten()
            .map(|one| one["name"].clone())
            .collect()
    };
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    let without = json!({"envoy": {"enabled": false}});
    let all = objects(without.clone());
    assert!(!is_there(&all));
    assert_eq!(setting(&all).as_deref(), Some("false"));
    assert!(told(without)[0].starts_with("l7Proxy=true has no effect"));
}

#[test]
fn agents_read_secrets_of_one_namespace() {
    let of_secrets = |all: &[Value]| {
        let roles = all.iter().filter(|one| one["rules"].is_array());
        let named = roles.filter(|role| {
            let rules = role["rules"].as_array().unwrap();
            let is_open = |rule: &&Value| {
                rule["resources"] == json!(["secrets"]) && rule["resourceNames"].is_null()
            };
            rules.iter().any(|rule| is_open(&rule))
        });
        let text = |value: &Value| value.as_str().unwrap_or("everywhere").to_owned();
        let placed = named.map(|role| {
            let metadata = &role["metadata"];
            format!(
                "{} {}",
                text(&metadata["name"]),
                text(&metadata["namespace"])
            )
        });
        placed.collect::<Vec<_>>()
    };
    assert!(of_secrets(&objects(json!({"l7Proxy": false}))).is_empty());
    let values = |sync: bool| {
        let secrets =
            json!({"secretsNamespace": {"name": "vault"}, "secretSync": {"enabled": sync}});
        json!({"l7Proxy": true, "tls": secrets})
    };
    let all = objects(values(true));
    assert_eq!(
        of_secrets(&all),
        [
            "cilium-operator everywhere",
            "cilium-operator-policy-secrets vault",
            "cilium-policy-secrets vault"
        ]
    );
    find(&all, "Namespace", "vault");
    assert_eq!(config(values(true))["policy-secrets-namespace"], "vault");
    assert_eq!(
        of_secrets(&objects(values(false))).len(),
        2,
        "not everywhere"
    );
}
