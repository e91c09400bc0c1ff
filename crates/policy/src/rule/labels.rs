//! Label selectors as authors write them, with the defaults of their object filled in.
use crate::labels::{ANY, CIDR, CLUSTER, K8S, NAMESPACE, NAMESPACE_LABELS, NODE, RESERVED};
use ipnet::IpNet;
use std::fmt;

/// A conjunction of requirements; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    /// All of them must hold.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// Of the labels with a key.
    Label {
        /// Source of the label; none for any.
        source: Option<String>,
        /// Its key without source.
        key: String,
        /// What is asked.
        test: Test,
    },
    /// Of the address: within the range (or not).
    Cidr {
        /// The range.
        net: IpNet,
        /// True if the address must be in it, false if it must not.
        inside: bool,
    },
}

/// What is asked of the labels with a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Test {
    /// One has one of these values, which are sorted.
    In(Vec<String>),
    /// None has one of these values, which are sorted.
    NotIn(Vec<String>),
    /// There is one.
    Exists,
    /// There is none.
    Absent,
}

impl Requirement {
    /// A label of this source and key has this value.
    #[must_use]
    pub fn equals(source: &str, key: &str, value: &str) -> Self {
        Self::of(source, key, Test::In(vec![value.to_owned()]))
    }

    /// There is a label of this source and key.
    #[must_use]
    pub fn exists(source: &str, key: &str) -> Self {
        Self::of(source, key, Test::Exists)
    }

    fn of(source: &str, key: &str, test: Test) -> Self {
        Self::Label {
            source: (source != ANY).then(|| source.to_owned()),
            key: key.to_owned(),
            test,
        }
    }
}

impl LabelSelector {
    /// The selector with this one requirement.
    #[must_use]
    pub fn one(requirement: Requirement) -> Self {
        Self {
            requirements: vec![requirement],
        }
    }

    /// Pods of any namespace.
    #[must_use]
    pub fn any_namespace() -> Self {
        Self::one(Requirement::exists(K8S, NAMESPACE))
    }

    /// Endpoints of the cluster of this name.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self::one(Requirement::equals(K8S, CLUSTER, name))
    }

    /// What has the reserved label `key`.
    #[must_use]
    pub fn reserved(key: &str) -> Self {
        Self::one(Requirement::exists(RESERVED, key))
    }

    /// This one, and only in `namespace`.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.requirements
            .push(Requirement::equals(K8S, NAMESPACE, namespace));
        self
    }

    /// True where nothing is required.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// True if a namespace, its labels or a reserved label is asked for, so that a policy's own namespace is not meant.
    #[must_use]
    pub fn names_namespace(&self) -> bool {
        self.requirements
            .iter()
            .any(|requirement| match requirement {
                Requirement::Label { source, key, .. } => match source.as_deref() {
                    Some(RESERVED) => true,
                    None | Some(K8S) => key == NAMESPACE || key.starts_with(NAMESPACE_LABELS),
                    Some(_) => false,
                },
                Requirement::Cidr { .. } => false,
            })
    }

    /// The same requirements of node labels, where a source is not named.
    #[must_use]
    pub fn of_nodes(mut self) -> Self {
        for requirement in &mut self.requirements {
            if let Requirement::Label { source, .. } = requirement
                && matches!(source.as_deref(), None | Some(K8S))
            {
                *source = Some(NODE.to_owned());
            }
        }
        self
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("{}");
        }
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr { net, inside } => {
                write!(f, "{}{CIDR}:{net}", if *inside { "" } else { "!" })
            }
            Self::Label { source, key, test } => {
                let name = format!("{}:{key}", source.as_deref().unwrap_or(ANY));
                match test {
                    Test::In(values) if values.len() == 1 => match values[0].as_str() {
                        "" => f.write_str(&name),
                        value => write!(f, "{name}={value}"),
                    },
                    Test::In(values) => write!(f, "{name} in ({})", values.join(",")),
                    Test::NotIn(values) => write!(f, "{name} notin ({})", values.join(",")),
                    Test::Exists => f.write_str(&name),
                    Test::Absent => write!(f, "!{name}"),
                }
            }
        }
    }
}
