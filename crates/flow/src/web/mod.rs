//! The web page: its files, flows for it and how the relay stands, by HTTP. Nothing can be changed by it.
//!
//! `/api/flows` answers with lines of JSON, the same that `hubble observe -o jsonpb` prints; its parameters are the fields of the
//! flow API's request ([`query`]). `/api/status` has the relay's state and its nodes, `/api/policy` the object of a policy ([`policy`]).
//! Everything else is a file of the page ([`page`]).
mod page;
pub mod policy;
mod query;
mod stream;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::hubble::json;
use api::hubble::observer::observer_server::Observer;
use api::hubble::observer::{GetNodesRequest, ServerStatusRequest};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::stop::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tonic::{Code, Status};

use self::policy::Policies;
use crate::serve::ServeError;

/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes.
const HEAD: usize = 64 << 10;

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time; more wait until one ends.
    pub connections: usize,
    /// Readers of flows at the same time; more are refused.
    pub readers: usize,
    /// How long a reader may leave what it is sent unread.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            readers: 64,
            patience: Duration::from_secs(10),
        }
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// A refusal, and why in one line.
type Refusal = (StatusCode, String);

/// What every connection needs.
struct Site<O> {
    observer: O,
    policies: Option<Arc<dyn Policies>>,
    readers: Arc<Semaphore>,
    limits: Limits,
    stop: Stop,
}

/// Serves the page, with what `observer` knows and with objects of `policies`, until `stop`; returns once it listens, with its address.
///
/// # Errors
/// It cannot listen.
pub async fn serve<O: Observer>(
    observer: O,
    policies: Option<Arc<dyn Policies>>,
    address: SocketAddr,
    limits: Limits,
    stop: &Stop,
) -> Result<SocketAddr, ServeError> {
    let failed = |cause| ServeError::Listen {
        place: address.to_string(),
        cause,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let site = Arc::new(Site {
        observer,
        policies,
        readers: Arc::new(Semaphore::new(limits.readers)),
        limits,
        stop: stop.clone(),
    });
    tokio::spawn(async move {
        let stop = site.stop.clone();
        stop.or(accept(listener, site)).await;
    });
    Ok(address)
}

async fn accept<O: Observer>(listener: TcpListener, site: Arc<Site<O>>) {
    let room = Arc::new(Semaphore::new(site.limits.connections));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                tokio::spawn(async move {
                    connection(&site, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Too many open files, most likely: some will be closed.
                tracing::debug!(%error, "a connection for the page was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<O: Observer>(site: &Arc<Site<O>>, stream: TcpStream) {
    // Latency matters more than the number of packets; without it, it works as well.
    let _ = stream.set_nodelay(true);
    let cut = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (site, cut) = (site.clone(), cut.clone());
        async move { Ok::<_, Infallible>(answer(&site, &request, cut).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that goes away in the middle of something is nothing to speak of.
        _ = served => {}
        () = cut.notified() => {}
        // Readers of flows are told first.
        () = async { site.stop.stopped().await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
    }
}

async fn answer<O: Observer>(
    site: &Arc<Site<O>>,
    request: &Request<Incoming>,
    cut: Arc<Notify>,
) -> Answer {
    let answered = route(site, request, cut).await;
    let mut answer = answered.unwrap_or_else(|(status, text)| {
        let mut answer = plain(text + "\n");
        *answer.status_mut() = status;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            set(answer.headers_mut(), header::ALLOW, "GET, HEAD");
        }
        answer
    });
    guard(answer.headers_mut());
    answer
}

async fn route<O: Observer>(
    site: &Arc<Site<O>>,
    request: &Request<Incoming>,
    cut: Arc<Notify>,
) -> Result<Answer, Refusal> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = format!("{}: only GET and HEAD are answered", request.method());
        return Err((StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/api/flows" => flows(site, query, cut).await,
        "/api/status" => status(&site.observer).await,
        "/api/policy" => {
            let text = policy::yaml(site.policies.as_ref(), query).await?;
            Ok(typed(whole(text), "application/yaml; charset=utf-8"))
        }
        path => page::file(path, request.headers()).ok_or_else(|| {
            let text = "there is no such page; accepted: /, /api/flows, /api/status, /api/policy";
            (StatusCode::NOT_FOUND, text.to_owned())
        }),
    }
}

async fn flows<O: Observer>(
    site: &Arc<Site<O>>,
    query: &str,
    cut: Arc<Notify>,
) -> Result<Answer, Refusal> {
    let request = query::request(query).map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    let place = site.readers.clone().try_acquire_owned().map_err(|_| {
        let text = format!(
            "{} readers follow flows already, which is all that are served at the same time",
            site.limits.readers
        );
        (StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let answers = site.observer.get_flows(tonic::Request::new(request)).await;
    let answers = answers.map_err(refusal)?.into_inner();
    let body = stream::body(answers, site.limits.patience, site.stop.clone(), cut, place);
    Ok(typed(body, "application/x-ndjson"))
}

async fn status<O: Observer>(observer: &O) -> Result<Answer, Refusal> {
    let (status, nodes) = tokio::join!(
        observer.server_status(tonic::Request::new(ServerStatusRequest {})),
        observer.get_nodes(tonic::Request::new(GetNodesRequest {})),
    );
    let status = status.map_err(refusal)?.into_inner();
    let nodes = nodes.map_err(refusal)?.into_inner().nodes;
    let unwritable = |error: json::JsonError| {
        let text = error.to_string();
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    let status = json::to_string(&status).map_err(unwritable)?;
    let nodes: Result<Vec<String>, _> = nodes.iter().map(json::to_string).collect();
    let nodes = nodes.map_err(unwritable)?.join(",");
    let text = format!("{{\"status\":{status},\"nodes\":[{nodes}]}}\n");
    Ok(typed(whole(text), "application/json"))
}

/// What a refusal of the flow API is by HTTP.
fn refusal(status: Status) -> Refusal {
    let code = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    (code, status.message().to_owned())
}

fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

fn plain(text: String) -> Answer {
    typed(whole(text), "text/plain; charset=utf-8")
}

fn typed(body: Body, kind: &'static str) -> Answer {
    let mut answer = Response::new(body);
    set(answer.headers_mut(), header::CONTENT_TYPE, kind);
    answer
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// What browsers are told of every answer: it is for this page alone, and this page takes nothing from elsewhere.
fn guard(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    set(headers, header::CONTENT_SECURITY_POLICY, POLICY);
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    let resource = HeaderName::from_static("cross-origin-resource-policy");
    set(headers, resource, "same-origin");
    if !headers.contains_key(header::CACHE_CONTROL) {
        set(headers, header::CACHE_CONTROL, "no-store");
    }
}
