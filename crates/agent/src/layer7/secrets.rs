//! What rules take out of Secrets, on their way to the proxy. Where a Secret lacks it, such a rule allows nothing, and the others stay as
//! they are.
use super::plan;
use model::{Contents, Secret};
use policy::{
    resolve::ProxyRules,
    rule::{HeaderRule, HttpRule, Inspection, L7, L7Rules, SecretName},
    secrets::{self, MISSING, Pair},
};
use proxy::config;
use std::collections::BTreeSet;
use tables::{Snapshot, Table};

/// The Secrets that are there.
#[derive(Clone, Copy)]
pub(super) struct Secrets<'a> {
    table: &'a Table<Secret>,
    snapshot: &'a Snapshot,
    /// The only namespace that they are read of.
    namespace: &'a str,
}

impl<'a> Secrets<'a> {
    pub(super) fn new(
        table: &'a Table<Secret>,
        snapshot: &'a Snapshot,
        namespace: &'a str,
    ) -> Self {
        Self {
            table,
            snapshot,
            namespace,
        }
    }

    /// True once it is known which there are.
    pub(super) fn are_known(self) -> bool {
        self.table.initialized(self.snapshot)
    }

    fn get(self, name: &SecretName) -> Result<&'a Contents, String> {
        let key = name.within(self.namespace).to_string();
        let found = self.table.get(self.snapshot, &*key);
        found
            .map(|row| &row.contents)
            .ok_or_else(|| MISSING.to_owned())
    }

    /// Each place of rules that lacks something, in a line for people.
    pub(super) fn lacking<'r>(
        self,
        rules: impl Iterator<Item = &'r ProxyRules>,
    ) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for one in rules {
            let Some(rules) = &one.rules else { continue };
            let placed = L7 {
                path: one.origin.to_string(),
                rules: rules.clone(),
            };
            for needed in placed.secret_uses() {
                let taken = self.get(needed.secret);
                if let Err(why) = taken.and_then(|contents| needed.take(contents)) {
                    lines.insert(needed.problem(&why));
                }
            }
        }
        lines
    }

    /// A rule of HTTP.
    pub(super) fn http(self, rule: &HttpRule) -> config::HttpRule {
        let headers = rule.headers.iter().map(|header| self.header(header));
        match headers.collect() {
            Some(headers) => config::HttpRule {
                path: rule.path.clone(),
                method: rule.method.clone(),
                host: rule.host.clone(),
                headers,
            },
            // It keeps its place, by which people are told of rules, and no request is without a method.
            None => config::HttpRule {
                method: Some(String::new()),
                ..config::HttpRule::default()
            },
        }
    }

    /// None where its Secret lacks the value, and no other stands beside it.
    fn header(self, header: &HeaderRule) -> Option<config::HeaderRule> {
        let own = header.value.clone();
        let value = match &header.secret {
            None => own,
            Some(secret) => {
                let taken = self.get(secret).and_then(secrets::value);
                Some(taken.ok().or(own)?)
            }
        };
        Some(config::HeaderRule {
            name: header.name.clone(),
            value: value.map(config::Value),
            mismatch: plan::mismatch(header.mismatch),
        })
    }

    /// Rules of connections that are decrypted.
    pub(super) fn inspect(self, rules: &Inspection) -> config::Rules {
        // Names of servers of which there are none allow nothing.
        self.inspection(rules)
            .map_or(config::Rules::Tls(Vec::new()), |inspection| {
                config::Rules::Inspect(Box::new(inspection))
            })
    }

    fn inspection(self, rules: &Inspection) -> Result<config::Inspection, String> {
        let terminating = rules.terminating.as_ref();
        let terminating = terminating.map(|tls| secrets::pair(tls, self.get(&tls.secret)?));
        let originating = rules.originating.as_ref();
        let originating = originating.map(|tls| secrets::trust(tls, self.get(&tls.secret)?));
        let names = rules.server_names.iter();
        let http = rules.http.as_ref();
        Ok(config::Inspection {
            server_names: names.map(|name| plan::tls(name)).collect(),
            terminating: terminating.transpose()?.map(certificate),
            originating: originating.transpose()?.map(|trust| config::Trust {
                authorities: config::Value(trust.authorities),
                certificate: trust.certificate.map(certificate),
            }),
            http: http.map(|rules| rules.iter().map(|rule| self.http(rule)).collect()),
        })
    }
}

