//! Who the other side of an entry may be.
use super::{Context, Result, cursor::At, l7, selectors};
use crate::labels::CIDR_GROUP;
use crate::rule::{
    Direction, Entity, LabelSelector, Peer, Peers, PolicyKind, Range, Requirement, ServicePeer,
};
use ipnet::IpNet;

/// The members that say who the other side is, for ingress, and last what it must have besides.
const INGRESS: [&str; 7] = [
    "fromEndpoints",
    "fromEntities",
    "fromCIDR",
    "fromCIDRSet",
    "fromNodes",
    "fromGroups",
    "fromRequires",
];
/// The same for egress, but names.
const EGRESS: [&str; 8] = [
    "toEndpoints",
    "toEntities",
    "toCIDR",
    "toCIDRSet",
    "toNodes",
    "toGroups",
    "toServices",
    "toRequires",
];

pub(super) fn fields(direction: Direction) -> &'static [&'static str] {
    match direction {
        Direction::Ingress => &INGRESS,
        Direction::Egress => &EGRESS,
    }
}

/// What the other side must have, whoever entries say that it is.
pub(super) fn required(
    context: &Context,
    at: &At<'_>,
    direction: Direction,
) -> Result<Vec<LabelSelector>> {
    let Some(name) = fields(direction).last() else {
        return Ok(Vec::new());
    };
    let items = at.list(name)?.unwrap_or_default();
    items
        .iter()
        .map(|item| selectors::peer(context, item))
        .collect()
}

