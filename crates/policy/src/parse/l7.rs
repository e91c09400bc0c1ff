//! What a port rule says above the transport.
use super::{Context, Result, cursor::At, ports::Scope, tls};
use crate::rule::{
    Direction, DnsRule, HeaderRule, HttpRule, KafkaRole, KafkaRule, L7, L7Rules, Mismatch, Port,
    PortMatch, Protocol,
};
use abi::proxy::KAFKA_REQUESTS;
use regex::RegexBuilder;
use std::sync::Arc;

const NAME_MAX: usize = 255;
/// Largest regular expression, compiled; the proxy takes a little more.
const REGEX_MAX: usize = 7 << 20;

/// Reads all that is not ports: rules, and what is right but not enforced yet.
pub(super) fn read(
    context: &Context,
    at: &At<'_>,
    ports: &[PortMatch],
    scope: Scope,
) -> Result<Option<Arc<L7>>> {
    let rules = at
        .get("rules")
        .filter(|at| at.value != &serde_json::json!({}));
    let kind = rules.as_ref().map(|at| rules_kind(at)).transpose()?;
    let mut l7 = None;
    if let (Some(at), Some(kind)) = (&rules, kind) {
        check_place(at, kind, ports, scope)?;
        l7 = rules_of(context, at, kind)?;
        check_enforced(context, at, kind, ports, scope);
    }
    let l7 = tls::rules(context, at, ports, scope, kind, l7)?;
    listener(context, at, scope, kind.is_some() || l7.is_some())?;
    Ok(l7)
}

/// Notes rules that would have no effect on this node.
fn check_enforced(context: &Context, at: &At<'_>, kind: &str, ports: &[PortMatch], scope: Scope) {
    if !context.options.l7 {
        return context.off(
            at,
            "rules above the transport are",
            "enable-l7-proxy",
            "toPorts without rules",
        );
    }
    if scope.of_nodes {
        context.not_enforced(at, "rules above the transport of nodes are", "no rules");
    }
    if ports
        .iter()
        .any(|port| port.protocol == Some(Protocol::Sctp))
    {
        let what = format!("{kind} rules over SCTP are");
        context.not_enforced(at, &what, "protocol: UDP, TCP or ANY");
    }
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

fn rules_of(context: &Context, at: &At<'_>, kind: &'static str) -> Result<Option<Arc<L7>>> {
    let chosen = at.need(kind, "rules")?;
    if kind == "l7proto" {
        chosen.filled()?;
        for item in at.list("l7")?.unwrap_or_default() {
            for (_, value) in item.members()? {
                value.text()?;
            }
        }
        context.not_enforced(&chosen, "rules of other parsers are", "http, kafka, dns");
        return Ok(None);
    }
    let items = chosen.items()?;
    if items.is_empty() {
        return Err(chosen.wrong(
            "is empty",
            "one rule or more, {} for every request; or toPorts without rules",
        ));
    }
    let items = items.iter();
    let rules = match kind {
        "http" => L7Rules::Http(items.map(|at| http(context, at)).collect::<Result<_>>()?),
        "kafka" => L7Rules::Kafka(items.map(kafka).collect::<Result<_>>()?),
        _ => L7Rules::Dns(items.map(name).collect::<Result<_>>()?),
    };
    Ok(Some(Arc::new(L7 {
        path: chosen.path(),
        rules: Arc::new(rules),
    })))
}

/// A string; none where it is absent or empty.
pub(super) fn optional(at: &At<'_>, field: &'static str) -> Result<Option<String>> {
    let text = at.get(field).map(|at| at.text()).transpose()?;
    Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
}

fn http(context: &Context, at: &At<'_>) -> Result<HttpRule> {
    at.fields(&["path", "method", "host", "headers", "headerMatches"])?;
    let mut headers = Vec::new();
    for header in at.list("headers")?.unwrap_or_default() {
        headers.push(header_line(&header)?);
    }
    for header in at.list("headerMatches")?.unwrap_or_default() {
        headers.push(header_match(context, &header)?);
    }
    Ok(HttpRule {
        path: expression(at, "path")?,
        method: expression(at, "method")?,
        host: expression(at, "host")?,
        headers,
    })
}

fn expression(at: &At<'_>, field: &'static str) -> Result<Option<String>> {
    let Some(text) = optional(at, field)? else {
        return Ok(None);
    };
    let built = RegexBuilder::new(&text).size_limit(REGEX_MAX).build();
    let what = match built {
        Ok(_) => return Ok(Some(text)),
        Err(regex::Error::CompiledTooBig(_)) => "is too large a regular expression",
        Err(_) => "is no regular expression",
    };
    let at = at.need(field, "a string")?;
    Err(at.wrong(
        format!("{text:?} {what}"),
        "an extended regular expression that matches the whole value",
    ))
}

/// `Name`, or `Name: value`.
fn header_line(at: &At<'_>) -> Result<HeaderRule> {
    let text = at.filled()?;
    let (name, value) = match text.split_once(':').or_else(|| text.split_once(' ')) {
        Some((name, value)) => (
            name.trim(),
            Some(value.trim()).filter(|value| !value.is_empty()),
        ),
        None => (text, None),
    };
    Ok(HeaderRule {
        name: header_name(at, name)?,
        value: value.map(|value| header_value(at, value)).transpose()?,
        secret: None,
        mismatch: Mismatch::Reject,
    })
}

fn header_match(context: &Context, at: &At<'_>) -> Result<HeaderRule> {
    at.fields(&["name", "value", "secret", "mismatch"])?;
    let name = at.need("name", "the name of a header")?;
    let name = header_name(&name, name.filled()?)?;
    let mismatch = match at.get("mismatch") {
        None => Mismatch::Reject,
        Some(at) => match at.one_of(&["", "LOG", "ADD", "DELETE", "REPLACE"])? {
            "LOG" => Mismatch::Log,
            "ADD" => Mismatch::Add,
            "DELETE" => Mismatch::Delete,
            "REPLACE" => Mismatch::Replace,
            _ => Mismatch::Reject,
        },
    };
    let value = match at.get("value") {
        Some(value) if !value.text()?.is_empty() => Some(header_value(&value, value.text()?)?),
        _ => None,
    };
    let secret = at.get("secret");
    let secret = secret.map(|at| tls::secret(context, &at)).transpose()?;
    if value.is_none() && secret.is_none() && matches!(mismatch, Mismatch::Add | Mismatch::Replace)
    {
        return Err(at.wrong("there is no value to be put in", "value or secret"));
    }
    Ok(HeaderRule {
        name,
        value,
        secret,
        mismatch,
    })
}

fn header_name(at: &At<'_>, name: &str) -> Result<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(known) {
        return Err(at.wrong(
            format!("{name:?} is no name of a header"),
            "a name such as X-Team, or \"X-Team: value\"",
        ));
    }
    Ok(name.to_owned())
}

