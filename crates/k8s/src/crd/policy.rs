//! `CiliumNetworkPolicy`, `CiliumClusterwideNetworkPolicy` and `CiliumCIDRGroup`.
use super::{
    AGE, Column, Crd, Scope,
    rule::rule,
    schema::{Object, conditions, list, map, text},
};
use serde_json::{Value, json};

const VALID: Column = Column::text("Valid", ".status.conditions[?(@.type=='Valid')].status")
    .about("Whether the policy can be used");

pub(super) const NETWORK: Crd = Crd {
    kind: "CiliumNetworkPolicy",
    plural: "ciliumnetworkpolicies",
    short: &["cnp", "ciliumnp"],
    scope: Scope::Namespaced,
    versions: &["v2"],
    status: true,
    categories: &["ciliumpolicy"],
    columns: &[AGE, VALID],
    schema: || policy("Who may talk to the pods of a namespace, and to whom they may talk."),
};

pub(super) const CLUSTERWIDE: Crd = Crd {
    kind: "CiliumClusterwideNetworkPolicy",
    plural: "ciliumclusterwidenetworkpolicies",
    short: &["ccnp"],
    scope: Scope::Cluster,
    versions: &["v2"],
    status: true,
    categories: &["ciliumpolicy"],
    columns: &[VALID],
    schema: || policy("Who may talk to pods or nodes, and to whom they may talk."),
};

pub(super) const CIDR_GROUP: Crd = Crd {
    kind: "CiliumCIDRGroup",
    plural: "ciliumcidrgroups",
    short: &["ccg"],
    scope: Scope::Cluster,
    versions: &["v2alpha1", "v2"],
    status: false,
    categories: &[],
    columns: &[AGE],
    schema: cidr_group,
};

fn policy(about: &'static str) -> Value {
    Object::new(about)
        .optional("spec", rule(), "A rule.")
        .optional("specs", list(rule()), "Several rules.")
        .optional("status", status(), "Whether the policy can be used.")
        .root()
}

fn status() -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    Object::new("What is known of the policy.")
        .optional("conditions", conditions(), "What is known of the policy.")
        .optional(
            "derivativePolicies",
            map(open),
            "Policies that were made from this one.",
        )
        .build()
}

fn cidr_group() -> Value {
    let spec = Object::new("The ranges.").required(
        "externalCIDRs",
        list(text()),
        "Ranges of addresses outside the cluster.",
    );
    Object::new("Ranges of addresses that policies name together.")
        .required("spec", spec.build(), "The ranges.")
        .root()
}
