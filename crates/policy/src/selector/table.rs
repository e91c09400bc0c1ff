//! Selectors in use, whom there is to select, and who is matched by which: kept as both change.
use super::{
    Selector,
    index::{ByLabels, BySelector},
};
use crate::labels::Facts;
use std::collections::{BTreeMap, BTreeSet};

/// Number of a selector in its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(u32);

#[derive(Clone, Debug)]
struct Used {
    selector: Selector,
    users: u32,
    matched: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
struct Member {
    facts: Facts,
    /// Sorted.
    matched_by: Vec<SelectorId>,
}

/// Selectors, each kept once however many rules use it, and those whom they match, known by a number.
#[derive(Clone, Debug, Default)]
pub struct SelectorTable {
    ids: BTreeMap<Selector, SelectorId>,
    used: BTreeMap<SelectorId, Used>,
    members: BTreeMap<u32, Member>,
    by_selector: BySelector<SelectorId>,
    by_labels: ByLabels,
    next: u32,
    tried: u64,
}

impl SelectorTable {
    /// Takes a selector into use; each call needs a [`Self::release`].
    pub fn acquire(&mut self, selector: Selector) -> SelectorId {
        if let Some(id) = self.ids.get(&selector) {
            if let Some(used) = self.used.get_mut(id) {
                used.users += 1;
            }
            return *id;
        }
        let id = SelectorId(self.next);
        self.next += 1;
        let candidates = match self.by_labels.candidates(&selector) {
            Some(few) => few,
            None => self.members.keys().copied().collect(),
        };
        let mut matched = BTreeSet::new();
        for member in candidates {
            self.tried += 1;
            if let Some(member_of) = self.members.get_mut(&member)
                && selector.matches(&member_of.facts)
            {
                // Numbers of selectors only grow, so the end is the right place.
                member_of.matched_by.push(id);
                matched.insert(member);
            }
        }
        self.by_selector.add(id, &selector);
        self.ids.insert(selector.clone(), id);
        let used = Used {
            selector,
            users: 1,
            matched,
        };
        self.used.insert(id, used);
        id
    }

    /// Gives back a selector; with the last user it is forgotten.
    pub fn release(&mut self, id: SelectorId) {
        let Some(used) = self.used.get_mut(&id) else {
            return;
        };
        used.users -= 1;
        if used.users > 0 {
            return;
        }
        if let Some(used) = self.used.remove(&id) {
            self.ids.remove(&used.selector);
            self.by_selector.remove(id, &used.selector);
            for member in used.matched {
                if let Some(member) = self.members.get_mut(&member) {
                    member.matched_by.retain(|other| *other != id);
                }
            }
        }
    }

    /// Adds somebody, or changes the labels; false where nothing changed.
    pub fn insert(&mut self, member: u32, facts: Facts) -> bool {
        if self
            .members
            .get(&member)
            .is_some_and(|known| known.facts == facts)
        {
            return false;
        }
        self.remove(member);
        let mut matched_by = Vec::new();
        for id in self.by_selector.candidates(&facts) {
            self.tried += 1;
            if let Some(used) = self.used.get_mut(&id)
                && used.selector.matches(&facts)
            {
                used.matched.insert(member);
                matched_by.push(id);
            }
        }
        self.by_labels.add(member, &facts);
        self.members.insert(member, Member { facts, matched_by });
        true
    }

    /// Removes somebody; false where it was not there.
    pub fn remove(&mut self, member: u32) -> bool {
        let Some(known) = self.members.remove(&member) else {
            return false;
        };
        self.by_labels.remove(member, &known.facts);
        for id in known.matched_by {
            if let Some(used) = self.used.get_mut(&id) {
                used.matched.remove(&member);
            }
        }
        true
    }

    /// The selectors that match a member, in the order of their numbers.
    #[must_use]
    pub fn matching(&self, member: u32) -> &[SelectorId] {
        self.members
            .get(&member)
            .map_or(&[], |member| &member.matched_by)
    }

    /// Whom a selector matches.
    pub fn matched(&self, id: SelectorId) -> impl Iterator<Item = u32> {
        self.used
            .get(&id)
            .into_iter()
            .flat_map(|used| used.matched.iter().copied())
    }

    /// A selector in use.
    #[must_use]
    pub fn get(&self, id: SelectorId) -> Option<&Selector> {
        self.used.get(&id).map(|used| &used.selector)
    }