fn header_value(at: &At<'_>, value: &str) -> Result<String> {
    let known = |byte: u8| (b' '..=b'~').contains(&byte) || byte == b'\t';
    if !value.bytes().all(known) {
        return Err(at.wrong("the value cannot stand in a header", "visible ASCII"));
    }
    Ok(value.to_owned())
}

fn kafka(at: &At<'_>) -> Result<KafkaRule> {
    at.fields(&["role", "apiKey", "apiVersion", "clientID", "topic"])?;
    let role = match at.get("role") {
        None => None,
        Some(at) => Some(match at.one_of(&["produce", "consume"])? {
            "produce" => KafkaRole::Produce,
            _ => KafkaRole::Consume,
        }),
    };
    let api_key = optional(at, "apiKey")?.map(|text| text.to_ascii_lowercase());
    if let Some(name) = &api_key {
        if role.is_some() {
            return Err(at.wrong("role and apiKey exclude each other", "one of them"));
        }
        if !KAFKA_REQUESTS.contains(&name.as_str()) {
            let at = at.need("apiKey", "a request")?;
            return Err(at.wrong(format!("{name:?} is no request"), KAFKA_REQUESTS.join(", ")));
        }
    }
    let api_version = match optional(at, "apiVersion")? {
        None => None,
        Some(text) => Some(text.parse::<i16>().map_err(|_| {
            at.wrong(
                format!("apiVersion {text:?} is no version"),
                "a number as text, such as \"2\"",
            )
        })?),
    };
    Ok(KafkaRule {
        role,
        api_key,
        api_version,
        client_id: optional(at, "clientID")?,
        topic: topic(at)?,
    })
}

fn topic(at: &At<'_>) -> Result<Option<String>> {
    let Some(text) = optional(at, "topic")? else {
        return Ok(None);
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.len() > NAME_MAX || !text.bytes().all(known) {
        let at = at.need("topic", "a topic")?;
        return Err(at.wrong(
            format!("{text:?} is no topic"),
            "at most 255 letters, digits, hyphens, underscores and dots",
        ));
    }
    Ok(Some(text))
}

/// `{matchName}` or `{matchPattern}`, as in DNS rules and `toFQDNs`.
pub(super) fn name(at: &At<'_>) -> Result<DnsRule> {
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
    Ok(if star {
        DnsRule::MatchPattern(text.to_owned())
    } else {
        DnsRule::MatchName(text.to_owned())
    })
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
