//! Readers of custom resources: strict, with errors that a person can act on. An object is taken whole or refused.
mod cursor;

use crate::input::Protocol;
use crate::l2;
use crate::lbipam::{Block, Pool};
use crate::redirect::{From, Redirect, RedirectPort};
use crate::selector::{Selector, Test};
use cursor::At;
use ipnet::IpNet;
use model::{Declared, Text};
use regex::Regex;
use serde_json::Value;
use std::{collections::BTreeSet, fmt, net::IpAddr};

/// Something in an object that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Where: a path such as `spec.blocks[0].cidr`.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What could stand there.
    pub accepted: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; accepted: {}",
            self.path, self.what, self.accepted
        )
    }
}

impl std::error::Error for Wrong {}

type Result<T> = std::result::Result<T, Wrong>;

/// Reads what a CiliumLocalRedirectPolicy declares.
///
/// # Errors
/// The first thing that is wrong.
pub fn redirect_of(declared: &Declared) -> Result<Redirect> {
    redirect(&declared.key, declared.created, &spec(declared)?)
}

/// Reads what a CiliumLoadBalancerIPPool declares.
///
/// # Errors
/// The first thing that is wrong.
pub fn pool_of(declared: &Declared) -> Result<Pool> {
    pool(&declared.key, declared.created, &spec(declared)?)
}

/// Reads what a CiliumL2AnnouncementPolicy declares.
///
/// # Errors
/// The first thing that is wrong.
pub fn l2_policy_of(declared: &Declared) -> Result<l2::Policy> {
    l2_policy(&declared.key, &spec(declared)?)
}

fn spec(declared: &Declared) -> Result<Value> {
    serde_json::from_str(&declared.spec).map_err(|error| Wrong {
        path: "spec".to_owned(),
        what: error.to_string(),
        accepted: "an object".to_owned(),
    })
}

/// Reads the `spec` of a CiliumLoadBalancerIPPool.
///
/// # Errors
/// The first thing that is wrong.
pub fn pool(name: &str, created: i64, spec: &Value) -> Result<Pool> {
    let at = At::root(spec, "spec");
    at.fields(&[
        "blocks",
        "cidrs",
        "serviceSelector",
        "allowFirstLastIPs",
        "disabled",
    ])?;
    let mut blocks = Vec::new();
    for list in ["blocks", "cidrs"] {
        for item in at.list(list)? {
            blocks.push(block(&item)?);
        }
    }
    let first_last = match at.get("allowFirstLastIPs") {
        None => true,
        Some(value) => value.one_of(&["Yes", "No"])? == "Yes",
    };
    Ok(Pool {
        name: Text::from(name),
        created,
        blocks,
        selector: selector(&at, "serviceSelector")?,
        first_last,
        disabled: at.flag("disabled")?,
    })
}

fn block(at: &At<'_>) -> Result<Block> {
    at.fields(&["cidr", "start", "stop"])?;
    let cidr = at.get("cidr").filter(|cidr| cidr.text() != Ok(""));
    match (cidr, at.get("start")) {
        (Some(cidr), None) => {
            if at.get("stop").is_some() {
                return Err(at.wrong(
                    "cidr and stop exclude each other",
                    "cidr, or start and stop",
                ));
            }
            let net = cidr.parsed::<IpNet>("a range such as 10.0.0.0/24 or fd00::/64")?;
            Ok(Block::cidr(net))
        }
        (None, Some(start)) => {
            let start: IpAddr = start.parsed("an address")?;
            let stop = match at.get("stop") {
                Some(stop) => stop.parsed("an address")?,
                None => start,
            };
            Block::range(start, stop)
                .map_err(|what| at.wrong(what, "start and stop of one family, in order"))
        }
        (Some(_), Some(_)) => Err(at.wrong(
            "cidr and start exclude each other",
            "cidr, or start and stop",
        )),
        (None, None) => Err(at.wrong("nothing is given", "cidr, or start and stop")),
    }
}

/// Reads the `spec` of a CiliumL2AnnouncementPolicy.
///
/// # Errors
/// The first thing that is wrong.
pub fn l2_policy(name: &str, spec: &Value) -> Result<l2::Policy> {
    let at = At::root(spec, "spec");
    at.fields(&[
        "externalIPs",
        "loadBalancerIPs",
        "interfaces",
        "nodeSelector",
        "serviceSelector",
    ])?;
    let mut interfaces = Vec::new();
    for item in at.list("interfaces")? {
        let text = item.text()?;
        let regex = Regex::new(text).map_err(|_| {
            item.wrong(
                format!("{text:?} is no regular expression"),
                "an expression such as ^eth[0-9]+",
            )
        })?;
        interfaces.push(regex);
    }
    Ok(l2::Policy {
        name: Text::from(name),
        external_ips: at.flag("externalIPs")?,
        load_balancer_ips: at.flag("loadBalancerIPs")?,
        interfaces,
        nodes: selector(&at, "nodeSelector")?,
        services: selector(&at, "serviceSelector")?,
    })
}

