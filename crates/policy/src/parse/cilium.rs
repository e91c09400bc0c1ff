//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.
use super::{Context, Result, cursor::At, icmp, peers, ports, selectors};
use crate::rule::{
    Action, Direction, Entry, Peers, PolicyKind, Require, Rule, Section, SubjectSelector, Tier,
    Traffic,
};

const RULE: [&str; 9] = [
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
];

/// The rules of `spec` and `specs`.
pub(super) fn rules(context: &Context, root: &At<'_>) -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    all.extend(root.get("spec"));
    let listed = root.list("specs")?;
    if all.is_empty() && listed.as_ref().is_none_or(Vec::is_empty) {
        return Err(root.wrong("there is no rule", "spec, or specs with one rule or more"));
    }
    all.extend(listed.unwrap_or_default());
    all.iter().map(|at| rule(context, at)).collect()
}

fn rule(context: &Context, at: &At<'_>) -> Result<Rule> {
    at.fields(&RULE)?;
    let subject = subject(context, at)?;
    let of_nodes = matches!(subject, SubjectSelector::Nodes(_));
    let sections = [
        section(context, at, Direction::Ingress, of_nodes)?,
        section(context, at, Direction::Egress, of_nodes)?,
    ];
    let named = ["ingress", "ingressDeny", "egress", "egressDeny"];
    if !named.iter().any(|name| at.get(name).is_some()) {
        return Err(at.wrong(
            "the rule says nothing",
            "at least one of ingress, ingressDeny, egress, egressDeny",
        ));
    }
    Ok(Rule {
        path: at.path(),
        subject,
        sections,
        labels: labels(at)?,
        description: match at.get("description") {
            Some(at) => at.text()?.to_owned(),
            None => String::new(),
        },
    })
}

fn subject(context: &Context, at: &At<'_>) -> Result<SubjectSelector> {
    let choice = at.exactly_one(&["endpointSelector", "nodeSelector"])?;
    let selector = at.need(choice, "a label selector")?;
    if choice == "endpointSelector" {
        return Ok(SubjectSelector::Endpoints(selectors::subject(
            context, &selector,
        )?));
    }
    if context.kind != PolicyKind::CiliumClusterwideNetworkPolicy {
        return Err(selector.wrong(
            "a policy of a namespace cannot be about nodes",
            "endpointSelector, or nodeSelector in a CiliumClusterwideNetworkPolicy",
        ));
    }
    Ok(SubjectSelector::Nodes(selectors::selector(&selector, "")?))
}

/// Labels of a rule: a list of `{key, value, source}`.
fn labels(at: &At<'_>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for item in at.list("labels")?.unwrap_or_default() {
        item.fields(&["key", "value", "source"])?;
        let key = item.need("key", "the key of a label")?.filled()?;
        let optional = |name: &'static str| item.get(name).map(|at| at.text()).transpose();
        let source = optional("source")?
            .filter(|source| !source.is_empty())
            .unwrap_or("unspec");
        all.push(match optional("value")?.filter(|value| !value.is_empty()) {
            Some(value) => format!("{source}:{key}={value}"),
            None => format!("{source}:{key}"),
        });
    }
    Ok(all)
}

fn section(
    context: &Context,
    rule: &At<'_>,
    direction: Direction,
    of_nodes: bool,
) -> Result<Section> {
    let (allow, deny) = match direction {
        Direction::Ingress => ("ingress", "ingressDeny"),
        Direction::Egress => ("egress", "egressDeny"),
    };
    let (mut entries, mut requires) = (Vec::new(), Vec::new());
    let mut given = 0;
    for (name, action) in [(allow, Action::Allow), (deny, Action::Deny)] {
        for item in rule.list(name)?.unwrap_or_default() {
            given += 1;
            entries.extend(entry(context, &item, direction, action, of_nodes)?);
            let required = peers::required(context, &item, direction)?.into_iter();
            requires.extend(required.map(|selector| Require { action, selector }));
        }
    }
    Ok(Section {
        default_deny: default_deny(rule, direction)?
            .filter(|_| !context.options.always_default_deny)
            .unwrap_or(given > 0),
        entries,
        requires,
    })
}

fn default_deny(rule: &At<'_>, direction: Direction) -> Result<Option<bool>> {
    let Some(at) = rule.get("enableDefaultDeny") else {
        return Ok(None);
    };
    at.fields(&["ingress", "egress"])?;
    at.get(direction.text()).map(|at| at.boolean()).transpose()
}

/// One entry; none where it matches nothing because it says nothing.
fn entry(
    context: &Context,
    at: &At<'_>,
    direction: Direction,
    action: Action,
    of_nodes: bool,
) -> Result<Option<Entry>> {
    let mut accepted = peers::fields(direction).to_vec();
    accepted.extend(["toPorts", "icmps"]);
    if action == Action::Allow {
        accepted.push("authentication");
        if direction == Direction::Egress {
            accepted.push("toFQDNs");
        }
    }
    at.fields(&accepted)?;
    let peers = peers::peers(context, at, direction, of_nodes)?;
    let traffic = traffic(context, at, direction, action, of_nodes)?;
    authentication(context, at)?;
    let (peers, traffic) = match (peers, traffic) {
        (None, None) => return Ok(None),
        // What is required says nothing by itself, not even of the ports that stand beside it.
        (None, _) if !peers::required(context, at, direction)?.is_empty() => return Ok(None),
        (peers, traffic) => (peers.unwrap_or(Peers::Any), traffic.unwrap_or(Traffic::All)),
    };
    Ok(Some(Entry {
        path: at.path(),
        action,
        tier: Tier::Normal,
        peers,
        traffic,
    }))
}

fn traffic(
    context: &Context,
    at: &At<'_>,
    direction: Direction,
    action: Action,
    of_nodes: bool,
) -> Result<Option<Traffic>> {
    let to_ports = at.list("toPorts")?.filter(|list| !list.is_empty());
    let icmps = at.list("icmps")?.filter(|list| !list.is_empty());
    match (to_ports, icmps) {
        (Some(_), Some(_)) => Err(at.wrong(
            "toPorts and icmps exclude each other",
            "one of them; write two entries for both",
        )),
        (Some(list), None) => {
            let scope = ports::Scope {
                direction,
                action,
                of_nodes,
            };
            let mut all = Vec::new();
            for item in list {
                all.extend(ports::port_rule(context, &item, scope)?);
            }
            Ok(Some(Traffic::Ports(all)))
        }
        (None, Some(list)) => {
            let mut all = Vec::new();
            for item in list {
                all.extend(icmp::rule(&item)?);
            }
            Ok(Some(Traffic::Icmp(all)))
        }
        (None, None) => Ok(None),
    }
}

fn authentication(context: &Context, at: &At<'_>) -> Result<()> {
    let Some(at) = at.get("authentication") else {
        return Ok(());
    };
    at.fields(&["mode"])?;
    let mode = at.need("mode", "disabled, required, test-always-fail")?;
    match mode.one_of(&["disabled", "required", "test-always-fail"])? {
        "disabled" => {}
        _ => context.not_enforced(&mode, "mutual authentication is", "disabled"),
    }
    Ok(())
}
