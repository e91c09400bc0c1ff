//! The kubelets' API in a cluster with roles: who is known and who may.

use std::process::Command;

use apiserver::tls::{Authority, TlsOptions};

use crate::server::{Manager, Server};
use crate::{items, join, ok};

const ROLE: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubelets}
rules:
- {apiGroups: [""], resources: [nodes/proxy], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubelets}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubelets}
subjects:
- {kind: ServiceAccount, name: may, namespace: default}
- {kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}
"#;

/// The status of an answer; 0 where TLS fails.
fn ask(url: &str, more: &[&str]) -> u16 {
    let mut command = Command::new("curl");
    command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5"]);
    let out = command.args(more).arg(url).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()
}

#[test]
#[ignore = "needs a real API server: cargo xtask test-conformance"]
fn e2e_conformant_kubelet_access() {
    let server = Server::start(Manager::Own);
    let config = server.admin();
    let role = server.write("role.yaml", ROLE);
    ok(&config, &["apply", "-f", role.to_str().unwrap()]);
    let _lab = join(&server, &["--nodes", "1", "--cluster-dns", "none"]).up();

    let node = &items(&config, &["nodes"])[0];
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let host = addresses.iter().find(|a| a["type"] == "Hostname").unwrap();
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let url = format!("https://{}:{port}/pods", host["address"].as_str().unwrap());

    assert_eq!(ask(&url, &[]), 401, "nobody in particular");
    let bearer = |token: &str| format!("Authorization: Bearer {}", token.trim());
    assert_eq!(ask(&url, &["-H", &bearer("nonsense")]), 401);
    for (account, status) in [("may", 200), ("may-not", 403)] {
        ok(&config, &["create", "serviceaccount", account]);
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let request = server.write("request.json", r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":600}}"#);
        let made = ok(
            &config,
            &["create", "--raw", &path, "-f", request.to_str().unwrap()],
        );
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let token = made["status"]["token"].as_str().unwrap();
        assert_eq!(ask(&url, &["-H", &bearer(token)]), status, "{account}");
    }
    let shown = |name: &str| {
        let file = |end: &str| {
            let name = format!("{name}.{end}");
            config.with_file_name(name).display().to_string()
        };
        ["--cert".into(), file("crt"), "--key".into(), file("key")]
    };
    for (user, status) in [("jane", 200), ("joe", 403)] {
        server.kubeconfig(user, None);
        assert_eq!(
            ask(&url, &shown(user).each_ref().map(String::as_str)),
            status,
            "{user}"
        );
    }
    // An authority that the cluster does not know, and the one of the server itself.
    let stranger = Authority::open(&TlsOptions::default()).unwrap();
    let identity = stranger.client("admin", Some("system:masters")).unwrap();
    let certificate = server.write("stranger.crt", &identity.certificate);
    let key = server.write("stranger.key", &identity.key);
    let options = [
        "--cert",
        certificate.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    assert_eq!(ask(&url, &options), 0, "an administrator of somewhere else");
    let options = shown("apiserver");
    assert_eq!(
        ask(&url, &options.each_ref().map(String::as_str)),
        0,
        "a server's certificate is no client's"
    );
}
