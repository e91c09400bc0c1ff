//! The client.
use crate::limit::{LimitLayer, Rate};
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{ClientBuilder, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::Path, time::Duration};
use tower::ServiceBuilder;

/// How long a TCP connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the API server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServer {
    /// At a URL, without credentials.
    Url(String),
    /// As a kubeconfig file says.
    Kubeconfig(String),
    /// As the pod's environment and service account say.
    InCluster,
}

/// No client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is none.
    #[error("k8s-api-server={url:?} is not a URL as http://192.0.2.1:6443: {source}")]
    Url {
        /// What was given.
        url: String,
        /// Why it is none.
        source: http::uri::InvalidUri,
    },
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The process does not run in a cluster.
    #[error(
        "no API server: give k8s-api-server or k8s-kubeconfig-path, or run in a pod with a service account ({0})"
    )]
    InCluster(kube::config::InClusterError),
    /// Anything about TLS or credentials.
    #[error("the client for {url} cannot be set up: {source}")]
    Setup {
        /// The API server.
        url: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

/// A client for `server` that asks not faster than `rate`; nothing is sent yet.
///
/// # Errors
/// The place of the API server, or the credentials for it, cannot be read.
pub async fn client(server: &ApiServer, rate: Rate) -> Result<Client, ClientError> {
    let config = match server {
        ApiServer::Url(url) => {
            Config::new(url.parse::<Uri>().map_err(|source| ClientError::Url {
                url: url.clone(),
                source,
            })?)
        }
        ApiServer::Kubeconfig(path) => kubeconfig(Path::new(path), None).await?,
        ApiServer::InCluster => Config::incluster().map_err(ClientError::InCluster)?,
    };
    from_config(config, rate)
}

/// A client as a kubeconfig file says, in its current context or the one that is named; nothing is sent yet.
///
/// # Errors
/// The file or its credentials cannot be read, or it has no such context.
pub async fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Client, ClientError> {
    from_config(kubeconfig(path, context).await?, Rate::UNLIMITED)
}

async fn kubeconfig(path: &Path, context: Option<&str>) -> Result<Config, ClientError> {
    let fail = |source| ClientError::Kubeconfig {
        path: path.display().to_string(),
        source,
    };
    let file = Kubeconfig::read_from(path).map_err(fail)?;
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(fail)
}

/// Plain HTTP needs no TLS set-up, whose root certificates alone cost megabytes and milliseconds.
fn from_config(config: Config, rate: Rate) -> Result<Client, ClientError> {
    let url = config.cluster_url.to_string();
    let setup = |source| ClientError::Setup {
        url: url.clone(),
        source: Box::new(source),
    };
    if config.cluster_url.scheme_str() != Some("http") {
        let builder = ClientBuilder::try_from(config).map_err(setup)?;
        return Ok(builder.with_layer(&LimitLayer::new(rate)).build());
    }
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector.set_nodelay(true);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let auth = config.auth_layer().map_err(setup)?;
    let service = ServiceBuilder::new()
        .layer(LimitLayer::new(rate))
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// The API server's version, as `1.30 (v1.30.2) [linux/amd64]`.
///
/// # Errors
/// It did not answer.
pub async fn server_version(client: &Client) -> Result<String, kube::Error> {
    let info = client.apiserver_version().await?;
    Ok(format!(
        "{}.{} ({}) [{}]",
        info.major, info.minor, info.git_version, info.platform
    ))
}
