//! What the API server knows of a cluster and verdicts depend on.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ::kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use ::policy::labels::{LabelFilter, pod_labels};
use ::policy::parse::{self, Options, Refused};
use ::policy::rule::{
    CidrGroup, NamedPort, NamedPorts, Policy, PolicyKind, PolicyName, Protocol, Service,
    SubjectSelector,
};
use ::policy::{Mode, Settings};
use anyhow::{Context, Result};
use k8s::Client;
use model::{LabelMap, Labels, PodLabels};
use serde_json::Value;

use super::files::Document;
use super::name::Known;
use crate::kube::{ClusterArgs, answer};

/// The ConfigMap with the settings.
const SETTINGS: &str = "cilium-config";
/// Objects asked for at once.
const PAGE: u32 = 2000;

/// A cluster as policy sees it.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Settings that decide about verdicts.
    pub settings: Settings,
    /// Policy of nodes is enforced.
    pub host_firewall: bool,
    /// What policy denies passes, and is told, but of pods with a setting of their own.
    pub audit: bool,
    /// Where each node may have policies in files; empty where none has.
    pub node_files: String,
    /// Rules by address mean nodes, too.
    pub nodes_by_cidr: bool,
    /// Nodes have their labels in their identities.
    pub node_labels: bool,
    /// What rules say of default deny does not count.
    pub always_default_deny: bool,
    /// Rules above the transport are enforced.
    pub l7: bool,
    /// Families of addresses: IPv4, IPv6.
    pub families: [bool; 2],
    /// Pods that have an address of their own.
    pub pods: Vec<Pod>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, LabelMap>,
    /// What makes an identity.
    pub filter: LabelFilter,
    /// Addresses of the API server.
    pub api_servers: BTreeSet<IpAddr>,
    /// Services.
    pub services: Vec<Service>,
    /// Groups of address ranges.
    pub groups: Vec<CidrGroup>,
    /// Policies that are in force.
    pub policies: Vec<Policy>,
    /// Policies that are not, and why.
    pub refused: Vec<(PolicyName, Refused)>,
    /// Objects of the policies, to quote them.
    pub objects: BTreeMap<PolicyName, Value>,
    /// Secrets that policies name which are looked at.
    pub secrets: super::secrets::Found,
    /// Where those of them stand that come from files.
    pub files: BTreeMap<PolicyName, Document>,
    /// What is known of the name that is asked about; none where nobody can know.
    pub names: Option<Known>,
}

/// A pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node; empty while it has none.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The labels that make its identity.
    pub labels: Labels,
    /// Its ports that have names.
    pub ports: NamedPorts,
    /// What policy denies of it passes, and is told; none where its agent does not say, or policy has no say.
    pub audit: Option<bool>,
}

impl Pod {
    /// `namespace/name`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Labels of the object.
    pub labels: LabelMap,
    /// What policy denies of it passes, and is told; none where its agent does not say.
    pub audit: Option<bool>,
}

impl World {
    /// Asks the API server for everything.
    ///
    /// # Errors
    /// There is no cluster, or it does not answer.
    pub async fn read(args: &ClusterArgs) -> Result<Self> {
        let client = args.client().await?;
        let settings = config_map(&client, &args.namespace).await?;
        let mut world = Self::with_settings(&settings)?;
        world.read_objects(&client).await?;
        world.read_policies(&client, &settings).await?;
        Ok(world)
    }

    /// A cluster with these settings and nothing in it; what is not set is as agents take it.
    ///
    /// # Errors
    /// The setting `labels` cannot be used.
    pub fn with_settings(settings: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key: &str| settings.get(key).map(String::as_str).unwrap_or_default();
        let default = Settings::default();
        Ok(Self {
            settings: Settings {
                mode: Mode::from_text(get("enable-policy")).unwrap_or_default(),
                allow_localhost: get("allow-localhost") != "policy",
                cluster: match get("cluster-name") {
                    "" => default.cluster,
                    name => name.to_owned(),
                },
            },
            host_firewall: get("enable-host-firewall") == "true",
            audit: get("policy-audit-mode") == "true",
            node_files: get("static-cnp-path").to_owned(),
            nodes_by_cidr: get("policy-cidr-match-mode")
                .split([',', ' '])
                .any(|mode| mode == "nodes"),
            node_labels: get("enable-node-selector-labels") == "true",
            always_default_deny: get("enable-non-default-deny-policies") == "false",
            l7: match get("enable-l7-proxy") {
                "" => runtime::settings::Settings::default().enable_l7_proxy,
                text => text == "true",
            },
            families: [get("enable-ipv4") != "false", get("enable-ipv6") == "true"],
            filter: LabelFilter::parse(get("labels"))?,
            ..Self::default()
        })
    }

