//! Connections that end here: decrypted, served as HTTP, and encrypted anew where the rules say so.
use super::Hello;
use crate::{
    http::{self, PROTOCOLS, Stream, Way, secure, tcp},
    origin::Session,
    policy::{Ends, Greeting},
};
use bytes::{Buf, Bytes};
use rustls::{ServerConfig, server::Acceptor};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Mutex,
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

impl From<Option<&Hello>> for Greeting {
    fn from(hello: Option<&Hello>) -> Self {
        Self {
            tls: hello.is_some(),
            server_name: hello.and_then(|hello| hello.server_name.clone()),
        }
    }
}

/// A connection that ends here.
pub(super) struct Inspect<'a> {
    /// How long each handshake may take.
    pub(super) limit: Duration,
    pub(super) http: &'a http::Engine,
    pub(super) session: Session,
}

impl Inspect<'_> {
    /// Serves it; its first bytes have been read.
    pub(super) async fn serve(
        self,
        client: TcpStream,
        first: Vec<u8>,
        greeting: Greeting,
        ends: Ends,
    ) -> io::Result<()> {
        let stream = Again {
            first: first.into(),
            inner: client,
        };
        let way = Way {
            greeting: Some(greeting),
            client: ends.client,
            ready: Mutex::default(),
        };
        let Some(server) = ends.server else {
            self.http.serve(self.session, stream, way).await;
            return Ok(());
        };
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = timeout(self.limit, start).await??;
        let hello = start.client_hello();
        let asked = hello.alpn().into_iter().flatten();
        let asked: Vec<Vec<u8>> = asked.map(<[u8]>::to_vec).collect();
        let mut config = ServerConfig::clone(&server);
        config.alpn_protocols = vec![self.reach(&way, &asked).await];
        let stream = timeout(self.limit, start.into_stream(Arc::new(config))).await??;
        self.http.serve(self.session, stream, way).await;
        Ok(())
    }

    /// Goes to the server first where it speaks TLS, since it is the one who knows which HTTP it speaks; what the client is offered.
    async fn reach(&self, way: &Way, asked: &[Vec<u8>]) -> Vec<u8> {
        let old = || PROTOCOLS[1].to_vec();
        // Without a name the host of the first request says whom to believe.
        let name = way.greeting.as_ref();
        let name = name.and_then(|greeting| greeting.server_name.as_deref());
        let (Some(client), Some(name)) = (&way.client, name) else {
            return old();
        };
        let is_asked = |one: &&[u8]| asked.iter().any(|own| own == one);
        let mut common: Vec<&[u8]> = PROTOCOLS.into_iter().filter(is_asked).collect();
        if common.is_empty() {
            common.push(PROTOCOLS[1]);
        }
        let reached = timeout(self.limit, async {
            let tcp = tcp(&self.http.0, &self.session).await?;
            secure(client, tcp, name, &common).await
        });
        match reached.await {
            Ok(Ok((stream, chosen))) => {
                *way.ready.lock().await = Some(Box::new(stream) as Box<dyn Stream>);
                chosen.unwrap_or_else(old)
            }
            // It is tried again for the first request, and that one is told.
            Ok(Err(error)) => {
                let destination = self.session.destination;
                tracing::debug!(%destination, %error, "no TLS to a server");
                old()
            }
            Err(_late) => old(),
        }
    }
}

/// A connection of which a part has been read already.
struct Again {
    first: Bytes,
    inner: TcpStream,
}

impl AsyncRead for Again {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Again {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
