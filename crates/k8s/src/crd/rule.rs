//! The schema of a policy rule. It knows every field, so that a misspelt one is named when the object is written; what fields
//! mean together is checked by whoever reads the rule, who can say more about it.
use super::schema::{
    Object, boolean, integer_between, label_selector, list, list_of_some, map, text, word,
};
use serde_json::{Value, json};

/// What `fromEntities` and `toEntities` may name.
const ENTITIES: [&str; 11] = [
    "all",
    "world",
    "cluster",
    "host",
    "init",
    "ingress",
    "unmanaged",
    "remote-node",
    "health",
    "none",
    "kube-apiserver",
];
/// A number, a name, or nothing for every port.
const PORT: &str = "^([0-9]{1,5}|[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)?$";
const MOST_PORTS: u32 = 40;
const LONGEST_NAME: u32 = 255;

/// A rule: `spec` of a policy, and each item of `specs`.
pub(super) fn rule() -> Value {
    let default_deny = Object::new("Whether all that no rule allows is denied to the selected.")
        .optional("ingress", boolean(), "For what they receive.")
        .optional("egress", boolean(), "For what they send.");
    let label = Object::new("A label.")
        .required("key", text(), "Key.")
        .optional("value", text(), "Value.")
        .optional("source", text(), "Source.");
    Object::new("A rule.")
        .optional(
            "endpointSelector",
            label_selector(),
            "The pods that the rule is about.",
        )
        .optional(
            "nodeSelector",
            label_selector(),
            "The nodes that the rule is about, in policies without namespace.",
        )
        .optional("ingress", list(ingress(true)), "What they may receive.")
        .optional("ingressDeny", list(ingress(false)), "What they may not receive.")
        .optional("egress", list(egress(true)), "What they may send.")
        .optional("egressDeny", list(egress(false)), "What they may not send.")
        .optional(
            "enableDefaultDeny",
            default_deny.build(),
            "Whether all that no rule allows is denied to the selected; true for each direction that the rule speaks of.",
        )
        .optional("labels", list(label.build()), "Labels of the rule.")
        .optional("description", text(), "What the rule is for.")
        .build()
}

fn ingress(allow: bool) -> Value {
    let entry = peers(Object::new("Peers and ports."), "from");
    traffic(entry, allow)
}

fn egress(allow: bool) -> Value {
    let mut entry = peers(Object::new("Peers and ports."), "to").optional(
        "toServices",
        list(service()),
        "Services: the pods or addresses behind them.",
    );
    if allow {
        entry = entry.optional("toFQDNs", list(name()), "Names of hosts.");
    }
    traffic(entry, allow)
}

fn peers(entry: Object, side: &str) -> Object {
    let field = |name: &str| format!("{side}{name}");
    let security_groups = Object::new("Security groups of AWS.")
        .optional("labels", map(text()), "Tags.")
        .optional("region", text(), "Region.")
        .optional("securityGroupsIds", list(text()), "Ids.")
        .optional("securityGroupsNames", list(text()), "Names.");
    let group = Object::new("A group of a cloud provider.").optional(
        "aws",
        security_groups.build(),
        "AWS.",
    );
    entry
        .optional(&field("Endpoints"), list(label_selector()), "Pods.")
        .optional(&field("Entities"), list(word(&ENTITIES)), "Kinds of peers.")
        .optional(&field("CIDR"), list(text()), "Ranges of addresses.")
        .optional(
            &field("CIDRSet"),
            list(cidr_rule()),
            "Ranges of addresses, without parts of them.",
        )
        .optional(&field("Nodes"), list(label_selector()), "Nodes.")
        .optional(
            &field("Groups"),
            list(group.build()),
            "Groups of cloud providers.",
        )
        .optional(
            &field("Requires"),
            list(label_selector()),
            "Labels that all peers must have. Deprecated.",
        )
}

fn cidr_rule() -> Value {
    Object::new("A range or a group of ranges; exactly one of them.")
        .optional("cidr", text(), "Range.")
        .optional("cidrGroupRef", text(), "Name of a CiliumCIDRGroup.")
        .optional(
            "cidrGroupSelector",
            label_selector(),
            "CiliumCIDRGroups by their labels.",
        )
        .optional(
            "except",
            list(text()),
            "Parts of the range that are not meant.",
        )
        .build()
}

fn service() -> Value {
    let named = Object::new("A service by its name.")
        .optional("serviceName", text(), "Name.")
        .optional("namespace", text(), "Namespace.");
    let labelled = Object::new("Services by their labels.")
        .required("selector", label_selector(), "The labels.")
        .optional("namespace", text(), "Namespace.");
    Object::new("One service or several.")
        .optional("k8sService", named.build(), "By name.")
        .optional("k8sServiceSelector", labelled.build(), "By labels.")
        .build()
}

