//! Certificates of the flow API are made anew in time, and nothing is trusted in between that was not before.
use crate::cluster::{Cluster, eventually, settings};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use install::certs::{self, Facts, Pair, Validity};
use k8s::write::Objects;
use kube::api::DynamicObject;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

const PAIRS: &[(&str, &str)] = &[
    ("hubble-tls-auto-renew", "true"),
    ("cluster-pool-ipv4-cidr", "10.0.0.0/16"),
    ("enable-ipv6", "false"),
];
const SERVER: &str = "hubble-server-certs";
const NAMES: [&str; 2] = ["*.default.hubble-grpc.cilium.io", "localhost"];
/// Of a certificate that the test waits for.
const SHORT: Duration = Duration::from_secs(20);

async fn plant(cluster: &Cluster, authority: &Pair, own: &Pair, renew: Option<SystemTime>) {
    let notes = renew.map_or(json!({}), |renew| {
        let since = renew.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        json!({"hypha.io/renew-after": since.as_secs().to_string(), "hypha.io/made-of": "x"})
    });
    let text = |text: &str| STANDARD.encode(text);
    for (name, data) in [
        (
            "cilium-ca",
            json!({"ca.crt": text(&authority.certificate), "ca.key": text(&authority.key)}),
        ),
        (
            SERVER,
            json!({"ca.crt": text(&authority.certificate), "tls.crt": text(&own.certificate), "tls.key": text(&own.key)}),
        ),
    ] {
        let value = json!({"metadata": {"name": name, "namespace": "kube-system", "annotations": notes}, "data": data});
        cluster.create("Secret", "secrets", value).await;
    }
}

fn text(secret: &DynamicObject, key: &str) -> String {
    let text = secret.data["data"][key].as_str().unwrap();
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

/// Whether whoever trusts `authority` believes a server with `certificate`.
fn believed(authority: &str, certificate: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let own = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let name = ServerName::try_from("w1.default.hubble-grpc.cilium.io").unwrap();
    let verifier = verifier.build().unwrap();
    let done = verifier.verify_server_cert(&own, &[], &name, &[], UnixTime::now());
    done.map(|_| ()).map_err(|error| error.to_string())
}

fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

/// What `SERVER` becomes once it is not as it was.
async fn changed(secrets: &Objects, before: &str) -> DynamicObject {
    eventually("it is renewed", || async {
        let secret = secrets.get(SERVER).await.unwrap().unwrap();
        if text(&secret, "tls.crt") == before {
            Err("not yet".to_owned())
        } else {
            Ok(secret)
        }
    })
    .await
}

#[tokio::test]
async fn certificates_are_renewed_again_and_again_before_their_time_is_over() {
    let cluster = Cluster::start().await;
    let now = SystemTime::now();
    let authority = certs::authority("Cilium CA", Validity::days(30)).unwrap();
    let validity = Validity::of(now, SHORT);
    let own = certs::signed(NAMES[0], names(), validity, &authority).unwrap();
    plant(&cluster, &authority, &own, Some(now)).await;
    let operator = cluster.operator(settings(PAIRS));
    let secrets = Objects::core(&cluster.client, "Secret", "secrets", Some("kube-system"));
    let mut before = own;
    for _ in 0..2 {
        let secret = changed(&secrets, &before.certificate).await;
        let after = text(&secret, "tls.crt");
        let facts = Facts::read(&after).unwrap();
        assert_eq!(
            (facts.name.as_str(), facts.names, facts.own),
            (NAMES[0], names(), false)
        );
        let lifetime = facts.validity.lifetime();
        assert!(
            lifetime.abs_diff(SHORT) <= Duration::from_secs(1),
            "{lifetime:?}"
        );
        assert_eq!(believed(&authority.certificate, &after), Ok(()));
        assert_ne!(text(&secret, "tls.key"), before.key);
        assert_eq!(text(&secret, "ca.crt"), authority.certificate);
        assert_eq!(
            secret.metadata.annotations.unwrap()["hypha.io/made-of"],
            "x"
        );
        before.certificate = after;
        before.key = text(&secrets.get(SERVER).await.unwrap().unwrap(), "tls.key");
    }
    operator.stop().await;
}

/// Whoever has the old certificate of the authority believes what it vouches for under the new one, and the other way round.
#[tokio::test]
async fn an_authority_is_renewed_with_its_key() {
    let cluster = Cluster::start().await;
    let now = SystemTime::now();
    let ten = Duration::from_secs(600);
    // Two thirds of its time are over, and the certificate's are not.
    let old = Validity {
        begin: now - ten * 3,
        end: now + ten,
    };
    let authority = certs::authority("Cilium CA", old).unwrap();
    let own = certs::signed(NAMES[0], names(), Validity::days(9), &authority).unwrap();
    plant(&cluster, &authority, &own, Some(now + ten)).await;
    let operator = cluster.operator(settings(PAIRS));
    let secrets = Objects::core(&cluster.client, "Secret", "secrets", Some("kube-system"));
    let secret = changed(&secrets, &own.certificate).await;
    let kept = secrets.get("cilium-ca").await.unwrap().unwrap();
    let (new, made) = (text(&kept, "ca.crt"), text(&secret, "tls.crt"));
    assert_eq!(text(&kept, "ca.key"), authority.key);
    assert_eq!(text(&secret, "ca.crt"), new);
    for (authority, certificate) in [
        (&authority.certificate, &made),
        (&new, &own.certificate),
        (&new, &made),
    ] {
        assert_eq!(believed(authority, certificate), Ok(()));
    }
    let facts = Facts::read(&new).unwrap();
    assert!(facts.own && facts.validity.end > old.end + ten, "{facts:?}");
    operator.stop().await;
}

/// Without the note of the chart they are somebody else's, however old.
#[tokio::test]
async fn what_others_made_is_left_alone() {
    let cluster = Cluster::start().await;
    let now = SystemTime::now();
    let over = Validity {
        begin: now - Duration::from_secs(90),
        end: now - Duration::from_secs(30),
    };
    let authority = certs::authority("ours", Validity::days(30)).unwrap();
    let own = certs::signed(NAMES[0], names(), over, &authority).unwrap();
    let expired = believed(&authority.certificate, &own.certificate).unwrap_err();
    assert!(expired.contains("certificate expired"), "{expired}");
    plant(&cluster, &authority, &own, None).await;
    let operator = cluster.operator(settings(PAIRS));
    let secrets = Objects::core(&cluster.client, "Secret", "secrets", Some("kube-system"));
    cluster.installed().await;
    // It has looked by then, and looks again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let secret = secrets.get(SERVER).await.unwrap().unwrap();
    assert_eq!(text(&secret, "tls.crt"), own.certificate);
    operator.stop().await;
}
