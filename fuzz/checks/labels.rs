//! Any text as a filter of labels, as numbers with names and as a label; any map as the labels of a pod: read or refused; what is read has
//! one number, and is read again from what it is written as.

use std::{collections::BTreeMap, time::Duration};

use hypha_policy::{
    identity::{Allocator, FixedIdentities, Order, Scope},
    labels::{Facts, LabelFilter, cidr_label, cidr_of_key, pod_labels, split_source},
};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (source, key) = split_source(&text);
    assert!(text.ends_with(key) && source.is_none_or(|source| text.starts_with(source)));
    if let Some(net) = cidr_of_key(&text) {
        let label = cidr_label(net);
        let key = label.strip_prefix("cidr:").expect("a label of a range");
        assert_eq!(cidr_of_key(key), Some(net), "{label}");
    }
    if let Ok(fixed) = FixedIdentities::parse(&text) {
        for (number, labels) in fixed.iter() {
            assert!(Scope::Fixed.range().contains(&number));
            assert_eq!(fixed.of(&labels), Some(number), "{labels}");
        }
    }
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    if let (Ok(filter), Ok(map)) = (LabelFilter::parse(first), serde_json::from_str(rest)) {
        pod(&filter, map);
    }
}

fn pod(filter: &LabelFilter, map: BTreeMap<String, String>) {
    let map = map.into();
    let labels = pod_labels(
        &model::PodLabels {
            cluster: "default",
            namespace: "a",
            namespace_labels: &map,
            service_account: "default",
            labels: &map,
        },
        filter,
    );
    for (key, _) in labels.iter() {
        let (source, key) = split_source(key);
        assert!(filter.keeps(source.unwrap_or_default(), key), "{key}");
    }
    assert!(Facts::of(&labels).labels().len() >= labels.iter().count());
    let mut numbers = Allocator::new(Scope::Cluster, Order::ByLabels);
    let number = numbers.propose(&labels).expect("numbers are left");
    assert_eq!(numbers.propose(&labels), Ok(number));
    assert!(
        numbers
            .adopt(number, labels.clone(), Duration::ZERO)
            .is_ok()
    );
    assert_eq!(numbers.lookup(&labels), Some(number));
}
