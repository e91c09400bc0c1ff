//! Names outside the cluster: which rules mean them, who may look them up, and what a node has learned of them.
use std::collections::BTreeMap;
use std::net::IpAddr;

use ::kube::api::{Api, AttachParams, ListParams};
use ::policy::reference::{End, Model};
use ::policy::rule::{Action, Direction, L7Rules, Peer, Peers, Traffic, canonical};
use anyhow::{Context, Result, anyhow};
use api::FqdnLookup;
use k8s_openapi::api::core::v1::Pod;
use model::Labels;
use tokio::io::AsyncReadExt as _;

use super::cluster::World;
use super::place::{Place, View};
use crate::kube::{ClusterArgs, LIMIT, answer};

/// Label of the agents' pods.
const AGENTS: &str = "k8s-app=cilium";

/// A name, and the labels of its addresses.
#[derive(Clone, Debug)]
pub struct Named {
    /// As it was given.
    pub text: String,
    /// What a rule by name or for the world selects.
    pub labels: Labels,
    /// One of its addresses, where one is known.
    pub address: Option<IpAddr>,
}

/// What the agent of a node knows of a name, or why it was not asked.
pub type Known = Result<Vec<FqdnLookup>, String>;

impl Named {
    /// The name that a word is, if it may be one: it has a dot, and what stands between dots is what names are made of.
    #[must_use]
    pub fn parse(text: &str, world: &World) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_label = |label: &str| (1..64).contains(&label.len()) && label.bytes().all(known);
        let plain = text.strip_suffix('.').unwrap_or(text);
        let is_name = text.contains('.') && text.len() < 255 && plain.split('.').all(is_label);
        is_name.then(|| Self {
            text: text.to_owned(),
            labels: labels(&canonical(text), world),
            address: None,
        })
    }

    /// The same, as long as nobody has learned an address of it.
    fn unlearned(&self) -> Self {
        Self {
            labels: Labels::reserved("world"),
            ..self.clone()
        }
    }

    /// As an end of what a source asks about: with each address that is known, with none where none is. What can never be learned has not
    /// the labels of what is.
    #[must_use]
    pub fn ends<'a>(&self, source: &Place<'_>, world: &'a World) -> Vec<Place<'a>> {
        let learned = self.learned(world);
        if learned.is_empty() {
            let view = source.seen_from(source.node(), world);
            return vec![Place::Name(match lookup(&view, self, world) {
                Some(_) => self.clone(),
                None => self.unlearned(),
            })];
        }
        let end = |address: &IpAddr| match Place::at(*address, world) {
            Place::Outside(_) => Place::Name(Self {
                address: Some(*address),
                ..self.clone()
            }),
            // Names open no way to pods and nodes.
            inside => inside,
        };
        learned.keys().map(end).collect()
    }

    /// The addresses that are known, each with when its time is over; nothing for those that count while connections live.
    fn learned(&self, world: &World) -> BTreeMap<IpAddr, String> {
        let mut found: BTreeMap<IpAddr, String> = BTreeMap::new();
        for lookup in world.names.iter().flatten().flatten() {
            let until = match lookup.source.as_str() {
                "connection" => "",
                _ => lookup.expiration_time.as_str(),
            };
            for ip in &lookup.ips {
                let known = found.entry(*ip).or_default();
                // Of several pods' lookups the last one counts.
                if until > known.as_str() {
                    until.clone_into(known);
                }
            }
        }
        found
    }

    /// What people should know of the name, where rules by name decide.
    #[must_use]
    pub fn notes(&self, source: &Place<'_>, world: &World) -> Vec<String> {
        let (who, name) = (source.name(), &self.text);
        let node = source.node().unwrap_or("the node");
        let view = source.seen_from(source.node(), world);
        let rule = lookup(&view, self, world);
        let mut notes = vec![match &rule {
            Some(rule) => format!("{who} may look up {name} by {rule}"),
            None => format!(
                "no DNS rule lets {who} look up {name} by way of the proxy, so that its addresses are not learned from it; needed: an entry of egress towards the DNS server, toPorts 53/ANY, with rules.dns matchName {name}"
            ),
        }];
        let learned = self.learned(world);
        notes.push(match &world.names {
            None => format!("{who} is on no node: which addresses of {name} are known is not asked"),
            Some(Err(why)) => format!(
                "which addresses of {name} {node} knows could not be asked ({why}); `hypha dbg --node {node} fqdn cache list` lists them"
            ),
            Some(Ok(_)) if learned.is_empty() => format!(
                "{node} knows no address of {name}: rules by name let connections in once it was looked up by way of the proxy"
            ),
            Some(Ok(_)) => {
                let addresses: Vec<String> = learned.iter().map(known).collect();
                format!("{node} knows {name} as {}", addresses.join(", "))
            }
        });
        for address in learned.keys() {
            let place = Place::at(*address, world);
            if !matches!(place, Place::Outside(_)) {
                let is = place.name();
                notes.push(format!(
                    "{address} is {is}: rules by name say nothing of it"
                ));
            }
        }
        notes
    }
}

