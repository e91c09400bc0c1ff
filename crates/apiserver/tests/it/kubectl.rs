//! The embedded API server through an unmodified `kubectl`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::client::{Running, start};
use crate::signing::{self, CLIENT};

const KUBECTL: &str = "/usr/bin/kubectl";

struct Kubectl {
    running: Running,
    home: TempDir,
}

/// What a command did: standard output, standard error, and whether it went well.
#[derive(Debug)]
struct Outcome {
    out: String,
    err: String,
    ok: bool,
}

impl Kubectl {
    async fn start() -> Option<Self> {
        if !std::path::Path::new(KUBECTL).exists() {
            eprintln!("skipped: {KUBECTL} is not there");
            return None;
        }
        Some(Self {
            running: start(Default::default()).await,
            home: TempDir::new().unwrap(),
        })
    }

    async fn run(&self, arguments: &str, input: Option<&Value>) -> Outcome {
        let mut child = Command::new(KUBECTL)
            .args(["--server", &self.running.url])
            .args(arguments.split_whitespace())
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if let Some(input) = input {
            stdin.write_all(input.to_string().as_bytes()).await.unwrap();
        }
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output());
        let output = output.await.expect("kubectl should have ended").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Outcome {
            out: text(output.stdout),
            err: text(output.stderr),
            ok: output.status.success(),
        }
    }

    /// Runs a command that has to work.
    async fn good(&self, arguments: &str, input: Option<&Value>) -> String {
        let outcome = self.run(arguments, input).await;
        assert!(outcome.ok, "kubectl {arguments}: {outcome:?}");
        outcome.out
    }

    async fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.good(arguments, None).await).unwrap()
    }
}

fn pod(image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": image}]},
    })
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.168.10.100"}],
            "nodeInfo": {"kubeletVersion": "v1.34.0"},
        },
    })
}

