//! What a pod's kubelet answers: `exec`, `attach`, `portforward`, `log`, and anything below `nodes/NAME/proxy`.
//!
//! The server picks the node, translates options into the kubelet's words and passes the request on. Once a connection
//! has changed its protocol (SPDY or WebSocket), its bytes are copied as they come.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::auth::ADMINS;
use super::error::{ApiError, Reason};
use super::http::{Query, not_allowed};
use super::object::Key;
use super::server::Shared;
use super::tls::{Authority, TlsError};

/// How long a kubelet may take to be reached, and to begin its answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How much of a kubelet's error is read.
const MAX_ERROR: usize = 64 << 10;

/// Options of exec and attach: the API's name, the kubelet's.
const STREAM_OPTIONS: [(&str, &str); 4] = [
    ("stdin", "input"),
    ("stdout", "output"),
    ("stderr", "error"),
    ("tty", "tty"),
];
/// Options of logs, which both call alike.
const LOG_OPTIONS: [&str; 8] = [
    "follow",
    "insecureSkipTLSVerifyBackend",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "timestamps",
];

/// A subresource of a pod that its kubelet answers.
pub(crate) async fn pod(
    server: &Arc<Shared>,
    key: &Key,
    sub: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let is_log = sub == "log";
    let allowed = match *request.method() {
        Method::GET => true,
        Method::POST => !is_log,
        _ => false,
    };
    if !allowed {
        return Err(not_allowed());
    }
    let query = Query::parse(request.uri().query())?;
    let kind = server.store.kind("pods")?;
    let pod = server.store.get(&kind, key)?;
    let container = match sub {
        "portforward" => String::new(),
        _ => container(&pod, key, query.get("container"))?,
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        let why = format!("pod {} does not have a host assigned", key.name);
        return Err(ApiError::bad_request(why));
    }
    if !is_log && !request.headers().contains_key(UPGRADE) {
        return Err(ApiError::bad_request(format!(
            "{sub} needs a connection that changes its protocol: Upgrade request required"
        )));
    }
    let path = target(sub, key, &container, &query);
    let answer = forward(server, node, &path, request).await?;
    if is_log && !answer.status().is_success() {
        return Err(refused(answer).await);
    }
    Ok(answer)
}

/// Anything that a node's kubelet serves.
pub(crate) async fn node(
    server: &Arc<Shared>,
    name: &str,
    path: &str,
    request: Request,
) -> Result<Response, ApiError> {
    // A port may be given; there is one alone.
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    let kind = server.store.kind("nodes")?;
    server.store.get(&kind, &Key::cluster(name))?;
    let query = request
        .uri()
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    forward(server, name, &format!("/{path}{query}"), request).await
}

/// Which container is meant.
fn container(pod: &Value, key: &Key, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if let Some(asked) = asked {
        let known = [&main, &init, &ephemeral]
            .iter()
            .any(|list| list.contains(&asked));
        return known.then(|| asked.to_owned()).ok_or_else(|| {
            ApiError::bad_request(format!(
                "container {asked} is not valid for pod {}",
                key.name
            ))
        });
    }
    match main.as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => {
            let mut why = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                key.name,
                main.join(" ")
            );
            if !init.is_empty() {
                why.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(ApiError::bad_request(why))
        }
    }
}

/// The kubelet's path for a subresource.
fn target(sub: &str, key: &Key, container: &str, query: &Query) -> String {
    let [namespace, pod, container] = [&key.namespace, &key.name, container].map(encode);
    let mut options: Vec<(&str, &str)> = Vec::new();
    let base = match sub {
        "log" => {
            options.extend(
                LOG_OPTIONS
                    .iter()
                    .filter_map(|name| Some((*name, query.get(name)?))),
            );
            options.extend(query.get("stream").map(|stream| ("stream", stream)));
            format!("/containerLogs/{namespace}/{pod}/{container}")
        }
        "portforward" => {
            let ports = query.all("ports").chain(query.all("port"));
            options.extend(ports.map(|port| ("port", port)));
            format!("/portForward/{namespace}/{pod}")
        }
        _ => {
            let is_set =
                |name: &str| matches!(query.get(name), Some("true" | "1" | "True" | "TRUE" | "t"));
            let set = STREAM_OPTIONS.iter().filter(|(name, _)| is_set(name));
            options.extend(set.map(|(_, kubelets)| (*kubelets, "1")));
            options.extend(query.all("command").map(|word| ("command", word)));
            format!("/{sub}/{namespace}/{pod}/{container}")
        }
    };
    let options: Vec<String> = options
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    match options.is_empty() {
        true => base,
        false => format!("{base}?{}", options.join("&")),
    }
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unreachable(node: &str, why: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(
        Reason::InternalError,
        format!("error dialing backend: the kubelet of node {node}: {why}"),
    )
}

/// Passes a request on to a kubelet.
async fn forward(
    server: &Arc<Shared>,
    node: &str,
    path: &str,
    mut request: Request,
) -> Result<Response, ApiError> {
    let client_side = request
        .headers()
        .contains_key(UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (mut head, sent_body) = request.into_parts();
    head.uri = path
        .parse()
        .map_err(|_| ApiError::bad_request(format!("the kubelet cannot be asked for {path:?}")))?;
    for name in [AUTHORIZATION, HOST] {
        head.headers.remove(name);
    }
    head.headers
        .insert(HOST, HeaderValue::from_static("kubelet"));
    if client_side.is_none() {
        head.headers.remove(CONNECTION);
    }
    let mut passed = hyper::Request::new(match client_side {
        Some(_) => Body::empty(),
        None => sent_body,
    });
    *passed.method_mut() = head.method;
    *passed.uri_mut() = head.uri;
    *passed.headers_mut() = head.headers;
    let mut answer = ask(server, node, passed).await?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client_side)) = (answer.status(), client_side) {
        let kubelet_side = hyper::upgrade::on(&mut answer);
        let server = Arc::clone(server);
        tokio::spawn(async move { join(&server, client_side, kubelet_side).await });
    }
    Ok(answer.map(Body::new))
}

