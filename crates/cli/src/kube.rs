//! The cluster's API server, for commands that ask it and not an agent.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use k8s::Client;

use crate::labs;

/// How long a command waits for one answer.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Options that choose a cluster.
#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArgs {
    /// Kubeconfig file; by default $KUBECONFIG, the lab's, ~/.kube/config
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "CONTEXT", global = true)]
    pub context: Option<String>,
    /// The lab; by default the only one that runs
    #[arg(long, value_name = "LAB", global = true, conflicts_with = "kubeconfig")]
    pub name: Option<String>,
    /// Namespace of agent and operator
    #[arg(
        short = 'n',
        long,
        value_name = "NAMESPACE",
        default_value = "kube-system",
        global = true
    )]
    pub namespace: String,
}

impl ClusterArgs {
    /// The kubeconfig that is meant.
    ///
    /// # Errors
    /// There is none.
    pub fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.kubeconfig {
            return Ok(path.clone());
        }
        if self.name.is_none() {
            let given = std::env::var("KUBECONFIG").unwrap_or_default();
            if let Some(first) = given.split(':').find(|path| !path.is_empty()) {
                return Ok(first.into());
            }
        }
        if self.name.is_some() || labs::any() {
            return Ok(labs::find(self.name.as_deref())?.dir.kubeconfig());
        }
        let home = std::env::var("HOME").unwrap_or_default();
        let usual = PathBuf::from(home).join(".kube/config");
        if usual.exists() {
            return Ok(usual);
        }
        Err(anyhow!(
            "no cluster: give --kubeconfig or KUBECONFIG, or start a lab with `hypha lab up`"
        ))
    }

    /// A client for the cluster.
    ///
    /// # Errors
    /// There is no kubeconfig, or it cannot be used.
    pub async fn client(&self) -> Result<Client> {
        let path = self.path()?;
        Ok(k8s::from_kubeconfig(&path, self.context.as_deref()).await?)
    }
}

/// Runs asynchronous work on this thread.
///
/// # Errors
/// Those of the work.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(work)
}

/// The outcome of a request, or what the API server said in one line.
///
/// # Errors
/// The request failed, or there was no answer in time.
pub async fn answer<T>(work: impl Future<Output = Result<T, ::kube::Error>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(anyhow!(k8s::error::says(&error))),
        Err(_) => Err(anyhow!(
            "the API server did not answer in {} s",
            LIMIT.as_secs()
        )),
    }
}