/// Whether rules need Secrets at all.
pub(super) fn are_needed<'r>(mut rules: impl Iterator<Item = &'r ProxyRules>) -> bool {
    let has_header = |rule: &HttpRule| rule.headers.iter().any(|header| header.secret.is_some());
    rules.any(|one| match one.rules.as_deref() {
        Some(L7Rules::Http(rules)) => rules.iter().any(has_header),
        Some(L7Rules::Inspect(_)) => true,
        _ => false,
    })
}

fn certificate(pair: Pair) -> config::Certificate {
    config::Certificate {
        chain: config::Value(pair.chain),
        key: config::Value(pair.key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::rule::{Direction, Mismatch, Protocol, TlsSecret};

    fn name(name: &str) -> SecretName {
        SecretName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn tls(of: &str) -> Option<TlsSecret> {
        Some(TlsSecret {
            secret: name(of),
            trusted_ca: None,
            certificate: None,
            private_key: None,
        })
    }

    fn of_header(of: &str) -> HttpRule {
        HttpRule {
            headers: vec![HeaderRule {
                name: "x-token".to_owned(),
                secret: Some(name(of)),
                mismatch: Mismatch::Replace,
                ..HeaderRule::default()
            }],
            ..HttpRule::default()
        }
    }

    #[test]
    fn a_rule_allows_nothing_until_its_secret_is_there() {
        let tables = model::Tables::new().unwrap();
        let table = &tables.policies.secrets;
        let rules = ProxyRules {
            direction: Direction::Egress,
            transport: Protocol::Tcp,
            first: 443,
            last: 443,
            peers: None,
            rules: Some(
                L7Rules::Inspect(Box::new(Inspection {
                    server_names: vec!["a.org".to_owned()],
                    terminating: tls("web"),
                    originating: tls("ca"),
                    http: Some(vec![of_header("token"), HttpRule::default()]),
                }))
                .into(),
            ),
            policy: None,
            origin: "CiliumNetworkPolicy shop/p: spec.egress[0].toPorts[0]".into(),
        };
        let put = |name: &str, entries: &[(&str, &str)]| {
            let mut txn = tables.db.write();
            let row = Secret {
                key: format!("cilium-secrets/shop.{name}").into(),
                contents: entries
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), text.as_bytes().into()))
                    .collect(),
            };
            table.insert(&mut txn, row).unwrap();
            txn.commit();
        };
        let work_out = || {
            let snapshot = tables.db.snapshot();
            let secrets = Secrets::new(table, &snapshot, "cilium-secrets");
            let made = plan::ports(&rules, secrets).unwrap().rules;
            (made, secrets.lacking([&rules].into_iter()))
        };
        assert!(are_needed([&rules].into_iter()));
        let (made, lacking) = work_out();
        assert_eq!(made, config::Rules::Tls(Vec::new()));
        let lacking: Vec<String> = lacking.into_iter().collect();
        assert_eq!(lacking.len(), 3, "{lacking:#?}");
        assert_eq!(
            lacking[2],
            "CiliumNetworkPolicy shop/p: spec.egress[0].toPorts[0].terminatingTLS: Secret shop/web: \
             there is no such Secret; the rule allows nothing until there is"
        );
        put("web", &[("tls.crt", "c"), ("tls.key", "k3y")]);
        put("ca", &[("ca.crt", "a")]);
        let (made, lacking) = work_out();
        assert_eq!(lacking.len(), 1, "{lacking:#?}");
        let config::Rules::Inspect(inspection) = &made else {
            panic!("{made:?}");
        };
        let http = inspection.http.as_ref().unwrap();
        assert_eq!(http[0].method.as_deref(), Some(""), "no request has it");
        assert_eq!(http[1], config::HttpRule::default());
        put("token", &[("t", "t0k")]);
        let (made, lacking) = work_out();
        assert!(lacking.is_empty(), "{lacking:#?}");
        let config::Rules::Inspect(inspection) = &made else {
            panic!("{made:?}");
        };
        let header = &inspection.http.as_ref().unwrap()[0].headers[0];
        assert_eq!(header.value, Some(config::Value("t0k".to_owned())));
        let key = &inspection.terminating.as_ref().unwrap().key;
        assert_eq!(key.0, "k3y");
        let shown = format!("{made:?}");
        assert!(!shown.contains("k3y") && !shown.contains("t0k"), "{shown}");
    }
}
