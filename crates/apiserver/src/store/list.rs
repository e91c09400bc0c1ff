//! Lists, whole or in pages. The pages of one list show one revision.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::object::{Key, Object};
use super::{Filter, Store};

/// How fresh a list has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RevisionMatch {
    /// The newest state.
    #[default]
    Newest,
    /// Not older than this revision.
    NotOlderThan(u64),
    /// Exactly as it was at this revision.
    Exact(u64),
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Which objects.
    pub filter: Filter,
    /// How many at most; the rest is fetched by the token.
    pub limit: Option<usize>,
    /// The token of the page before.
    pub token: Option<String>,
    /// How fresh.
    pub revision: RevisionMatch,
}

/// A list, or one page of it.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects, ordered by namespace and name.
    pub items: Vec<Arc<Object>>,
    /// The revision that the list shows.
    pub revision: u64,
    /// Token for the next page, if there is one.
    pub token: Option<String>,
    /// How many objects follow this page.
    pub remaining: usize,
}

/// What a page token says: opaque to clients.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        text.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let token = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        token.ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: it was not made by this server")
        })
    }
}

impl Store {
    /// Lists objects of a kind.
    pub fn list(&self, kind: &Kind, options: &ListOptions) -> Result<List, ApiError> {
        let token = options.token.as_deref().map(Token::decode).transpose()?;
        let at = match (&token, options.revision) {
            (Some(token), _) => Some(token.revision),
            (None, RevisionMatch::Exact(revision)) => Some(revision),
            (None, RevisionMatch::NotOlderThan(oldest)) if oldest > self.revision() => {
                return Err(ApiError::future_revision(oldest, self.revision()));
            }
            (None, _) => None,
        };
        let (mut items, revision) = match self.named(kind, &options.filter, at) {
            Some(one) => one,
            None => self.matching(kind, &options.filter, at)?,
        };
        if let Some(token) = token {
            let last = Key {
                namespace: token.namespace,
                name: token.name,
            };
            items.retain(|o| Key::of(o) > last);
        }
        Ok(page(items, revision, options.limit))
    }

    /// The quick way to a list of one: its name is known.
    fn named(
        &self,
        kind: &Kind,
        filter: &Filter,
        at: Option<u64>,
    ) -> Option<(Vec<Arc<Object>>, u64)> {
        let name = filter.fields.name()?;
        let namespace = match (&filter.namespace, kind.namespaced) {
            (Some(namespace), true) => namespace.clone(),
            (None, false) => String::new(),
            _ => return None,
        };
        if at.is_some() {
            return None;
        }
        // The revision is read first: what the list shows is never older than it says.
        let revision = self.revision();
        let found = self
            .get(
                kind,
                &Key {
                    namespace,
                    name: name.to_owned(),
                },
            )
            .ok();
        Some((
            found
                .into_iter()
                .filter(|o| filter.matches(kind, o))
                .collect(),
            revision,
        ))
    }
}

fn page(mut items: Vec<Arc<Object>>, revision: u64, limit: Option<usize>) -> List {
    let limit = limit.filter(|l| *l > 0).unwrap_or(usize::MAX);
    let remaining = items.len().saturating_sub(limit);
    items.truncate(limit);
    let token = items.last().filter(|_| remaining > 0).map(|last| {
        let key = Key::of(last);
        Token {
            revision,
            namespace: key.namespace,
            name: key.name,
        }
        .encode()
    });
    List {
        items,
        revision,
        token,
        remaining,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_survive_the_trip(revision: u64, namespace in "\\PC{0,20}", name in "\\PC{0,20}") {
            let token = Token { revision, namespace, name };
            prop_assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }

        #[test]
        fn foreign_tokens_are_refused(text in "\\PC{0,40}", hex in "[0-9a-f]{0,40}") {
            prop_assert!(Token::decode(&text).is_err());
            prop_assert!(Token::decode(&hex).is_err());
        }
    }
}
