//! `endpoint list|get|config`.
use std::net::Ipv4Addr;

use anyhow::Result;
use api::path::EndpointId;
use api::{Endpoint, EndpointConfig, ProxyRedirect};
use clap::Subcommand;
use serde_json::{Value, json};

use super::has_labels;
use crate::error::Usage;
use crate::output::{Format, OutputArgs};
use crate::table::align;
use crate::target::{Agent, show};

#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// All endpoints
    List {
        #[command(flatten)]
        output: OutputArgs,
        /// Without the lines of column names
        #[arg(long)]
        no_headers: bool,
    },
    /// One endpoint, or those with labels, as JSON
    Get {
        /// A number, or ipv4:, ipv6:, pod-name:, container-id: or cni-attachment-id: with a value
        #[arg(required_unless_present = "labels")]
        id: Option<String>,
        /// Endpoints that have all these labels, as k8s:app=cart
        #[arg(short = 'l', long, value_delimiter = ',', conflicts_with = "id")]
        labels: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Options of one endpoint; with OPTION=VALUE they are changed, and stay so when the agent starts anew
    Config {
        /// A number, or ipv4:, ipv6:, pod-name:, container-id: or cni-attachment-id: with a value
        id: String,
        /// As PolicyAuditMode=Enabled: what policy denies passes, and is told
        #[arg(value_name = "OPTION=VALUE")]
        changes: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub fn run(agents: &mut [Agent], command: &EndpointCommand) -> Result<()> {
    match command {
        EndpointCommand::List { output, no_headers } => show(
            agents,
            output,
            |agent| Ok(agent.client.endpoints()?),
            |endpoints| list(endpoints, !no_headers),
        ),
        EndpointCommand::Get { id, labels, output } => {
            let format = output.format.clone().unwrap_or(Format::Json);
            let output = OutputArgs {
                format: Some(format),
            };
            let id = id.as_deref().map(named).transpose()?;
            show(
                agents,
                &output,
                |agent| get(agent, id.as_ref(), labels),
                |_| String::new(),
            )
        }
        EndpointCommand::Config {
            id,
            changes,
            output,
        } => {
            let (id, wanted) = (named(id)?, wanted(changes)?);
            if wanted.options.is_empty() {
                let ask = |agent: &mut Agent| Ok(agent.client.endpoint_config(&id)?);
                return show(agents, output, ask, options);
            }
            let ask = |agent: &mut Agent| Ok(agent.client.set_endpoint_config(&id, &wanted)?);
            let done =
                |_: &EndpointConfig| format!("Endpoint {id} configuration updated successfully\n");
            show(agents, output, ask, done)
        }
    }
}

fn named(text: &str) -> Result<EndpointId> {
    let parsed = text.parse::<EndpointId>();
    Ok(parsed.map_err(|error| Usage(error.to_string()))?)
}

/// The options that words as `PolicyAuditMode=Enabled` ask for.
fn wanted(words: &[String]) -> Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            let line =
                format!("`{word}` is not of the form OPTION=VALUE, as PolicyAuditMode=Enabled");
            return Err(Usage(line).into());
        };
        config.options.insert(name.to_owned(), value.to_owned());
    }
    Ok(config)
}

fn options(config: &EndpointConfig) -> String {
    let lines = config.options.iter();
    lines
        .map(|(name, value)| format!("{name:<34}: {value}\n"))
        .collect()
}

fn get(agent: &mut Agent, id: Option<&EndpointId>, labels: &[String]) -> Result<Vec<Value>> {
    let found = match id {
        Some(id) => vec![agent.client.endpoint(id)?],
        None => agent
            .client
            .endpoints()?
            .into_iter()
            .filter(|endpoint| has_labels(&endpoint.labels, labels))
            .collect(),
    };
    let proxy = agent.client.healthz()?.proxy.unwrap_or_default();
    let of = |endpoint: &Endpoint| object(endpoint, &proxy.list);
    Ok(found.iter().map(of).collect())
}

/// Where an endpoint's connections go to the proxy, and what was asked for there.
fn proxied(endpoint: &Endpoint, redirects: &[ProxyRedirect]) -> Vec<Value> {
    let own = redirects
        .iter()
        .filter(|one| one.endpoint == u32::from(endpoint.id));
    own.map(|one| {
        let requests = &one.requests;
        json!({
            "allocated-proxy-port": one.proxy_port,
            "location": one.direction,
            "port": one.first,
            "protocol": one.protocol,
            "statistics": { "requests": {
                "denied": requests.denied, "error": requests.errors,
                "forwarded": requests.forwarded, "received": requests.received,
            } },
        })
    })
    .collect()
}

