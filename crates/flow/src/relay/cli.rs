//! The command line of `hypha relay`.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use runtime::logging::Logging;
use runtime::stop;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connect::{self, Address, Tls};
use super::pool::Ways;
use super::server::{Options, serve};
use crate::serve::TlsFiles;
use crate::web::policy::Policies;

/// Arguments of `hypha relay`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RelayArgs {
    #[command(subcommand)]
    command: Option<RelayCommand>,
    /// Where flows are served
    #[arg(long, value_name = "[HOST]:PORT", default_value = ":4245", value_parser = listen)]
    listen_address: SocketAddr,
    /// Where the relay's health is asked for
    #[arg(long, value_name = "[HOST]:PORT", default_value = ":4222", value_parser = listen)]
    health_listen_address: SocketAddr,
    /// Where the page of flows is served to browsers; by default nowhere. Whoever reaches it sees all flows
    #[arg(long, value_name = "[HOST]:PORT", value_parser = listen)]
    ui_listen_address: Option<SocketAddr>,
    /// The page shows objects of policies, which the API server is asked for as this pod's service account
    #[arg(long, requires = "ui_listen_address")]
    ui_policies: bool,
    /// The service that tells of the nodes
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "unix:///var/run/cilium/hubble.sock"
    )]
    peer_service: Address,
    /// Name of the cluster, by which the peer service shows itself
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster_name: String,
    /// How long to try to connect to a node
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = runtime::flags::seconds)]
    dial_timeout: Duration,
    /// The longest pause before a node is tried again
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = runtime::flags::seconds)]
    retry_timeout: Duration,
    /// Nodes are talked to in the clear
    #[arg(long)]
    disable_client_tls: bool,
    /// Certificate that the relay shows to nodes
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "disable_client_tls"
    )]
    tls_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "disable_client_tls"
    )]
    tls_client_key_file: Option<PathBuf>,
    /// Authorities that vouch for nodes
    #[arg(
        long,
        value_name = "FILES",
        value_delimiter = ',',
        required_unless_present = "disable_client_tls"
    )]
    tls_hubble_server_ca_files: Vec<PathBuf>,
    /// Certificate that the relay shows to its clients; none: it talks to them in the clear
    #[arg(long, value_name = "FILE", requires = "tls_server_key_file")]
    tls_server_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_server_cert_file")]
    tls_server_key_file: Option<PathBuf>,
    /// Authorities whose clients may connect; none: anybody may
    #[arg(
        long,
        value_name = "FILES",
        value_delimiter = ',',
        requires = "tls_server_cert_file"
    )]
    tls_relay_client_ca_files: Vec<PathBuf>,
    /// Log everything
    #[arg(long)]
    debug: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum RelayCommand {
    /// Whether a relay of this machine has nodes: the exit status tells
    Probe {
        /// Where its health is asked for
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4222")]
        address: Address,
    },
}

/// `HOST:PORT`, or `:PORT` for every address of both families.
fn listen(text: &str) -> Result<SocketAddr, String> {
    runtime::listen_address(text)
        .parse()
        .map_err(|_| "accepted: :PORT, ADDRESS:PORT".to_owned())
}

impl RelayArgs {
    fn options(&self) -> Options {
        let identity = self
            .tls_client_cert_file
            .clone()
            .zip(self.tls_client_key_file.clone());
        let tls = (!self.disable_client_tls).then(|| Tls {
            authorities: self.tls_hubble_server_ca_files.clone(),
            identity,
            ..Tls::default()
        });
        let certificate = self
            .tls_server_cert_file
            .clone()
            .zip(self.tls_server_key_file.clone());
        let own = certificate.map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_authorities: self.tls_relay_client_ca_files.clone(),
        });
        let local = matches!(self.peer_service, Address::Unix(_));
        // Every node's certificate is for all nodes of the cluster, so any name of one will do.
        let name = format!(
            "hubble-peer.{}.hubble-grpc.cilium.io",
            self.cluster_name.replace('.', "-")
        );
        Options {
            listen: self.listen_address,
            health: Some(self.health_listen_address),
            page: self.ui_listen_address,
            tls: own,
            ways: Ways {
                peers: self.peer_service.clone(),
                tls,
                peers_name: (!local).then_some(name),
                dial: self.dial_timeout,
                retry: self.retry_timeout,
            },
            name: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    /// Serves until it is told to stop; `policies` is where objects of policies are read, if they are wanted.
    #[must_use]
    pub fn run(&self, policies: Arc<dyn Policies>) -> ExitCode {
        if let Some(RelayCommand::Probe { address }) = &self.command {
            return probe(address);
        }
        match Logging::from_options(self.debug, &Default::default()) {
            Ok(logging) => logging.start(),
            Err(error) => {
                eprintln!("hypha relay: {error}");
                return ExitCode::from(2);
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        let served = runtime
            .map_err(|error| format!("no async runtime: {error}"))
            .and_then(|runtime| {
                let served = runtime.block_on(self.serve(policies));
                runtime.shutdown_timeout(Duration::from_secs(1));
                served
            });
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hypha relay: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn serve(&self, policies: Arc<dyn Policies>) -> Result<(), String> {
        let (stopper, stop) = stop::channel();
        let policies = self.ui_policies.then_some(policies);
        let running = serve(self.options(), policies, &stop)
            .await
            .map_err(|error| error.to_string())?;
        tracing::info!(
            "flows of all nodes at {}, nodes by {}",
            running.address,
            self.peer_service
        );
        if let Some(page) = running.page {
            tracing::info!("the page of flows at http://{page}");
        }
        let signal = stop::signalled().await.map_err(|error| error.to_string())?;
        tracing::info!("{signal}: the relay ends");
        stopper.stop();
        Ok(())
    }
}

/// Asks a relay whether it serves.
fn probe(address: &Address) -> ExitCode {
    let limit = Duration::from_secs(2);
    let asked = async {
        let channel = connect::channel(address, None, limit, false)
            .await
            .map_err(|error| error.to_string())?;
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let answer = HealthClient::new(channel).check(request).await;
        let status = answer
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        if status.status == i32::from(ServingStatus::Serving) {
            Ok(())
        } else {
            Err("it has no node".to_owned())
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let late = |_| Err("no answer in time".to_owned());
            tokio::time::timeout(limit, asked)
                .await
                .unwrap_or_else(late)
        }),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("the relay at {address}: {text}");
            ExitCode::FAILURE
        }
    }
}
