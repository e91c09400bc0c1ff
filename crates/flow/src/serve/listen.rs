//! Where the flow API is served: at a unix socket for whoever is on the node, at a port for relays.
use super::{
    NodeServer, Peers,
    tls::{Certificates, TlsError, TlsFiles},
    written::Service,
};
use api::hubble::{
    DESCRIPTORS, observer::observer_server::ObserverServer, peer::peer_server::PeerServer,
};
use runtime::stop::Stop;
use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::server::{Connected, Router, Server};

/// How long a client may take to show its certificate.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that are being accepted at the same time.
const ACCEPTING: usize = 64;
/// How often a silent client is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Requests of one client at the same time.
const STREAMS: u32 = 4096;

/// Where to serve.
#[derive(Clone, Debug, Default)]
pub struct Listen {
    /// The unix socket; one that nobody serves any more is replaced.
    pub socket: Option<PathBuf>,
    /// Address and port for relays.
    pub address: Option<String>,
    /// Certificates for it; none: in the clear.
    pub tls: Option<TlsFiles>,
}

/// Why it is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket or port cannot be had.
    #[error("serving flows at {place}: {cause}")]
    Listen {
        /// Path or address.
        place: String,
        /// Why.
        cause: io::Error,
    },
    /// There are no certificates.
    #[error("certificates of the flow server: {0}")]
    Tls(#[from] TlsError),
}

/// Serves until `stop`; returns once it listens, with the address of the port.
///
/// # Errors
/// It cannot listen, or there are no certificates.
pub async fn serve(
    server: NodeServer,
    peers: Peers,
    listen: &Listen,
    stop: &Stop,
) -> Result<Option<SocketAddr>, ServeError> {
    let router = router(server, peers).await;
    if let Some(path) = &listen.socket {
        let listener = unix(path).await.map_err(|cause| ServeError::Listen {
            place: path.display().to_string(),
            cause,
        })?;
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            let stopped = async move { stop.stopped().await };
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::warn!(%error, "the flow server at the unix socket ended");
            }
        });
    }
    let Some(address) = &listen.address else {
        return Ok(None);
    };
    let (address, incoming) = incoming(address.as_str(), listen.tls.as_ref(), stop).await?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let stopped = async move { stop.stopped().await };
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::warn!(%error, "the flow server at the port ended");
        }
    });
    Ok(Some(address))
}

/// Listens at a port: the address, and connections that have shown who they are.
///
/// # Errors
/// It cannot listen, or there are no certificates.
pub(crate) async fn incoming(
    address: impl ToSocketAddrs + Display + Clone,
    tls: Option<&TlsFiles>,
    stop: &Stop,
) -> Result<(SocketAddr, ReceiverStream<io::Result<Connection>>), ServeError> {
    let certificates = match tls {
        Some(files) => Some(Arc::new(Certificates::read(files.clone())?)),
        None => None,
    };
    let failed = |cause| ServeError::Listen {
        place: address.to_string(),
        cause,
    };
    let listener = TcpListener::bind(address.clone()).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (sender, receiver) = mpsc::channel(ACCEPTING);
    tokio::spawn(accept(listener, certificates, sender, stop.clone()));
    Ok((address, ReceiverStream::new(receiver)))
}

/// All services of a node.
async fn router(server: NodeServer, peers: Peers) -> Router {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ObserverServer<NodeServer>>().await;
    let mut services = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .max_concurrent_streams(Some(STREAMS))
        .add_service(health_service)
        .add_service(Service::new(server))
        .add_service(PeerServer::new(peers));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // What is registered was made from definitions that fit each other.
    if let Ok(service) = reflection().build_v1() {
        services = services.add_service(service);
    }
    if let Ok(service) = reflection().build_v1alpha() {
        services = services.add_service(service);
    }
    services
}

async fn unix(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves there",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Accepts connections, several at a time: one that is slow to begin holds up nobody.
async fn accept(
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    sender: mpsc::Sender<io::Result<Connection>>,
    stop: Stop,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.stopped() => return,
            () = sender.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, most likely: some will be closed.
                tracing::debug!(%error, "a connection for flows was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (certificates, sender) = (certificates.clone(), sender.clone());
        tokio::spawn(async move {
            let Ok(Some(connection)) =
                tokio::time::timeout(HANDSHAKE, open(stream, certificates)).await
            else {
                return;
            };
            // Nobody waits for it any more only when all ends.
            let _ = sender.send(Ok(connection)).await;
        });
    }
}

async fn open(stream: TcpStream, certificates: Option<Arc<Certificates>>) -> Option<Connection> {
    // Latency matters more than the number of packets; without it, it works as well.
    let _ = stream.set_nodelay(true);
    let Some(certificates) = certificates else {
        return Some(Connection::Clear(stream));
    };
    match TlsAcceptor::from(certificates.current())
        .accept(stream)
        .await
    {
        Ok(stream) => Some(Connection::Tls(Box::new(stream))),
        Err(error) => {
            tracing::debug!(%error, "a client of the flow server was refused");
            None
        }
    }
}

/// A connection from a relay or to one.
pub(crate) enum Connection {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
