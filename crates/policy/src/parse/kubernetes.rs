//! NetworkPolicy of `networking.k8s.io`.
use super::{Context, Result, cursor::At, peers, ports, selectors};
use crate::rule::{
    Action, Direction, Entry, LabelSelector, Peer, Peers, Port, PortMatch, Protocol, Range, Rule,
    Section, SubjectSelector, Tier, Traffic,
};

const TYPES: [&str; 2] = ["Ingress", "Egress"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

pub(super) fn rule(context: &Context, root: &At<'_>) -> Result<Rule> {
    let spec = root.need("spec", "what the policy says")?;
    spec.fields(&["podSelector", "policyTypes", "ingress", "egress"])?;
    let pods = match spec.get("podSelector") {
        Some(at) => selectors::kubernetes(&at)?,
        None => LabelSelector::default(),
    };
    let types = types(&spec)?;
    let section = |direction: Direction| {
        if !types[direction.index()] {
            return Ok(Section::default());
        }
        let items = spec.list(direction.text())?.unwrap_or_default();
        Ok(Section {
            default_deny: true,
            entries: items
                .iter()
                .map(|item| entry(context, item, direction))
                .collect::<Result<_>>()?,
            ..Section::default()
        })
    };
    Ok(Rule {
        path: spec.path(),
        subject: SubjectSelector::Endpoints(pods.in_namespace(&context.namespace)),
        sections: [section(Direction::Ingress)?, section(Direction::Egress)?],
        labels: Vec::new(),
        description: String::new(),
    })
}

/// Which directions the policy is about.
fn types(spec: &At<'_>) -> Result<[bool; 2]> {
    let listed = spec.list("policyTypes")?.unwrap_or_default();
    if listed.is_empty() {
        let has_egress = spec.list("egress")?.is_some_and(|list| !list.is_empty());
        return Ok([true, has_egress]);
    }
    let mut types = [false; 2];
    for item in listed {
        match item.one_of(&TYPES)? {
            "Ingress" => types[0] = true,
            _ => types[1] = true,
        }
    }
    Ok(types)
}

fn entry(context: &Context, at: &At<'_>, direction: Direction) -> Result<Entry> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    at.fields(&[side, "ports"])?;
    let items = at.list(side)?.unwrap_or_default();
    let peers = if items.is_empty() {
        Peers::Any
    } else {
        Peers::Of(
            items
                .iter()
                .map(|item| peer(context, item))
                .collect::<Result<_>>()?,
        )
    };
    let items = at.list("ports")?.unwrap_or_default();
    let traffic = if items.is_empty() {
        Traffic::All
    } else {
        Traffic::Ports(items.iter().map(port).collect::<Result<_>>()?)
    };
    Ok(Entry {
        path: at.path(),
        action: Action::Allow,
        tier: Tier::Normal,
        peers,
        traffic,
    })
}

fn peer(context: &Context, at: &At<'_>) -> Result<Peer> {
    at.fields(&["podSelector", "namespaceSelector", "ipBlock"])?;
    let (pods, namespaces) = (at.get("podSelector"), at.get("namespaceSelector"));
    if let Some(block) = at.get("ipBlock") {
        if pods.is_some() || namespaces.is_some() {
            return Err(at.wrong(
                "ipBlock stands beside a selector",
                "ipBlock, or podSelector and namespaceSelector",
            ));
        }
        return Ok(Peer::Cidr(ip_block(&block)?));
    }
    let pods_in = |pods: Option<At<'_>>| match pods {
        Some(at) => selectors::kubernetes(&at),
        None => Ok(LabelSelector::default()),
    };
    match namespaces {
        Some(at) => {
            let mut selector = selectors::namespaces(&at)?;
            selector.requirements.extend(pods_in(pods)?.requirements);
            Ok(Peer::Labels(selector))
        }
        None if pods.is_some() => Ok(Peer::Labels(
            pods_in(pods)?.in_namespace(&context.namespace),
        )),
        None => Err(at.wrong(
            "nobody is named",
            "podSelector, namespaceSelector or both, or ipBlock",
        )),
    }
}

fn ip_block(at: &At<'_>) -> Result<Range> {
    at.fields(&["cidr", "except"])?;
    let cidr = at.need("cidr", "a range of addresses")?.cidr()?;
    let items = at.list("except")?.unwrap_or_default();
    let except = items.iter().map(At::cidr).collect::<Result<Vec<_>>>()?;
    peers::check_except(cidr, &except, &items)?;
    Ok(Range { cidr, except })
}

fn port(at: &At<'_>) -> Result<PortMatch> {
    at.fields(&["port", "endPort", "protocol"])?;
    let protocol = match at.get("protocol") {
        Some(at) => ports::protocol(at.one_of(&PROTOCOLS)?),
        None => Some(Protocol::Tcp),
    };
    let port = match at.get("port") {
        None => {
            if let Some(end) = at.get("endPort") {
                return Err(end.wrong("there is no first port", "no endPort, or port with it"));
            }
            Port::ALL
        }
        Some(at) if at.value.is_number() => {
            let number = at.number(1, u16::MAX)?;
            Port::Range(number, number)
        }
        Some(at) => ports::name(&at, at.text()?)?,
    };
    Ok(PortMatch {
        protocol,
        port: ports::with_end(at, port)?,
        l7: None,
    })
}
