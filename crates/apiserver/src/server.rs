//! The server: a store, its options, and any number of listeners.

mod connection;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::auth::{Peer, Tokens, User};
use super::error::ApiError;
use super::http;
use super::kind::Kind;
use super::kinds;
use super::openapi::Documents;
use super::proxy;
use super::signing;
use super::store::{Store, StoreError, StoreOptions};
use super::tls::{Authority, TlsError, TlsOptions};

/// The way to the kubelets: the server passes `exec`, `logs` and the like on to the one of the pod's node.
pub trait Kubelets: Send + Sync {
    /// A TCP connection to a node's port 10250, behind which the kubelet speaks TLS. Its certificate is not checked: the way
    /// itself has to be a trusted one. The server shows one of its authority, for an administrator.
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<TcpStream>>;
}

/// There are no kubelets.
#[derive(Debug, Clone, Copy)]
pub struct NoKubelets;

impl Kubelets for NoKubelets {
    fn connect<'a>(&'a self, _node: &'a str) -> BoxFuture<'a, io::Result<TcpStream>> {
        let error = io::Error::new(
            io::ErrorKind::Unsupported,
            "this server has no way to kubelets",
        );
        Box::pin(async { Err(error) })
    }
}

/// What can be set.
#[derive(Clone)]
pub struct ServerOptions {
    /// Where objects are kept, and what services get their addresses from.
    pub store: StoreOptions,
    /// How often a watcher that wants bookmarks gets one.
    pub bookmark_interval: Duration,
    /// The authority, and names of the server.
    pub tls: TlsOptions,
    /// The way to the kubelets.
    pub kubelets: Arc<dyn Kubelets>,
    /// What whoever is known may do.
    pub authorization: Authorization,
}

/// What whoever is known may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Authorization {
    /// Everything. Roles and bindings are data.
    #[default]
    AlwaysAllow,
    /// What roles and bindings say.
    Rbac,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            store: StoreOptions::default(),
            bookmark_interval: Duration::from_secs(60),
            tls: TlsOptions::default(),
            kubelets: Arc::new(NoKubelets),
            authorization: Authorization::default(),
        }
    }
}

/// The server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys or certificates cannot be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of the objects cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) options: ServerOptions,
    pub(super) authority: Authority,
    pub(super) tokens: Tokens,
    /// How it speaks with kubelets.
    pub(super) kubelet_tls: Arc<rustls::ClientConfig>,
    pub(super) documents: Documents,
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
    /// A server for the built-in kinds that keeps everything in memory.
    ///
    /// # Panics
    /// The system has no source of randomness.
    pub fn new() -> Self {
        Self::open(ServerOptions::default()).expect("keys can be made in memory")
    }

    /// A server with options of its own.
    ///
    /// # Errors
    /// What it keeps in files cannot be read or written.
    pub fn open(options: ServerOptions) -> Result<Self, StartError> {
        let authority = Authority::open(&options.tls)?;
        let tokens = Tokens::new(authority.token_key())
            .ok_or_else(|| TlsError::Setup("the token key cannot sign".to_owned()))?;
        let store = Arc::new(Store::open(kinds::builtin(), &options.store)?);
        let shared = Shared {
            kubelet_tls: proxy::kubelet_tls(&authority)?,
            store,
            options,
            authority,
            tokens,
            documents: Documents::default(),
            stopping: watch::Sender::new(false),
        };
        signing::sign_all(&shared);
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The objects, for users in the same process.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Who vouches for the server, and makes certificates and kubeconfigs for its clients.
    pub fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    /// The HTTP side. It answers every path; merge it with routers that answer some paths before it. Requests through it
    /// are those of the administrator.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(http::handle)
            .with_state(Arc::clone(&self.shared))
    }

    /// Serves a listener without TLS until [`shutdown`](Self::shutdown). Every client is the administrator, so that the listener
    /// has to be out of others' reach.
    ///
    /// # Errors
    /// The listener has no address.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let admin = Peer::Known(Arc::new(User::admin()));
        connection::serve(Arc::clone(&self.shared), listener, None, admin).await
    }

    /// Serves a listener with TLS until [`shutdown`](Self::shutdown). Several listeners may be served at once.
    ///
    /// # Errors
    /// The listener has no address, or the server's certificate cannot be made.
    pub async fn serve_tls(&self, listener: TcpListener) -> io::Result<()> {
        let config = self
            .shared
            .authority
            .server_config()
            .map_err(io::Error::other)?;
        connection::serve(
            Arc::clone(&self.shared),
            listener,
            Some(config),
            Peer::Unknown,
        )
        .await
    }

    /// Ends all watches and lets every `serve` return once its running requests are answered.
    pub fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
    }
}
