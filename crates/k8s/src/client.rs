//! The client.
use crate::limit::{LimitLayer, Rate};
use http::Uri;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::connect::{Connect, HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{ClientBuilder, ConfigExt, retry::RetryPolicy},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::Path, time::Duration};
use tower::{ServiceBuilder, retry::RetryLayer};

/// How long a TCP connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take until it can be used, TLS included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that is gone without a word is noticed after half a minute.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(15),
    interval: Duration::from_secs(5),
    probes: 3,
};

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until the server's kernel is asked whether it is still there.
    idle: Duration,
    /// Between two such questions.
    interval: Duration,
    /// How many may stay without an answer.
    probes: u32,
}

impl Patience {
    /// The longest that a server's silence stays unnoticed.
    fn limit(&self) -> Duration {
        self.idle + self.interval * self.probes
    }

    fn connector(&self) -> HttpConnector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(self.idle));
        tcp.set_keepalive_interval(Some(self.interval));
        tcp.set_keepalive_retries(Some(self.probes));
        // The same for what was sent and is not acknowledged: nobody asks then.
        tcp.set_tcp_user_timeout(Some(self.limit()));
        tcp
    }
}

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

/// A client as a configuration says; nothing is sent yet.
///
/// # Errors
/// Its TLS or credentials cannot be used.
pub fn from_config(config: Config, rate: Rate) -> Result<Client, ClientError> {
    connect(config, rate, PATIENCE)
}

/// The usual client of the library, but that its connections notice a server that is silently gone, for which the library leaves no
/// room. Plain HTTP needs no TLS set-up, whose root certificates alone cost megabytes and milliseconds.
fn connect(config: Config, rate: Rate, patience: Patience) -> Result<Client, ClientError> {
    let url = config.cluster_url.to_string();
    let setup = |source| ClientError::Setup {
        url: url.clone(),
        source: Box::new(source),
    };
    if config.proxy_url.is_some() {
        // The library says what it cannot do.
        let builder = ClientBuilder::try_from(config).map_err(setup)?;
        return Ok(builder.with_layer(&LimitLayer::new(rate)).build());
    }
    let tcp = patience.connector();
    if config.cluster_url.scheme_str() == Some("http") {
        return over(tcp, config, rate).map_err(setup);
    }
    let tls = config.rustls_https_connector_with_connector(tcp);
    let mut tls = TimeoutConnector::new(tls.map_err(setup)?);
    tls.set_connect_timeout(Some(HANDSHAKE_TIMEOUT));
    over(tls, config, rate).map_err(setup)
}

/// A client whose connections `connector` makes.
fn over<C>(connector: C, config: Config, rate: Rate) -> Result<Client, kube::Error>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let retry = config.default_retry;
    let service = ServiceBuilder::new()
        .layer(LimitLayer::new(rate))
        .layer(config.base_uri_layer())
        .option_layer(retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use apiserver::{ApiServer, ServerOptions, tls::TlsOptions};
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::Namespace;
    use kube::{Api, api::WatchParams};
    use netlink::{LinkChange, netns};
    use testkit::skip_unless_root;
    use tokio::{net::TcpListener, runtime, time::timeout};

    /// Short, and with room for a loaded machine.
    const SHORT: Patience = Patience {
        idle: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        probes: 2,
    };

    #[test]
    fn a_dead_server_is_noticed_well_within_a_minute() {
        assert!(PATIENCE.limit() <= Duration::from_secs(30));
    }

    /// A watch that is idle, and a request on a connection that was used before. The network is gone from one moment to the next: no
    /// packet comes back, not even a refusal.
    #[test]
    fn a_server_that_is_silently_gone_is_noticed() {
        if skip_unless_root() {
            return;
        }
        let ns = netns::create_unnamed().unwrap();
        ns.run(|| {
            let runtime = runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(silence());
        })
        .unwrap();
    }

    fn loopback(change: &LinkChange) {
        let mut handle = netlink::Handle::new().unwrap();
        handle.link_change("lo", change).unwrap();
    }

    async fn silence() {
        loopback(&LinkChange::new().up());
        let options = ServerOptions {
            tls: TlsOptions {
                names: vec!["127.0.0.1".to_owned()],
                ..TlsOptions::default()
            },
            ..ServerOptions::default()
        };
        let server = ApiServer::open(options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let text = server
            .authority()
            .kubeconfig("test", &url, "me", "system:masters");
        tokio::spawn(async move { server.serve_tls(listener).await });
        let file = Kubeconfig::from_yaml(&text.unwrap()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await;
        let client = connect(config.unwrap(), Rate::UNLIMITED, SHORT).unwrap();
        let namespaces: Api<Namespace> = Api::all(client);
        let watch = namespaces.watch(&WatchParams::default(), "0").await;
        let mut watch = watch.unwrap().boxed();
        watch.next().await.unwrap().unwrap();
        namespaces.get("default").await.unwrap();
        loopback(&LinkChange::new().down());
        let long = Duration::from_secs(60);
        let asked = timeout(long, namespaces.get("default")).await;
        asked.expect("a request ends").unwrap_err();
        let ended = async { while watch.next().await.is_some_and(|event| event.is_ok()) {} };
        timeout(long, ended).await.expect("the watch ends");
    }
}
