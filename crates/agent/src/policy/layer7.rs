//! What policies say above the transport, for whoever tells the proxy.
use policy::resolve::{Engine, ProxyRules};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};
use tokio::sync::watch;

/// The rules above the transport on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer7 {
    /// Of each subject that has some; its endpoints are those that name it in their rows.
    pub subjects: BTreeMap<u32, Arc<[ProxyRules]>>,
}

/// Who sees to it that the proxy has rules before connections are sent to it.
pub trait Announce: Send + Sync {
    /// Rules have changed, and rows that follow from them are about to be written. The policy task waits for the return: where the
    /// proxy does not answer, for no more than a second.
    fn announced(&self, layer7: &Arc<Layer7>);
}

/// The rules as they are, and who is told.
pub struct Told {
    rules: watch::Sender<Arc<Layer7>>,
    announce: Option<Arc<dyn Announce>>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            rules: watch::Sender::new(Arc::default()),
            announce: None,
        }
    }
}

impl Told {
    /// The rules, whenever they change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Layer7>> {
        self.rules.subscribe()
    }

    /// Has `announce` told before rows are written.
    pub fn announce_by(&mut self, announce: Arc<dyn Announce>) {
        self.announce = Some(announce);
    }

    /// Takes over the rules of subjects that have others now.
    pub fn change(&self, engine: &Engine, subjects: &BTreeSet<u32>) {
        let mut layer7 = Layer7::clone(&self.rules.borrow());
        for subject in subjects {
            let rules = engine.proxy_rules(*subject);
            if rules.is_empty() {
                layer7.subjects.remove(subject);
            } else {
                layer7.subjects.insert(*subject, rules);
            }
        }
        self.rules.send_replace(Arc::new(layer7));
    }

    /// Waits until the proxy has the rules, if it is there to take them.
    pub fn announce(&self) {
        if let Some(announce) = &self.announce {
            let rules = self.rules.borrow().clone();
            announce.announced(&rules);
        }
    }

    /// True if there are rules.
    pub fn is_empty(&self) -> bool {
        self.rules.borrow().subjects.is_empty()
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