fn known((address, until): (&IpAddr, &String)) -> String {
    match until.as_str() {
        "" => format!("{address} (while there are connections)"),
        until => format!("{address} (until {until})"),
    }
}

/// Of an address that has a canonical name: the world's, and one of each rule by name that means it.
fn labels(name: &str, world: &World) -> Labels {
    let rules = world.policies.iter().flat_map(|policy| &policy.rules);
    let entries = rules
        .flat_map(|rule| &rule.sections)
        .flat_map(|section| &section.entries);
    let peers = entries.flat_map(|entry| match &entry.peers {
        Peers::Of(peers) => peers.as_slice(),
        Peers::Any => &[],
    });
    let meant = peers.filter_map(|peer| match peer {
        Peer::Name(rule) if rule.is_met_by(name) => Some(rule.label()),
        _ => None,
    });
    meant.chain(["reserved:world".to_owned()]).collect()
}

/// The first rule by which somebody may look a name up by way of the proxy.
fn lookup(view: &View, name: &Named, world: &World) -> Option<String> {
    let model = Model {
        settings: &world.settings,
        policies: &world.policies,
        groups: &world.groups,
        services: &world.services,
    };
    let name = canonical(&name.text);
    let subject: End<'_> = view.end();
    let allowing = model
        .entries(Direction::Egress, &subject)
        .filter(|(_, entry)| entry.action == Action::Allow);
    let mut found = allowing.flat_map(|(source, entry)| {
        let ports = match &entry.traffic {
            Traffic::Ports(ports) => ports.as_slice(),
            _ => &[],
        };
        let rules = ports.iter().filter_map(|port| port.l7.as_ref());
        let name = name.clone();
        rules.filter_map(move |l7| match &*l7.rules {
            L7Rules::Dns(rules) => {
                let index = rules.iter().position(|rule| rule.is_met_by(&name))?;
                Some(format!("{}: {}[{index}]", source.policy, l7.path))
            }
            _ => None,
        })
    });
    found.next()
}

/// Asks the agent of a node for a name, through the API server.
///
/// # Errors
/// There is no agent, or it does not answer.
pub async fn ask(cluster: &ClusterArgs, node: &str, name: &str) -> Result<Vec<FqdnLookup>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, &cluster.namespace);
    let wanted = ListParams::default()
        .labels(AGENTS)
        .fields(&format!("spec.nodeName={node}"));
    let agents = answer(pods.list(&wanted)).await?;
    let pod = agents
        .items
        .into_iter()
        .find_map(|pod| pod.metadata.name)
        .ok_or_else(|| anyhow!("no agent runs there"))?;
    let pattern = canonical(name);
    let words = [
        "cilium-dbg",
        "fqdn",
        "cache",
        "list",
        "-o",
        "json",
        "-p",
        pattern.as_str(),
    ];
    let params = AttachParams::default()
        .container("cilium-agent")
        .stderr(false);
    let mut process = answer(pods.exec(&pod, words, &params)).await?;
    let mut output = process.stdout().context("the API server gave no stream")?;
    let mut text = String::new();
    let read = tokio::time::timeout(LIMIT, output.read_to_string(&mut text)).await;
    read.map_err(|_| anyhow!("its agent did not answer in {} s", LIMIT.as_secs()))??;
    serde_json::from_str(&text).context("its agent's answer is not understood")
}