/// Who the other side is; none where the entry does not say.
pub(super) fn peers(
    context: &Context,
    at: &At<'_>,
    direction: Direction,
    of_nodes: bool,
) -> Result<Option<Peers>> {
    let mut found: Option<(At<'_>, &str)> = None;
    let names = fields(direction).iter().chain(&["toFQDNs"]).copied();
    for name in names.filter(|name| !name.ends_with("Requires")) {
        let Some(member) = at.get(name) else {
            continue;
        };
        if let Some((_, first)) = found {
            return Err(at.wrong(
                format!("{first} and {name} exclude each other"),
                "one of them; several entries match what either matches",
            ));
        }
        found = Some((member, name));
    }
    let Some((member, name)) = found else {
        return Ok(None);
    };
    let items = member.items()?;
    let name = name.trim_start_matches("from").trim_start_matches("to");
    if name == "Entities" {
        return entities(&items).map(Some);
    }
    let mut all = Vec::new();
    for item in &items {
        match name {
            "Endpoints" => all.push(Peer::Labels(selectors::peer(context, item)?)),
            "Nodes" => all.push(Peer::Nodes(nodes(context, item)?)),
            "CIDR" => all.push(Peer::Cidr(Range {
                cidr: item.cidr()?,
                except: Vec::new(),
            })),
            "CIDRSet" => all.push(cidr_set(item)?),
            "Services" => all.push(Peer::Service(service(context, item)?)),
            "FQDNs" => {
                let name = l7::name(item)?;
                check_names(context, item, of_nodes);
                all.push(Peer::Name(name));
            }
            _ => {
                item.fields(&["aws"])?;
                context.not_enforced(item, "groups of cloud providers are", "toCIDRSet");
            }
        }
    }
    Ok(Some(Peers::Of(all)))
}

/// Notes names that would have no effect on this node: they are learned from what its pods ask the proxy.
fn check_names(context: &Context, at: &At<'_>, of_nodes: bool) {
    let accepted = "toCIDR, toEndpoints, toEntities";
    if !context.options.l7 {
        context.off(at, "rules by name are", "enable-l7-proxy", accepted);
    } else if of_nodes {
        context.not_enforced(at, "rules by name about nodes are", accepted);
    }
}

fn entities(items: &[At<'_>]) -> Result<Peers> {
    let mut all = Vec::new();
    for item in items {
        let text = item.text()?;
        match Entity::from_text(text) {
            Some(Entity::All) => return Ok(Peers::Any),
            Some(entity) => all.push(Peer::Entity(entity)),
            None => {
                return Err(item.wrong(format!("{text:?} is no entity"), Entity::NAMES.join(", ")));
            }
        }
    }
    Ok(Peers::Of(all))
}

pub(super) fn nodes(context: &Context, at: &At<'_>) -> Result<LabelSelector> {
    if !context.options.node_selector_labels {
        return Err(at.wrong(
            "nodes are selected by labels, but their identities have none",
            "fromEntities or toEntities, or enable-node-selector-labels: \"true\" in the settings",
        ));
    }
    Ok(selectors::selector(at, "")?.of_nodes())
}

fn cidr_set(at: &At<'_>) -> Result<Peer> {
    at.fields(&["cidr", "cidrGroupRef", "cidrGroupSelector", "except"])?;
    let choice = at.exactly_one(&["cidr", "cidrGroupRef", "cidrGroupSelector"])?;
    let chosen = at.need(choice, "a range of addresses")?;
    let mut except = Vec::new();
    let items = at.list("except")?.unwrap_or_default();
    for item in &items {
        except.push(item.cidr()?);
    }
    Ok(match choice {
        "cidr" => {
            let cidr = chosen.cidr()?;
            check_except(cidr, &except, &items)?;
            Peer::Cidr(Range { cidr, except })
        }
        "cidrGroupRef" => Peer::Group {
            name: chosen.filled()?.to_owned(),
            except,
        },
        _ => Peer::Groups {
            selector: group_selector(&chosen)?,
            except,
        },
    })
}

/// What is left out must be within what is meant.
pub(super) fn check_except(cidr: IpNet, except: &[IpNet], items: &[At<'_>]) -> Result<()> {
    match except.iter().position(|part| !cidr.contains(part)) {
        None => Ok(()),
        Some(index) => Err(items[index].wrong(
            format!("{} is not within {cidr}", except[index]),
            format!("a part of {cidr}"),
        )),
    }
}

/// The labels of groups have no source, or that of groups.
fn group_selector(at: &At<'_>) -> Result<LabelSelector> {
    let mut selector = selectors::selector(at, "")?;
    for requirement in &mut selector.requirements {
        match requirement {
            Requirement::Label { source, .. }
                if source.is_none() || source.as_deref() == Some(CIDR_GROUP) =>
            {
                *source = None;
            }
            other => {
                return Err(at.wrong(
                    format!("{other} asks for labels that groups cannot have"),
                    "keys without source, or cidrgroup:key",
                ));
            }
        }
    }
    Ok(selector)
}

fn service(context: &Context, at: &At<'_>) -> Result<ServicePeer> {
    at.fields(&["k8sService", "k8sServiceSelector"])?;
    let choice = at.exactly_one(&["k8sService", "k8sServiceSelector"])?;
    let chosen = at.need(choice, "a service")?;
    let own =
        (context.kind == PolicyKind::CiliumNetworkPolicy).then_some(context.namespace.as_str());
    let namespace = match chosen.get("namespace") {
        Some(at) => Some(at.text()?).filter(|text| !text.is_empty()),
        None => None,
    };
    let namespace = namespace.or(own);
    if choice == "k8sService" {
        chosen.fields(&["serviceName", "namespace"])?;
        let name = chosen.need("serviceName", "the name of a service")?;
        let Some(namespace) = namespace else {
            return Err(chosen.wrong("namespace is missing", "the namespace of the service"));
        };
        return Ok(ServicePeer::Named {
            namespace: namespace.to_owned(),
            name: name.filled()?.to_owned(),
        });
    }
    chosen.fields(&["selector", "namespace"])?;
    let selector = chosen.need("selector", "a selector of services")?;
    Ok(ServicePeer::Labelled {
        namespace: namespace.map(str::to_owned),
        selector: selectors::selector(&selector, "")?,
    })
}
