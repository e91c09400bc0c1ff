//! The rules of both ends of a connection: each must allow what is asked for.
use super::{
    Decision, Ends, Greeting, HttpRequest, KafkaRequest, Outcome, Policy, Scope, Selection,
};
use crate::config::Direction;
use std::borrow::Cow;

/// The rules that hold for one connection, the client's first.
#[derive(Clone, Debug)]
pub struct Selections {
    version: u64,
    each: Vec<Selection>,
}

impl Policy {
    /// The rules of all scopes together; without any, nothing is allowed.
    #[must_use]
    pub fn select_all(&self, scopes: impl IntoIterator<Item = Scope>) -> Selections {
        Selections {
            version: self.version(),
            each: scopes
                .into_iter()
                .map(|scope| self.select(&scope))
                .collect(),
        }
    }
}

impl Selections {
    /// The snapshot that they were made of.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether an HTTP request may pass. The server's rules see it as the client's have changed it.
    #[must_use]
    pub fn http(&self, request: &HttpRequest<'_>) -> Decision {
        let mut headers = Cow::Borrowed(request.headers);
        self.decide(|selection| {
            let decision = selection.http(&HttpRequest {
                headers: &headers,
                ..*request
            });
            for change in &decision.changes {
                change.apply(headers.to_mut());
            }
            decision
        })
    }

    /// Whether a name in its canonical form may be asked for.
    #[must_use]
    pub fn dns(&self, name: &str) -> Decision {
        self.decide(|selection| selection.dns(name))
    }

    /// Whether a connection that begins so may pass.
    #[must_use]
    pub fn greeting(&self, greeting: &Greeting) -> Decision {
        self.decide(|selection| selection.greeting(greeting))
    }

    /// The rules that such a beginning meets.
    #[must_use]
    pub fn greeted(self, greeting: &Greeting) -> Self {
        let each = self.each.into_iter();
        Self {
            version: self.version,
            each: each.map(|one| one.greeted(greeting)).collect(),
        }
    }

    /// What the proxy is to both ends of a connection that begins so; the client's rules come first.
    #[must_use]
    pub fn ends(&self, greeting: &Greeting) -> Option<Ends> {
        self.each.iter().find_map(|one| one.ends(greeting))
    }

    /// Whether everything passes, whatever it is.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        !self.each.is_empty() && self.each.iter().all(Selection::is_unlimited)
    }

    /// Whether a Kafka request may pass.
    #[must_use]
    pub fn kafka(&self, request: &KafkaRequest<'_>) -> Decision {
        self.decide(|selection| selection.kafka(request))
    }

    fn decide(&self, mut ask: impl FnMut(&Selection) -> Decision) -> Decision {
        let mut all: Option<Decision> = None;
        for selection in &self.each {
            let mut one = ask(selection);
            if !one.passes() {
                return one;
            }
            if let Some(mut before) = all.take() {
                if before.outcome == Outcome::Audited {
                    one.outcome = Outcome::Audited;
                }
                before.changes.append(&mut one.changes);
                one.changes = before.changes;
            }
            all = Some(one);
        }
        all.unwrap_or(Decision {
            outcome: Outcome::Denied,
            direction: Direction::Ingress,
            rule: None,
            changes: Vec::new(),
        })
    }
}