/// Reads the `spec` of a CiliumLocalRedirectPolicy.
///
/// # Errors
/// The first thing that is wrong.
pub fn redirect(key: &str, created: i64, spec: &Value) -> Result<Redirect> {
    let at = At::root(spec, "spec");
    at.fields(&[
        "redirectFrontend",
        "redirectBackend",
        "skipRedirectFromBackend",
        "description",
    ])?;
    let frontend = at.need("redirectFrontend", "addressMatcher or serviceMatcher")?;
    frontend.fields(&["addressMatcher", "serviceMatcher"])?;
    let namespace = crate::input::names(key).0;
    let (from, from_ports) = match (
        frontend.get("addressMatcher"),
        frontend.get("serviceMatcher"),
    ) {
        (Some(matcher), None) => address_matcher(&matcher)?,
        (None, Some(matcher)) => service_matcher(&matcher, namespace)?,
        _ => {
            return Err(frontend.wrong(
                "not exactly one of both is given",
                "addressMatcher or serviceMatcher",
            ));
        }
    };
    let backend = at.need("redirectBackend", "localEndpointSelector and toPorts")?;
    backend.fields(&["localEndpointSelector", "toPorts"])?;
    backend.need("localEndpointSelector", "a selector of pods")?;
    let to_ports = ports(&backend)?;
    if to_ports.is_empty() {
        return Err(backend.wrong("toPorts is empty", "one port or more"));
    }
    check_names(&backend, &from_ports, &to_ports)?;
    Ok(Redirect {
        key: Text::from(key),
        created,
        from,
        from_ports,
        selector: selector(&backend, "localEndpointSelector")?,
        to_ports,
        skip: at.flag("skipRedirectFromBackend")?,
    })
}

fn address_matcher(at: &At<'_>) -> Result<(From, Vec<RedirectPort>)> {
    at.fields(&["ip", "toPorts"])?;
    let ip: IpAddr = at.need("ip", "an address")?.parsed("an address")?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(at.wrong(
            format!("{ip} cannot be redirected"),
            "an address that clients send to",
        ));
    }
    let ports = ports(at)?;
    if ports.is_empty() {
        return Err(at.wrong("toPorts is empty", "one port or more"));
    }
    Ok((From::Address(ip), ports))
}

fn service_matcher(at: &At<'_>, own: &str) -> Result<(From, Vec<RedirectPort>)> {
    at.fields(&["serviceName", "namespace", "toPorts"])?;
    let name = at.need("serviceName", "the name of a service")?.text()?;
    let namespace = at.need("namespace", "the namespace of the service")?;
    // Redirecting the services of others would take their traffic.
    if namespace.text()? != own {
        return Err(namespace.wrong(
            format!("{:?} is not the policy's own namespace", namespace.text()?),
            own,
        ));
    }
    Ok((
        From::Service(Text::from(format!("{own}/{name}"))),
        ports(at)?,
    ))
}

fn ports(at: &At<'_>) -> Result<Vec<RedirectPort>> {
    let mut all = Vec::new();
    for item in at.list("toPorts")? {
        item.fields(&["port", "protocol", "name"])?;
        let accepted = "a port from 1 to 65535, as a string";
        let port = item.need("port", accepted)?;
        let number = port.parsed::<u16>(accepted)?;
        if number == 0 {
            return Err(port.wrong("0 is no port", accepted));
        }
        let protocol = match item.get("protocol") {
            None => Protocol::Tcp,
            Some(value) => match value.one_of(&["TCP", "UDP"])? {
                "UDP" => Protocol::Udp,
                _ => Protocol::Tcp,
            },
        };
        let name = item.get("name").map(|name| name.text()).transpose()?;
        all.push(RedirectPort {
            name: Text::from(name.unwrap_or_default().to_lowercase()),
            port: number,
            protocol,
        });
    }
    Ok(all)
}

/// Where there are several ports, names join both sides: they must be there, and different.
fn check_names(at: &At<'_>, from: &[RedirectPort], to: &[RedirectPort]) -> Result<()> {
    for side in [from, to].into_iter().filter(|side| side.len() > 1) {
        let names: BTreeSet<&Text> = side.iter().map(|port| &port.name).collect();
        if names.len() < side.len() || names.iter().any(|name| name.is_empty()) {
            return Err(at.wrong(
                "several ports, but not each has a name of its own",
                "a name for each port, the same on both sides",
            ));
        }
    }
    if from.len() > 1 || (to.len() > 1 && !from.is_empty()) {
        let joined = |port: &RedirectPort| {
            to.iter()
                .any(|to| to.name == port.name && to.protocol == port.protocol)
        };
        if let Some(alone) = from.iter().find(|port| !joined(port)) {
            return Err(at.wrong(
                format!(
                    "no port with the name {:?} and protocol {}",
                    &*alone.name, alone.protocol
                ),
                "a port of the backend for each of the frontend, under the same name",
            ));
        }
    }
    Ok(())
}

fn selector(at: &At<'_>, name: &str) -> Result<Selector> {
    let mut requirements = Vec::new();
    let Some(at) = at.get(name) else {
        return Ok(Selector::default());
    };
    at.fields(&["matchLabels", "matchExpressions"])?;
    if let Some(labels) = at.get("matchLabels") {
        for (key, value) in labels.members()? {
            requirements.push((key.to_owned(), Test::In(vec![value.text()?.to_owned()])));
        }
    }
    for item in at.list("matchExpressions")? {
        item.fields(&["key", "operator", "values"])?;
        let key = item.need("key", "the key of a label")?.text()?;
        let known = ["In", "NotIn", "Exists", "DoesNotExist"];
        let operator = item.need("operator", &known.join(", "))?.one_of(&known)?;
        let mut values = Vec::new();
        for value in item.list("values")? {
            values.push(value.text()?.to_owned());
        }
        let needs = matches!(operator, "In" | "NotIn");
        if needs == values.is_empty() {
            let accepted = if needs {
                "one value or more"
            } else {
                "no values"
            };
            return Err(item.wrong(
                format!("operator {operator} with {} values", values.len()),
                accepted,
            ));
        }
        let test = match operator {
            "In" => Test::In(values),
            "NotIn" => Test::NotIn(values),
            "Exists" => Test::Exists,
            _ => Test::Absent,
        };
        requirements.push((key.to_owned(), test));
    }
    Ok(Selector { requirements })
}