/// The object in the structure that scripts expect.
fn object(endpoint: &Endpoint, redirects: &[ProxyRedirect]) -> Value {
    let mut address = serde_json::Map::new();
    address.extend(endpoint.ipv4.map(|ip| ("ipv4".to_owned(), json!(ip))));
    address.extend(endpoint.ipv6.map(|ip| ("ipv6".to_owned(), json!(ip))));
    let audit = if endpoint.policy_audit { "audit-" } else { "" };
    let enforced = match (endpoint.policy_ingress, endpoint.policy_egress) {
        (true, true) => format!("{audit}both"),
        (true, false) => format!("{audit}ingress"),
        (false, true) => format!("{audit}egress"),
        (false, false) => "none".to_owned(),
    };
    let audits = if endpoint.policy_audit {
        "Enabled"
    } else {
        "Disabled"
    };
    json!({
        "id": endpoint.id,
        "spec": { "options": { "PolicyAuditMode": audits } },
        "status": {
            "external-identifiers": {
                "cni-attachment-id": endpoint.attachment.trim_start_matches("cni-attachment-id:"),
                "k8s-namespace": endpoint.pod.namespace,
                "k8s-pod-name": endpoint.pod.name,
                "k8s-pod-uid": endpoint.pod.uid,
                "netns": endpoint.netns,
            },
            "identity": { "id": endpoint.identity, "labels": endpoint.labels },
            "labels": { "security-relevant": endpoint.labels },
            "message": endpoint.message,
            "networking": {
                "addressing": [address],
                "container-interface-name": endpoint.container_ifname,
                "host-mac": endpoint.host_mac,
                "interface-index": endpoint.host_ifindex,
                "interface-name": endpoint.host_ifname,
                "mac": endpoint.container_mac,
            },
            "policy": { "proxy-statistics": proxied(endpoint, redirects), "realized": { "policy-enabled": enforced, "policy-revision": endpoint.policy_revision } },
            "state": endpoint.state.text(),
        },
    })
}

fn list(endpoints: &[Endpoint], headers: bool) -> String {
    let mut endpoints: Vec<&Endpoint> = endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| endpoint.id);
    let mut text = String::new();
    if headers {
        text.push_str("ENDPOINT\tPOLICY (ingress)\tPOLICY (egress)\tIDENTITY\tLABELS (source:key[=value])\tIPv6\tIPv4\tSTATUS\n");
        text.push_str("\tENFORCEMENT\tENFORCEMENT\t\t\t\t\t\n");
    }
    for endpoint in endpoints {
        text.push_str(&rows(endpoint));
    }
    align(&text)
}