    /// Every selector with its number of users and of those matched, for people to read.
    pub fn iter(&self) -> impl Iterator<Item = (&Selector, u32, &BTreeSet<u32>)> {
        self.used
            .values()
            .map(|used| (&used.selector, used.users, &used.matched))
    }

    /// What is known of a member.
    #[must_use]
    pub fn facts(&self, member: u32) -> Option<&Facts> {
        self.members.get(&member).map(|member| &member.facts)
    }

    /// Everybody, by number.
    pub fn members(&self) -> impl Iterator<Item = u32> {
        self.members.keys().copied()
    }

    /// How often a selector was tried on somebody, since the beginning.
    #[must_use]
    pub fn tried(&self) -> u64 {
        self.tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{LabelSelector, Requirement, Test};
    use model::Labels;
    use proptest::prelude::*;

    fn facts(texts: &[String]) -> Facts {
        Facts::of(&texts.iter().cloned().collect::<Labels>())
    }

    fn label() -> impl Strategy<Value = String> {
        prop_oneof![
            ("[ks]", "[ab]", "[xyz]")
                .prop_map(|(source, key, value)| format!("{source}:{key}={value}")),
            prop::sample::select(vec![
                "cidr:10.0.0.0/8",
                "cidr:10.1.0.0/16",
                "cidr:10.1.2.0/24",
                "cidr:0.0.0.0/0",
                "cidr:fd00--0/64",
                "reserved:world",
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let values = prop::collection::btree_set("[xyz]", 1..3)
            .prop_map(|values| values.into_iter().collect::<Vec<_>>());
        let test = prop_oneof![
            values.clone().prop_map(Test::In),
            values.prop_map(Test::NotIn),
            Just(Test::Exists),
            Just(Test::Absent),
        ];
        let net = prop::sample::select(vec![
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.0/24",
            "10.1.2.0/28",
            "::/0",
        ]);
        prop_oneof![
            3 => (prop::option::of("[ks]"), "a|b|io\\.kubernetes\\.pod\\.namespace", test)
                .prop_map(|(source, key, test)| Requirement::Label { source, key, test }),
            1 => (net, any::<bool>()).prop_filter_map("a range", |(net, inside)| Some(Requirement::Cidr {
                net: net.parse().ok()?,
                inside,
            })),
        ]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Acquire(Vec<Requirement>),
        Release(prop::sample::Index),
        Insert(u32, Vec<String>),
        Remove(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec(requirement(), 0..4).prop_map(Step::Acquire),
            any::<prop::sample::Index>().prop_map(Step::Release),
            (0..8_u32, prop::collection::vec(label(), 0..5))
                .prop_map(|(id, labels)| Step::Insert(id, labels)),
            (0..8_u32).prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn the_table_knows_who_is_matched(steps in prop::collection::vec(step(), 1..60)) {
            let mut table = SelectorTable::default();
            let mut held = Vec::new();
            for step in steps {
                match step {
                    Step::Acquire(requirements) => {
                        held.push(table.acquire(Selector::new(&LabelSelector { requirements })));
                    }
                    Step::Release(index) if !held.is_empty() => {
                        table.release(held.swap_remove(index.index(held.len())));
                    }
                    Step::Release(_) => {}
                    Step::Insert(id, labels) => {
                        table.insert(id, facts(&labels));
                    }
                    Step::Remove(id) => {
                        table.remove(id);
                    }
                }
                let unique: BTreeSet<_> = held.iter().collect();
                prop_assert_eq!(table.used.len(), unique.len());
                for (id, used) in &table.used {
                    let expected: BTreeSet<u32> = table
                        .members
                        .iter()
                        .filter(|(_, member)| used.selector.matches(&member.facts))
                        .map(|(id, _)| *id)
                        .collect();
                    prop_assert_eq!(&used.matched, &expected, "{}", used.selector);
                    for (number, member) in &table.members {
                        prop_assert_eq!(member.matched_by.contains(id), expected.contains(number));
                    }
                }
            }
        }
    }

    #[test]
    fn a_new_member_does_not_try_every_selector() {
        let mut table = SelectorTable::default();
        for number in 0..1000 {
            let app = Requirement::equals("k8s", "app", &format!("a{number}"));
            table.acquire(Selector::new(&LabelSelector::one(app).in_namespace("shop")));
        }
        let labels = ["k8s:app=a7", "k8s:io.kubernetes.pod.namespace=shop"].map(str::to_owned);
        table.insert(300, facts(&labels));
        assert_eq!(table.matching(300).len(), 1);
        assert_eq!(table.tried(), 1);
    }
}
