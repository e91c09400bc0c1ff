//! What rules say of TLS that ends at the proxy, and which Secrets they need.
use super::{HttpRule, L7, L7Rules, Policy, Traffic};
use std::{fmt, sync::Arc};

/// A Secret of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// By what the proxy speaks to one end of a connection: a Secret, and what is what in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSecret {
    /// The Secret.
    pub secret: SecretName,
    /// Name of the authorities in it; none: `ca.crt`.
    pub trusted_ca: Option<String>,
    /// Name of the certificate in it; none: `tls.crt`.
    pub certificate: Option<String>,
    /// Name of the private key in it; none: `tls.key`.
    pub private_key: Option<String>,
}

/// Connections whose TLS ends at the proxy, or begins there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The servers that clients may want, as in [`L7Rules::Tls`]; empty: any.
    pub server_names: Vec<String>,
    /// By what clients take the proxy for the server; none: they speak without TLS.
    pub terminating: Option<TlsSecret>,
    /// By what servers are believed; none: they are spoken to without TLS.
    pub originating: Option<TlsSecret>,
    /// What may be asked for; none: everything.
    pub http: Option<Vec<HttpRule>>,
}

/// A place in a policy that needs a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse<'a> {
    /// Where: `spec.egress[0].toPorts[0].terminatingTLS`.
    pub path: String,
    /// The Secret.
    pub secret: &'a SecretName,
    /// What for.
    pub purpose: Purpose<'a>,
}

/// What a Secret is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// To be taken for the server.
    Terminating(&'a TlsSecret),
    /// To believe the server.
    Originating(&'a TlsSecret),
    /// The value of a header.
    Header,
}

impl Policy {
    /// All places that need a Secret without which they allow nothing.
    #[must_use]
    pub fn secret_uses(&self) -> Vec<SecretUse<'_>> {
        let sections = self.rules.iter().flat_map(|rule| &rule.sections);
        let entries = sections.flat_map(|section| &section.entries);
        let mut parts: Vec<&Arc<L7>> = Vec::new();
        for entry in entries {
            let Traffic::Ports(ports) = &entry.traffic else {
                continue;
            };
            for l7 in ports.iter().filter_map(|port| port.l7.as_ref()) {
                // All ports of an item share it.
                if !parts.iter().any(|known| Arc::ptr_eq(known, l7)) {
                    parts.push(l7);
                }
            }
        }
        parts.into_iter().flat_map(|l7| l7.secret_uses()).collect()
    }
}

impl L7 {
    /// All places that need a Secret without which they allow nothing.
    #[must_use]
    pub fn secret_uses(&self) -> Vec<SecretUse<'_>> {
        match &*self.rules {
            L7Rules::Http(rules) => of_headers(&self.path, rules).collect(),
            L7Rules::Inspect(rules) => {
                let terminating = rules.terminating.as_ref().map(|tls| SecretUse {
                    path: format!("{}.terminatingTLS", self.path),
                    secret: &tls.secret,
                    purpose: Purpose::Terminating(tls),
                });
                let originating = rules.originating.as_ref().map(|tls| SecretUse {
                    path: format!("{}.originatingTLS", self.path),
                    secret: &tls.secret,
                    purpose: Purpose::Originating(tls),
                });
                let path = format!("{}.rules.http", self.path);
                let http = rules.http.as_deref().unwrap_or_default();
                let headers = of_headers(&path, http);
                terminating
                    .into_iter()
                    .chain(originating)
                    .chain(headers)
                    .collect()
            }
            L7Rules::Kafka(_) | L7Rules::Dns(_) | L7Rules::Tls(_) => Vec::new(),
        }
    }
}

fn of_headers<'a>(path: &str, rules: &'a [HttpRule]) -> impl Iterator<Item = SecretUse<'a>> {
    let rules = rules.iter().enumerate();
    rules.flat_map(move |(index, rule)| {
        let path = format!("{path}[{index}]");
        let secrets = rule.headers.iter().filter(|header| header.value.is_none());
        let secrets = secrets.filter_map(|header| header.secret.as_ref());
        secrets.map(move |secret| SecretUse {
            path: format!("{path}.headerMatches"),
            secret,
            purpose: Purpose::Header,
        })
    })
}
