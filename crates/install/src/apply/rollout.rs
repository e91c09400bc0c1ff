//! How far a DaemonSet or Deployment has come.
use std::time::{Duration, Instant};

use k8s::Client;
use k8s::error::says;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::api::Api;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What keeps pods alive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// A DaemonSet by its name.
    DaemonSet(String),
    /// A Deployment by its name.
    Deployment(String),
}

impl Workload {
    /// `DaemonSet cilium`.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::DaemonSet(name) => format!("DaemonSet {name}"),
            Self::Deployment(name) => format!("Deployment {name}"),
        }
    }
}

/// Its pods, as its status counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// How many there are to be.
    pub desired: i32,
    /// How many are of the newest template.
    pub updated: i32,
    /// How many are ready.
    pub ready: i32,
    /// How many were ready long enough.
    pub available: i32,
    /// The status is of the newest specification.
    pub observed: bool,
}

impl Rollout {
    /// Every pod is of the newest template, and up.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.observed
            && self.updated >= self.desired
            && self.available >= self.desired
            && self.ready >= self.desired
    }

    /// Asks the API server; none if there is no such object.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn of(
        client: &Client,
        namespace: &str,
        workload: &Workload,
    ) -> Result<Option<Self>, kube::Error> {
        match workload {
            Workload::DaemonSet(name) => {
                let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
                Ok(api
                    .get_opt(name)
                    .await?
                    .map(|set| Self::of_daemon_set(&set)))
            }
            Workload::Deployment(name) => {
                let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
                Ok(api
                    .get_opt(name)
                    .await?
                    .map(|one| Self::of_deployment(&one)))
            }
        }
    }

    fn of_daemon_set(set: &DaemonSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        Self {
            desired: status.desired_number_scheduled,
            updated: status.updated_number_scheduled.unwrap_or(0),
            ready: status.number_ready,
            available: status.number_available.unwrap_or(0),
            observed: status.observed_generation >= set.metadata.generation,
        }
    }

    fn of_deployment(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            desired: deployment.spec.replicas.unwrap_or(1),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            observed: status.observed_generation >= deployment.metadata.generation,
        }
    }
}

/// Waits until all are complete.
///
/// # Errors
/// What is not complete after `limit`, in one line.
pub async fn wait(
    client: &Client,
    namespace: &str,
    workloads: &[Workload],
    limit: Duration,
) -> Result<(), String> {
    let end = Instant::now() + limit;
    loop {
        let mut lacking = Vec::new();
        for workload in workloads {
            let found =
                tokio::time::timeout(limit.max(LOOK), Rollout::of(client, namespace, workload))
                    .await;
            match found {
                Ok(Ok(Some(rollout))) if rollout.complete() => {}
                Ok(Ok(Some(rollout))) => lacking.push(format!(
                    "{}: {} of {} ready, {} of them new",
                    workload.title(),
                    rollout.ready,
                    rollout.desired,
                    rollout.updated
                )),
                Ok(Ok(None)) => lacking.push(format!("{} does not exist", workload.title())),
                Ok(Err(error)) => lacking.push(format!("{}: {}", workload.title(), says(&error))),
                Err(_) => lacking.push("the API server does not answer".to_owned()),
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!(
                "not up after {} s: {}",
                limit.as_secs(),
                lacking.join("; ")
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}
