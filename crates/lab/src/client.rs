//! A client of a lab's API server.

use std::path::Path;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client as a kubeconfig says. Nothing is sent yet.
pub fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let unusable = || format!("cannot use {}", kubeconfig.display());
    let file = Kubeconfig::read_from(kubeconfig).with_context(unusable)?;
    // Everything is in the file: there is nothing to wait for.
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options);
    let config = futures::executor::block_on(config).with_context(unusable)?;
    k8s::from_config(config, k8s::Rate::UNLIMITED).with_context(unusable)
}
