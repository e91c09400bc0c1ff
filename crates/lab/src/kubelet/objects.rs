//! What the kubelets of a lab share: objects that pods refer to, and where cluster DNS is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};

use super::env::{Sources, service_account};
use super::volumes::References;

/// Changes that a pod may lag behind before it looks at everything anew.
const BACKLOG: usize = 1024;

/// The ConfigMap with the cluster's authority, which every namespace has and every pod with a token reads.
const ROOT_CA: &str = "kube-root-ca.crt";

/// The kind of an object that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    ConfigMap,
    Secret,
}

/// What changed: kind, namespace, name.
pub(crate) type Change = (Changed, String, String);

/// Shared by all kubelets of a lab.
pub struct Objects {
    client: Client,
    services: Store<Service>,
    /// [`ROOT_CA`] by namespace.
    root_cas: Arc<Mutex<BTreeMap<String, ConfigMap>>>,
    changes: broadcast::Sender<Change>,
    dns: watch::Sender<Vec<IpAddr>>,
    /// The host's own resolver configuration.
    pub(crate) host_resolv: String,
    /// The file with images that a person added.
    pub(crate) images: PathBuf,
}

impl Objects {
    /// Starts watching.
    pub fn start(client: Client, images: PathBuf) -> Objects {
        let (changes, _) = broadcast::channel(BACKLOG);
        let root_cas = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let kept = root_cas.clone();
        let keep = move |map: ConfigMap, there| {
            if map.metadata.name.as_deref() == Some(ROOT_CA) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let namespace = map.namespace().unwrap_or_default();
                match there {
                    true => kept.insert(namespace, map),
                    false => kept.remove(&namespace),
                };
            }
        };
        let (config_maps, secrets) = (Changed::ConfigMap, Changed::Secret);
        tokio::spawn(tell_changes(
            client.clone(),
            config_maps,
            changes.clone(),
            keep,
        ));
        let ignore = |_: Secret, _| {};
        tokio::spawn(tell_changes(
            client.clone(),
            secrets,
            changes.clone(),
            ignore,
        ));
        let (services, writer) = reflector::store();
        let watched = watcher(Api::all(client.clone()), watcher::Config::default());
        let kept = reflector::reflector(writer, watched.default_backoff());
        tokio::spawn(kept.for_each(|_| std::future::ready(())));
        Objects {
            client,
            services,
            root_cas,
            changes,
            dns: watch::Sender::new(Vec::new()),
            host_resolv: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            images,
        }
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(crate) fn dns(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.dns.subscribe()
    }

    /// Says where cluster DNS answers.
    pub fn set_dns(&self, servers: Vec<IpAddr>) {
        self.dns.send_if_modified(|now| {
            let changed = *now != servers;
            *now = servers;
            changed
        });
    }

    /// Reads what a pod refers to. What is not there is left out; `known` tokens are used again.
    pub(crate) async fn sources(
        &self,
        pod: &Pod,
        wanted: &References,
        known: &BTreeMap<String, String>,
    ) -> kube::Result<Sources> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut sources = Sources {
            services: self.services_of(&namespace),
            tokens: known.clone(),
            ..Sources::default()
        };
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        for name in &wanted.config_maps {
            let found = match self.root_ca(&namespace).filter(|_| name == ROOT_CA) {
                Some(known) => Some(known),
                None => maps.get_opt(name).await?,
            };
            sources.config_maps.extend(found.map(|m| (name.clone(), m)));
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        for name in &wanted.secrets {
            let found = secrets.get_opt(name).await?;
            sources.secrets.extend(found.map(|s| (name.clone(), s)));
        }
        for (audience, lifetime) in &wanted.tokens {
            if !known.contains_key(audience) {
                let token = self.token(pod, audience, *lifetime).await?;
                sources.tokens.extend(token.map(|t| (audience.clone(), t)));
            }
        }
        Ok(sources)
    }

    fn root_ca(&self, namespace: &str) -> Option<ConfigMap> {
        let kept = self.root_cas.lock();
        let kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.get(namespace).cloned()
    }

    fn services_of(&self, namespace: &str) -> Vec<Service> {
        let all = self.services.state();
        let ours = |s: &&std::sync::Arc<Service>| {
            let of = s.metadata.namespace.as_deref().unwrap_or_default();
            of == namespace || of == "default" && s.metadata.name.as_deref() == Some("kubernetes")
        };
        all.iter()
            .filter(ours)
            .map(|s| s.as_ref().clone())
            .collect()
    }

    async fn token(
        &self,
        pod: &Pod,
        audience: &str,
        lifetime: i64,
    ) -> kube::Result<Option<String>> {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let bound = k8s_openapi::api::authentication::v1::BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
                bound_object_ref: Some(bound),
                expiration_seconds: Some(lifetime),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let name = service_account(pod);
        let made = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await;
        match made {
            Ok(made) => Ok(made.status.and_then(|s| s.token)),
            // The account is not there yet.
            Err(kube::Error::Api(e)) if e.code == 404 => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// `keep` gets every object, and whether it is there.
async fn tell_changes<K>(
    client: Client,
    kind: Changed,
    tell: broadcast::Sender<Change>,
    keep: impl Fn(K, bool),
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let mut events = watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        let (object, there) = match events.try_next().await {
            Ok(Some(Event::Apply(o) | Event::InitApply(o))) => (o, true),
            Ok(Some(Event::Delete(o))) => (o, false),
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(e) => {
                tracing::warn!("watching {}: {e}", K::plural(&()));
                continue;
            }
        };
        let place = (object.namespace().unwrap_or_default(), object.name_any());
        keep(object, there);
        // Nobody may be interested just now.
        let _ = tell.send((kind, place.0, place.1));
    }
}
