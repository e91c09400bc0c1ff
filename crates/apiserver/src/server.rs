//! The server: a store, its options, and any number of listeners.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::error::ApiError;
use super::http;
use super::kind::Kind;
use super::kinds;
use super::store::{DEFAULT_HISTORY, Store};

/// What can be set.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How many changes of each kind are remembered for watchers.
    pub history: usize,
    /// How often a watcher that wants bookmarks gets one.
    pub bookmark_interval: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            history: DEFAULT_HISTORY,
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) options: ServerOptions,
    pub(super) stopping: watch::Sender<bool>,
}

impl Shared {
    /// The kind under which objects of a kind are stored.
    pub(super) fn stored_kind(&self, kind: &Arc<Kind>) -> Result<Arc<Kind>, ApiError> {
        match kind.face {
            Some(face) => self.store.kind(face.of),
            None => Ok(Arc::clone(kind)),
        }
    }
}

/// An API server. Clones are handles to the same server.
#[derive(Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServer {
    /// A server for the built-in kinds.
    pub fn new() -> Self {
        Self::with_options(ServerOptions::default())
    }

    /// A server with options of its own.
    pub fn with_options(options: ServerOptions) -> Self {
        let store = Arc::new(Store::new(kinds::builtin(), options.history));
        Self {
            shared: Arc::new(Shared {
                store,
                options,
                stopping: watch::Sender::new(false),
            }),
        }
    }

    /// The objects, for users in the same process.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// The HTTP side. It answers every path; merge it with routers that answer some paths before it.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(http::handle)
            .with_state(Arc::clone(&self.shared))
    }

    /// Serves a listener until [`shutdown`](Self::shutdown). Several listeners may be served at once.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY on an API connection");
            }
        });
        let mut stopping = self.shared.stopping.subscribe();
        let stopped = async move {
            // An error means that the last handle is gone, which ends the server too.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        axum::serve(listener, self.router())
            .with_graceful_shutdown(stopped)
            .await
    }

    /// Ends all watches and lets every `serve` return once its running requests are answered.
    pub fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
    }
}
