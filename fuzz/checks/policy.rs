//! Any object that should be a policy or a group of address ranges: read or refused with a place in it; what is read can be resolved, and
//! leaves nothing behind when it goes.

use hypha_policy::{
    Settings,
    labels::{LabelFilter, pod_labels},
    parse::{self, Options, Refused},
    resolve::{Change, Engine, Subject},
    rule::PolicyKind,
};

const KINDS: [PolicyKind; 5] = [
    PolicyKind::AdminNetworkPolicy,
    PolicyKind::BaselineAdminNetworkPolicy,
    PolicyKind::CiliumClusterwideNetworkPolicy,
    PolicyKind::CiliumNetworkPolicy,
    PolicyKind::NetworkPolicy,
];

pub fn run(data: &[u8]) {
    let Ok(object) = serde_json::from_slice(data) else {
        return;
    };
    if let Err(refused) = parse::cidr_group(&object) {
        told(&refused);
    }
    let options = Options {
        node_selector_labels: true,
        always_default_deny: false,
        l7: true,
    };
    let whole = parse::policy(&object, options);
    let by_kind = KINDS.map(|kind| parse::policy_of_kind(kind, &object, options));
    for read in by_kind.into_iter().chain([whole]) {
        match read {
            Ok(policy) => resolved(policy),
            Err(refused) => told(&refused),
        }
    }
}

fn told(refused: &Refused) {
    let text = refused.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}

fn resolved(policy: hypha_policy::rule::Policy) {
    let mut engine = Engine::new(Settings::default());
    let labels = pod_labels(
        &model::PodLabels {
            cluster: "default",
            namespace: "a",
            namespace_labels: &Default::default(),
            service_account: "default",
            labels: &[("app".to_owned(), "web".to_owned())].into_iter().collect(),
        },
        &LabelFilter::default(),
    );
    engine.apply([
        Change::Identity(1000, labels.clone(), Default::default()),
        Change::Subject(
            1000,
            Subject {
                labels,
                ports: Default::default(),
            },
        ),
    ]);
    let before = engine.map();
    let name = policy.name.clone();
    engine.apply([Change::Policy(policy)]);
    engine.apply([Change::PolicyGone(name)]);
    assert_eq!(engine.map(), before);
    assert_eq!((engine.origins(), engine.prefixes().count()), (0, 0));
}
