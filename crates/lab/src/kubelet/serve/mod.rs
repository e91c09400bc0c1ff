//! The kubelet's own API on port 10250 of its node, as API servers use it: exec, attach, port forwarding, logs.
//!
//! Streams come by WebSocket (newer clients) or SPDY (older ones); [`spdy`] and the pieces of [`wire`] that read messages
//! are codecs without I/O. [`access`] decides who may use it.

pub mod access;
mod exec;
mod forward;
mod log;
mod query;
pub mod spdy;
mod streams;
pub(crate) mod tls;
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use apiserver::auth::User;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Context;
use super::handle::{ContainerHandle, PodHandle};
use access::Access;
use query::Query;
use wire::{Asked, Wire};

/// The kubelet's port.
pub const PORT: u16 = 10250;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const SPDY: &str = "SPDY/3.1";
/// The header by which SPDY clients choose what is spoken on the streams.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

type Body = BoxBody<Bytes, std::convert::Infallible>;
type Answer = Response<Body>;

/// A refusal: status and text.
struct Refused(StatusCode, String);

fn refuse<T>(status: StatusCode, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, text.into()))
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// Serves in the background.
pub(super) fn start(context: Arc<Context>, access: Arc<Access>) -> anyhow::Result<()> {
    let node = &context.node;
    let acceptor = tls::acceptor(&node.name, &node.addresses, access.verifier())?;
    let bind = || {
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        TcpListener::bind(v6)
            .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))))
    };
    let listener = context.node.run(bind).context("cannot enter the node")?;
    let listener = listener
        .with_context(|| format!("cannot listen on port {PORT} of {}", context.node.name))?;
    listener
        .set_nonblocking(true)
        .context("cannot prepare a listener")?;
    let listener =
        tokio::net::TcpListener::from_std(listener).context("cannot prepare a listener")?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(
                    context.clone(),
                    access.clone(),
                    acceptor.clone(),
                    stream,
                ))),
                // Out of descriptors: give others a chance to finish.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(())
}

