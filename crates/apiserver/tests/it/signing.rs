//! Requests for certificates: refused, signed, and used.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hypha_apiserver::auth::User;
use hypha_apiserver::tls::TlsOptions;
use hypha_apiserver::{ApiServer, ServerOptions};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::api::Api;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

/// A request by a key, in base64 of PEM.
pub fn request(key: &KeyPair, name: &str, groups: &[&str], names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    if name.contains('@') {
        params.subject_alt_names = vec![SanType::Rfc822Name(name.try_into().unwrap())];
    }
    params.distinguished_name = DistinguishedName::new();
    for (i, group) in groups.iter().enumerate() {
        // The library knows a kind of member once; a kind of one's own goes beside.
        let kind = match i {
            0 => DnType::OrganizationName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 10]),
        };
        params.distinguished_name.push(kind, *group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    let request = params.serialize_request(key).unwrap();
    BASE64_STANDARD.encode(request.pem().unwrap())
}

pub fn object(name: &str, signer: &str, usages: &[&str], request: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": usages, "request": request},
    })
}

/// Approves one, and tells what the signer has made of it.
async fn approved(api: &Api, name: &str) -> Value {
    let mut object = api.get(&format!("{PATH}/{name}")).await.good();
    object["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "well"}]});
    let answer = api
        .put(&format!("{PATH}/{name}/approval"), object)
        .await
        .good();
    assert_eq!(answer["status"]["conditions"][0]["type"], "Approved");
    api.get(&format!("{PATH}/{name}")).await.good()["status"].clone()
}

fn pem(status: &Value) -> String {
    let text = status["certificate"].as_str().unwrap_or_default();
    assert!(!text.is_empty(), "{status}");
    String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()
}

/// The status line of a request with a certificate.
async fn ask(api: &ApiServer, certificate: &str, key: &KeyPair) -> String {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = api.clone();
    let serving = tokio::spawn(async move { server.serve_tls(listener).await });
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(api.authority().certificate())).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der(certificate)], key)
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = connector.connect(name, tcp).await.unwrap();
    let body = r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;
    let head = format!(
        "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), tls.read_to_end(&mut answer));
    let _ = read.await.unwrap();
    serving.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn an_approved_client_is_known() {
    let api = Api::new();
    let key = KeyPair::generate().unwrap();
    let asked = request(&key, "jane", &["dev", "ops"], &[]);
    let mut one = object("jane", CLIENT, &["client auth"], &asked);
    one["spec"]["expirationSeconds"] = json!(3600);
    api.post(PATH, one).await.good();
    assert!(api.get(&format!("{PATH}/jane")).await.good()["status"]["certificate"].is_null());
    let status = approved(&api, "jane").await;
    let certificate = pem(&status);

    let block = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
        .unwrap()
        .1;
    let read = block.parse_x509().unwrap();
    let span = read.validity().not_after.timestamp() - read.validity().not_before.timestamp();
    assert_eq!(span, 3600 + 300);
    assert!(!read.is_ca());
    assert!(
        read.extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .client_auth
    );
    let user = User::of_certificate(&block.contents.clone().into()).unwrap();
    assert_eq!(
        (user.name.as_str(), &user.groups[..2]),
        ("jane", &["dev".to_owned(), "ops".to_owned()][..])
    );

    let answer = ask(&api.0, &certificate, &key).await;
    assert!(
        answer.contains("201") && answer.contains(r#""username":"jane""#),
        "{answer}"
    );
}

#[tokio::test]
async fn kubelets_have_their_own_rules() {
    let api = Api::new();
    let key = KeyPair::generate().unwrap();
    let node = |names: &[&str]| request(&key, "system:node:n1", &["system:nodes"], names);
    let both = ["digital signature", "key encipherment", "client auth"];
    let serving = ["digital signature", "server auth"];
    let well = [
        ("client", KUBELET, &both[..], node(&[])),
        (
            "serving",
            SERVING,
            &serving[..],
            node(&["n1.example", "192.0.2.1", "fd00::1"]),
        ),
    ];
    for (name, signer, usages, asked) in well {
        api.post(PATH, object(name, signer, usages, &asked))
            .await
            .good();
        pem(&approved(&api, name).await);
    }
    let stranger = |name: &str, group: &str| request(&key, name, &[group], &[]);
    let wrong = [
        (
            "group",
            KUBELET,
            &both[..],
            stranger("system:node:n1", "dev"),
            "organization must be system:nodes",
        ),
        (
            "name",
            KUBELET,
            &both[..],
            stranger("n1", "system:nodes"),
            "must begin with system:node:",
        ),
        (
            "names",
            KUBELET,
            &both[..],
            node(&["n1.example"]),
            "names besides the subject",
        ),
        (
            "nameless",
            SERVING,
            &serving[..],
            node(&[]),
            "DNS names and IP addresses are needed",
        ),
        (
            "usage",
            KUBELET,
            &serving[..],
            node(&[]),
            "usage server auth is not for this signer",
        ),
        (
            "less",
            CLIENT,
            &["digital signature"][..],
            stranger("jane", "dev"),
            "usage client auth is missing",
        ),
    ];
    for (name, signer, usages, asked, why) in wrong {
        api.post(PATH, object(name, signer, usages, &asked))
            .await
            .good();
        let status = approved(&api, name).await;
        assert!(status["certificate"].is_null(), "{name}: {status}");
        assert_eq!(
            status["conditions"][1]["type"], "Failed",
            "{name}: {status}"
        );
        let message = status["conditions"][1]["message"].as_str().unwrap();
        assert!(message.contains(why), "{name}: {message}");
    }
    // Others' signers sign for themselves, by the status.
    let other = object(
        "other",
        "example.com/mine",
        &["client auth"],
        &stranger("jane", "dev"),
    );
    api.post(PATH, other).await.good();
    let status = approved(&api, "other").await;
    assert_eq!(
        status["conditions"].as_array().unwrap().len(),
        1,
        "{status}"
    );
    let answer = json!({"status": {"certificate": "QUJD"}});
    let path = format!("{PATH}/other/status");
    let signed = api.patch(&path, crate::api::MERGE, answer).await.good();
    assert_eq!(signed["status"]["certificate"], "QUJD");
}

#[tokio::test]
async fn wrong_requests_are_refused_at_once() {
    let api = Api::new();
    let key = KeyPair::generate().unwrap();
    let good = request(&key, "jane", &["dev"], &[]);
    let masters = request(&key, "jane", &["dev", "system:masters"], &[]);
    let mut forged = BASE64_STANDARD.decode(&good).unwrap();
    let place = forged.len() / 2;
    forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
    let forged = BASE64_STANDARD.encode(forged);
    let wrong = [
        (
            object("a", CLIENT, &["client auth"], "QUJD"),
            "CERTIFICATE REQUEST",
        ),
        (
            object("a", CLIENT, &["client auth"], &forged),
            "spec.request",
        ),
        (
            object("a", CLIENT, &["client auth"], &masters),
            "system:masters group is not allowed",
        ),
        (
            object("a", CLIENT, &[], &good),
            "spec.usages: Required value",
        ),
        (
            object("a", CLIENT, &["tea"], &good),
            "supported values: \"signing\"",
        ),
        (
            object("a", "", &["client auth"], &good),
            "spec.signerName: Required value",
        ),
        (
            object("a", "mine", &["client auth"], &good),
            "must be a domain and a path",
        ),
        (
            object("a", "kubernetes.io/legacy-unknown", &["client auth"], &good),
            "not there",
        ),
    ];
    for (object, why) in wrong {
        let answer = api.post(PATH, object.clone()).await;
        assert_eq!(answer.code, 422, "{object}: {}", answer.body);
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains(why), "{message} has no {why}");
    }
    let mut short = object("a", CLIENT, &["client auth"], &good);
    short["spec"]["expirationSeconds"] = json!(60);
    assert!(
        api.post(PATH, short)
            .await
            .refused(422)
            .contains("600 seconds")
    );
    // What was asked for cannot be changed before somebody approves it.
    api.post(PATH, object("a", CLIENT, &["client auth"], &good))
        .await
        .good();
    let change = json!({"spec": {"usages": ["server auth"]}});
    let after = api
        .patch(&format!("{PATH}/a"), crate::api::MERGE, change)
        .await
        .good();
    assert_eq!(after["spec"]["usages"], json!(["client auth"]));
    let verdicts = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]}});
    let path = format!("{PATH}/a/approval");
    let message = api
        .patch(&path, crate::api::MERGE, verdicts)
        .await
        .refused(422);
    assert!(message.contains("mutually exclusive"), "{message}");
}

#[tokio::test]
async fn what_was_approved_before_a_crash_is_signed_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let mut options = ServerOptions {
            tls: TlsOptions {
                dir: Some(dir.path().join("pki")),
                names: Vec::new(),
            },
            ..ServerOptions::default()
        };
        options.store.data = Some(dir.path().join("objects.db"));
        Api::open(options)
    };
    let key = KeyPair::generate().unwrap();
    let first = open();
    let asked = request(&key, "jane", &["dev"], &[]);
    let mut jane = object("jane", CLIENT, &["client auth"], &asked);
    first.post(PATH, jane.clone()).await.good();
    // By the status, which asks no signer: as if it had ended in between.
    jane["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let path = format!("{PATH}/jane/status");
    let left = first
        .patch(&path, crate::api::MERGE, json!({"status": jane["status"]}))
        .await
        .good();
    assert!(left["status"]["certificate"].is_null());
    drop(first);
    let status = open().get(&format!("{PATH}/jane")).await.good()["status"].clone();
    assert!(pem(&status).starts_with("-----BEGIN CERTIFICATE-----\n"));
}
