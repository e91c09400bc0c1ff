//! The kubelet's API on port 10250 is for those who show that they may use it.

use std::path::Path;

use apiserver::tls::{Authority, TlsOptions};
use serde_json::Value;
use testkit::{LabGuard, skip_unless_root};

use crate::pods::{ONE_PLUGIN, lab};

/// Asks the kubelet of the first node for its pods; the status, or 0 where TLS already fails.
fn ask(lab: &LabGuard, more: &[&str]) -> u16 {
    let url = "https://127.0.0.1:10250/pods";
    let mut command = vec![
        "curl",
        "-sk",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-m",
        "5",
    ];
    command.extend(more);
    command.push(url);
    let run = lab.exec("node1", &command);
    run.stdout.trim().parse().unwrap_or_else(|_| {
        panic!("curl says no status: {} {}", run.stdout, run.stderr);
    })
}

/// Options of curl for a certificate and its key, which are written to files.
fn shown(dir: &Path, certificate: &str, key: &str) -> [String; 4] {
    let (cert_file, key_file) = (dir.join("c.pem"), dir.join("k.pem"));
    std::fs::write(&cert_file, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    [
        "--cert".to_owned(),
        cert_file.display().to_string(),
        "--key".to_owned(),
        key_file.display().to_string(),
    ]
}

fn decoded(data: &str) -> String {
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn lab_kubelets_answer_those_who_may_ask() {
    if skip_unless_root() {
        return;
    }
    let (lab, _plugins) = lab(ONE_PLUGIN);
    // Not in /run or /tmp: nodes have a /run of their own.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    assert_eq!(ask(&lab, &[]), 401, "nobody in particular");
    assert_eq!(
        ask(&lab, &["-H", "Authorization: Bearer nonsense"]),
        401,
        "a token of nobody"
    );

    let stranger = Authority::open(&TlsOptions::default()).unwrap();
    let identity = stranger.client("kubernetes-admin", Some("system:masters"));
    let identity = identity.unwrap();
    let options = shown(dir.path(), &identity.certificate, &identity.key);
    assert_eq!(
        ask(&lab, &options.each_ref().map(String::as_str)),
        0,
        "an administrator of somewhere else"
    );

    let text = std::fs::read_to_string(lab.dir().join("kubeconfig")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let owner = &config["users"][0]["user"];
    let data = |field: &str| decoded(owner[field].as_str().unwrap());
    let options = shown(
        dir.path(),
        &data("client-certificate-data"),
        &data("client-key-data"),
    );
    assert_eq!(
        ask(&lab, &options.each_ref().map(String::as_str)),
        200,
        "the cluster's administrator"
    );
}