    /// What the parsers need to know of the settings.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            node_selector_labels: self.node_labels,
            always_default_deny: self.always_default_deny,
            l7: self.l7,
        }
    }

    async fn read_objects(&mut self, client: &Client) -> Result<()> {
        let namespaces = list(client, "", "v1", "Namespace", "namespaces").await?;
        self.namespaces = namespaces
            .iter()
            .map(|object| (text(&object["metadata"]["name"]), labels(object)))
            .collect();
        let nodes = list(client, "", "v1", "Node", "nodes").await?;
        self.nodes = nodes.iter().map(node).collect();
        let agents = list(client, "cilium.io", "v2", "CiliumNode", "ciliumnodes").await?;
        self.note_node_audits(&agents);
        let pods = list(client, "", "v1", "Pod", "pods").await?;
        self.pods = pods.iter().filter_map(|object| self.pod(object)).collect();
        self.note_audits(
            &list(
                client,
                "cilium.io",
                "v2",
                "CiliumEndpoint",
                "ciliumendpoints",
            )
            .await?,
        );
        let slices = list(
            client,
            "discovery.k8s.io",
            "v1",
            "EndpointSlice",
            "endpointslices",
        )
        .await?;
        let backends = backends(&slices);
        let api = ("default".to_owned(), "kubernetes".to_owned());
        self.api_servers = backends.get(&api).into_iter().flatten().copied().collect();
        let services = list(client, "", "v1", "Service", "services").await?;
        self.services = services
            .iter()
            .map(|object| service(object, &backends))
            .collect();
        Ok(())
    }

    /// Takes from what agents say of pods whether policy only watches them.
    pub fn note_audits(&mut self, endpoints: &[Value]) {
        let says = |object: &Value| {
            let policy = &object["status"]["policy"];
            let states = ["ingress", "egress"].map(|way| policy[way]["state"].as_str());
            let has = |state| states.contains(&Some(state));
            let audit = has("non-enforcing").then_some(true);
            audit.or(has("enforcing").then_some(false))
        };
        let audits: BTreeMap<(&str, &str), bool> = endpoints
            .iter()
            .filter_map(|object| {
                let metadata = &object["metadata"];
                let pod = (metadata["namespace"].as_str()?, metadata["name"].as_str()?);
                Some((pod, says(object)?))
            })
            .collect();
        for pod in &mut self.pods {
            pod.audit = audits.get(&(&*pod.namespace, &*pod.name)).copied();
        }
    }

    /// Takes from what agents say of their nodes whether policy only watches these.
    pub fn note_node_audits(&mut self, objects: &[Value]) {
        for object in objects {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str();
            let says = metadata["annotations"][k8s::crd::NODE_AUDIT].as_str();
            let nodes = self.nodes.iter_mut();
            for node in nodes.filter(|node| Some(&*node.name) == name) {
                node.audit = says.and_then(|text| text.parse().ok());
            }
        }
    }

    async fn read_policies(
        &mut self,
        client: &Client,
        settings: &BTreeMap<String, String>,
    ) -> Result<()> {
        for group in list(
            client,
            "cilium.io",
            "v2",
            "CiliumCIDRGroup",
            "ciliumcidrgroups",
        )
        .await?
        {
            // One that cannot be read has no ranges for anybody.
            self.groups.extend(parse::cidr_group(&group).ok());
        }
        for (kind, group, version, plural) in KINDS {
            let unused = *kind == PolicyKind::NetworkPolicy
                && settings
                    .get("enable-k8s-networkpolicy")
                    .is_some_and(|value| value == "false");
            if unused {
                continue;
            }
            for object in list(client, group, version, kind.text(), plural).await? {
                self.add(*kind, object);
            }
        }
        Ok(())
    }

    /// Takes a policy object over, in place of one of the same name.
    pub fn add(&mut self, kind: PolicyKind, object: Value) {
        let metadata = &object["metadata"];
        let name = PolicyName {
            kind,
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
        };
        match parse::policy_of_kind(kind, &object, self.options()) {
            Ok(policy) => self.put(policy, object),
            Err(refused) => self.refused.push((name, refused)),
        }
    }

    /// Takes a policy over, in place of one of the same name.
    pub fn put(&mut self, mut policy: Policy, object: Value) {
        if !self.host_firewall {
            policy
                .rules
                .retain(|rule| matches!(rule.subject, SubjectSelector::Endpoints(_)));
        }
        self.remove(&policy.name);
        self.objects.insert(policy.name.clone(), object);
        self.policies.push(policy);
    }

    /// Forgets a policy; whether there was one.
    pub fn remove(&mut self, name: &PolicyName) -> bool {
        let before = self.policies.len();
        self.policies.retain(|known| known.name != *name);
        self.refused.retain(|(known, _)| known != name);
        self.objects.remove(name);
        self.files.remove(name);
        self.policies.len() < before
    }

    /// Takes a group over, in place of one of the same name.
    pub fn put_group(&mut self, group: CidrGroup) {
        self.remove_group(&group.name);
        self.groups.push(group);
    }

    /// Forgets a group; whether there was one.
    pub fn remove_group(&mut self, name: &str) -> bool {
        let before = self.groups.len();
        self.groups.retain(|known| known.name != name);
        self.groups.len() < before
    }

    fn pod(&self, object: &Value) -> Option<Pod> {
        let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
        let over = ["Succeeded", "Failed"].contains(&status["phase"].as_str().unwrap_or_default());
        if over || spec["hostNetwork"] == true {
            return None;
        }
        let namespace = text(&metadata["namespace"]);
        let ips = status["podIPs"].as_array().into_iter().flatten();
        Some(Pod {
            labels: self.labels_of(
                &namespace,
                spec["serviceAccountName"].as_str().unwrap_or_default(),
                &labels(object),
            ),
            name: text(&metadata["name"]),
            node: text(&spec["nodeName"]),
            ips: ips
                .filter_map(|ip| ip["ip"].as_str()?.parse().ok())
                .collect(),
            ports: named_ports(spec),
            audit: None,
            namespace,
        })
    }

    /// The labels that make the identity of a pod.
    #[must_use]
    pub fn labels_of(&self, namespace: &str, service_account: &str, labels: &LabelMap) -> Labels {
        let none = LabelMap::default();
        let of_pod = PodLabels {
            cluster: &self.settings.cluster,
            namespace,
            namespace_labels: self.namespaces.get(namespace).unwrap_or(&none),
            service_account,
            labels,
        };
        pod_labels(&of_pod, &self.filter)
    }
}

