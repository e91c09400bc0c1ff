//! Label selectors, with the namespace that a policy of a namespace means by itself.
use super::{Context, Result, cursor::At};
use crate::labels::{CIDR, K8S, NAMESPACE, NAMESPACE_LABELS, cidr_of_key, split_source};
use crate::rule::{LabelSelector, PolicyKind, Requirement, Test};

const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// A selector as it stands. Keys are put behind `prefix`, which gives them a source or makes them labels of a namespace.
pub(super) fn selector(at: &At<'_>, prefix: &str) -> Result<LabelSelector> {
    at.fields(&["matchLabels", "matchExpressions"])?;
    let mut requirements = Vec::new();
    if let Some(labels) = at.get("matchLabels") {
        for (key, value) in labels.members()? {
            let values = vec![value.text()?.to_owned()];
            requirements.push(requirement(&value, prefix, key, Test::In(values))?);
        }
    }
    for item in at.list("matchExpressions")?.unwrap_or_default() {
        requirements.push(expression(&item, prefix)?);
    }
    Ok(LabelSelector { requirements })
}

fn expression(at: &At<'_>, prefix: &str) -> Result<Requirement> {
    at.fields(&["key", "operator", "values"])?;
    let key = at.need("key", "the key of a label")?;
    let operator = at
        .need("operator", &OPERATORS.join(", "))?
        .one_of(&OPERATORS)?;
    let mut values = Vec::new();
    for value in at.list("values")?.unwrap_or_default() {
        values.push(value.text()?.to_owned());
    }
    let needs_values = matches!(operator, "In" | "NotIn");
    if needs_values == values.is_empty() {
        let (what, accepted) = if needs_values {
            ("needs values", "a list of one value or more")
        } else {
            ("takes no values", "no values")
        };
        return Err(at.wrong(format!("operator {operator} {what}"), accepted));
    }
    values.sort_unstable();
    values.dedup();
    let test = match operator {
        "In" => Test::In(values),
        "NotIn" => Test::NotIn(values),
        "Exists" => Test::Exists,
        _ => Test::Absent,
    };
    requirement(&key, prefix, key.filled()?, test)
}

fn requirement(at: &At<'_>, prefix: &str, key: &str, test: Test) -> Result<Requirement> {
    let full = format!("{prefix}{key}");
    let (source, key) = split_source(&full);
    if key.is_empty() {
        return Err(at.wrong(
            "the key of the label is empty",
            "key or source:key, such as app or k8s:app",
        ));
    }
    if source == Some(CIDR) {
        let Some(net) = cidr_of_key(key) else {
            return Err(at.wrong(
                format!("{key:?} is no range of addresses"),
                "a key such as cidr:10.0.0.0/8",
            ));
        };
        let inside = match &test {
            Test::In(values) => values.iter().any(String::is_empty),
            Test::NotIn(values) => !values.iter().any(String::is_empty),
            Test::Exists => true,
            Test::Absent => false,
        };
        return Ok(Requirement::Cidr { net, inside });
    }
    Ok(Requirement::Label {
        source: source
            .filter(|source| *source != crate::labels::ANY)
            .map(str::to_owned),
        key: key.to_owned(),
        test,
    })
}

/// The selector of a peer in a rule of this context, see §3 of the semantics: the own namespace where none is named.
pub(super) fn peer(context: &Context, at: &At<'_>) -> Result<LabelSelector> {
    let selector = selector(at, "")?;
    Ok(match context.kind {
        PolicyKind::CiliumNetworkPolicy if !selector.names_namespace() => {
            selector.in_namespace(&context.namespace)
        }
        PolicyKind::CiliumClusterwideNetworkPolicy if selector.is_empty() => {
            LabelSelector::any_namespace()
        }
        _ => selector,
    })
}

/// The selector of the subject of a rule of this context: never outside the own namespace.
pub(super) fn subject(context: &Context, at: &At<'_>) -> Result<LabelSelector> {
    let selector = selector(at, "")?;
    if context.kind != PolicyKind::CiliumNetworkPolicy {
        return Ok(selector);
    }
    for requirement in &selector.requirements {
        if let Requirement::Label {
            key,
            test: Test::In(values),
            ..
        } = requirement
            && key == NAMESPACE
            && !values.contains(&context.namespace)
        {
            return Err(at.wrong(
                format!("selects in namespace {}", values.join(", ")),
                format!(
                    "pods of the policy's own namespace {}; the subject is always limited to it",
                    context.namespace
                ),
            ));
        }
    }
    Ok(selector.in_namespace(&context.namespace))
}

/// A selector of Kubernetes' own kinds: its keys are labels of the cluster's objects.
pub(super) fn kubernetes(at: &At<'_>) -> Result<LabelSelector> {
    selector(at, "k8s:")
}

/// A selector of namespaces, as one of pods in them; the empty one means all.
pub(super) fn namespaces(at: &At<'_>) -> Result<LabelSelector> {
    let selector = selector(at, &format!("{K8S}:{NAMESPACE_LABELS}"))?;
    if selector.requirements.iter().all(is_negative) {
        // What has no namespace at all must not be meant by "not in namespace x".
        let mut all = LabelSelector::any_namespace();
        all.requirements.extend(selector.requirements);
        return Ok(all);
    }
    Ok(selector)
}

fn is_negative(requirement: &Requirement) -> bool {
    matches!(
        requirement,
        Requirement::Label {
            test: Test::NotIn(_) | Test::Absent,
            ..
        }
    )
}
