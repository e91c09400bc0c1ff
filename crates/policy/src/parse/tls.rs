//! What a port rule says of TLS.
use super::{Context, Result, cursor::At, l7::optional, ports::Scope};
use crate::rule::{Inspection, L7, L7Rules, Port, PortMatch, Protocol, SecretName, TlsSecret};
use std::sync::Arc;

const NAME_MAX: usize = 255;

/// By what the proxy speaks to one end.
fn context(context: &Context, at: &At<'_>, name: &'static str) -> Result<Option<TlsSecret>> {
    let Some(at) = at.get(name) else {
        return Ok(None);
    };
    at.fields(&["secret", "trustedCA", "certificate", "privateKey"])?;
    let needed = at.need("secret", "the secret that holds the certificate")?;
    let tls = TlsSecret {
        secret: secret(context, &needed)?,
        trusted_ca: optional(&at, "trustedCA")?,
        certificate: optional(&at, "certificate")?,
        private_key: optional(&at, "privateKey")?,
    };
    if let (Some(at), "terminatingTLS") = (at.get("trustedCA"), name) {
        context.not_enforced(&at, "asking clients for certificates is", "no trustedCA");
    }
    Ok(Some(tls))
}

/// A Secret; of the policy's namespace where none is given.
pub(super) fn secret(context: &Context, at: &At<'_>) -> Result<SecretName> {
    at.fields(&["namespace", "name"])?;
    let name = at.need("name", "the name of a secret")?;
    let namespace = match at.get("namespace") {
        Some(at) if !at.text()?.is_empty() => part(&at)?,
        _ if context.namespace.is_empty() => {
            return Err(at.wrong("names no namespace", "namespace, and name"));
        }
        _ => context.namespace.clone(),
    };
    Ok(SecretName {
        namespace,
        name: part(&name)?,
    })
}

/// A name as objects have them.
fn part(at: &At<'_>) -> Result<String> {
    let text = at.filled()?;
    let known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if text.len() > 253 || !text.bytes().all(known) {
        return Err(at.wrong(
            format!("{text:?} is no name of an object"),
            "at most 253 small letters, digits, hyphens and dots",
        ));
    }
    Ok(text.to_owned())
}

/// Rules of TLS: servers that clients may name, and certificates for connections that are decrypted, with the rules of their requests.
/// `http` are the rules that stand beside, of whatever kind.
pub(super) fn rules(
    context: &Context,
    at: &At<'_>,
    ports: &[PortMatch],
    scope: Scope,
    kind: Option<&str>,
    http: Option<Arc<L7>>,
) -> Result<Option<Arc<L7>>> {
    let terminating = self::context(context, at, "terminatingTLS")?;
    let originating = self::context(context, at, "originatingTLS")?;
    let names = server_names(context, at, ports, scope, kind, terminating.is_some())?;
    if let (None, Some(_), Some(at)) = (&terminating, &originating, at.get("serverNames")) {
        return Err(at.wrong(
            "server names of clients that speak without TLS",
            "terminatingTLS, too, or no server names",
        ));
    }
    if terminating.is_none() && originating.is_none() {
        let of_names = names.map(|(path, names)| L7 {
            path,
            rules: Arc::new(L7Rules::Tls(names)),
        });
        return Ok(http.or(of_names.map(Arc::new)));
    }
    for name in ["terminatingTLS", "originatingTLS"] {
        if let Some(at) = at.get(name) {
            check_place(context, &at, name, ports, scope)?;
            if kind.is_some_and(|kind| kind != "http") {
                let what = format!("{name} together with rules other than http");
                return Err(at.wrong(what, "http rules, or no rules"));
            }
        }
    }
    let inspection = Inspection {
        server_names: names.map(|(_, names)| names).unwrap_or_default(),
        terminating,
        originating,
        http: http.and_then(|l7| match &*l7.rules {
            L7Rules::Http(rules) => Some(rules.clone()),
            _ => None,
        }),
    };
    Ok(Some(Arc::new(L7 {
        path: at.path(),
        rules: Arc::new(L7Rules::Inspect(Box::new(inspection))),
    })))
}

/// Which ports TLS may be spoken about at.
fn check_place(
    context: &Context,
    at: &At<'_>,
    what: &str,
    ports: &[PortMatch],
    scope: Scope,
) -> Result<()> {
    let of_tcp = |port: &PortMatch| port.protocol == Some(Protocol::Tcp);
    if !ports.iter().all(of_tcp) {
        let what = format!("{what} with a protocol other than TCP");
        return Err(at.wrong(what, "protocol: TCP"));
    }
    let every = |port: &PortMatch| matches!(port.port, Port::Range(0, _));
    if ports.iter().any(every) {
        return Err(at.wrong(format!("{what} for every port"), "ports other than 0"));
    }
    if scope.of_nodes {
        return Err(at.wrong(format!("{what} in a policy of nodes"), format!("no {what}")));
    }
    if !context.options.l7 {
        context.off(
            at,
            &format!("{what}:"),
            "enable-l7-proxy",
            &format!("no {what}"),
        );
    }
    Ok(())
}

/// The servers that clients may name, and where that stands.
fn server_names(
    context: &Context,
    at: &At<'_>,
    ports: &[PortMatch],
    scope: Scope,
    kind: Option<&str>,
    terminating: bool,
) -> Result<Option<(String, Vec<String>)>> {
    let Some(names) = at.get("serverNames") else {
        return Ok(None);
    };
    let items = names.items()?;
    if items.is_empty() {
        return Err(names.wrong("is empty", "one name or more"));
    }
    let texts = items.iter().map(server_name).collect::<Result<Vec<_>>>()?;
    check_place(context, &names, "server names", ports, scope)?;
    if kind.is_some() && !(kind == Some("http") && terminating) {
        return Err(names.wrong(
            "server names together with rules",
            "server names alone, or http rules with terminatingTLS",
        ));
    }
    Ok(Some((names.path(), texts)))
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
