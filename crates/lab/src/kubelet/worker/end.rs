//! The end of a pod: of its containers, its network, its directory and its object.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::super::sandbox::Backoff;
use super::super::status::{Part, State};
use super::{DEFAULT_GRACE, End, KILL_LIMIT, SIDECAR_GRACE, Worker};

impl Worker {
    /// Ends all containers, main ones first; nothing runs afterwards.
    pub(super) async fn stop_containers(&mut self, end: End) {
        let grace = match end {
            End::Deleted => self.seen.borrow().grace(),
            End::Over => {
                let own = self
                    .pod()
                    .spec
                    .as_ref()
                    .and_then(|s| s.termination_grace_period_seconds);
                Duration::from_secs(own.unwrap_or(DEFAULT_GRACE).try_into().unwrap_or(0))
            }
        };
        let mut deadline = Instant::now() + grace;
        self.runners.stop_main.send_replace(Some(deadline));
        // An init container that still runs has nothing to wait for.
        if self
            .view
            .slots
            .iter()
            .any(|s| s.part == Part::Init && matches!(s.state, State::Running(_)))
        {
            self.runners.stop_others.send_replace(Some(deadline));
        }
        for main in [true, false] {
            if !main {
                deadline = deadline.max(Instant::now() + SIDECAR_GRACE.min(grace));
                self.runners.stop_others.send_replace(Some(deadline));
            }
            self.wait_runners(main, deadline).await;
        }
    }

    async fn wait_runners(&mut self, main: bool, mut deadline: Instant) {
        let mut seen = self.seen.clone();
        loop {
            let tasks = if main {
                &mut self.runners.main
            } else {
                &mut self.runners.others
            };
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { break },
                Some((index, change)) = self.runners.hear.recv() => {
                    self.apply(index, change);
                    self.write_status();
                }
                Ok(()) = seen.changed() => {
                    // Deleted meanwhile, or again with less time.
                    let now = seen.borrow_and_update().clone();
                    let asked = Instant::now() + now.grace();
                    if now.ending() && asked < deadline {
                        deadline = asked;
                        let stop = if main { &self.runners.stop_main } else { &self.runners.stop_others };
                        stop.send_replace(Some(deadline));
                    }
                }
                () = tokio::time::sleep_until(deadline + KILL_LIMIT * 2) => {
                    tasks.abort_all();
                    for inside in self.inside.iter().flatten() {
                        inside.process.signal(Signal::SIGKILL);
                    }
                    break;
                }
            }
        }
        while let Ok((index, change)) = self.runners.hear.try_recv() {
            self.apply(index, change);
        }
    }

    /// Gives the network back.
    pub(super) async fn release(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            self.handle.net.send_replace(None);
            sandbox.destroy(&self.context).await;
            self.view.sandbox = false;
        }
    }

    pub(super) async fn clean(&mut self) {
        let (cgroup, dir) = (self.pod_cgroup(), self.context.node.path(&self.facts.dir));
        let destroyed = tokio::task::spawn_blocking(move || {
            let destroyed = cgroup.destroy(KILL_LIMIT);
            match std::fs::remove_dir_all(dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("a pod's directory stays: {e}")
                }
                _ => {}
            }
            destroyed
        });
        if let Ok(Err(e)) = destroyed.await {
            tracing::warn!(pod = self.about.name, "{e}");
        }
        let about = &self.about;
        self.context
            .pods
            .remove(&about.namespace, &about.name, &about.uid);
        self.context
            .node
            .state
            .remove_pod(&about.namespace, &about.name, &about.uid);
    }

    pub(super) async fn remove_object(&self) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.about.namespace);
        let mut backoff = Backoff::new();
        let mut params = DeleteParams::default().grace_period(0);
        params.preconditions = Some(Preconditions {
            uid: Some(self.about.uid.clone()),
            resource_version: None,
        });
        while !self.seen.borrow().gone && self.seen.has_changed().is_ok() {
            match api.delete(&self.about.name, &params).await {
                Ok(_) => return,
                // Gone already, or another pod has the name by now.
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(e) => {
                    tracing::warn!(
                        pod = self.about.name,
                        "cannot remove a pod that has ended: {e}"
                    );
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
