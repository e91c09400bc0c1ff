//! Under which label to look for a selector, and for whom it selects.
use super::Selector;
use crate::labels::{CLUSTER, Facts, NAMESPACE, NAMESPACE_LABELS};
use crate::rule::{Requirement, Test};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// What something is filed under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Term {
    /// A label of this key.
    Key(String),
    /// A label of this key and value.
    Pair(String, String),
    /// Of this namespace, and with a label of this key and value: the same names are used in many namespaces.
    In(String, String, String),
    /// A range of addresses.
    Cidr(IpNet),
}

/// Where to look for those that a selector matches.
enum Anchor {
    /// Under any of these.
    Terms(Vec<Term>),
    /// Under ranges within this one.
    Within(IpNet),
    /// Anywhere: nothing is required that somebody has.
    Nowhere,
}

/// Things filed under labels and ranges.
#[derive(Clone, Debug)]
struct Files<T>(BTreeMap<Term, BTreeSet<T>>);

impl<T> Default for Files<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Copy> Files<T> {
    fn add(&mut self, term: Term, item: T) {
        self.0.entry(term).or_default().insert(item);
    }

    fn remove(&mut self, term: &Term, item: T) {
        if let Some(items) = self.0.get_mut(term) {
            items.remove(&item);
            if items.is_empty() {
                self.0.remove(term);
            }
        }
    }

    fn count(&self, term: &Term) -> usize {
        self.0.get(term).map_or(0, BTreeSet::len)
    }

    fn under(&self, term: &Term) -> impl Iterator<Item = T> {
        self.0.get(term).into_iter().flatten().copied()
    }
}

/// Selectors by what they require.
#[derive(Clone, Debug, Default)]
pub(super) struct BySelector<S: Ord + Copy> {
    files: Files<S>,
    /// Those that nothing can be filed under: they are tried always.
    unfiled: BTreeSet<S>,
}

impl<S: Ord + Copy> BySelector<S> {
    pub(super) fn add(&mut self, id: S, selector: &Selector) {
        for term in filed_under(selector) {
            match term {
                Some(term) => self.files.add(term, id),
                None => {
                    self.unfiled.insert(id);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, id: S, selector: &Selector) {
        for term in filed_under(selector) {
            match term {
                Some(term) => self.files.remove(&term, id),
                None => {
                    self.unfiled.remove(&id);
                }
            }
        }
    }

    /// Selectors that may match these labels: a few more than do, but none that does is missing.
    pub(super) fn candidates(&self, facts: &Facts) -> BTreeSet<S> {
        let mut found = self.unfiled.clone();
        let namespaces: Vec<&str> = facts
            .with_key(NAMESPACE)
            .map(|label| label.value.as_str())
            .collect();
        for label in facts.labels() {
            for namespace in &namespaces {
                let (key, value) = (label.key.clone(), label.value.clone());
                let term = Term::In((*namespace).to_owned(), key, value);
                found.extend(self.files.under(&term));
            }
            found.extend(self.files.under(&Term::Key(label.key.clone())));
            found.extend(
                self.files
                    .under(&Term::Pair(label.key.clone(), label.value.clone())),
            );
        }
        for cidr in facts.cidrs() {
            let mut parent = Some(*cidr);
            while let Some(net) = parent {
                found.extend(self.files.under(&Term::Cidr(net)));
                parent = net.supernet();
            }
        }
        found
    }
}

fn filed_under(selector: &Selector) -> Vec<Option<Term>> {
    match anchor(selector, |term| usize::from(is_common(term))) {
        Anchor::Terms(terms) => {
            let namespace = namespace(selector);
            let narrowed = terms.into_iter().map(|term| match (namespace, term) {
                (Some(namespace), Term::Pair(key, value)) => {
                    Term::In(namespace.to_owned(), key, value)
                }
                (_, term) => term,
            });
            narrowed.map(Some).collect()
        }
        Anchor::Within(net) => vec![Some(Term::Cidr(net))],
        Anchor::Nowhere => vec![None],
    }
}

/// The one namespace that a selector asks for.
fn namespace(selector: &Selector) -> Option<&str> {
    selector
        .requirements()
        .iter()
        .find_map(|requirement| match requirement {
            Requirement::Label {
                key,
                test: Test::In(values),
                ..
            } if key == NAMESPACE && values.len() == 1 => values.first().map(String::as_str),
            _ => None,
        })
}

/// Labels that so many have that hardly anybody is found by them.
fn is_common(term: &Term) -> bool {
    match term {
        Term::Key(_) => true,
        Term::Pair(key, _) => {
            key == NAMESPACE || key == CLUSTER || key.starts_with(NAMESPACE_LABELS)
        }
        Term::In(..) | Term::Cidr(_) => false,
    }
}

/// The requirement by which the fewest are found, as `cost` says.
fn anchor(selector: &Selector, cost: impl Fn(&Term) -> usize) -> Anchor {
    let mut best: Option<(usize, Vec<Term>)> = None;
    for requirement in selector.requirements() {
        let terms: Vec<Term> = match requirement {
            Requirement::Cidr { net, inside: true } => return Anchor::Within(*net),
            Requirement::Label { key, test, .. } => match test {
                Test::In(values) => values
                    .iter()
                    .map(|value| Term::Pair(key.clone(), value.clone()))
                    .collect(),
                Test::Exists => vec![Term::Key(key.clone())],
                Test::NotIn(_) | Test::Absent => continue,
            },
            Requirement::Cidr { .. } => continue,
        };
        let sum = terms.iter().map(&cost).sum();
        if best.as_ref().is_none_or(|(least, _)| sum < *least) {
            best = Some((sum, terms));
        }
    }
    best.map_or(Anchor::Nowhere, |(_, terms)| Anchor::Terms(terms))
}

/// Those who are selected, by their labels.
#[derive(Clone, Debug, Default)]
pub(super) struct ByLabels {
    files: Files<u32>,
}

impl ByLabels {
    pub(super) fn add(&mut self, id: u32, facts: &Facts) {
        for term in terms(facts) {
            self.files.add(term, id);
        }
    }

    pub(super) fn remove(&mut self, id: u32, facts: &Facts) {
        for term in terms(facts) {
            self.files.remove(&term, id);
        }
    }

    /// Those whom the selector may match; none where it could be anybody.
    pub(super) fn candidates(&self, selector: &Selector) -> Option<BTreeSet<u32>> {
        match anchor(selector, |term| self.files.count(term)) {
            Anchor::Nowhere => None,
            Anchor::Terms(terms) => Some(
                terms
                    .iter()
                    .flat_map(|term| self.files.under(term))
                    .collect(),
            ),
            Anchor::Within(net) => {
                let within = self
                    .files
                    .0
                    .range(Term::Cidr(net)..)
                    .map_while(|(term, ids)| match term {
                        Term::Cidr(other) if net.contains(&other.network()) => Some((other, ids)),
                        _ => None,
                    });
                Some(
                    within
                        .filter(|(other, _)| net.contains(*other))
                        .flat_map(|(_, ids)| ids.iter().copied())
                        .collect(),
                )
            }
        }
    }
}

fn terms(facts: &Facts) -> impl Iterator<Item = Term> {
    let of_labels = facts.labels().iter().flat_map(|label| {
        [
            Term::Key(label.key.clone()),
            Term::Pair(label.key.clone(), label.value.clone()),
        ]
    });
    of_labels.chain(facts.cidrs().iter().map(|cidr| Term::Cidr(*cidr)))
}
