//! The flags of `hypha install`, `upgrade` and `uninstall`, named as users of Helm and of the reference's tool know them.
use std::path::PathBuf;
use std::time::Duration;

use ::install::apply::Release;
use ::install::values::{Given, ValuesError};
use clap::Args;
use k8s::Client;
use serde_json::{Value, json};

use crate::kube::ClusterArgs;
use crate::status::parse_wait;

/// Which release of which cluster.
#[derive(Clone, Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Name of the release
    #[arg(long, value_name = "NAME", default_value = "cilium")]
    pub helm_release_name: String,
}

impl ReleaseArgs {
    pub fn release<'a>(
        &'a self,
        client: Client,
        force: bool,
        report: &'a mut dyn FnMut(&str),
    ) -> Release<'a> {
        Release {
            client,
            name: &self.helm_release_name,
            namespace: &self.cluster.namespace,
            force,
            report,
        }
    }
}

/// Values as Helm takes them.
#[derive(Clone, Debug, Default, Args)]
pub struct GivenArgs {
    /// YAML file with values; later ones stand above earlier ones
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A value, as ipam.mode=kubernetes, several with commas, lists as {a,b}
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// As --set, but the value is a text whatever it looks like
    #[arg(long, value_name = "NAME=VALUE")]
    set_string: Vec<String>,
    /// As --set, but the value is what a file holds
    #[arg(long, value_name = "NAME=FILE")]
    set_file: Vec<String>,
}

impl GivenArgs {
    pub fn merged(&self) -> Result<Value, ValuesError> {
        let given = Given {
            files: self.files.clone(),
            set: self.set.clone(),
            set_string: self.set_string.clone(),
            set_file: self.set_file.clone(),
        };
        given.merged(json!({}))
    }
}

/// Values, and how they are brought in.
#[derive(Clone, Debug, Args)]
pub struct ValuesArgs {
    #[command(flatten)]
    pub given: GivenArgs,
    /// Print the objects and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the values and change nothing
    #[arg(long)]
    pub dry_run_helm_values: bool,
    /// Wait until everything is up
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_wait)]
    pub wait_duration: Duration,
    /// Version to install; this program has one
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Print the versions that can be installed
    #[arg(long)]
    pub list_versions: bool,
    /// Take over fields and objects that others own
    #[arg(long)]
    pub force_conflicts: bool,
}

/// Options of `hypha install`.
#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub release: ReleaseArgs,
    #[command(flatten)]
    pub values: ValuesArgs,
}

/// Options of `hypha upgrade`.
#[derive(Clone, Debug, Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    pub release: ReleaseArgs,
    #[command(flatten)]
    pub values: ValuesArgs,
    /// Keep the values of the last revision, those that are given above them; so it is, too, where none are given
    #[arg(long, conflicts_with = "reset_values")]
    pub reuse_values: bool,
    /// Forget the values of the last revision
    #[arg(long)]
    pub reset_values: bool,
    /// Install if there is nothing to upgrade
    #[arg(short = 'i', long)]
    pub install: bool,
}

/// Options of `hypha uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Wait until the pods are gone
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_wait)]
    pub wait_duration: Duration,
}
