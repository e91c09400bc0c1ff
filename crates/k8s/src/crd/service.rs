//! `CiliumLoadBalancerIPPool`, `CiliumL2AnnouncementPolicy` and `CiliumLocalRedirectPolicy`. What they say is read by `lb::parse`.
use super::{
    AGE, Column, Crd, Scope,
    schema::{Object, boolean, cidr, conditions, label_selector, list, text, word},
};
use serde_json::{Value, json};

pub(super) const POOL: Crd = Crd {
    kind: "CiliumLoadBalancerIPPool",
    plural: "ciliumloadbalancerippools",
    short: &["ippools", "ippool", "lbippool", "lbippools"],
    scope: Scope::Cluster,
    versions: &["v2alpha1", "v2"],
    status: true,
    categories: &[],
    columns: &[
        Column::new("Disabled", "boolean", ".spec.disabled"),
        Column::text(
            "Conflicting",
            ".status.conditions[?(@.type=='cilium.io/PoolConflict')].status",
        ),
        Column::text(
            "IPs Available",
            ".status.conditions[?(@.type=='cilium.io/IPsAvailable')].message",
        ),
        AGE,
    ],
    schema: pool,
};

pub(super) const L2_ANNOUNCEMENT: Crd = Crd {
    kind: "CiliumL2AnnouncementPolicy",
    plural: "ciliuml2announcementpolicies",
    short: &["l2announcement"],
    scope: Scope::Cluster,
    versions: &["v2alpha1"],
    status: true,
    categories: &[],
    columns: &[AGE],
    schema: l2_announcement,
};

pub(super) const LOCAL_REDIRECT: Crd = Crd {
    kind: "CiliumLocalRedirectPolicy",
    plural: "ciliumlocalredirectpolicies",
    short: &["clrp"],
    scope: Scope::Namespaced,
    versions: &["v2"],
    status: false,
    categories: &["ciliumpolicy"],
    columns: &[AGE],
    schema: local_redirect,
};

/// A status that has nothing but conditions.
fn conditions_only() -> Value {
    Object::new("What is known of the object.")
        .optional("conditions", conditions(), "What is known of the object.")
        .build()
}

fn pool() -> Value {
    let block = Object::new("A range: a CIDR, or a first and a last address.")
        .optional("cidr", cidr(), "A range such as 192.0.2.0/24.")
        .optional("start", text(), "The first address.")
        .optional(
            "stop",
            text(),
            "The last address; without it, the first one alone.",
        );
    let mut disabled = boolean();
    disabled["default"] = false.into();
    let spec = Object::new("The addresses.")
        .optional("blocks", list(block.build()), "Ranges of addresses.")
        .optional(
            "serviceSelector",
            label_selector(),
            "Services that may have addresses of the pool, by their labels; io.kubernetes.service.namespace and \
             io.kubernetes.service.name mean their namespace and name. Without it, all.",
        )
        .optional(
            "allowFirstLastIPs",
            word(&["Yes", "No"]),
            "Whether the first and the last address of each CIDR are given, too; Yes if not said.",
        )
        .optional(
            "disabled",
            disabled,
            "What services have they keep, but no more addresses are given.",
        );
    Object::new("Addresses for services of the type LoadBalancer.")
        .required("spec", spec.build(), "The addresses.")
        .optional(
            "status",
            conditions_only(),
            "How many are in use, and whether the pool can be used.",
        )
        .root()
}

fn l2_announcement() -> Value {
    let spec = Object::new("What is announced, by whom, and where.")
        .optional(
            "externalIPs",
            boolean(),
            "Announce the externalIPs of services.",
        )
        .optional(
            "loadBalancerIPs",
            boolean(),
            "Announce the addresses in the status of services.",
        )
        .optional(
            "interfaces",
            list(text()),
            "Regular expressions of names of devices; without any, all devices of the network.",
        )
        .optional(
            "nodeSelector",
            label_selector(),
            "Nodes that may announce. Without it, all.",
        )
        .optional(
            "serviceSelector",
            label_selector(),
            "Services whose addresses are announced. Without it, all.",
        );
    Object::new("Which nodes answer neighbours that ask for addresses of services.")
        .required(
            "spec",
            spec.build(),
            "What is announced, by whom, and where.",
        )
        .optional(
            "status",
            conditions_only(),
            "Whether the policy can be used.",
        )
        .root()
}

/// Ports as texts: names join those of both sides.
fn ports() -> Value {
    let number =
        "^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$";
    let port = Object::new("A port.")
        .required(
            "port",
            json!({"type": "string", "pattern": number}),
            "Its number.",
        )
        .required("protocol", word(&["TCP", "UDP"]), "Its protocol.")
        .optional(
            "name",
            json!({"type": "string", "pattern": "^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}),
            "Joins a port of one side and one of the other; must be there where there are several.",
        );
    list(port.build())
}

fn local_redirect() -> Value {
    let address = Object::new("An address.")
        .required("ip", text(), "The address.")
        .required("toPorts", ports(), "Ports of the address.");
    let service = Object::new("A service.")
        .required("serviceName", text(), "Its name.")
        .required(
            "namespace",
            text(),
            "Its namespace, which must be that of the policy.",
        )
        .optional(
            "toPorts",
            ports(),
            "Ports of the service; without any, all.",
        );
    let mut frontend = Object::new("What is redirected: an address or a service.")
        .optional(
            "addressMatcher",
            address.build(),
            "An address and its ports.",
        )
        .optional(
            "serviceMatcher",
            service.build(),
            "A service and its ports.",
        )
        .build();
    frontend["oneOf"] = json!([{"required": ["addressMatcher"]}, {"required": ["serviceMatcher"]}]);
    let backend = Object::new("Where it goes.")
        .required(
            "localEndpointSelector",
            label_selector(),
            "Pods of the policy's namespace on the same node.",
        )
        .required("toPorts", ports(), "Ports of these pods.");
    let mut skip = boolean();
    skip["default"] = false.into();
    let spec = Object::new("What is redirected, and where it goes.")
        .required(
            "redirectFrontend",
            frontend,
            "What is redirected: an address or a service.",
        )
        .required("redirectBackend", backend.build(), "Where it goes.")
        .optional(
            "skipRedirectFromBackend",
            skip,
            "What those pods send themselves is not redirected.",
        )
        .optional("description", text(), "For people.");
    let status =
        Object::new("What is known of the policy.").optional("ok", boolean(), "It can be used.");
    Object::new("Sends what is meant for an address or a service to a pod of the same node.")
        .required(
            "spec",
            spec.build(),
            "What is redirected, and where it goes.",
        )
        .optional("status", status.build(), "What is known of the policy.")
        .root()
}