async fn connection(
    context: Arc<Context>,
    access: Arc<Access>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await
    else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let user = Arc::new(certificates.first().and_then(User::of_certificate));
    let service = service_fn(move |request| {
        let (context, access, user) = (context.clone(), access.clone(), user.clone());
        async move {
            let answer = answer(&context, &access, user.as_ref().as_ref(), request).await;
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that goes away in the middle of something is nothing to speak of.
    let _ = served.await;
}

async fn answer(
    context: &Arc<Context>,
    access: &Access,
    user: Option<&User>,
    request: Request<Incoming>,
) -> Answer {
    let allowed = access
        .check(
            &context.node.name,
            user,
            request.method(),
            request.headers(),
        )
        .await;
    let answered = match allowed {
        Ok(()) => route(context, request).await,
        Err(refused) => Err(refused),
    };
    match answered {
        Ok(answer) => answer,
        Err(Refused(status, message)) => {
            // kubectl reads what it can as YAML: a text with a colon would be an empty object to it.
            let message = message.replace(": ", " - ");
            text(status, "text/plain; charset=utf-8", message + "\n")
        }
    }
}

async fn route(context: &Arc<Context>, request: Request<Incoming>) -> Result<Answer, Refused> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let pod = |namespace: &str, name: &str| match context.pods.get(namespace, name) {
        Some(pod) => Ok(pod),
        None => refuse(
            StatusCode::NOT_FOUND,
            format!("pod {namespace}/{name} does not exist on this node"),
        ),
    };
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
        (&Method::GET, ["pods"]) => Ok(pods(context)),
        (&Method::GET, ["containerLogs", namespace, name, container]) => {
            let container = find(&*pod(namespace, name)?, container)?;
            logs(container, &query)
        }
        (&Method::GET | &Method::POST, ["exec", namespace, name, container]) => {
            let container = find(&*pod(namespace, name)?, container)?;
            start_exec(context, container, &query, request)
        }
        (&Method::GET | &Method::POST, ["attach", namespace, name, container]) => {
            let container = find(&*pod(namespace, name)?, container)?;
            start_attach(container, &query, request)
        }
        (&Method::GET | &Method::POST, ["portForward", namespace, name]) => {
            let found = pod(namespace, name)?;
            start_forward(context, &found, name, &query, request)
        }
        _ => refuse(
            StatusCode::NOT_FOUND,
            format!("the kubelet of the lab has no {path}"),
        ),
    }
}

fn find(pod: &PodHandle, name: &str) -> Result<Arc<ContainerHandle>, Refused> {
    match pod.container(name) {
        Some(container) => Ok(container.clone()),
        None => refuse(
            StatusCode::NOT_FOUND,
            format!("container not found ({name:?})"),
        ),
    }
}

fn pods(context: &Context) -> Answer {
    let items: Vec<_> = context
        .pods
        .all()
        .iter()
        .map(|p| serde_json::to_value(p.object.borrow().as_ref()).unwrap_or_default())
        .collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    text(StatusCode::OK, "application/json", list.to_string())
}

fn logs(container: Arc<ContainerHandle>, query: &Query) -> Result<Answer, Refused> {
    let request = log::LogRequest::parse(query).or_else(|e| refuse(StatusCode::BAD_REQUEST, e))?;
    let (first, rest) =
        log::read(container, request).or_else(|e| refuse(StatusCode::BAD_REQUEST, e))?;
    let rest = futures::stream::unfold(rest, |mut rest| async {
        rest.recv().await.map(|b| (b, rest))
    });
    let parts = futures::stream::once(std::future::ready(first)).chain(rest);
    let body = StreamBody::new(parts.map(|b| Ok(Frame::data(b))));
    let mut answer = Response::new(BodyExt::boxed(body));
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

/// What is asked for, by the kubelet's names or by those of the API server.
fn asked(query: &Query) -> Asked {
    let flag = |own: &str, api: &str| query.flag(own) || query.flag(api);
    Asked {
        stdin: flag("input", "stdin"),
        stdout: flag("output", "stdout"),
        stderr: flag("error", "stderr"),
        tty: query.flag("tty"),
    }
}

fn start_exec(
    context: &Context,
    container: Arc<ContainerHandle>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Refused> {
    let Some(inside) = container.inside.borrow().clone() else {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("container not found ({:?})", container.name),
        );
    };
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return refuse(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        );
    }
    let (asked, lab) = (asked(query), context.node.lab.as_str().to_owned());
    session(request, asked, move |wire| {
        exec::exec(inside, lab, command, asked, wire)
    })
}

fn start_attach(
    container: Arc<ContainerHandle>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Refused> {
    if container.inside.borrow().is_none() {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("container not found ({:?})", container.name),
        );
    }
    let asked = asked(query);
    session(request, asked, move |wire| {
        exec::attach(container, asked, wire)
    })
}

/// What a client wants to speak.
#[derive(Debug, PartialEq, Eq)]
enum Spoken {
    /// WebSocket, with this protocol on it.
    WebSocket(String),
    /// SPDY, with this protocol on its streams.
    Spdy(String),
}

/// Chooses a protocol out of what the client offers.
fn negotiate(headers: &HeaderMap, websocket: &[&str], spdy: &[&str]) -> Result<Spoken, Refused> {
    let words = |name: &str| {
        let values = headers
            .get_all(name)
            .into_iter()
            .filter_map(|v| v.to_str().ok());
        let words = values
            .flat_map(|v| v.split(','))
            .map(|w| w.trim().to_owned());
        words.filter(|w| !w.is_empty()).collect::<Vec<_>>()
    };
    let pick = |offered: Vec<String>, known: &[&str]| match known
        .iter()
        .find(|k| offered.iter().any(|o| o == *k))
    {
        Some(known) => Ok((*known).to_owned()),
        None => refuse(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: none of the protocols {offered:?} is spoken here; known: {}",
                known.join(", ")
            ),
        ),
    };
    let upgrade = words("upgrade");
    let asks = |what: &str| upgrade.iter().any(|u| u.eq_ignore_ascii_case(what));
    if asks("websocket") {
        Ok(Spoken::WebSocket(pick(
            words("sec-websocket-protocol"),
            websocket,
        )?))
    } else if asks(SPDY) {
        Ok(Spoken::Spdy(pick(words(STREAM_PROTOCOL), spdy)?))
    } else {
        refuse(
            StatusCode::BAD_REQUEST,
            format!("an upgrade to websocket or {SPDY} was expected"),
        )
    }
}