/// The first label on the endpoint's own line, each further one on a line below.
fn rows(endpoint: &Endpoint) -> String {
    let enforced = |on: bool| match (on, endpoint.policy_audit) {
        (false, _) => "Disabled",
        (true, true) => "Disabled (Audit)",
        (true, false) => "Enabled",
    };
    let mut labels = endpoint.labels.clone();
    labels.sort();
    let first = labels.first().map_or("no labels", String::as_str);
    let ipv4 = endpoint
        .ipv4
        .filter(|ip| *ip != Ipv4Addr::UNSPECIFIED)
        .map(|ip| ip.to_string())
        .unwrap_or_default();
    let ipv6 = endpoint.ipv6.map(|ip| ip.to_string()).unwrap_or_default();
    let mut text = format!(
        "{}\t{}\t{}\t{}\t{first}\t{ipv6}\t{ipv4}\t{}\n",
        endpoint.id,
        enforced(endpoint.policy_ingress),
        enforced(endpoint.policy_egress),
        endpoint.identity,
        endpoint.state.text(),
    );
    for label in labels.iter().skip(1) {
        text.push_str(&format!("\t\t\t\t{label}\t\t\t\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn endpoints() -> Vec<Endpoint> {
        serde_json::from_value(json!([
            {
                "id": 904, "state": "ready", "identity": 21565, "ipv4": "10.7.1.12", "ipv6": "2001:db8:7::c", "policyIngress": true,
                "labels": ["k8s:io.kubernetes.pod.namespace=shop", "k8s:app=cart"], "pod": {"namespace": "shop", "name": "cart-0"},
                "attachment": "cni-attachment-id:c1:eth0", "hostIfname": "lxcab12", "hostIfindex": 12, "hostMac": "bb:00:00:00:00:02",
                "containerIfname": "eth0", "containerMac": "aa:00:00:00:00:01", "netns": "/run/netns/c1",
            },
            {"id": 612, "state": "waiting-for-identity", "identity": 5},
        ]))
        .unwrap()
    }

    #[test]
    fn list_is_sorted_with_a_line_per_label() {
        expect![[r#"
            ENDPOINT   POLICY (ingress)   POLICY (egress)   IDENTITY   LABELS (source:key[=value])            IPv6            IPv4        STATUS
                       ENFORCEMENT        ENFORCEMENT
            612        Disabled           Disabled          5          no labels                                                          waiting-for-identity
            904        Enabled            Disabled          21565      k8s:app=cart                           2001:db8:7::c   10.7.1.12   ready
                                                                       k8s:io.kubernetes.pod.namespace=shop
        "#]].assert_eq(&list(&endpoints(), true));
        assert!(list(&endpoints(), false).starts_with("612 "));
    }

    #[test]
    fn object_has_the_known_structure() {
        let redirect = |endpoint| ProxyRedirect {
            endpoint,
            direction: "ingress".into(),
            first: 80,
            last: 80,
            protocol: "http".into(),
            proxy_port: 15001,
            requests: api::ProxyRequests {
                received: 12,
                forwarded: 9,
                denied: 3,
                errors: 0,
            },
            ..ProxyRedirect::default()
        };
        let redirects = [redirect(904), redirect(905)];
        expect![[r#"
            {
              "id": 904,
              "spec": {
                "options": {
                  "PolicyAuditMode": "Disabled"
                }
              },
              "status": {
                "external-identifiers": {
                  "cni-attachment-id": "c1:eth0",
                  "k8s-namespace": "shop",
                  "k8s-pod-name": "cart-0",
                  "k8s-pod-uid": "",
                  "netns": "/run/netns/c1"
                },
                "identity": {
                  "id": 21565,
                  "labels": [
                    "k8s:io.kubernetes.pod.namespace=shop",
                    "k8s:app=cart"
                  ]
                },
                "labels": {
                  "security-relevant": [
                    "k8s:io.kubernetes.pod.namespace=shop",
                    "k8s:app=cart"
                  ]
                },
                "message": "",
                "networking": {
                  "addressing": [
                    {
                      "ipv4": "10.7.1.12",
                      "ipv6": "2001:db8:7::c"
                    }
                  ],
                  "container-interface-name": "eth0",
                  "host-mac": "bb:00:00:00:00:02",
                  "interface-index": 12,
                  "interface-name": "lxcab12",
                  "mac": "aa:00:00:00:00:01"
                },
                "policy": {
                  "proxy-statistics": [
                    {
                      "allocated-proxy-port": 15001,
                      "location": "ingress",
                      "port": 80,
                      "protocol": "http",
                      "statistics": {
                        "requests": {
                          "denied": 3,
                          "error": 0,
                          "forwarded": 9,
                          "received": 12
                        }
                      }
                    }
                  ],
                  "realized": {
                    "policy-enabled": "ingress",
                    "policy-revision": 0
                  }
                },
                "state": "ready"
              }
            }
        "#]]
        .assert_eq(
            &(serde_json::to_string_pretty(&object(&endpoints()[0], &redirects)).unwrap() + "\n"),
        );
    }

    #[test]
    fn what_is_audited_is_shown_as_such() {
        let mut endpoint = endpoints().remove(0);
        endpoint.policy_audit = true;
        let line = rows(&endpoint);
        assert!(line.contains("904\tDisabled (Audit)\tDisabled\t"), "{line}");
        let object = object(&endpoint, &[]);
        assert_eq!(object["spec"]["options"]["PolicyAuditMode"], "Enabled");
        let enabled = &object["status"]["policy"]["realized"]["policy-enabled"];
        assert_eq!(enabled, "audit-ingress");
    }

    #[test]
    fn options_are_named_with_their_values() {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        let config = wanted(&words(&["PolicyAuditMode=Enabled"])).unwrap();
        assert_eq!(
            options(&config),
            "PolicyAuditMode                   : Enabled\n"
        );
        let error = wanted(&words(&["PolicyAuditMode"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`PolicyAuditMode` is not of the form OPTION=VALUE, as PolicyAuditMode=Enabled"
        );
    }

    #[test]
    fn labels_with_and_without_source() {
        let endpoint = &endpoints()[0];
        assert!(has_labels(
            &endpoint.labels,
            &[
                "k8s:app=cart".into(),
                "io.kubernetes.pod.namespace=shop".into()
            ]
        ));
        assert!(!has_labels(&endpoint.labels, &["app=car".into()]));
    }
}
