//! Options of `hypha lab up` for a cluster that is not the lab's own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::spec::Outside;

/// Which cluster the nodes join.
#[derive(Debug, Args)]
#[command(next_help_heading = "Joining another cluster")]
pub(super) struct OutsideArgs {
    /// Join the nodes to the cluster of this kubeconfig: no API server, controllers and scheduler of the lab's own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig (default: its current one).
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// The cluster has no controllers and no scheduler: run the lab's.
    #[arg(long, requires = "kubeconfig")]
    controllers: bool,
    /// The address of this machine under which the cluster's API server reaches the kubelets.
    #[arg(long, value_name = "IP", requires = "kubeconfig", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    kubelet_address: IpAddr,
    /// Who signs the certificate that the cluster's API server shows to kubelets (default: whom the cluster names).
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    kubelet_client_ca: Option<PathBuf>,
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("no path: {}", path.display()))
}

impl OutsideArgs {
    /// What is asked for; paths hold for whoever reads them later.
    pub(super) fn outside(&self) -> anyhow::Result<Option<Outside>> {
        let Some(kubeconfig) = &self.kubeconfig else {
            return Ok(None);
        };
        Ok(Some(Outside {
            kubeconfig: absolute(kubeconfig)?,
            context: self.context.clone(),
            controllers: self.controllers,
            kubelet_address: self.kubelet_address,
            kubelet_client_ca: self
                .kubelet_client_ca
                .as_deref()
                .map(absolute)
                .transpose()?,
        }))
    }
}
