//! What a pod needs before its containers start: volumes, network, files below /etc.

use tokio::sync::broadcast;

use super::super::handle::Net;
use super::super::objects::{self, Changed};
use super::super::plan::{self, host_network};
use super::super::sandbox::{Backoff, Sandbox, SandboxError};
use super::super::volumes::{self, Content};
use super::{EARLY_ATTEMPTS, Worker};

impl Worker {
    /// Makes what the containers need. False when the pod ends first.
    pub(super) async fn prepare(&mut self) -> bool {
        if self.ending() {
            return false;
        }
        self.write_status();
        let pod = self.pod();
        let missing = plan::not_honoured(&pod);
        if !missing.is_empty() {
            let message = format!("the lab does not honour {}", missing.join(", "));
            self.context
                .events
                .warning(&self.about, None, "NotHonoured", message);
        }
        if !self.take_place().await || !self.make_volumes().await {
            return false;
        }
        if host_network(&pod) {
            self.view.ips.clone_from(&self.context.node.addresses);
            self.handle.net.send_replace(Some(Net::Node));
        } else if !self.make_sandbox().await {
            return false;
        }
        self.view.sandbox = true;
        self.facts.pod_ips.clone_from(&self.view.ips);
        self.write_etc();
        true
    }

    /// Waits until it may start; pods on the node's own network always may. False when the pod ends first.
    async fn take_place(&mut self) -> bool {
        if self.place.is_some() || host_network(&self.pod()) {
            return true;
        }
        let place = self.context.starts.clone().acquire_owned();
        tokio::select! {
            biased;
            () = self.ended() => false,
            place = place => {
                self.place = place.ok();
                true
            }
        }
    }

    /// Lets others start, and waits between attempts. False when the pod ends first.
    async fn pause(&mut self, backoff: &mut Backoff) -> bool {
        self.place = None;
        let paused = tokio::time::timeout(backoff.next(), self.ended()).await;
        paused.is_err() && self.take_place().await
    }

    /// Tries until it succeeds. False when the pod ends first.
    async fn make_volumes(&mut self) -> bool {
        let (mut backoff, mut last) = (Backoff::new(), String::new());
        while let Err(e) = self.write_volumes().await {
            if e != last {
                self.context
                    .events
                    .warning(&self.about, None, "FailedMount", e.clone());
                last = e;
            }
            if !self.pause(&mut backoff).await {
                return false;
            }
        }
        true
    }

    /// Brings the volumes up to date; the error is for an event.
    async fn write_volumes(&mut self) -> Result<(), String> {
        let pod = self.pod();
        let Some(all) = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()) else {
            return Ok(());
        };
        let read = self
            .context
            .objects
            .sources(&pod, &self.wanted, &self.tokens)
            .await;
        let sources = read.map_err(|e| format!("cannot read what the volumes refer to: {e}"))?;
        self.tokens.clone_from(&sources.tokens);
        self.version += 1;
        let group = pod
            .spec
            .as_ref()
            .and_then(|s| s.security_context.as_ref()?.fs_group);
        for volume in all {
            let failed = |e: String| {
                format!(
                    "MountVolume.SetUp failed for volume {:?} : {e}",
                    volume.name
                )
            };
            let inside = plan::volume_dir(&self.facts.dir, &volume.name);
            let outside = self.context.node.path(&inside);
            let at = match volumes::content(&pod, volume, &self.facts, &sources).map_err(failed)? {
                Content::Empty => {
                    volumes::make_empty(&outside, group).map_err(|e| failed(e.to_string()))?;
                    inside
                }
                Content::Files(files) => {
                    volumes::write_files(&outside, &files, group, self.version)
                        .map_err(|e| failed(e.to_string()))?;
                    inside
                }
                Content::Host { path, kind } => {
                    let root = self.context.node.path("/");
                    volumes::prepare_host_path(&root, &path, &kind).map_err(failed)?;
                    path
                }
            };
            self.volumes.insert(volume.name.clone(), at);
        }
        Ok(())
    }

    /// /etc/hosts and /etc/resolv.conf, in place: containers have these very files.
    pub(super) fn write_etc(&self) {
        let pod = self.pod();
        let dns = self.context.objects.dns().borrow().clone();
        let resolv = plan::resolv_conf(&pod, &dns, &self.context.objects.host_resolv);
        let hosts = if host_network(&pod) {
            std::fs::read_to_string(self.context.node.path("/etc/hosts")).unwrap_or_default()
        } else {
            plan::hosts_file(&pod, &self.facts)
        };
        let dir = self.context.node.path(self.facts.dir.join("etc"));
        let written = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join("hosts"), hosts))
            .and_then(|()| std::fs::write(dir.join("resolv.conf"), resolv));
        if let Err(e) = written {
            tracing::warn!(pod = self.about.name, "cannot write /etc of a pod: {e}");
        }
    }

    /// Tries until it succeeds. False when the pod ends first.
    async fn make_sandbox(&mut self) -> bool {
        let (mut backoff, mut last) = (Backoff::new(), String::new());
        for attempt in 0.. {
            let about = &self.about;
            let made = Sandbox::create(
                &self.context,
                &about.namespace,
                &about.name,
                &about.uid,
                attempt,
            );
            match made.await {
                Ok(sandbox) => {
                    self.view.ips.clone_from(&sandbox.ips);
                    self.handle
                        .net
                        .send_replace(Some(Net::Own(sandbox.netns.clone())));
                    self.sandbox = Some(sandbox);
                    return true;
                }
                Err(e) => {
                    self.sandbox_failed(&e, &mut last);
                    // Costs nothing to look at, and is over in a moment while a node comes up.
                    if e.no_config() && attempt < EARLY_ATTEMPTS {
                        backoff = Backoff::new();
                    }
                }
            }
            if !self.pause(&mut backoff).await {
                return false;
            }
        }
        false
    }

    fn sandbox_failed(&self, error: &SandboxError, last: &mut String) {
        let message = format!("Failed to create pod sandbox: {error}");
        // The same again and again says nothing new.
        if *last != message {
            tracing::info!(
                pod = format!("{}/{}", self.about.namespace, self.about.name),
                "{message}"
            );
            self.context.events.warning(
                &self.about,
                None,
                "FailedCreatePodSandBox",
                message.clone(),
            );
            *last = message;
        }
    }

    pub(super) fn concerns(
        &self,
        change: Result<objects::Change, broadcast::error::RecvError>,
    ) -> bool {
        match change {
            Ok((_, namespace, _)) if namespace != self.about.namespace => false,
            Ok((Changed::ConfigMap, _, name)) => self.wanted.config_maps.contains(&name),
            Ok((Changed::Secret, _, name)) => self.wanted.secrets.contains(&name),
            // Some were missed: one of them may concern it.
            Err(_) => true,
        }
    }

    pub(super) async fn refresh_volumes(&mut self) {
        if let Err(e) = self.write_volumes().await {
            self.context
                .events
                .warning(&self.about, None, "FailedMount", e);
        }
    }
}
