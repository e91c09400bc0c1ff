//! The connection to the server that belongs to one connection of a client.
use super::body::Paced;
use crate::http::{connection::Connection, link::PROTOCOLS};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
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
#[derive(Default)]
pub(super) struct Upstream {
    sender: Mutex<Option<http2::SendRequest<Paced>>>,
    /// Told when the server has ended the connection.
    pub(super) gone: Arc<Notify>,
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
    /// Sends a request and waits for the head of its answer. A request that was not sent, since the server had ended a connection
    /// that was there before, is sent again by a new one.
    pub(super) async fn send(
        &self,
        connection: &Connection,
        mut request: Request<Paced>,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = async {
            loop {
                let (mut sender, reused) = self.sender(connection, &request).await?;
                match sender.try_send_request(request).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => request = unsent(failed, reused)?,
                }
            }
        };
        let sent = tokio::time::timeout(connection.shared.limits.answer, sent).await;
        sent.unwrap_or(Err(Failure::Late))
    }

    /// The connection, and whether it was there already.
    async fn sender(
        &self,
        connection: &Connection,
        request: &Request<Paced>,
    ) -> Result<(http2::SendRequest<Paced>, bool), Failure> {
        let mut kept = self.sender.lock().await;
        if let Some(sender) = kept.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), true));
        }
        let made = Box::pin(self.connect(connection, host(request))).await?;
        *kept = Some(made.0.clone());
        Ok(made)
    }

    async fn connect(
        &self,
        connection: &Connection,
        host: &str,
    ) -> Result<(http2::SendRequest<Paced>, bool), Failure> {
        let connected = connection.connect(host, PROTOCOLS[0]).await;
        let (stream, was_ready) = connected.map_err(Failure::Connect)?;
        let limits = connection.shared.limits;
        let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
        let (sender, serving) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.window)
            .initial_connection_window_size(limits.window.saturating_mul(4))
            .max_header_list_size(head)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Broken {
                error,
                reused: false,
            })?;
        let gone = self.gone.clone();
        tokio::spawn(async move {
            let _ = serving.await;
            gone.notify_one();
        });
        Ok((sender, was_ready))
    }
}

/// Whom a request means.
fn host(request: &Request<Paced>) -> &str {
    let of_uri = request.uri().authority().map(http::uri::Authority::as_str);
    let header = || request.headers().get(http::header::HOST)?.to_str().ok();
    of_uri.or_else(header).unwrap_or_default()
}