fn name() -> Value {
    let short = || json!({"type": "string", "maxLength": LONGEST_NAME});
    Object::new("A name or a pattern.")
        .optional("matchName", short(), "Name.")
        .optional("matchPattern", short(), "Pattern with *.")
        .build()
}

fn traffic(entry: Object, allow: bool) -> Value {
    let field = Object::new("A type of messages.")
        .optional(
            "family",
            word(&["IPv4", "IPv6"]),
            "Family; IPv4 if not given.",
        )
        .required(
            "type",
            json!({
                "x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
            }),
            "Number or name.",
        );
    let mut fields = list(field.build());
    fields["maxItems"] = MOST_PORTS.into();
    let icmp = Object::new("Types of ICMP messages.").optional("fields", fields, "The types.");
    let mut entry = entry
        .optional("toPorts", list(port_rule(allow)), "Ports.")
        .optional("icmps", list(icmp.build()), "ICMP messages.");
    if allow {
        let modes = ["disabled", "required", "test-always-fail"];
        let authentication = Object::new("Mutual authentication.").required(
            "mode",
            word(&modes),
            "Whether both sides must prove who they are.",
        );
        entry = entry.optional(
            "authentication",
            authentication.build(),
            "Mutual authentication.",
        );
    }
    entry.build()
}

fn port_rule(allow: bool) -> Value {
    let port = Object::new("A port.")
        .required(
            "port",
            json!({"type": "string", "pattern": PORT}),
            "Number or name; 0 for every port.",
        )
        .optional(
            "endPort",
            integer_between(0, 65535),
            "Last port of a range that begins with port.",
        )
        .optional(
            "protocol",
            word(&["TCP", "UDP", "SCTP", "ANY"]),
            "Protocol; ANY if not given.",
        );
    let mut ports = list(port.build());
    ports["maxItems"] = MOST_PORTS.into();
    let mut rule =
        Object::new("Ports, and what passes on them.").optional("ports", ports, "The ports.");
    if allow {
        rule = rule
            .optional("rules", l7(), "Rules above the transport; of one kind.")
            .optional("terminatingTLS", tls(), "TLS of the sender.")
            .optional("originatingTLS", tls(), "TLS towards the receiver.")
            .optional(
                "serverNames",
                list_of_some(json!({"type": "string", "minLength": 1})),
                "Names of servers in TLS greetings.",
            );
        rule = rule.optional(
            "listener",
            listener(),
            "Where the traffic goes, if not on its way.",
        );
    }
    rule.build()
}

fn secret() -> Value {
    Object::new("A secret.")
        .optional("namespace", text(), "Namespace.")
        .required("name", text(), "Name.")
        .build()
}

fn tls() -> Value {
    Object::new("Certificates.")
        .required("secret", secret(), "Where they are.")
        .optional("trustedCA", text(), "Key of the trusted authorities.")
        .optional("certificate", text(), "Key of the certificate.")
        .optional("privateKey", text(), "Key of the private key.")
        .build()
}

fn listener() -> Value {
    let config = Object::new("The object that has it.")
        .optional(
            "kind",
            word(&["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]),
            "Kind.",
        )
        .required("name", text(), "Name.");
    Object::new("A listener.")
        .required("envoyConfig", config.build(), "The object that has it.")
        .required("name", text(), "Name of the listener.")
        .optional(
            "priority",
            integer_between(0, 100),
            "Of several listeners the one with the least number counts.",
        )
        .build()
}

fn l7() -> Value {
    let header = Object::new("What a header must hold.")
        .required("name", text(), "Name of the header.")
        .optional("value", text(), "Value.")
        .optional("secret", secret(), "Secret that holds the value.")
        .optional(
            "mismatch",
            word(&["LOG", "ADD", "DELETE", "REPLACE"]),
            "What is done if it does not.",
        );
    let http = Object::new("HTTP requests.")
        .optional("path", text(), "Path, as an expression.")
        .optional("method", text(), "Method, as an expression.")
        .optional("host", text(), "Host, as an expression.")
        .optional("headers", list(text()), "Headers that must be there.")
        .optional(
            "headerMatches",
            list(header.build()),
            "Headers and their values.",
        );
    let kafka = Object::new("Kafka requests.")
        .optional("role", word(&["produce", "consume"]), "Role.")
        .optional("apiKey", text(), "Kind of request.")
        .optional("apiVersion", text(), "Version.")
        .optional("clientID", text(), "Client.")
        .optional("topic", text(), "Topic.");
    Object::new("Rules above the transport.")
        .optional("http", list(http.build()), "HTTP.")
        .optional("kafka", list(kafka.build()), "Kafka.")
        .optional("dns", list(name()), "Names that are asked for.")
        .optional("l7proto", text(), "Another protocol.")
        .optional("l7", list(map(text())), "Rules of that protocol.")
        .build()
}