/// The kinds of policy, and where the API server has them.
const KINDS: &[(PolicyKind, &str, &str, &str)] = &[
    (
        PolicyKind::AdminNetworkPolicy,
        "policy.networking.k8s.io",
        "v1alpha1",
        "adminnetworkpolicies",
    ),
    (
        PolicyKind::BaselineAdminNetworkPolicy,
        "policy.networking.k8s.io",
        "v1alpha1",
        "baselineadminnetworkpolicies",
    ),
    (
        PolicyKind::CiliumClusterwideNetworkPolicy,
        "cilium.io",
        "v2",
        "ciliumclusterwidenetworkpolicies",
    ),
    (
        PolicyKind::CiliumNetworkPolicy,
        "cilium.io",
        "v2",
        "ciliumnetworkpolicies",
    ),
    (
        PolicyKind::NetworkPolicy,
        "networking.k8s.io",
        "v1",
        "networkpolicies",
    ),
];

async fn config_map(client: &Client, namespace: &str) -> Result<BTreeMap<String, String>> {
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(client.clone(), namespace);
    let found = answer(maps.get_opt(SETTINGS))
        .await
        .context("cannot read the settings")?;
    Ok(found.and_then(|map| map.data).unwrap_or_default())
}

/// All objects of a kind; none where the API server does not have the kind.
async fn list(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
) -> Result<Vec<Value>> {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let api: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&gvk, plural),
    );
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = answer(async {
            match api.list(&params).await {
                Ok(page) => Ok(Some(page)),
                Err(::kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
        .with_context(|| format!("cannot list {plural}"))?;
        let Some(page) = page else { return Ok(found) };
        for object in page.items {
            found.push(serde_json::to_value(object).context("an object that is no JSON")?);
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(found),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn labels(object: &Value) -> LabelMap {
    let members = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten();
    members
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

fn plain(value: &Value) -> BTreeMap<String, String> {
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

fn node(object: &Value) -> Node {
    let addresses = object["status"]["addresses"]
        .as_array()
        .into_iter()
        .flatten();
    Node {
        audit: None,
        name: text(&object["metadata"]["name"]),
        ips: addresses
            .filter_map(|address| address["address"].as_str()?.parse().ok())
            .collect(),
        labels: labels(object),
    }
}

fn named_ports(spec: &Value) -> NamedPorts {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let ports =
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            Some(NamedPort {
                name: port["name"].as_str()?.to_owned(),
                protocol: Protocol::ALL
                    .into_iter()
                    .find(|known| known.text() == protocol)?,
                port: u16::try_from(port["containerPort"].as_u64()?).ok()?,
            })
        })
        .collect()
}

/// Addresses behind services, by namespace and name.
fn backends(slices: &[Value]) -> BTreeMap<(String, String), Vec<IpAddr>> {
    let mut found: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
    for slice in slices {
        let metadata = &slice["metadata"];
        let service = text(&metadata["labels"]["kubernetes.io/service-name"]);
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let addresses = endpoints
            .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
            .filter_map(|address| address.as_str()?.parse::<IpAddr>().ok());
        found
            .entry((text(&metadata["namespace"]), service))
            .or_default()
            .extend(addresses);
    }
    found
}

fn service(object: &Value, backends: &BTreeMap<(String, String), Vec<IpAddr>>) -> Service {
    let (namespace, name) = (
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
    );
    let selector = plain(&object["spec"]["selector"]);
    let addresses = match selector.is_empty() {
        true => backends
            .get(&(namespace.clone(), name.clone()))
            .cloned()
            .unwrap_or_default(),
        false => Vec::new(),
    };
    Service {
        labels: plain(&object["metadata"]["labels"]),
        namespace,
        name,
        selector,
        addresses,
    }
}
