//! What is passed on to kubelets.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::kubelet::Kubelet;
use crate::security::{connect, request};
use crate::server::Running;
use crate::{Release, kubectl};

async fn start() -> Running {
    let running = Running::with(Arc::new(Kubelet::start().await)).await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, node) in [("web", "node-1"), ("far", "node-2"), ("waiting", "")] {
        let containers = json!([{"name": "web", "image": "x"}, {"name": "quiet", "image": "x"}]);
        let containers = if name == "web" {
            containers
        } else {
            json!([containers[0]])
        };
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": containers}});
        if !node.is_empty() {
            pod["spec"]["nodeName"] = json!(node);
        }
        let (status, body) = request(&running, "POST", pods, &pod).await;
        assert_eq!(status, 201, "{body}");
    }
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let running_now = format!("{pods}/web/status");
    let (code, body) = request(&running, "PATCH", &running_now, &status).await;
    assert_eq!(code, 200, "{body}");
    running
}

async fn run(running: &Running, arguments: &[&str]) -> Option<Output> {
    let child = Command::new(kubectl(Release::New)?)
        .args(arguments)
        .env_clear()
        .env("HOME", running.home.path())
        .env("KUBECONFIG", running.kubeconfig())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    Some(
        tokio::time::timeout(Duration::from_secs(30), child)
            .await
            .unwrap()
            .unwrap(),
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_as_the_kubelet_sends_them() {
    let running = start().await;
    let Some(output) = run(&running, &["logs", "-f", "web", "-c", "web", "--tail=5"]).await else {
        return;
    };
    let path = "/containerLogs/default/web/web?follow=true&tailLines=5";
    assert_eq!(
        text(&output.stdout),
        format!("0 {path}\n1 {path}\n2 {path}\n"),
        "{}",
        text(&output.stderr)
    );
    let output = run(&running, &["logs", "web", "-c", "quiet", "-p"])
        .await
        .unwrap();
    assert_eq!(
        text(&output.stderr),
        "Error from server (BadRequest): previous terminated container \"quiet\" in pod \"web\" not found\n"
    );
    let output = run(&running, &["logs", "far"]).await.unwrap();
    assert_eq!(
        text(&output.stderr),
        "Error from server (InternalError): error dialing backend: the kubelet of node node-2: no route to host\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_goes_through_a_web_socket() {
    let running = start().await;
    let Some(output) = run(&running, &["exec", "web", "-c", "web", "--", "echo", "a b"]).await
    else {
        return;
    };
    assert_eq!(
        text(&output.stdout),
        "/exec/default/web/web?output=1&error=1&command=echo&command=a%20b\n",
        "{}",
        text(&output.stderr)
    );
    assert!(text(&output.stderr).contains("and an error"));
    let output = run(&running, &["exec", "far", "--", "true"]).await.unwrap();
    assert!(
        text(&output.stderr).contains("error dialing backend: the kubelet of node node-2"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn bytes_of_any_protocol_are_copied() {
    let running = start().await;
    let mut stream = connect(&running, Some(&running.admin())).await.unwrap();
    let head = "POST /api/v1/namespaces/default/pods/web/portforward HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = text(&answer).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("upgrade: spdy/3.1"),
        "{answer}"
    );
    let sent: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut received = vec![0; sent.len()];
    let (mut read, mut write) = tokio::io::split(stream);
    let (written, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
    written.unwrap();
    got.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn what_cannot_be_passed_on_is_refused() {
    let running = start().await;
    let message = async |path: &str| {
        let (status, body) = request(&running, "GET", path, &Value::Null).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        (status, body["message"].as_str().unwrap().to_owned())
    };
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(
        message(&format!("{pods}/waiting/log")).await,
        (400, "pod waiting does not have a host assigned".to_owned())
    );
    assert_eq!(
        message(&format!("{pods}/web/log?container=x")).await,
        (400, "container x is not valid for pod web".to_owned())
    );
    assert_eq!(message(&format!("{pods}/nobody/log")).await.0, 404);
    let (status, why) = message(&format!("{pods}/web/exec?command=x&container=web")).await;
    assert!(
        status == 400 && why.contains("Upgrade request required"),
        "{why}"
    );
    assert_eq!(
        message("/api/v1/nodes/node-1/proxy/pods").await,
        (404, "nodes \"node-1\" not found".to_owned())
    );
}

#[tokio::test]
async fn a_nodes_kubelet_is_reached_through_its_proxy() {
    let running = start().await;
    let node = json!({"metadata": {"name": "node-1"}});
    assert_eq!(
        request(&running, "POST", "/api/v1/nodes", &node).await.0,
        201
    );
    let (status, body) = request(
        &running,
        "GET",
        "/api/v1/nodes/node-1:10250/proxy/metrics/probes?a=b",
        &Value::Null,
    )
    .await;
    assert_eq!(
        (status, body.lines().next().unwrap()),
        (200, "0 /metrics/probes?a=b")
    );
}