/// Answers that the protocol is switched.
fn switching(request: &Request<Incoming>, spoken: &Spoken) -> Result<Answer, Refused> {
    let builder = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade");
    let builder = match spoken {
        Spoken::Spdy(protocol) => builder
            .header(header::UPGRADE, SPDY)
            .header(STREAM_PROTOCOL, protocol),
        Spoken::WebSocket(protocol) => {
            let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "a WebSocket handshake without a key",
                );
            };
            builder
                .header(header::UPGRADE, "websocket")
                .header(
                    header::SEC_WEBSOCKET_ACCEPT,
                    derive_accept_key(key.as_bytes()),
                )
                .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        }
    };
    let made = builder.body(Full::new(Bytes::new()).boxed());
    made.or_else(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// Runs `work` on the upgraded connection, in the background.
fn upgraded<F: Future<Output = ()> + Send>(
    mut request: Request<Incoming>,
    spoken: &Spoken,
    work: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Result<Answer, Refused> {
    let answer = switching(&request, spoken)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            work(upgraded).await;
        }
    });
    Ok(answer)
}

/// Runs `work` with the channels of exec and attach.
fn session<F: Future<Output = ()> + Send>(
    request: Request<Incoming>,
    asked: Asked,
    work: impl FnOnce(Wire) -> F + Send + 'static,
) -> Result<Answer, Refused> {
    let spoken = negotiate(
        request.headers(),
        &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"],
        &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    )?;
    let websocket = matches!(spoken, Spoken::WebSocket(_));
    upgraded(request, &spoken, move |connection| async move {
        let wire = if websocket {
            Some(wire::websocket(connection).await)
        } else {
            wire::spdy(connection, asked).await
        };
        if let Some(wire) = wire {
            work(wire).await;
        }
    })
}

fn start_forward(
    context: &Context,
    pod: &PodHandle,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Refused> {
    let Some(net) = pod.net.borrow().clone() else {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("pod {name:?} has no network yet"),
        );
    };
    let target = forward::Target {
        node: context.node.clone(),
        net,
        pod: name.to_owned(),
    };
    let spoken = negotiate(
        request.headers(),
        &[TUNNEL, "v4.channel.k8s.io", PORT_FORWARD],
        &[PORT_FORWARD],
    )?;
    let ports = query
        .all("ports")
        .chain(query.all("port"))
        .flat_map(|p| p.split(','));
    let ports: Vec<u16> = ports.filter_map(|p| p.parse().ok()).collect();
    let (tunnel, websocket) = match &spoken {
        Spoken::WebSocket(protocol) => (protocol == TUNNEL, true),
        Spoken::Spdy(_) => (false, false),
    };
    if websocket && !tunnel && ports.is_empty() {
        return refuse(
            StatusCode::BAD_REQUEST,
            "query parameter \"ports\" is missing",
        );
    }
    upgraded(request, &spoken, move |connection| async move {
        if tunnel {
            forward::spdy(target, wire::tunnel(connection).await).await;
        } else if websocket {
            forward::websocket(target, ports, wire::socket(connection).await).await;
        } else {
            forward::spdy(target, TokioIo::new(connection)).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn protocols_are_chosen() {
        let choose = |list: &[(&'static str, &'static str)]| {
            negotiate(&headers(list), &["v5", "v4"], &["v4"]).map_err(|r| r.0)
        };
        assert_eq!(
            choose(&[
                ("upgrade", "websocket"),
                ("sec-websocket-protocol", "v4, v5")
            ]),
            Ok(Spoken::WebSocket("v5".into()))
        );
        let spdy = [
            ("upgrade", "SPDY/3.1"),
            (STREAM_PROTOCOL, "v4"),
            (STREAM_PROTOCOL, "v3"),
        ];
        assert_eq!(choose(&spdy), Ok(Spoken::Spdy("v4".into())));
        assert_eq!(
            choose(&[("upgrade", "SPDY/3.1"), (STREAM_PROTOCOL, "v1")]),
            Err(StatusCode::FORBIDDEN)
        );
        assert_eq!(choose(&[("upgrade", "h2c")]), Err(StatusCode::BAD_REQUEST));
    }
}
