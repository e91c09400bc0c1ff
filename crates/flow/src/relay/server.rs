//! The relay as a process: its services at a port, and whether it is healthy.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::hubble::DESCRIPTORS;
use api::hubble::observer::observer_server::ObserverServer;
use runtime::stop::Stop;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::pool::{Pool, Ways};
use super::service::Relay;
use crate::serve::{ServeError, TlsFiles, incoming};
use crate::web::{self, policy::Policies};

/// The service's name for whoever asks for its health.
const OBSERVER: &str = "observer.Observer";

/// How often a silent client is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// What a relay is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it serves.
    pub listen: SocketAddr,
    /// Where only its health is asked for; none: nowhere but at `listen`.
    pub health: Option<SocketAddr>,
    /// Where the page is served; none: nowhere.
    pub page: Option<SocketAddr>,
    /// Certificates of its own; none: in the clear.
    pub tls: Option<TlsFiles>,
    /// How it reaches nodes.
    pub ways: Ways,
    /// Its name in what it says of nodes.
    pub name: String,
}

/// A relay that serves.
#[derive(Clone, Debug)]
pub struct Running {
    /// Where it serves.
    pub address: SocketAddr,
    /// Where its health is asked for.
    pub health: Option<SocketAddr>,
    /// Where the page is served.
    pub page: Option<SocketAddr>,
    /// The nodes it knows.
    pub pool: Pool,
}

/// Serves until `stop`; returns once it listens. The page shows objects of `policies`.
///
/// # Errors
/// It cannot listen, or has no certificates.
pub async fn serve(
    options: Options,
    policies: Option<Arc<dyn Policies>>,
    stop: &Stop,
) -> Result<Running, ServeError> {
    let pool = Pool::new(options.ways);
    let (reporter, health) = tonic_health::server::health_reporter();
    let (address, connections) = incoming(options.listen, options.tls.as_ref(), stop).await?;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let relay = Relay::new(pool.clone(), options.name);
    let page = match options.page {
        Some(at) => {
            let limits = web::Limits::default();
            Some(web::serve(relay.clone(), policies, at, limits, stop).await?)
        }
        None => None,
    };
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(health.clone())
        .add_service(ObserverServer::new(relay))
        .add_optional_service(reflection().build_v1().ok())
        .add_optional_service(reflection().build_v1alpha().ok());
    tell_health(&pool, &reporter).await;
    let ended = stop.clone();
    tokio::spawn(async move {
        let stopped = async move { ended.stopped().await };
        if let Err(error) = router
            .serve_with_incoming_shutdown(connections, stopped)
            .await
        {
            tracing::error!(%error, "the relay's server ended");
        }
    });
    let probed = match options.health {
        Some(address) => {
            let (address, connections) = incoming(address, None, stop).await?;
            let ended = stop.clone();
            tokio::spawn(async move {
                let stopped = async move { ended.stopped().await };
                let router = Server::builder().add_service(health);
                if let Err(error) = router
                    .serve_with_incoming_shutdown(connections, stopped)
                    .await
                {
                    tracing::error!(%error, "the server of the relay's health ended");
                }
            });
            Some(address)
        }
        None => None,
    };
    tokio::spawn(keep(pool.clone(), reporter, stop.clone()));
    Ok(Running {
        address,
        health: probed,
        page,
        pool,
    })
}

/// Follows the peer service, and says how it stands.
async fn keep(pool: Pool, reporter: HealthReporter, stop: Stop) {
    let health = async {
        let mut changes = pool.changes();
        while changes.changed().await.is_ok() {
            tell_health(&pool, &reporter).await;
        }
    };
    tokio::select! {
        () = pool.run() => {}
        () = health => {}
        () = stop.stopped() => {}
    }
}

async fn tell_health(pool: &Pool, reporter: &HealthReporter) {
    let status = if pool.serves() {
        tonic_health::ServingStatus::Serving
    } else {
        tonic_health::ServingStatus::NotServing
    };
    for service in ["", OBSERVER] {
        reporter.set_service_status(service, status).await;
    }
}
