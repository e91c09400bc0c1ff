//! A server for a test, on the loopback with TLS.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use hypha_apiserver::tls::Identity;
use hypha_apiserver::{ApiServer, Kubelets, NoKubelets, ServerOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running server. Ends with the value.
pub struct Running {
    pub server: ApiServer,
    pub url: String,
    /// A folder for the user of the server; holds the kubeconfig.
    pub home: TempDir,
    serving: JoinHandle<()>,
}

impl Running {
    pub async fn start() -> Self {
        Self::with(Arc::new(NoKubelets)).await
    }

    pub async fn with(kubelets: Arc<dyn Kubelets>) -> Self {
        let options = ServerOptions {
            kubelets,
            ..ServerOptions::default()
        };
        Self::of(ApiServer::open(options).unwrap()).await
    }

    pub async fn of(server: ApiServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let home = TempDir::new().unwrap();
        let kubeconfig = server
            .authority()
            .kubeconfig("test", &url, "kubernetes-admin", "system:masters")
            .unwrap();
        fs::write(home.path().join("kubeconfig"), kubeconfig).unwrap();
        let clone = server.clone();
        let serving = tokio::spawn(async move { clone.serve_tls(listener).await.unwrap() });
        Self {
            server,
            url,
            home,
            serving,
        }
    }

    /// Certificate and key of an administrator.
    pub fn admin(&self) -> Identity {
        self.server
            .authority()
            .client("admin", Some("system:masters"))
            .unwrap()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("kubeconfig")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.shutdown();
        self.serving.abort();
    }
}
