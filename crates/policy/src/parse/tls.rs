//! What a port rule says of TLS.
use super::{Context, Result, cursor::At, ports::Scope};
use crate::rule::{L7, L7Rules, Port, PortMatch, Protocol};
use std::sync::Arc;

const NAME_MAX: usize = 255;

/// True if certificates are given by which the proxy speaks to one end: right, but not enforced yet.
pub(super) fn context(context: &Context, at: &At<'_>, name: &str) -> Result<bool> {
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

pub(super) fn secret(at: &At<'_>) -> Result<()> {
    at.fields(&["namespace", "name"])?;
    at.need("name", "the name of a secret")?.filled()?;
    match at.get("namespace") {
        Some(at) => at.text().map(drop),
        None => Ok(()),
    }
}

/// The servers that clients may name.
pub(super) fn server_names(
    context: &Context,
    at: &At<'_>,
    ports: &[PortMatch],
    scope: Scope,
    kind: Option<&str>,
    terminating: bool,
) -> Result<Option<Arc<L7>>> {
    let Some(names) = at.get("serverNames") else {
        return Ok(None);
    };
    let items = names.items()?;
    if items.is_empty() {
        return Err(names.wrong("is empty", "one name or more"));
    }
    let texts = items.iter().map(server_name).collect::<Result<Vec<_>>>()?;
    let of_tcp = |port: &PortMatch| port.protocol == Some(Protocol::Tcp);
    if !ports.iter().all(of_tcp) {
        return Err(names.wrong(
            "server names with a protocol other than TCP",
            "protocol: TCP",
        ));
    }
    if ports
        .iter()
        .any(|port| matches!(port.port, Port::Range(0, _)))
    {
        return Err(names.wrong("server names for every port", "ports other than 0"));
    }
    if scope.of_nodes {
        return Err(names.wrong("server names in a policy of nodes", "no server names"));
    }
    if kind.is_some() && !(kind == Some("http") && terminating) {
        return Err(names.wrong(
            "server names together with rules",
            "server names alone, or http rules with terminatingTLS",
        ));
    }
    if !context.options.l7 {
        context.off(
            &names,
            "server names are",
            "enable-l7-proxy",
            "no server names",
        );
    }
    Ok(Some(Arc::new(L7 {
        path: names.path(),
        rules: Arc::new(L7Rules::Tls(texts)),
    })))
}

/// A name, or names like it.
fn server_name(at: &At<'_>) -> Result<String> {
    let text = at.filled()?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    let below = text.strip_prefix("**");
    // Two stars stand for any number of labels, and that at the beginning alone.
    let stars = match below {
        Some("") => true,
        Some(rest) => rest.len() > 1 && rest.starts_with('.') && !rest.contains('*'),
        None => !text.contains("**"),
    };
    if text.len() > NAME_MAX || !text.bytes().all(known) || !stars {
        return Err(at.wrong(
            format!("{text:?} is no name of a server"),
            "at most 255 letters, digits, hyphens, underscores, dots and *; ** before all else, as in **.example.org",
        ));
    }
    Ok(text.to_owned())
}
