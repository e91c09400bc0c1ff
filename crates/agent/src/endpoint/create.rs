//! A new endpoint: what CNI ADD waits for.
use super::{Manager, identity::pod_of, internal};
use abi::identity::INIT;
use api::{ApiError, EndpointRequest, ErrorCode};
use k8s::Client;
use model::{Attachment, DeviceKind, Endpoint, EndpointState, Labels, Mac, PodRef};
use std::{sync::Arc, time::Duration};
use tables::{Read, Snapshot};
use tokio::time::timeout;

/// What the names of pods' host-side devices begin with.
const POD_DEVICE: &str = "lxc";
/// How long a pod waits for an agent that has just started to know the node's pods. After that it works as `init`, and what it is
/// follows.
const NEW_AGENT: Duration = Duration::from_secs(3);
/// How long a pod waits for its object where the others are known: the runtime may have heard of it a little earlier. Then the API
/// server is asked: one that it has is waited for, however late the watch is.
const NEW_POD: Duration = Duration::from_millis(100);
const LATE_POD: Duration = Duration::from_secs(3);
const ASK: Duration = Duration::from_secs(1);
/// How long a pod with labels that have no number yet waits for one; then it works as `init`, and the number follows.
const NEW_LABELS: Duration = Duration::from_secs(3);

/// Whether the API server has a pod, and says so at once.
async fn has(server: &Client, pod: &PodRef) -> bool {
    let pods: kube::Api<k8s::Pod> = kube::Api::namespaced(server.clone(), &pod.namespace);
    matches!(timeout(ASK, pods.get(&pod.name)).await, Ok(Ok(_)))
}

impl Manager {
    /// Waits, not for ever, until it is known what a pod is that gets an endpoint, and its labels have a number: the first pod with such
    /// labels may wait for the API server. A pod that worked as something else at first would lose what others send to it.
    pub async fn expect(&self, pod: &PodRef, server: Option<&Client>) {
        let pods = &self.tables.pods;
        let labels = |snapshot: &Snapshot| {
            let object = pod_of(&self.tables, snapshot, pod);
            object.map(|object| self.identities.labels(snapshot, object))
        };
        let heard = |snapshot: &Snapshot| {
            (pods.initialized(snapshot) || labels(snapshot).is_some()).then_some(())
        };
        let _ = timeout(NEW_AGENT, self.once(heard)).await;
        let mut told = timeout(NEW_POD, self.once(labels)).await;
        if told.is_err()
            && let Some(server) = server
            && has(server, pod).await
        {
            told = timeout(LATE_POD, self.once(labels)).await;
        }
        if let Ok(labels) = told {
            // The endpoint's creation looks for it itself.
            let _ = self.identities.wait(&labels, pod, NEW_LABELS).await;
        }
    }

    /// What `told` finds, as soon as pods and namespaces tell it.
    async fn once<T>(&self, told: impl Fn(&Snapshot) -> Option<T>) -> T {
        let watch = self.tables.pods.watch();
        let watch = watch.and(self.tables.namespaces.watch());
        loop {
            let seen = {
                let snapshot = self.tables.db.snapshot();
                if let Some(found) = told(&snapshot) {
                    return found;
                }
                snapshot.revision()
            };
            watch.changed(seen).await;
        }
    }

    /// Makes an endpoint. When this returns, the kernel serves it and the state file knows it. The same request again gives
    /// the same endpoint. Blocks for some system calls, but does not wait for numbers: [`Self::expect`] does.
    ///
    /// # Errors
    /// The attachment, the device or an address belongs to another endpoint; the kernel refuses. Nothing is left behind then.
    pub fn create(
        &self,
        attachment: Attachment,
        request: &EndpointRequest,
    ) -> Result<Arc<Endpoint>, ApiError> {
        let mut wanted = describe(attachment, request)?;
        check_device(&wanted)?;
        self.identify(&mut wanted);
        let created = {
            let mut ids = self.lock();
            if let Some(same) = self.already_there(&wanted)? {
                return Ok(same);
            }
            self.remove_predecessors(&wanted);
            self.addresses.hold(
                wanted.addresses(),
                &wanted.pod.to_string(),
                &wanted.attachment.to_string(),
            )?;
            wanted.id = ids
                .take()
                .ok_or_else(|| ApiError::new(ErrorCode::Conflict, "no endpoint number is free"))?;
            let grant = self.enforcer().realise(&wanted);
            (wanted.subject, wanted.flags) = (grant.subject, grant.flags);
            wanted.enforcing = grant.enforcing;
            let endpoint = Arc::new(wanted);
            let realised = self.realise(&endpoint);
            drop(grant);
            if let Err(error) = realised {
                self.undo(&endpoint);
                ids.free(endpoint.id);
                return Err(error);
            }
            endpoint
        };
        // Off the lock: requests that come together share one write.
        if let Err(error) = self.save() {
            self.remove_failed(&created);
            return Err(error);
        }
        tracing::info!(
            endpoint = created.id, pod = %created.pod, device = created.ifname, identity = created.identity,
            addresses = ?created.addresses().collect::<Vec<_>>(), "endpoint created"
        );
        Ok(created)
    }

    /// The endpoint of this attachment if the request is a repetition.
    fn already_there(&self, wanted: &Endpoint) -> Result<Option<Arc<Endpoint>>, ApiError> {
        let snapshot = self.tables.db.snapshot();
        let Some(present) = self
            .tables
            .endpoints_by_attachment
            .first(&snapshot, &wanted.attachment)
        else {
            return Ok(None);
        };
        let same = present.ifindex == wanted.ifindex && present.addresses().eq(wanted.addresses());
        if same {
            return Ok(Some(present.clone()));
        }
        Err(ApiError::new(
            ErrorCode::Conflict,
            format!("{} is endpoint {} already", wanted.attachment, present.id),
        )
        .detail(format!(
            "with device {} and other addresses; delete it first",
            present.ifname
        )))
    }

