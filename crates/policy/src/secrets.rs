//! What rules take out of Secrets. Nothing of it is in an error or in what `Debug` shows.
use crate::rule::{Purpose, SecretName, SecretUse, TlsSecret};
use model::Contents;
use std::fmt;

/// A certificate, with those between it and an authority, and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificates.
    pub chain: String,
    /// The private key.
    pub key: String,
}

/// By what servers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Certificates of authorities, as PEM.
    pub authorities: String,
    /// What is shown to servers that ask for it.
    pub certificate: Option<Pair>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a certificate with its key)")
    }
}

/// What a place of a policy takes out of its Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// To be taken for a server.
    Pair(Pair),
    /// To believe servers.
    Trust(Trust),
    /// A header has a value.
    Value,
}

impl SecretName {
    /// Where agents find it: in the one namespace that they read Secrets of. Others' are copied there, under a name that tells where
    /// they come from; no namespace has a dot in its name.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        let name = match self.namespace == namespace {
            true => self.name.clone(),
            false => format!("{}.{}", self.namespace, self.name),
        };
        Self {
            namespace: namespace.to_owned(),
            name,
        }
    }
}

impl SecretUse<'_> {
    /// Takes out what is needed.
    ///
    /// # Errors
    /// What the Secret lacks.
    pub fn take(&self, contents: &Contents) -> Result<Taken, String> {
        match self.purpose {
            Purpose::Terminating(tls) => pair(tls, contents).map(Taken::Pair),
            Purpose::Originating(tls) => trust(tls, contents).map(Taken::Trust),
            Purpose::Header => value(contents).map(|_| Taken::Value),
        }
    }

    /// One line for people: where, which Secret, what is wrong, and what follows.
    #[must_use]
    pub fn problem(&self, why: &str) -> String {
        let (path, secret) = (&self.path, self.secret);
        format!("{path}: Secret {secret}: {why}; the rule allows nothing until there is")
    }
}

/// Why nothing can be taken out of a Secret that is not there.
pub const MISSING: &str = "there is no such Secret";

/// By what the proxy is taken for a server.
///
/// # Errors
/// What the Secret lacks.
pub fn pair(tls: &TlsSecret, contents: &Contents) -> Result<Pair, String> {
    Ok(Pair {
        chain: text(contents, name(&tls.certificate, "tls.crt"))?,
        key: text(contents, name(&tls.private_key, "tls.key"))?,
    })
}

/// By what servers are believed. A certificate to show them may be absent where the rule does not name it.
///
/// # Errors
/// What the Secret lacks.
pub fn trust(tls: &TlsSecret, contents: &Contents) -> Result<Trust, String> {
    let named = tls.certificate.is_some() || tls.private_key.is_some();
    let has = |own: &Option<String>, usual| contents.get(name(own, usual)).is_some();
    let both = has(&tls.certificate, "tls.crt") && has(&tls.private_key, "tls.key");
    Ok(Trust {
        authorities: text(contents, name(&tls.trusted_ca, "ca.crt"))?,
        certificate: match named || both {
            true => Some(pair(tls, contents)?),
            false => None,
        },
    })
}

/// The value of a header: the only entry.
///
/// # Errors
/// There is none, or more than one, or it cannot be the value of a header.
pub fn value(contents: &Contents) -> Result<String, String> {
    let mut names = contents.names();
    let (Some(only), None) = (names.next(), names.next()) else {
        return Err("there is not exactly one entry in it".to_owned());
    };
    let text = text(contents, only)?;
    let known = |byte: u8| (b' '..=b'~').contains(&byte) || byte == b'\t';
    match text.bytes().all(known) {
        true => Ok(text),
        false => Err(format!(
            "{only:?} in it cannot stand in a header, which has visible ASCII and no new line"
        )),
    }
}

fn name<'a>(own: &'a Option<String>, usual: &'static str) -> &'a str {
    own.as_deref().unwrap_or(usual)
}

fn text(contents: &Contents, name: &str) -> Result<String, String> {
    let bytes = contents.get(name).filter(|bytes| !bytes.is_empty());
    let bytes = bytes.ok_or_else(|| format!("there is no {name} in it"))?;
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{name} in it is no text"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(entries: &[(&str, &str)]) -> Contents {
        let entries = entries.iter();
        entries
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().into()))
            .collect()
    }

    fn tls(own: Option<&str>) -> TlsSecret {
        TlsSecret {
            secret: SecretName {
                namespace: "shop".to_owned(),
                name: "tls.web".to_owned(),
            },
            trusted_ca: own.map(str::to_owned),
            certificate: own.map(str::to_owned),
            private_key: own.map(str::to_owned),
        }
    }

    #[test]
    fn entries_have_usual_names_and_others() {
        let whole = contents(&[
            ("tls.crt", "c"),
            ("tls.key", "k3y"),
            ("ca.crt", "a"),
            ("x", "y"),
        ]);
        let usual = pair(&tls(None), &whole).unwrap();
        assert_eq!((&*usual.chain, &*usual.key), ("c", "k3y"));
        assert_eq!(pair(&tls(Some("x")), &whole).unwrap().chain, "y");
        let lacking = contents(&[("tls.crt", "c"), ("ca.crt", "a")]);
        assert_eq!(
            pair(&tls(None), &lacking).unwrap_err(),
            "there is no tls.key in it"
        );
        let trusted = trust(&tls(None), &whole).unwrap();
        assert!(trusted.authorities == "a" && trusted.certificate == Some(usual));
        assert_eq!(trust(&tls(None), &lacking).unwrap().certificate, None);
        assert!(trust(&tls(Some("z")), &whole).is_err());
        let shown = format!("{trusted:?} {whole:?}");
        assert!(!shown.contains("k3y"), "{shown}");
    }

    #[test]
    fn a_header_takes_the_only_entry() {
        assert_eq!(value(&contents(&[("a", "t0k")])), Ok("t0k".to_owned()));
        for bad in [&[("a", "1"), ("b", "2")][..], &[], &[("a", "1\n")]] {
            assert!(value(&contents(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn agents_find_all_in_one_namespace() {
        let within = |namespace: &str| tls(None).secret.within(namespace).to_string();
        assert_eq!(within("cilium-secrets"), "cilium-secrets/shop.tls.web");
        assert_eq!(within("shop"), "shop/tls.web");
    }
}
