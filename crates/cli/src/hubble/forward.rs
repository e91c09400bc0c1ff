//! The cluster's relay by way of the API server.
use std::net::{Ipv4Addr, SocketAddr};

use ::flow::relay::connect::Stream;
use ::kube::api::{Api, ListParams};
use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpListener;

use super::settings::Settings;
use crate::kube::{ClusterArgs, answer};
use crate::output;

/// Label of the relay's pods.
const SELECTOR: &str = "k8s-app=hubble-relay";

/// A port of the relay's pods.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Its name in the pod.
    pub name: &'static str,
    /// Its number if the pod does not say; none: it has to.
    pub usual: Option<u16>,
    /// What it means that there is none.
    pub missing: &'static str,
}

/// Where flows are served.
pub const FLOWS: Door = Door {
    name: "grpc",
    usual: Some(4245),
    missing: "",
};

/// A pod of the relay.
pub struct Relay {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    port: u16,
    pods: Api<Pod>,
}

impl Relay {
    /// A pod that is ready, by one of its ports.
    ///
    /// # Errors
    /// There is none, or the API server does not answer.
    pub async fn find(settings: &Settings, door: Door) -> Result<Self> {
        let text = |name: &str| settings.said(name).filter(|text| !text.is_empty());
        let namespace = settings.text("kube-namespace").to_owned();
        let cluster = ClusterArgs {
            kubeconfig: text("kubeconfig").map(Into::into),
            context: text("kube-context").map(str::to_owned),
            name: None,
            namespace: namespace.clone(),
        };
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, &namespace);
        let found = answer(pods.list(&ListParams::default().labels(SELECTOR))).await?;
        let count = found.items.len();
        let pod = found.items.into_iter().find(ready).ok_or_else(|| {
            if count == 0 {
                anyhow!("there is no relay in namespace {namespace}: `hypha upgrade --reuse-values --set hubble.relay.enabled=true` makes one")
            } else {
                anyhow!("no pod of hubble-relay is ready in namespace {namespace}; `hypha status` tells more")
            }
        })?;
        let port = pod.spec.iter().flat_map(|spec| &spec.containers);
        let port = port
            .flat_map(|one| one.ports.iter().flatten())
            .find(|port| port.name.as_deref() == Some(door.name))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .or(door.usual);
        Ok(Self {
            namespace,
            pod: pod.metadata.name.unwrap_or_default(),
            port: port.context(door.missing)?,
            pods,
        })
    }

    /// Opens a connection to it.
    ///
    /// # Errors
    /// The API server refuses, or the pod is gone.
    pub async fn open(&self) -> Result<Stream> {
        let mut forwarder = answer(self.pods.portforward(&self.pod, &[self.port]))
            .await
            .with_context(|| format!("cannot reach {}/{}", self.namespace, self.pod))?;
        let stream = forwarder.take_stream(self.port);
        let stream = stream.context("the API server gave no stream")?;
        Ok(Box::new(stream))
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}

/// `hubble port-forward`: listens until it is interrupted.
///
/// # Errors
/// The port is in use, or there is no relay.
pub async fn flows(settings: &Settings) -> Result<()> {
    let port = settings.text("port-forward-port").parse().unwrap_or(4245);
    serve(settings, FLOWS, port, |at| {
        output::write_out(&format!("ℹ️  Hubble Relay is available at {at}\n"))
    })
    .await
}

/// Brings a port of the relay to one of this machine until it is interrupted; says where it listens.
///
/// # Errors
/// The port is in use, or there is no relay.
pub async fn serve(
    settings: &Settings,
    door: Door,
    port: u16,
    say: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    // First, so that whoever waits for the port does not find a listener without a relay.
    Relay::find(settings, door).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("cannot listen at 127.0.0.1:{port}"))?;
    say(listener.local_addr()?)?;
    loop {
        let mut client = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(error) => {
                    // Out of descriptors, perhaps: others end and free theirs.
                    eprintln!("cannot accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let settings = settings.clone();
        tokio::spawn(async move {
            // Another pod may stand for the relay since.
            let opened = async { Relay::find(&settings, door).await?.open().await };
            match opened.await {
                // Either side may just leave.
                Ok(mut relay) => {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut relay).await;
                }
                Err(error) => eprintln!("Error: {}", crate::error::one_line(&error)),
            }
        });
    }
}