    /// Removes endpoints whose device is gone: its number is the new device's now.
    fn remove_predecessors(&self, wanted: &Endpoint) {
        let snapshot = self.tables.db.snapshot();
        for old in self
            .tables
            .endpoints
            .iter(&snapshot)
            .filter(|old| old.ifindex == wanted.ifindex)
        {
            tracing::warn!(endpoint = old.id, pod = %old.pod, "device is gone and its number is in use again; endpoint removed");
            self.remove_locked(old);
        }
    }

    /// Labels and identity as far as they are known: a pod whose object is not seen in time works as `init`, and so does one
    /// whose labels get no number in time.
    fn identify(&self, endpoint: &mut Endpoint) {
        let snapshot = self.tables.db.snapshot();
        if let Some(pod) = pod_of(&self.tables, &snapshot, &endpoint.pod) {
            endpoint.ports = pod.ports.to_vec();
            let labels = self.identities.labels(&snapshot, pod);
            if let Some(identity) = self.identities.lookup(&snapshot, &labels) {
                (endpoint.labels, endpoint.identity) = (labels, identity);
                endpoint.state = EndpointState::Ready;
                return;
            }
        }
        (endpoint.labels, endpoint.identity) = (Labels::reserved("init"), INIT);
        endpoint.state = EndpointState::WaitingForIdentity;
    }

    fn realise(&self, endpoint: &Arc<Endpoint>) -> Result<(), ApiError> {
        self.apply(endpoint)
            .map_err(|error| internal(format!("endpoint of {}: {error}", endpoint.pod)))?;
        let mut txn = self.tables.db.write();
        let inserted = self.tables.endpoints.insert(&mut txn, endpoint.clone());
        inserted.map_err(|error| ApiError::new(ErrorCode::Conflict, error.to_string()))?;
        txn.commit();
        Ok(())
    }

    /// Takes back what [`Manager::realise`] did before it failed.
    fn undo(&self, endpoint: &Endpoint) {
        let maps = self.withdraw(endpoint.id, endpoint.ifindex);
        if let Err(error) = maps.and(self.datapath.detach_endpoint(endpoint.id).map(drop)) {
            tracing::warn!(endpoint = endpoint.id, %error, "what a failed endpoint left could not be removed");
        }
        // The addresses stay with their attachment: its deletion, which follows a failed ADD, gives them back.
    }

    fn remove_failed(&self, endpoint: &Endpoint) {
        let _ids = self.lock();
        self.remove_locked(endpoint);
    }
}

/// The device must be there under that name, and must not be one of the node's or ours.
fn check_device(wanted: &Endpoint) -> Result<(), ApiError> {
    let (name, index) = (&wanted.ifname, wanted.ifindex);
    if !name.starts_with(POD_DEVICE) {
        return Err(ApiError::bad_request(format!(
            "hostIfname: {name} is not a pod's device ({POD_DEVICE}…)"
        ))
        .detail("field hostIfname"));
    }
    let mut handle = netlink::Handle::new().map_err(|error| internal(error.to_string()))?;
    let found = handle
        .find_link(name.as_str())
        .map_err(|error| internal(error.to_string()))?;
    match found {
        Some(link) if link.index == index => Ok(()),
        Some(link) => Err(ApiError::bad_request(format!(
            "hostIfindex: {name} is device #{}, not #{index}",
            link.index
        ))
        .detail("field hostIfindex")),
        None => Err(
            ApiError::bad_request(format!("hostIfname: there is no device {name}"))
                .detail("field hostIfname"),
        ),
    }
}

/// The pod that an endpoint is asked for.
#[must_use]
pub fn pod_ref(request: &EndpointRequest) -> PodRef {
    PodRef {
        namespace: request.pod.namespace.clone(),
        name: request.pod.name.clone(),
        uid: request.pod.uid.clone(),
    }
}

fn describe(attachment: Attachment, request: &EndpointRequest) -> Result<Endpoint, ApiError> {
    if attachment.container != request.container_id
        || attachment.interface != request.container_ifname
    {
        return Err(ApiError::bad_request(format!(
            "{attachment} does not fit containerId and containerIfname of the body"
        )));
    }
    let mac = |field: &str, text: &str| match text {
        "" => Ok(Mac::default()),
        text => text
            .parse::<Mac>()
            .map_err(|error| ApiError::bad_request(format!("{field}: {error}"))),
    };
    Ok(Endpoint {
        id: 0,
        state: EndpointState::Creating,
        attachment,
        pod: pod_ref(request),
        labels: Labels::default(),
        identity: INIT,
        ipv4: request.ipv4,
        ipv6: request.ipv6,
        ifname: request.host_ifname.clone(),
        ifindex: request.host_ifindex,
        host_mac: mac("hostMac", &request.host_mac)?,
        container_mac: mac("containerMac", &request.container_mac)?,
        netns: request.netns.clone(),
        device: match request.device_mode {
            api::DeviceMode::Veth => DeviceKind::Veth,
            api::DeviceMode::Netkit => DeviceKind::Netkit,
            api::DeviceMode::NetkitL2 => DeviceKind::NetkitL2,
        },
        ports: Vec::new(),
        subject: 0,
        flags: 0,
        policy_audit: None,
        enforcing: [false; 2],
    })
}
