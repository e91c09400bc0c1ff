//! Programs at the sockets of the node's processes. Where they cannot be put in place services go on without, and it is tried again.
use super::Services;
use anyhow::{Context, Result};
use datapath::{Attached, Datapath, probes::Feature};
use runtime::{health::Component, settings::Settings, stop::Stop};
use std::{
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

/// Until it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

impl Services {
    /// Has services translated at the sockets of all processes of the node, or at none where they are not served. What goes wrong is
    /// logged, and told by [`Services::without_sockets`].
    pub fn attach_sockets(&self, datapath: &Datapath, settings: &Settings) {
        let outcome = attach(datapath, settings).map_err(|error| format!("{error:#}"));
        let mut known = self
            .0
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = &outcome
            && known.as_ref() != Some(error)
        {
            tracing::error!(error, "{}; it is tried again", without(settings));
        }
        *known = outcome.err();
    }

    /// Why sockets are not as they should be; none if they are.
    #[must_use]
    pub fn without_sockets(&self) -> Option<String> {
        let known = self.0.sockets.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tries again and again what did not succeed at first, until it does or `stop`.
    pub async fn keep_sockets(
        self,
        datapath: Arc<Datapath>,
        settings: Settings,
        health: Component,
        stop: Stop,
    ) {
        while let Some(error) = self.without_sockets() {
            health.degraded(format!(
                "{}: {error}; it is tried again",
                without(&settings)
            ));
            if stop.or(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
            let (services, datapath, settings) = (self.clone(), datapath.clone(), settings.clone());
            let tried = move || services.attach_sockets(&datapath, &settings);
            if tokio::task::spawn_blocking(tried).await.is_err() {
                return health.failed("putting programs at sockets has ended by a defect");
            }
        }
        health.ok(match settings.kube_proxy_replacement {
            true => "services are translated at sockets",
            false => "nothing is translated at sockets",
        });
    }
}

/// What users have of it.
fn without(settings: &Settings) -> &'static str {
    match settings.kube_proxy_replacement {
        true => {
            "services are not translated at sockets: pods reach them by their packets, processes of the node do not"
        }
        false => "services are still translated at sockets as before",
    }
}

fn attach(datapath: &Datapath, settings: &Settings) -> Result<()> {
    if !settings.kube_proxy_replacement {
        let detached = datapath.detach_sockets();
        if detached.context("taking programs off sockets")? {
            tracing::info!("services are no longer translated at sockets");
        }
        return Ok(());
    }
    let feature = Feature::RefusalReasons;
    if !feature.is_there() {
        tracing::info!(feature = feature.name(), "{}", feature.without());
    }
    let attached = datapath.attach_sockets(Path::new(&settings.cgroup_root));
    let attached = attached.with_context(|| format!("cgroup-root={}", settings.cgroup_root))?;
    if attached != Attached::Unchanged {
        tracing::info!(
            control_group = settings.cgroup_root,
            "services are translated at sockets"
        );
    }
    Ok(())
}
