//! A set of labels taken apart once, so that selectors match it quickly.
use super::{CIDR, cidr_of_key};
use ipnet::IpNet;
use model::Labels;

/// One label, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// The key without its source.
    pub key: String,
    /// Where the label comes from, such as `k8s`.
    pub source: String,
    /// The value; empty where there is none.
    pub value: String,
}

/// What selectors ask of an identity: its labels by key, and the address ranges that it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    labels: Box<[Label]>,
    cidrs: Box<[IpNet]>,
}

impl Facts {
    /// Takes `labels` apart. A key without source is taken to be of the source `any`.
    #[must_use]
    pub fn of(labels: &Labels) -> Self {
        let mut all = Vec::new();
        let mut cidrs = Vec::new();
        for (name, value) in labels.iter() {
            let (source, key) = name.split_once(':').unwrap_or((super::ANY, name));
            if source == CIDR
                && let Some(net) = cidr_of_key(key)
            {
                cidrs.push(net);
            }
            all.push(Label {
                key: key.to_owned(),
                source: source.to_owned(),
                value: value.to_owned(),
            });
        }
        all.sort_unstable();
        Self {
            labels: all.into(),
            cidrs: cidrs.into(),
        }
    }

    /// Every label, in the order of the keys.
    #[must_use]
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The ranges that the `cidr` labels name.
    #[must_use]
    pub fn cidrs(&self) -> &[IpNet] {
        &self.cidrs
    }

    /// The labels with this key, of any source.
    pub fn with_key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Label> {
        let start = self
            .labels
            .partition_point(|label| label.key.as_str() < key);
        self.labels[start..]
            .iter()
            .take_while(move |label| label.key == key)
    }

    /// True if there is a label of this source and key.
    #[must_use]
    pub fn has(&self, source: &str, key: &str) -> bool {
        self.with_key(key).any(|label| label.source == source)
    }
}
