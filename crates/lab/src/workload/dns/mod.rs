//! The cluster's name server: names of services, headless services and pods out of what the API says; others are asked of
//! the servers of its own /etc/resolv.conf, where there are any.
//!
//! [`zone`] answers and is pure; this file listens, and keeps the zone in step with the API.

mod forward;
mod rows;
pub mod zone;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use futures::{StreamExt, TryStreamExt};
use hickory_proto::op::Message;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::AuthInfo;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use forward::Upstream;
use zone::{Answered, Zone};

const PORT: u16 = 53;
/// Where readiness is asked.
const READY_PORT: u16 = 8181;
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Questions that are worked on at once.
const AT_ONCE: usize = 512;
/// A client that says nothing more.
const IDLE: Duration = Duration::from_secs(10);
/// The longest answer over UDP for clients that do not say otherwise.
const UDP_SIZE: usize = 512;

struct Server {
    zone: RwLock<Zone>,
    upstream: Upstream,
}

/// Starts listening, and watching. Ready, as the API on port 8181 tells, once all has been heard of.
pub(super) async fn start(args: &[String], env: BTreeMap<String, String>) -> anyhow::Result<()> {
    let domain = super::flag(args, &["domain"])
        .unwrap_or_else(|| crate::kubelet::plan::CLUSTER_DOMAIN.into());
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = Arc::new(Server {
        zone: RwLock::new(Zone::new(&domain)?),
        upstream: Upstream::parse(super::flag(args, &["forward"]).as_deref(), &resolv)?,
    });
    let client = client(&env)?;
    for address in super::wildcards(PORT) {
        // With IPv6 the first one takes both families.
        let Ok(udp) = UdpSocket::bind(address).await else {
            continue;
        };
        tokio::spawn(serve_udp(server.clone(), Arc::new(udp)));
        break;
    }
    let tcp = super::listen(PORT).await?;
    tokio::spawn(serve_tcp(server.clone(), tcp));
    let services = Rows::<Service> {
        name: "services",
        set: Zone::set_services,
        put: Zone::put_service,
        remove: Zone::remove_service,
    };
    let slices = Rows::<EndpointSlice> {
        name: "endpoint slices",
        set: Zone::set_slices,
        put: Zone::put_slice,
        remove: Zone::remove_slice,
    };
    tokio::spawn(watch(client.clone(), server.clone(), services));
    tokio::spawn(watch(client, server.clone(), slices));
    let ready = super::listen(READY_PORT).await?;
    let app = Router::new().route("/ready", get(move || is_ready(server.clone())));
    tokio::spawn(async move { axum::serve(ready, app).await });
    Ok(())
}

async fn is_ready(server: Arc<Server>) -> (StatusCode, &'static str) {
    if server
        .zone
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .complete()
    {
        (StatusCode::OK, "OK")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not everything has been heard of yet",
        )
    }
}

/// A client with the pod's service account. The environment is the container's, which is not this process's.
fn client(env: &BTreeMap<String, String>) -> anyhow::Result<Client> {
    let get = |name: &str| env.get(name).map(String::as_str);
    let host = get("KUBERNETES_SERVICE_HOST")
        .context("KUBERNETES_SERVICE_HOST says where the API is, and is not set")?;
    let port = get("KUBERNETES_SERVICE_PORT").unwrap_or("443");
    let scheme = get("KUBERNETES_SERVICE_SCHEME").unwrap_or("https");
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let url = format!("{scheme}://{host}:{port}");
    let mut config = Config::new(url.parse().with_context(|| format!("{url:?} is no URL"))?);
    let token = Path::new(ACCOUNT).join("token");
    if token.exists() {
        config.auth_info = AuthInfo {
            token_file: Some(token.to_string_lossy().into_owned()),
            ..AuthInfo::default()
        };
    }
    if let Ok(pem) = std::fs::read(Path::new(ACCOUNT).join("ca.crt")) {
        let certificates = rustls_certificates(&pem)?;
        config.root_cert = Some(certificates);
    }
    Ok(k8s::from_config(config, k8s::Rate::UNLIMITED)?)
}

fn rustls_certificates(pem: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let all = CertificateDer::pem_slice_iter(pem).map(|c| c.map(|c| c.to_vec()));
    all.collect::<Result<_, _>>()
        .map_err(|e| anyhow::anyhow!("the service account's ca.crt is malformed: {e}"))
}

impl Server {
    fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The answer to a message; `None` where there is none to be given.
    async fn answer(&self, request: &[u8]) -> Option<Message> {
        let request_message = Message::from_vec(request).ok()?;
        let answered = self
            .zone
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(&request_message);
        match answered {
            Answered::Here(message) => Some(message),
            Answered::Elsewhere => Some(self.upstream.ask(&request_message, request).await),
            Answered::Nothing => None,
        }
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut buffer = vec![0; 4096];
    loop {
        // An answer that was refused shows as an error of the next call.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (server, socket, request) = (server.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(answer) = server.answer(&request).await {
                let _ = socket.send_to(&fit(answer, &request), from).await;
            }
            drop(place);
        });
    }
}

/// The message, or its head with the mark that it is too long.
fn fit(answer: Message, request: &[u8]) -> Vec<u8> {
    let edns = Message::from_vec(request)
        .ok()
        .and_then(|m| m.edns.map(|e| usize::from(e.max_payload())));
    let limit = edns.unwrap_or(UDP_SIZE).max(UDP_SIZE);
    let bytes = answer.to_vec().unwrap_or_default();
    if bytes.len() <= limit {
        return bytes;
    }
    let mut short = answer.truncate();
    short.queries = answer.queries;
    short.to_vec().unwrap_or_default()
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => drop(tokio::spawn(serve_stream(server.clone(), stream, from))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve_stream(server: Arc<Server>, mut stream: TcpStream, _from: SocketAddr) {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut request = vec![0; usize::from(length)];
            stream.read_exact(&mut request).await?;
            std::io::Result::Ok(request)
        };
        let Ok(Ok(request)) = tokio::time::timeout(IDLE, read).await else {
            return;
        };
        let Some(answer) = server.answer(&request).await else {
            return;
        };
        let bytes = answer.to_vec().unwrap_or_default();
        let Ok(length) = u16::try_from(bytes.len()) else {
            return;
        };
        let sent = async {
            stream.write_u16(length).await?;
            stream.write_all(&bytes).await
        };
        if sent.await.is_err() {
            return;
        }
    }
}

/// What the zone does with objects of one kind.
struct Rows<K> {
    name: &'static str,
    set: fn(&mut Zone, Vec<K>),
    put: fn(&mut Zone, &K),
    remove: fn(&mut Zone, &str, &str),
}

/// Keeps the zone in step with the objects of one kind.
async fn watch<K>(client: Client, server: Arc<Server>, rows: Rows<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut listed = Vec::new();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(object))) => listed.push(object),
            Ok(Some(Event::InitDone)) => {
                server.change(|z| (rows.set)(z, std::mem::take(&mut listed)))
            }
            Ok(Some(Event::Apply(object))) => server.change(|z| (rows.put)(z, &object)),
            Ok(Some(Event::Delete(object))) => server.change(|z| {
                (rows.remove)(
                    z,
                    &object.namespace().unwrap_or_default(),
                    &object.name_any(),
                )
            }),
            Ok(None) => return,
            Err(e) => eprintln!("watching {}: {e}", rows.name),
        }
    }
}
