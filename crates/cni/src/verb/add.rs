//! ADD: address, interface, endpoint; all of it or nothing.

use std::{net::IpAddr, path::Path};

use api::{Client, EndpointRequest, ErrorCode, IpamRequest, IpamResponse};
use netlink::{Handle, Netns, netns};

use super::{agent, del};
use crate::{
    Attached, CniError, CniResult, Config, Interface, Invocation, IpConfig, PodInterface,
    RouteConfig, code, device, log::Log,
};

/// An address that was given to a plugin that died falls back after this time.
const UNUSED_SECONDS: u32 = 300;

pub(super) fn add(
    invocation: &Invocation,
    config: &Config,
    log: &mut Log,
) -> Result<CniResult, CniError> {
    if config.prev_result.is_some() {
        return Err(CniError::new(
            code::UNSUPPORTED_FIELD,
            "prevResult is not supported with ADD",
        )
        .details("this plugin makes the interface: it must be the first of the list"));
    }
    let path = invocation.netns.as_deref().unwrap_or(Path::new(""));
    let pod = open_netns(path)?;
    let mut agent = agent(config);
    let given = agent.allocate(&ipam_request(invocation))?;
    log.debug(|| format!("given {given:?}"));
    let interface = PodInterface::new(invocation, &given);
    let mut add = Add {
        invocation,
        config,
        agent,
        interface,
        given,
        made: None,
        asked: false,
    };
    match add.attach(&pod) {
        Ok(()) => Ok(add.result(path)),
        Err(e) => Err(add.undo(e, log)),
    }
}

fn open_netns(path: &Path) -> Result<Netns, CniError> {
    let missing = |e: netlink::Error| {
        CniError::new(code::UNKNOWN_CONTAINER, e.to_string()).details("CNI_NETNS")
    };
    let pod = netns::open(path).map_err(missing)?;
    if netns::same(&pod, netns::current()?)? {
        let message = format!(
            "CNI_NETNS {} is the node's own network namespace",
            path.display()
        );
        return Err(CniError::new(code::INVALID_NETNS, message));
    }
    Ok(pod)
}

fn ipam_request(invocation: &Invocation) -> IpamRequest {
    IpamRequest {
        owner: format!("{}/{}", invocation.pod.namespace, invocation.pod.name),
        families: Vec::new(),
        expire_seconds: Some(UNUSED_SECONDS),
        attachment: Some(invocation.endpoint().to_string()),
    }
}

struct Add<'a> {
    invocation: &'a Invocation,
    config: &'a Config,
    agent: Client,
    interface: PodInterface,
    given: IpamResponse,
    /// The interface is there and is ours to remove.
    made: Option<Attached>,
    /// The agent may have an endpoint because of us.
    asked: bool,
}

impl Add<'_> {
    fn attach(&mut self, pod: &Netns) -> Result<(), CniError> {
        let made = self.interface.create(&mut Handle::new()?, pod)?;
        self.made = Some(made);
        let request = self.endpoint_request(made);
        self.asked = true;
        let made = self
            .agent
            .put_endpoint(&self.invocation.endpoint(), &request);
        if made
            .as_ref()
            .is_err_and(|e| e.code() == Some(ErrorCode::Conflict))
        {
            // The endpoint that is there is not ours.
            self.asked = false;
        }
        made?;
        Ok(())
    }

    fn endpoint_request(&self, made: Attached) -> EndpointRequest {
        let mac = |mac: Option<netlink::Mac>| mac.map(|m| m.to_string()).unwrap_or_default();
        EndpointRequest {
            container_id: self.invocation.container_id.clone(),
            pod: self.invocation.pod.clone(),
            ipv4: self.interface.v4.map(|(ip, _)| ip),
            ipv6: self.interface.v6.map(|(ip, _)| ip),
            netns: self
                .invocation
                .netns
                .as_deref()
                .unwrap_or(Path::new(""))
                .to_string_lossy()
                .into_owned(),
            host_ifname: self.interface.host_name.clone(),
            host_ifindex: made.host_index,
            host_mac: mac(self.interface.host_mac),
            container_ifname: self.interface.pod_name.clone(),
            container_ifindex: made.pod_index,
            container_mac: mac(self.interface.pod_mac),
            device_mode: self.interface.mode,
        }
    }

    /// Takes everything back; what cannot be taken back is told with the first error.
    fn undo(mut self, mut error: CniError, log: &mut Log) -> CniError {
        if self.asked
            && let Err(more) = del::endpoint(&mut self.agent, self.invocation, self.config, log)
        {
            error = error.and(more);
        }
        if self.made.is_some() {
            let removed = Handle::new()
                .and_then(|mut node| device::remove(&mut node, &self.interface.host_name));
            if let Err(more) = removed {
                error = error.and(more);
            }
        }
        let addresses: Vec<IpAddr> = [
            self.given.ipv4.as_ref().map(|a| a.ip.into()),
            self.given.ipv6.as_ref().map(|a| a.ip.into()),
        ]
        .into_iter()
        .flatten()
        .collect();
        for ip in addresses {
            match self.agent.release(ip).map_err(|more| (more.code(), more)) {
                // After a restart of the agent it may be somebody else's by now.
                Ok(()) | Err((Some(ErrorCode::NotFound | ErrorCode::Conflict), _)) => {}
                Err((_, more)) => error = error.and(more),
            }
        }
        error
    }

    fn result(&self, sandbox: &Path) -> CniResult {
        let side = |name: &str, mac: Option<netlink::Mac>, sandbox: String| Interface {
            name: name.to_owned(),
            mac: mac.map(|m| m.to_string()).unwrap_or_default(),
            mtu: Some(self.interface.device_mtu),
            sandbox,
        };
        let host = side(
            &self.interface.host_name,
            self.interface.host_mac,
            String::new(),
        );
        let pod = side(
            &self.interface.pod_name,
            self.interface.pod_mac,
            sandbox.to_string_lossy().into_owned(),
        );
        let ips = self.interface.addresses().map(|(ip, gateway)| IpConfig {
            version: None,
            interface: Some(1),
            address: format!("{ip}/{}", netlink::Family::of(ip).bits()),
            gateway: Some(gateway.to_string()),
        });
        let routes = self
            .interface
            .routes(0)
            .into_iter()
            .map(|route| RouteConfig {
                dst: format!("{}/{}", route.dst.0, route.dst.1),
                gw: route.gateway.map(|g| g.to_string()),
                mtu: route.mtu,
            });
        CniResult {
            interfaces: vec![host, pod],
            ips: ips.collect(),
            routes: routes.collect(),
            ..CniResult::default()
        }
    }
}
