//! Who gets in, and how connections end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use hypha_apiserver::tls::{Authority, Identity, TlsOptions};
use hypha_apiserver::{ApiServer, ServerOptions};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::Running;

/// A TLS connection that trusts the server's authority and shows a certificate, or none.
pub async fn connect(
    running: &Running,
    identity: Option<&Identity>,
) -> io::Result<TlsStream<TcpStream>> {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(der(running.server.authority().certificate()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![der(&identity.certificate)], key)
                .unwrap()
        }
    };
    let address = running.url.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn ask(
    running: &Running,
    identity: Option<&Identity>,
    request: hyper::Request<Body>,
) -> Result<(u16, String), Box<dyn std::error::Error>> {
    let stream = connect(running, identity).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(Body::new(response.into_body()), 1 << 24).await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn prepared(method: &str, path: &str, body: &Value) -> hyper::Request<Body> {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "x")
        .header("content-type", kind);
    request.body(body).unwrap()
}

/// A request by the administrator: status and body.
pub async fn request(running: &Running, method: &str, path: &str, body: &Value) -> (u16, String) {
    ask(
        running,
        Some(&running.admin()),
        prepared(method, path, body),
    )
    .await
    .unwrap()
}

async fn get(running: &Running, identity: Option<&Identity>, path: &str) -> (u16, Value) {
    let (status, body) = ask(running, identity, prepared("GET", path, &Value::Null))
        .await
        .unwrap();
    (
        status,
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    )
}

#[tokio::test]
async fn nobody_sees_little_and_strangers_do_not_get_in() {
    let running = Running::start().await;
    assert_eq!(
        get(&running, None, "/version").await.1["gitVersion"],
        "v1.33.0+hypha"
    );
    assert_eq!(get(&running, None, "/readyz").await, (200, json!("ok")));
    assert_eq!(get(&running, None, "/apis/apps/v1").await.0, 200);
    let (status, body) = get(&running, None, "/api/v1/pods").await;
    assert_eq!(
        (status, &body["reason"], &body["code"]),
        (401, &json!("Unauthorized"), &json!(401))
    );
    let stranger = Authority::open(&TlsOptions::default())
        .unwrap()
        .client("kubernetes-admin", Some("system:masters"));
    let refused = ask(
        &running,
        Some(&stranger.unwrap()),
        prepared("GET", "/version", &Value::Null),
    )
    .await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn certificates_say_who_somebody_is() {
    let running = Running::start().await;
    let node = running
        .server
        .authority()
        .client("system:node:n1", Some("system:nodes"))
        .unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (status, body) = ask(&running, Some(&node), prepared("POST", path, &review))
        .await
        .unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 201);
    assert_eq!(
        body["status"]["userInfo"],
        json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]})
    );
    assert_eq!(get(&running, Some(&node), "/api/v1/pods").await.0, 200);
}

#[tokio::test]
async fn tokens_can_be_reviewed() {
    let running = Running::start().await;
    let account = json!({"metadata": {"name": "robot"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(request(&running, "POST", accounts, &account).await.0, 201);
    let (status, made) = request(
        &running,
        "POST",
        &format!("{accounts}/robot/token"),
        &json!({"spec": {}}),
    )
    .await;
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        (status, &made["spec"]["expirationSeconds"]),
        (201, &json!(3600))
    );
    let review = async |token: &Value| {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let (_, body) = request(&running, "POST", path, &json!({"spec": {"token": token}})).await;
        serde_json::from_str::<Value>(&body).unwrap()["status"].clone()
    };
    let good = review(&made["status"]["token"]).await;
    assert_eq!(
        (&good["authenticated"], &good["user"]["username"]),
        (&json!(true), &json!("system:serviceaccount:default:robot"))
    );
    let bad = review(&json!("x.y.z")).await;
    assert_eq!(
        (&bad["authenticated"], bad["error"].is_string()),
        (&json!(false), true)
    );
}

#[tokio::test]
async fn bodies_are_limited() {
    let running = Running::start().await;
    let big = json!({"metadata": {"name": "big"}, "data": {"x": "y".repeat(4 << 20)}});
    let (status, body) = request(
        &running,
        "POST",
        "/api/v1/namespaces/default/configmaps",
        &big,
    )
    .await;
    assert_eq!(status, 413, "{body}");
}

#[tokio::test]
async fn what_is_no_tls_does_not_disturb() {
    let running = Running::start().await;
    let address = running.url.strip_prefix("https://").unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(get(&running, None, "/version").await.0, 200);
}

#[tokio::test]
async fn a_watch_ends_with_the_server() {
    let running = Running::start().await;
    let admin = running.admin();
    let path = "/api/v1/pods?watch=true";
    let watch = ask(&running, Some(&admin), prepared("GET", path, &Value::Null));
    let end = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        running.server.shutdown();
    };
    let both = async { tokio::join!(watch, end) };
    let (watch, ()) = tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .unwrap();
    assert_eq!(watch.unwrap(), (200, String::new()));
}

#[tokio::test]
async fn credentials_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = || ServerOptions {
        tls: TlsOptions {
            dir: Some(dir.path().join("pki")),
            names: vec!["192.0.2.1".to_owned()],
        },
        ..ServerOptions::default()
    };
    let identity = ApiServer::open(options())
        .unwrap()
        .authority()
        .client("admin", Some("system:masters"))
        .unwrap();
    let again = Running::of(ApiServer::open(options()).unwrap()).await;
    assert_eq!(
        get(&again, Some(&identity), "/api/v1/namespaces/default")
            .await
            .0,
        200
    );
}
