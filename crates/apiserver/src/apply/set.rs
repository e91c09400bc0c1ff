//! Sets of fields, in the form that objects carry them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of places in an object. Steps are written as in `fieldsV1`: `f:name` for a field, `k:{…}` for the element of a list with
/// these keys, `v:…` for the element with this value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    here: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        !self.here && self.children.is_empty()
    }

    /// Whether this very place is in the set.
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// Puts this very place into the set.
    pub fn mark(&mut self) {
        self.here = true;
    }

    /// What is in the set below a step.
    pub fn child(&self, step: &str) -> Option<&Self> {
        self.children.get(step)
    }

    /// What is in the set below a step.
    pub fn child_mut(&mut self, step: &str) -> Option<&mut Self> {
        self.children.get_mut(step)
    }

    /// What is in the set below a step, made if there is nothing.
    pub fn entry(&mut self, step: String) -> &mut Self {
        self.children.entry(step).or_default()
    }

    /// All steps.
    pub fn children(&self) -> impl Iterator<Item = (&String, &Self)> {
        self.children.iter()
    }

    /// Takes out everything below a step.
    pub fn remove_child(&mut self, step: &str) {
        self.children.remove(step);
    }

    /// Takes out a step below which nothing is left.
    pub fn drop_empty(&mut self, step: &str) {
        if self.children.get(step).is_some_and(Self::is_empty) {
            self.children.remove(step);
        }
    }

    /// Keeps some steps.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.children.retain(|step, _| keep(step));
    }

    /// Adds another set.
    pub fn union(&mut self, other: &Self) {
        self.here |= other.here;
        for (step, child) in &other.children {
            self.children.entry(step.clone()).or_default().union(child);
        }
    }

    /// Takes another set away.
    pub fn subtract(&mut self, other: &Self) {
        self.here &= !other.here;
        for (step, child) in &other.children {
            if let Some(mine) = self.children.get_mut(step) {
                mine.subtract(child);
            }
            self.drop_empty(step);
        }
    }

    /// Takes another set and everything below its places away.
    pub fn subtract_below(&mut self, other: &Self) {
        if other.here {
            *self = Self::default();
            return;
        }
        for (step, child) in &other.children {
            if let Some(mine) = self.children.get_mut(step) {
                mine.subtract_below(child);
            }
            self.drop_empty(step);
        }
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let common = |(step, child): (&String, &Self)| {
            let both = child.intersection(other.children.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        };
        Self {
            here: self.here && other.here,
            children: self.children.iter().filter_map(common).collect(),
        }
    }

    /// The form of `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.here && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, child) in &self.children {
            map.insert(step.clone(), child.to_json());
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`; `None` if it is none.
    pub fn from_json(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (step, child) in value.as_object()? {
            if step == "." {
                set.here = true;
            } else if step.starts_with("f:")
                || step.starts_with("k:")
                || step.starts_with("v:")
                || step.starts_with("i:")
            {
                let mut child = Self::from_json(child)?;
                child.here |= child.children.is_empty();
                set.children.insert(step.clone(), child);
            } else {
                return None;
            }
        }
        Some(set)
    }

    /// Every place as text for people: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.add_paths("", &mut out);
        out
    }

    fn add_paths(&self, before: &str, out: &mut Vec<String>) {
        if self.here {
            out.push(before.to_owned());
        }
        for (step, child) in &self.children {
            child.add_paths(&format!("{before}{}", shown(step)), out);
        }
    }
}

fn shown(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v:", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let leaf = Just(FieldSet {
            here: true,
            children: BTreeMap::new(),
        });
        leaf.prop_recursive(3, 12, 3, |inner| {
            let step = prop::sample::select(vec!["f:a", "f:b", "k:{\"n\":1}", "v:\"x\""])
                .prop_map(str::to_owned);
            (
                any::<bool>(),
                prop::collection::btree_map(step, inner, 1..3),
            )
                .prop_map(|(here, children)| FieldSet { here, children })
        })
    }

    proptest! {
        #[test]
        fn sets_behave_like_sets_of_paths(mut a in any_set(), mut b in any_set()) {
            (a.here, b.here) = (false, false);
            let paths = |s: &FieldSet| s.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
            let (pa, pb) = (paths(&a), paths(&b));
            let mut union = a.clone();
            union.union(&b);
            prop_assert_eq!(paths(&union), &pa | &pb);
            let mut difference = a.clone();
            difference.subtract(&b);
            prop_assert_eq!(paths(&difference), &pa - &pb);
            prop_assert_eq!(paths(&a.intersection(&b)), &pa & &pb);
            prop_assert_eq!(FieldSet::from_json(&a.to_json()), Some(a));
        }
    }
}