#[tokio::test]
async fn kubectl_reads() {
    let Some(kubectl) = Kubectl::start().await else {
        return;
    };
    kubectl
        .good("create -f - --validate=false", Some(&node()))
        .await;
    let nodes = kubectl.json("get nodes -o json").await;
    assert_eq!(nodes["items"][0]["metadata"]["name"], "node1");
    let table = kubectl.good("get nodes -o wide", None).await;
    let (head, row) = table.split_once('\n').unwrap();
    assert!(
        head.starts_with("NAME") && head.contains("INTERNAL-IP"),
        "{table}"
    );
    for cell in [
        "node1",
        "Ready",
        "control-plane",
        "v1.34.0",
        "192.168.10.100",
    ] {
        assert!(row.contains(cell), "{cell} in {row}");
    }
    assert_eq!(
        kubectl.good("get ns -o name", None).await.lines().count(),
        4
    );
    let none = kubectl.run("get pods", None).await;
    assert!(
        none.ok && none.err.contains("No resources found"),
        "{none:?}"
    );
    let missing = kubectl.run("get pod nobody", None).await;
    assert!(
        missing.err.contains(r#"pods "nobody" not found"#),
        "{missing:?}"
    );
    let resources = kubectl.good("api-resources", None).await;
    for line in ["namespaces", "leases", "coordination.k8s.io/v1"] {
        assert!(resources.contains(line), "{resources}");
    }
    assert!(
        kubectl
            .good("version", None)
            .await
            .contains("v1.33.0+hypha")
    );
    assert!(
        kubectl
            .good("describe node node1", None)
            .await
            .contains("192.168.10.100")
    );
}

#[tokio::test]
async fn kubectl_writes() {
    let Some(kubectl) = Kubectl::start().await else {
        return;
    };
    let apply = "apply --validate=false -f -";
    assert!(
        kubectl
            .good(apply, Some(&pod("nginx:1")))
            .await
            .contains("pod/web created")
    );
    assert!(
        kubectl
            .good(apply, Some(&pod("nginx:1")))
            .await
            .contains("pod/web unchanged")
    );
    assert!(
        kubectl
            .good(apply, Some(&pod("nginx:2")))
            .await
            .contains("pod/web configured")
    );
    let stored = kubectl.json("get pod web -o json").await;
    assert_eq!(stored["spec"]["containers"][0]["image"], "nginx:2");

    let listed = kubectl.good("get po -A -l app=web", None).await;
    assert!(
        listed.contains("web") && listed.contains("0/1") && listed.contains("Pending"),
        "{listed}"
    );
    kubectl.good("label pod web tier=front", None).await;
    kubectl.good("annotate pod web note=x", None).await;
    let stored = kubectl.json("get pod web -o json").await;
    assert_eq!(stored["metadata"]["labels"]["tier"], "front");
    let forbidden = kubectl
        .run(r#"patch pod web -p {"spec":{"hostname":"x"}}"#, None)
        .await;
    assert!(
        !forbidden.ok && forbidden.err.contains("spec: Forbidden"),
        "{forbidden:?}"
    );
    assert!(
        kubectl
            .good("describe pod web", None)
            .await
            .contains("nginx:2")
    );

    assert!(
        kubectl
            .good("delete pod web", None)
            .await
            .contains("deleted")
    );
    assert!(!kubectl.run("get pod web", None).await.ok);
    kubectl.good("create namespace team", None).await;
    kubectl.good("delete namespace team", None).await;
    assert!(!kubectl.run("get ns team", None).await.ok);
}

/// Without `--validate=false`, as people type it: the server is asked to be strict.
#[tokio::test]
async fn kubectl_validates_through_the_server() {
    let Some(kubectl) = Kubectl::start().await else {
        return;
    };
    for change in ["created", "unchanged"] {
        let out = kubectl.good("apply -f -", Some(&pod("nginx:1"))).await;
        assert!(out.contains(change), "{out}");
    }
    let out = kubectl.good("apply -f -", Some(&pod("nginx:2"))).await;
    assert!(out.contains("configured"), "{out}");
    kubectl.good("create -f -", Some(&node())).await;
    let mut typo = pod("nginx");
    typo["metadata"]["name"] = json!("typo");
    typo["spec"]["containers"][0]["imagee"] = json!("x");
    let outcome = kubectl.run("apply -f -", Some(&typo)).await;
    assert!(
        !outcome.ok && outcome.err.contains("spec.containers[0].imagee"),
        "{outcome:?}"
    );
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l", "namespace": "default"}, "spec": {"holderIdentity": "a"}});
    kubectl.good("apply -f -", Some(&lease)).await;
    let mut newer = lease.clone();
    newer["spec"]["holderIdentity"] = json!("b");
    kubectl.good("apply -f -", Some(&newer)).await;
    assert_eq!(
        kubectl.json("get lease l -o json").await["spec"]["holderIdentity"],
        "b"
    );
    kubectl.good("cordon node1", None).await;
    assert!(
        kubectl
            .good("get nodes", None)
            .await
            .contains("SchedulingDisabled")
    );
    kubectl
        .good("wait --for=condition=Ready node/node1 --timeout=10s", None)
        .await;
}

#[tokio::test]
async fn kubectl_shows_what_is_wrong() {
    let Some(kubectl) = Kubectl::start().await else {
        return;
    };
    let mut bad = pod("nginx");
    bad["spec"]["containers"][0]["ports"] = json!([{"containerPort": 0}]);
    let outcome = kubectl
        .run("create --validate=false -f -", Some(&bad))
        .await;
    assert!(
        outcome
            .err
            .contains("spec.containers[0].ports[0].containerPort"),
        "{outcome:?}"
    );
    let mut unknown = pod("nginx");
    unknown["spec"]["colour"] = json!("red");
    let outcome = kubectl.run("create -f -", Some(&unknown)).await;
    assert!(
        outcome
            .err
            .contains("strict decoding error: unknown field \"spec.colour\""),
        "{outcome:?}"
    );
    let outcome = kubectl
        .run("create --validate=warn -f -", Some(&unknown))
        .await;
    assert!(
        outcome.ok
            && outcome
                .err
                .contains("Warning: unknown field \"spec.colour\""),
        "{outcome:?}"
    );

    let mine = pod("nginx:1");
    let other = |image: &str| {
        let mut pod = pod(image);
        pod["metadata"]["name"] = json!("shared");
        pod
    };
    kubectl
        .good(
            "apply --server-side --field-manager=a -f -",
            Some(&other("nginx:1")),
        )
        .await;
    let outcome = kubectl
        .run(
            "apply --server-side --field-manager=b -f -",
            Some(&other("nginx:2")),
        )
        .await;
    let told =
        "Apply failed with 1 conflict: conflict with \"a\": .spec.containers[name=\"main\"].image";
    assert!(!outcome.ok && outcome.err.contains(told), "{outcome:?}");
    kubectl
        .good(
            "apply --server-side --force-conflicts --field-manager=b -f -",
            Some(&other("nginx:2")),
        )
        .await;
    // What was applied on the client's side can be applied on the server's side afterwards.
    kubectl.good("delete pod web", None).await;
    kubectl.good("apply -f -", Some(&mine)).await;
    kubectl.good("apply --server-side -f -", Some(&mine)).await;
    kubectl
        .good("apply --server-side -f -", Some(&pod("nginx:2")))
        .await;
    assert_eq!(
        kubectl.json("get pod web -o json").await["spec"]["containers"][0]["image"],
        "nginx:2"
    );
}

#[tokio::test]
async fn kubectl_approves_and_denies_requests_for_certificates() {
    let Some(kubectl) = Kubectl::start().await else {
        return;
    };
    let key = rcgen::KeyPair::generate().unwrap();
    for name in ["jane", "joe"] {
        let asked = signing::request(&key, name, &["dev"], &[]);
        let mut object = signing::object(name, CLIENT, &["client auth"], &asked);
        object["apiVersion"] = json!("certificates.k8s.io/v1");
        object["kind"] = json!("CertificateSigningRequest");
        kubectl.good("create -f -", Some(&object)).await;
    }
    kubectl.good("certificate approve jane", None).await;
    kubectl.good("certificate deny joe", None).await;
    let shown = kubectl.good("get csr --no-headers", None).await;
    let ends = |name: &str, word: &str| {
        let line = shown.lines().find(|line| line.starts_with(name));
        assert!(line.is_some_and(|line| line.ends_with(word)), "{shown}");
    };
    ends("jane", "Approved,Issued");
    ends("joe", "Denied");
    let told = kubectl.good("describe csr jane", None).await;
    assert!(
        told.contains("Common Name:") && told.contains("jane"),
        "{told}"
    );
}
