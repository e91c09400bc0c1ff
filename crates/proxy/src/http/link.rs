//! How a server is reached: over TCP, or TLS over it.
use super::Shared;
use crate::{origin::Session, policy::Greeting};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// HTTP/2 and HTTP/1, as TLS names them.
pub(crate) const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What is known of a connection before its first request.
#[derive(Default)]
pub(crate) struct Way {
    /// How it began, where rules ask that.
    pub(crate) greeting: Option<Greeting>,
    /// The server is spoken to by TLS.
    pub(crate) client: Option<Arc<ClientConfig>>,
    /// A connection that is there already.
    pub(crate) ready: Mutex<Option<Box<dyn Stream>>>,
}

impl Way {
    /// True if the client asks by TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.greeting.as_ref().is_some_and(|greeting| greeting.tls)
    }

    /// A connection to the server, and whether it was there already; `host` is whom the request means, with a port or without.
    pub(super) async fn connect(
        &self,
        shared: &Shared,
        session: &Session,
        host: &str,
        protocol: &[u8],
    ) -> io::Result<(Box<dyn Stream>, bool)> {
        if let Some(ready) = self.ready.lock().await.take() {
            return Ok((ready, true));
        }
        let tcp = tcp(shared, session).await?;
        let Some(client) = &self.client else {
            return Ok((Box::new(tcp), false));
        };
        let named = self.greeting.as_ref();
        let named = named.and_then(|greeting| greeting.server_name.as_deref());
        let name = named.unwrap_or_else(|| without_port(host));
        let step = shared.limits.connect;
        let (stream, _) = timeout(step, secure(client, tcp, name, &[protocol])).await??;
        Ok((Box::new(stream), false))
    }
}

/// A new connection over TCP.
pub(crate) async fn tcp(shared: &Shared, session: &Session) -> io::Result<TcpStream> {
    let connect = shared.origin.connect(session);
    let stream = timeout(shared.limits.connect, connect).await??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// TLS to the server of this name; of these protocols the server chooses one.
pub(crate) async fn secure(
    client: &Arc<ClientConfig>,
    tcp: TcpStream,
    name: &str,
    protocols: &[&[u8]],
) -> io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Option<Vec<u8>>)> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let name = ServerName::try_from(name.to_owned()).map_err(invalid)?;
    let mut config = ClientConfig::clone(client);
    config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok((stream, chosen))
}

fn without_port(host: &str) -> &str {
    let end = host.rfind(':').filter(|at| !host[*at..].contains(']'));
    host[..end.unwrap_or(host.len())].trim_matches(['[', ']'])
}
