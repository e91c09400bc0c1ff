//! The connection to the server that belongs to one connection of a client.
use super::{
    Shared,
    body::Paced,
    link::{PROTOCOLS, Stream, Way},
};
use crate::origin::Session;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{io, sync::Arc};
use tokio::sync::{Mutex, Notify};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke, or the request's body did.
    #[error("{error}")]
    Broken {
        #[source]
        error: hyper::Error,
        /// Earlier requests had been answered: the server may have ended it in between, as servers do.
        reused: bool,
    },
    /// The server does not answer.
    #[error("no answer in time")]
    Late,
}

/// The connection, once there is one.
pub(super) struct Upstream {
    sender: Mutex<Option<Sender>>,
    /// How the server is reached.
    pub(super) way: Way,
    /// Told when the server has ended the connection.
    pub(super) gone: Arc<Notify>,
}

enum Sender {
    One(http1::SendRequest<Paced>),
    Two(http2::SendRequest<Paced>),
}

/// The request again, if it was not sent because the server had ended a connection that had served before.
fn unsent(
    mut failed: TrySendError<Request<Paced>>,
    reused: bool,
) -> Result<Request<Paced>, Failure> {
    match failed.take_message() {
        Some(request) if reused => Ok(request),
        _ => {
            let error = failed.into_error();
            Err(Failure::Broken { error, reused })
        }
    }
}

impl Upstream {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            sender: Mutex::new(None),
            gone: Arc::default(),
        }
    }

    /// Sends a request and waits for the head of its answer. A request that was not sent, since the server had ended a connection
    /// that was there before, is sent again by a new one.
    pub(super) async fn send(
        &self,
        shared: &Shared,
        session: &Session,
        request: Request<Paced>,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = if request.version() == http::Version::HTTP_2 {
            tokio::time::timeout(
                shared.limits.answer,
                self.send_two(shared, session, request),
            )
            .await
        } else {
            tokio::time::timeout(
                shared.limits.answer,
                self.send_one(shared, session, request),
            )
            .await
        };
        sent.unwrap_or(Err(Failure::Late))
    }

    async fn send_one(
        &self,
        shared: &Shared,
        session: &Session,
        mut request: Request<Paced>,
    ) -> Result<Response<Incoming>, Failure> {
        loop {
            let kept = self.sender.lock().await.take();
            let (mut sender, reused) = match kept {
                Some(Sender::One(sender)) => (sender, true),
                _ => Box::pin(self.connect_one(shared, session, &host(&request))).await?,
            };
            if sender.ready().await.is_err() && reused {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    *self.sender.lock().await = Some(Sender::One(sender));
                    return Ok(answer);
                }
                Err(failed) => request = unsent(failed, reused)?,
            }
        }
    }

    async fn send_two(
        &self,
        shared: &Shared,
        session: &Session,
        mut request: Request<Paced>,
    ) -> Result<Response<Incoming>, Failure> {
        loop {
            let (mut sender, reused) = {
                let mut kept = self.sender.lock().await;
                match &*kept {
                    Some(Sender::Two(sender)) if !sender.is_closed() => (sender.clone(), true),
                    _ => {
                        let host = host(&request);
                        let made = Box::pin(self.connect_two(shared, session, &host)).await?;
                        *kept = Some(Sender::Two(made.0.clone()));
                        made
                    }
                }
            };
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => request = unsent(failed, reused)?,
            }
        }
    }

    async fn connect_one(
        &self,
        shared: &Shared,
        session: &Session,
        host: &str,
    ) -> Result<(http1::SendRequest<Paced>, bool), Failure> {
        let (io, was_ready) = self.connect(shared, session, host, PROTOCOLS[1]).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(shared.limits.head.max(8 << 10))
            .handshake(io)
            .await
            .map_err(broken)?;
        let gone = self.gone.clone();
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
            gone.notify_one();
        });
        Ok((sender, was_ready))
    }

    async fn connect_two(
        &self,
        shared: &Shared,
        session: &Session,
        host: &str,
    ) -> Result<(http2::SendRequest<Paced>, bool), Failure> {
        let (io, was_ready) = self.connect(shared, session, host, PROTOCOLS[0]).await?;
        let head = u32::try_from(shared.limits.head).unwrap_or(u32::MAX);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(shared.limits.window)
            .initial_connection_window_size(shared.limits.window.saturating_mul(4))
            .max_header_list_size(head)
            .handshake(io)
            .await
            .map_err(broken)?;
        let gone = self.gone.clone();
        tokio::spawn(async move {
            let _ = connection.await;
            gone.notify_one();
        });
        Ok((sender, was_ready))
    }

    async fn connect(
        &self,
        shared: &Shared,
        session: &Session,
        host: &str,
        protocol: &[u8],
    ) -> Result<(TokioIo<Box<dyn Stream>>, bool), Failure> {
        let connected = self.way.connect(shared, session, host, protocol).await;
        let (stream, was_ready) = connected.map_err(Failure::Connect)?;
        Ok((TokioIo::new(stream), was_ready))
    }
}

fn broken(error: hyper::Error) -> Failure {
    Failure::Broken {
        error,
        reused: false,
    }
}

/// Whom a request means, without the port.
fn host(request: &Request<Paced>) -> String {
    let of_uri = request.uri().host();
    let header = || request.headers().get(http::header::HOST)?.to_str().ok();
    let text = of_uri.or_else(header).unwrap_or_default();
    let end = text.rfind(':').filter(|at| !text[*at..].contains(']'));
    let name = &text[..end.unwrap_or(text.len())];
    name.trim_matches(['[', ']']).to_owned()
}