async fn ask(
    server: &Shared,
    node: &str,
    request: hyper::Request<Body>,
) -> Result<hyper::Response<hyper::body::Incoming>, ApiError> {
    let connect = async {
        let stream = server.options.kubelets.connect(node).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(node.to_owned())
            .unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        TlsConnector::from(Arc::clone(&server.kubelet_tls))
            .connect(name, stream)
            .await
    };
    let stream = timeout(CONNECT_LIMIT, connect)
        .await
        .map_err(|_| {
            unreachable(
                node,
                &format!("no connection within {} s", CONNECT_LIMIT.as_secs()),
            )
        })?
        .map_err(|error| unreachable(node, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(node, &error))?;
    tokio::spawn(connection.with_upgrades());
    timeout(ANSWER_LIMIT, sender.send_request(request))
        .await
        .map_err(|_| {
            unreachable(
                node,
                &format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
            )
        })?
        .map_err(|error| unreachable(node, &error))
}

/// Copies both ways until both sides, or the server, end.
async fn join(server: &Shared, client: OnUpgrade, kubelet: OnUpgrade) {
    let (client, kubelet) = match tokio::try_join!(client, kubelet) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection to a kubelet did not change its protocol");
            return;
        }
    };
    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
    let mut stopping = server.stopping.subscribe();
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut kubelet) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "a connection to a kubelet broke");
            }
        }
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

/// A kubelet's error as one of this server.
async fn refused(answer: Response) -> ApiError {
    let reason = match answer.status().as_u16() {
        400 => Reason::BadRequest,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        _ => Reason::InternalError,
    };
    let text = axum::body::to_bytes(answer.into_body(), MAX_ERROR)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let status: Option<Value> = serde_json::from_str(&text).ok();
    let message = status.as_ref().and_then(|s| s["message"].as_str());
    ApiError::new(reason, message.unwrap_or(text.trim()))
}

/// TLS without a look at the certificate: whoever answers is good enough for probes.
///
/// # Panics
/// Never: the only step that can fail is asked for the versions of TLS that its provider has.
pub fn trusting() -> ClientConfig {
    trusting_builder().with_no_client_auth()
}

/// TLS with kubelets: theirs are certificates of their own making, and the way to them is a trusted one; this server shows
/// one of its authority, by which they know it.
pub(crate) fn kubelet_tls(authority: &Authority) -> Result<Arc<ClientConfig>, TlsError> {
    let identity = authority.client("kube-apiserver-kubelet-client", Some(ADMINS))?;
    let setup = |what: &dyn std::fmt::Display| TlsError::Setup(what.to_string());
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| setup(&e))?;
    let config = trusting_builder()
        .with_client_auth_cert(vec![certificate.map_err(|e| setup(&e))?], key)
        .map_err(|e| setup(&e))?;
    Ok(Arc::new(config))
}

fn trusting_builder() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("ring has the default versions of TLS");
    builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_in_the_kubelets_words() {
        let key = Key::namespaced("d", "p");
        let of =
            |sub: &str, query: &str| target(sub, &key, "c", &Query::parse(Some(query)).unwrap());
        assert_eq!(
            of(
                "exec",
                "command=sh&command=-c&command=a%20%26%20b&stdin=true&stdout=true&stderr=false&tty=true&container=c"
            ),
            "/exec/d/p/c?input=1&output=1&tty=1&command=sh&command=-c&command=a%20%26%20b"
        );
        assert_eq!(of("attach", "stdout=true"), "/attach/d/p/c?output=1");
        assert_eq!(
            of("log", "follow=true&tailLines=3&container=c&bad=1"),
            "/containerLogs/d/p/c?follow=true&tailLines=3"
        );
        assert_eq!(
            of("portforward", "ports=80&ports=81"),
            "/portForward/d/p?port=80&port=81"
        );
        assert_eq!(of("portforward", ""), "/portForward/d/p");
    }

    #[test]
    fn the_container_is_found_or_asked_for() {
        let key = Key::namespaced("d", "p");
        let mut pod =
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        let of = |pod: &Value, asked| container(pod, &key, asked).map_err(|e| e.to_string());
        assert_eq!(of(&pod, None).unwrap(), "a");
        assert_eq!(of(&pod, Some("i")).unwrap(), "i");
        assert_eq!(
            of(&pod, Some("x")).unwrap_err(),
            "container x is not valid for pod p"
        );
        pod["spec"]["containers"] = json!([{"name": "a"}, {"name": "b"}]);
        assert_eq!(
            of(&pod, None).unwrap_err(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
    }
}
