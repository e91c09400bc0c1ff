//! AdminNetworkPolicy and BaselineAdminNetworkPolicy of `policy.networking.k8s.io`.
use super::{Context, Result, cursor::At, peers, ports, selectors};
use crate::rule::{
    Action, Direction, Entry, LabelSelector, Peer, Peers, PolicyKind, Port, PortMatch, Range, Rule,
    Section, SubjectSelector, Tier, Traffic,
};

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const MAX_PRIORITY: u16 = 1000;
/// Most entries of a direction, most peers and most ports of an entry.
const MAX_ITEMS: usize = 100;

pub(super) fn rule(context: &Context, root: &At<'_>, name: &str) -> Result<Rule> {
    let spec = root.need("spec", "what the policy says")?;
    let priority = if context.kind == PolicyKind::AdminNetworkPolicy {
        spec.fields(&["priority", "subject", "ingress", "egress"])?;
        let accepted = "a whole number from 0, asked first, to 1000";
        Some(spec.need("priority", accepted)?.number(0, MAX_PRIORITY)?)
    } else {
        spec.fields(&["subject", "ingress", "egress"])?;
        if name != "default" {
            return Err(root.wrong(
                format!("metadata.name is {name:?}"),
                "\"default\": there is one such object at most",
            ));
        }
        None
    };
    let subject = pods(&spec.need("subject", "namespaces or pods")?)?;
    Ok(Rule {
        path: spec.path(),
        subject: SubjectSelector::Endpoints(subject),
        sections: [
            section(context, &spec, Direction::Ingress, priority)?,
            section(context, &spec, Direction::Egress, priority)?,
        ],
        labels: Vec::new(),
        description: String::new(),
    })
}

/// `{namespaces}` or `{pods}`.
fn pods(at: &At<'_>) -> Result<LabelSelector> {
    at.fields(&["namespaces", "pods"])?;
    let choice = at.exactly_one(&["namespaces", "pods"])?;
    let at = at.need(choice, "a selector")?;
    if choice == "namespaces" {
        return selectors::namespaces(&at);
    }
    at.fields(&["namespaceSelector", "podSelector"])?;
    let namespaces = at.need("namespaceSelector", "a selector of namespaces")?;
    let pods = at.need("podSelector", "a selector of pods")?;
    let mut selector = selectors::namespaces(&namespaces)?;
    selector
        .requirements
        .extend(selectors::kubernetes(&pods)?.requirements);
    Ok(selector)
}

fn few<'a>(at: &At<'a>, name: &'static str) -> Result<Vec<At<'a>>> {
    let items = at.list(name)?.unwrap_or_default();
    if items.len() > MAX_ITEMS {
        return Err(at.wrong(
            format!("{name} has {} items", items.len()),
            format!("at most {MAX_ITEMS}"),
        ));
    }
    Ok(items)
}

fn section(
    context: &Context,
    spec: &At<'_>,
    direction: Direction,
    priority: Option<u16>,
) -> Result<Section> {
    let mut entries = Vec::new();
    for (index, item) in (0_u16..).zip(few(spec, direction.text())?) {
        let tier = match priority {
            Some(priority) => Tier::Admin { priority, index },
            None => Tier::Baseline { index },
        };
        entries.push(entry(context, &item, direction, tier)?);
    }
    Ok(Section {
        entries,
        ..Section::default()
    })
}

fn entry(context: &Context, at: &At<'_>, direction: Direction, tier: Tier) -> Result<Entry> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    at.fields(&["name", "action", side, "ports"])?;
    if let Some(name) = at.get("name") {
        name.text()?;
    }
    let actions: &[&str] = match tier {
        Tier::Baseline { .. } => &["Allow", "Deny"],
        _ => &["Allow", "Deny", "Pass"],
    };
    let action = match at.need("action", &actions.join(", "))?.one_of(actions)? {
        "Allow" => Action::Allow,
        "Deny" => Action::Deny,
        _ => Action::Pass,
    };
    let items = few(at, side)?;
    if items.is_empty() {
        return Err(at.wrong(format!("{side} names nobody"), "one peer or more"));
    }
    let mut all = Vec::new();
    for item in &items {
        all.extend(peer(context, item, direction)?);
    }
    let items = few(at, "ports")?;
    let traffic = if items.is_empty() {
        Traffic::All
    } else {
        Traffic::Ports(items.iter().map(port).collect::<Result<Vec<_>>>()?)
    };
    Ok(Entry {
        path: at.path(),
        action,
        tier,
        peers: Peers::Of(all),
        traffic,
    })
}

fn peer(context: &Context, at: &At<'_>, direction: Direction) -> Result<Vec<Peer>> {
    let of_pods = ["namespaces", "pods"];
    if of_pods.iter().any(|name| at.get(name).is_some()) || direction == Direction::Ingress {
        return Ok(vec![Peer::Labels(pods(at)?)]);
    }
    at.fields(&["namespaces", "pods", "nodes", "networks", "domainNames"])?;
    let choice = at.exactly_one(&["nodes", "networks", "domainNames"])?;
    let at = at.need(choice, "peers")?;
    match choice {
        "nodes" => Ok(vec![Peer::Nodes(peers::nodes(context, &at)?)]),
        "networks" => {
            let ranges = at.items()?;
            let range = |item: &At<'_>| {
                Ok(Peer::Cidr(Range {
                    cidr: item.cidr()?,
                    except: Vec::new(),
                }))
            };
            ranges.iter().map(range).collect()
        }
        _ => {
            for item in at.items()? {
                item.filled()?;
            }
            context.not_enforced(
                &at,
                "rules by name are",
                "namespaces, pods, nodes, networks",
            );
            Ok(Vec::new())
        }
    }
}

fn port(at: &At<'_>) -> Result<PortMatch> {
    at.fields(&["portNumber", "portRange", "namedPort"])?;
    let choice = at.exactly_one(&["portNumber", "portRange", "namedPort"])?;
    let at = at.need(choice, "a port")?;
    if choice == "namedPort" {
        return Ok(PortMatch {
            protocol: None,
            port: ports::name(&at, at.text()?)?,
            l7: None,
        });
    }
    let (first, last) = if choice == "portNumber" {
        at.fields(&["protocol", "port"])?;
        ("port", "port")
    } else {
        at.fields(&["protocol", "start", "end"])?;
        ("start", "end")
    };
    let number = |name: &str| {
        at.need(name, "a number from 1 to 65535")?
            .number(1, u16::MAX)
    };
    let (low, high) = (number(first)?, number(last)?);
    if high < low {
        return Err(at.wrong(
            format!("end {high} is less than start {low}"),
            format!("a number from {low} to 65535"),
        ));
    }
    let protocol = match at.get("protocol") {
        Some(at) => at.one_of(&PROTOCOLS)?,
        None => "TCP",
    };
    Ok(PortMatch {
        protocol: ports::protocol(protocol),
        port: Port::Range(low, high),
        l7: None,
    })
}
