//! What a port rule says above the transport: read and checked, so that an author hears of mistakes, but not enforced yet.
use super::{Context, Result, cursor::At, ports::Scope};
use crate::rule::{Direction, Port, PortMatch, Protocol};
use regex::Regex;

const NAME_MAX: usize = 255;

/// Checks all that is not ports, and notes that it is not enforced.
pub(super) fn check(
    context: &Context,
    at: &At<'_>,
    ports: &[PortMatch],
    scope: Scope,
) -> Result<()> {
    let rules = at
        .get("rules")
        .filter(|at| at.value != &serde_json::json!({}));
    let kind = rules.as_ref().map(|at| rules_kind(at)).transpose()?;
    if let (Some(at), Some(kind)) = (&rules, kind) {
        check_place(at, kind, ports, scope)?;
        rules_of(at, kind)?;
        context.not_enforced(at, "rules above the transport are", "toPorts without rules");
    }
    let terminating = tls(context, at, "terminatingTLS")?;
    tls(context, at, "originatingTLS")?;
    server_names(context, at, ports, kind, terminating)?;
    listener(context, at, scope, kind.is_some())
}

fn rules_kind(at: &At<'_>) -> Result<&'static str> {
    at.fields(&["http", "kafka", "dns", "l7proto", "l7"])?;
    let kind = at.exactly_one(&["http", "kafka", "dns", "l7proto"])?;
    if let Some(l7) = at.get("l7")
        && kind != "l7proto"
    {
        return Err(l7.wrong(format!("stands beside {kind}"), "l7 with l7proto"));
    }
    Ok(kind)
}

/// Which ports rules of this kind may stand with.
fn check_place(at: &At<'_>, kind: &str, ports: &[PortMatch], scope: Scope) -> Result<()> {
    if scope.of_nodes && !(kind == "dns" && scope.direction == Direction::Egress) {
        return Err(at.wrong(
            format!("{kind} rules in a policy of nodes"),
            "dns rules of egress, or none",
        ));
    }
    if kind == "dns" && scope.direction == Direction::Ingress {
        return Err(at.wrong("dns rules of ingress", "dns rules of egress"));
    }
    for port in ports {
        match &port.port {
            Port::Range(0, _) => {
                return Err(at.wrong("rules for every port", "ports other than 0"));
            }
            Port::Range(first, last) if kind == "dns" && first != last => {
                return Err(at.wrong(
                    "dns rules with a range of ports",
                    "single ports, such as 53",
                ));
            }
            _ => {}
        }
        if kind != "dns" && port.protocol != Some(Protocol::Tcp) {
            return Err(at.wrong(
                format!("{kind} rules with a protocol other than TCP"),
                "protocol: TCP",
            ));
        }
    }
    Ok(())
}

fn rules_of(at: &At<'_>, kind: &str) -> Result<()> {
    let chosen = at.need(kind, "rules")?;
    if kind == "l7proto" {
        chosen.filled()?;
        for item in at.list("l7")?.unwrap_or_default() {
            for (_, value) in item.members()? {
                value.text()?;
            }
        }
        return Ok(());
    }
    for item in chosen.items()? {
        match kind {
            "http" => http(&item)?,
            "kafka" => kafka(&item)?,
            _ => name(&item)?,
        }
    }
    Ok(())
}

fn http(at: &At<'_>) -> Result<()> {
    at.fields(&["path", "method", "host", "headers", "headerMatches"])?;
    for field in ["path", "method", "host"] {
        if let Some(at) = at.get(field) {
            let text = at.text()?;
            if Regex::new(text).is_err() {
                return Err(at.wrong(
                    format!("{text:?} is no regular expression"),
                    "an extended regular expression that matches the whole value",
                ));
            }
        }
    }
    for header in at.list("headers")?.unwrap_or_default() {
        header.filled()?;
    }
    for header in at.list("headerMatches")?.unwrap_or_default() {
        header.fields(&["name", "value", "secret", "mismatch"])?;
        header.need("name", "the name of a header")?.filled()?;
        if let Some(at) = header.get("mismatch") {
            at.one_of(&["", "LOG", "ADD", "DELETE", "REPLACE"])?;
        }
        if let Some(at) = header.get("value") {
            at.text()?;
        }
        if let Some(at) = header.get("secret") {
            secret(&at)?;
        }
    }
    Ok(())
}

fn kafka(at: &At<'_>) -> Result<()> {
    at.fields(&["role", "apiKey", "apiVersion", "clientID", "topic"])?;
    if let Some(role) = at.get("role") {
        role.one_of(&["produce", "consume"])?;
        if at.get("apiKey").is_some() {
            return Err(at.wrong("role and apiKey exclude each other", "one of them"));
        }
    }
    for field in ["apiKey", "clientID", "topic"] {
        if let Some(at) = at.get(field) {
            at.text()?;
        }
    }
    if let Some(at) = at.get("apiVersion")
        && at.text()?.parse::<i16>().is_err()
    {
        return Err(at.wrong("is no version", "a number as text, such as \"2\""));
    }
    Ok(())
}

/// `{matchName}` or `{matchPattern}`, as in DNS rules and `toFQDNs`.
pub(super) fn name(at: &At<'_>) -> Result<()> {
    at.fields(&["matchName", "matchPattern"])?;
    let choice = at.exactly_one(&["matchName", "matchPattern"])?;
    let at = at.need(choice, "a name")?;
    let text = at.filled()?;
    let star = choice == "matchPattern";
    let known =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || (star && byte == b'*');
    if text.len() > NAME_MAX || !text.bytes().all(known) {
        let accepted = if star {
            "at most 255 letters, digits, hyphens, underscores, dots and *"
        } else {
            "at most 255 letters, digits, hyphens, underscores and dots"
        };
        return Err(at.wrong(format!("{text:?} is no name"), accepted));
    }
    Ok(())
}

fn tls(context: &Context, at: &At<'_>, name: &str) -> Result<bool> {
    let Some(at) = at.get(name) else {
        return Ok(false);
    };
    at.fields(&["secret", "trustedCA", "certificate", "privateKey"])?;
    secret(&at.need("secret", "the secret that holds the certificate")?)?;
    for field in ["trustedCA", "certificate", "privateKey"] {
        if let Some(at) = at.get(field) {
            at.text()?;
        }
    }
    context.not_enforced(&at, "inspection of TLS is", "no TLS context");
    Ok(true)
}

fn secret(at: &At<'_>) -> Result<()> {
    at.fields(&["namespace", "name"])?;
    at.need("name", "the name of a secret")?.filled()?;
    match at.get("namespace") {
        Some(at) => at.text().map(drop),
        None => Ok(()),
    }
}

fn server_names(
    context: &Context,
    at: &At<'_>,
    ports: &[PortMatch],
    kind: Option<&str>,
    terminating: bool,
) -> Result<()> {
    let Some(names) = at.get("serverNames") else {
        return Ok(());
    };
    let items = names.items()?;
    if items.is_empty() {
        return Err(names.wrong("is empty", "one name or more"));
    }
    for item in &items {
        item.filled()?;
    }
    if ports
        .iter()
        .any(|port| port.protocol != Some(Protocol::Tcp))
    {
        return Err(names.wrong(
            "server names with a protocol other than TCP",
            "protocol: TCP",
        ));
    }
    if kind.is_some() && !(kind == Some("http") && terminating) {
        return Err(names.wrong(
            "server names together with rules",
            "server names alone, or http rules with terminatingTLS",
        ));
    }
    context.not_enforced(&names, "server names are", "no server names");
    Ok(())
}

fn listener(context: &Context, at: &At<'_>, scope: Scope, has_rules: bool) -> Result<()> {
    let Some(listener) = at.get("listener") else {
        return Ok(());
    };
    listener.fields(&["envoyConfig", "name", "priority"])?;
    let config = listener.need("envoyConfig", "a reference {kind, name}")?;
    config.fields(&["kind", "name"])?;
    if let Some(at) = config.get("kind") {
        at.one_of(&["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"])?;
    }
    config.need("name", "the name of the object")?.filled()?;
    listener
        .need("name", "the name of the listener")?
        .filled()?;
    if let Some(at) = listener.get("priority") {
        at.number(0, 100)?;
    }
    if scope.direction == Direction::Ingress {
        return Err(listener.wrong("a listener of ingress", "a listener of egress"));
    }
    if has_rules {
        return Err(listener.wrong("a listener together with rules", "one of them"));
    }
    context.not_enforced(&listener, "listeners are", "no listener");
    Ok(())
}
