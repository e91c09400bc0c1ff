//! The proxy may be a moment behind: an endpoint has begun, or a peer come, and the agent's word of it is on its way.
use super::{Policy, Scope};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// How long it is worth to wait for rules.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

impl Policy {
    /// Whether there are rules for each of the scopes, whatever they say. A connection is handed over for its rules: where there
    /// are none, a newer snapshot has them.
    #[must_use]
    pub fn knows(&self, mut scopes: impl Iterator<Item = Scope>) -> bool {
        scopes.all(|scope| {
            let endpoint = self.endpoints.get(&scope.endpoint);
            let mut entries = endpoint.into_iter().flat_map(|e| &e.entries);
            entries.any(|entry| entry.covers(&scope))
        })
    }
}

/// Ends when the newest policy has rules for each of the scopes, or at the limit: what it does not know then is denied.
pub(crate) async fn caught_up<S: Iterator<Item = Scope>>(
    policy: &watch::Receiver<Arc<Policy>>,
    scopes: impl Fn() -> S,
    limit: Duration,
) {
    if policy.borrow().knows(scopes()) {
        return;
    }
    let mut policy = policy.clone();
    let known = policy.wait_for(|policy| policy.knows(scopes()));
    if timeout(limit, known).await.is_err() {
        tracing::debug!("a connection was handed over for rules that did not come");
    }
}
