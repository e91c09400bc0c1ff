//! CHECK: compares the kernel and the agent with the result of ADD.

use std::net::IpAddr;

use api::{Endpoint, EndpointState};
use netlink::{Handle, Link, LinkFlag, RouteFilter, netns};

use super::agent;
use crate::{CniError, CniResult, Config, Invocation, code, host_interface};

pub(super) fn check(invocation: &Invocation, config: &Config) -> Result<(), CniError> {
    let Some(expected) = &config.prev_result else {
        return Err(CniError::new(
            code::INVALID_CONFIG,
            "CHECK needs the result of ADD in prevResult",
        ));
    };
    let path = invocation
        .netns
        .as_deref()
        .unwrap_or(std::path::Path::new(""));
    let pod =
        netns::open(path).map_err(|e| CniError::new(code::UNKNOWN_CONTAINER, e.to_string()))?;
    let mut wrong = Vec::new();
    let mut inside = netns::visit(&pod, Handle::new)??;
    match inside.find_link(&invocation.interface)? {
        None => wrong.push(format!(
            "interface {} is not in the pod",
            invocation.interface
        )),
        Some(link) => compare_pod(&mut inside, &link, expected, &mut wrong)?,
    }
    let host_name = host_interface(&invocation.container_id, &invocation.interface);
    match Handle::new()?.find_link(&host_name)? {
        Some(link) if link.is_up() => {}
        Some(_) => wrong.push(format!("host interface {host_name} is down")),
        None => wrong.push(format!("host interface {host_name} is gone")),
    }
    match agent(config).endpoint(&invocation.endpoint()) {
        Ok(endpoint) => compare_endpoint(&endpoint, expected, &mut wrong),
        Err(e) if e.code() == Some(api::ErrorCode::NotFound) => {
            wrong.push("the agent has no endpoint for it".to_owned())
        }
        Err(e) => return Err(e.into()),
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(CniError::new(code::NOT_AS_MADE, wrong.join("; "))
        .details(format!("attachment {}", invocation.endpoint())))
}

fn compare_pod(
    inside: &mut Handle,
    link: &Link,
    expected: &CniResult,
    wrong: &mut Vec<String>,
) -> Result<(), CniError> {
    if !link.is_up() || !link.has(LinkFlag::Running) {
        wrong.push(format!("interface {} is not up", link.name));
    }
    let listed = expected
        .interfaces
        .iter()
        .find(|i| !i.sandbox.is_empty() && i.name == link.name);
    if let Some(mac) = listed
        .map(|i| i.mac.to_ascii_lowercase())
        .filter(|m| !m.is_empty())
        && link.mac.map(|m| m.to_string()).as_ref() != Some(&mac)
    {
        wrong.push(format!(
            "interface {} has not the MAC address {mac}",
            link.name
        ));
    }
    let addresses = inside.addresses(Some(link.index))?;
    for ip in &expected.ips {
        if !addresses
            .iter()
            .any(|a| format!("{}/{}", a.ip, a.prefix_len) == ip.address)
        {
            wrong.push(format!("address {} is missing", ip.address));
        }
    }
    let routes = inside.routes(&RouteFilter {
        dev: Some(link.index),
        ..RouteFilter::main()
    })?;
    for route in &expected.routes {
        let same = |r: &netlink::Route| {
            let gateway = route.gw.as_deref().and_then(|g| g.parse::<IpAddr>().ok());
            format!("{}/{}", r.dst.0, r.dst.1) == route.dst && r.gateway == gateway
        };
        if !routes.iter().any(same) {
            wrong.push(format!("route to {} is missing", route.dst));
        }
    }
    Ok(())
}

fn compare_endpoint(endpoint: &Endpoint, expected: &CniResult, wrong: &mut Vec<String>) {
    use EndpointState::{Disconnected, Disconnecting, Invalid};
    if matches!(endpoint.state, Disconnecting | Disconnected | Invalid) {
        wrong.push(format!(
            "endpoint {} is {}: {}",
            endpoint.id,
            endpoint.state.text(),
            endpoint.message
        ));
    }
    let held = [endpoint.ipv4.map(IpAddr::V4), endpoint.ipv6.map(IpAddr::V6)];
    for ip in &expected.ips {
        let address = ip
            .address
            .split('/')
            .next()
            .and_then(|a| a.parse::<IpAddr>().ok());
        if address.is_some() && !held.contains(&address) {
            wrong.push(format!(
                "endpoint {} has not the address {}",
                endpoint.id, ip.address
            ));
        }
    }
}
