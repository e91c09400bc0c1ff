//! The scenarios of `scenarios.yaml`, read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hypha_e2e::policy::expect::Rules;
use hypha_e2e::policy::objects;
use policy::rule::Service;
use serde_json::{Map, Value, json};

const FILE: &str = include_str!("scenarios.yaml");

/// Objects that are in force together.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What is tried.
    pub name: String,
    /// Policies and groups.
    pub objects: Vec<Value>,
    /// Services.
    pub services: Vec<Value>,
}

/// Addresses outside the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Of IPv4.
    pub ipv4: IpAddr,
    /// Of IPv6.
    pub ipv6: IpAddr,
}

/// All scenarios.
///
/// # Panics
/// If the file is wrong.
#[must_use]
#[track_caller]
pub fn all(outside: Outside) -> Vec<Scenario> {
    let mut list: Vec<Value> = serde_saphyr::from_str(FILE).expect("scenarios.yaml is YAML");
    list.iter_mut().for_each(|value| outside.fill(value));
    let scenarios = list.iter().enumerate();
    scenarios
        .map(|(index, value)| Scenario::of(index, value.as_object().expect("an object")))
        .collect()
}

impl Outside {
    /// Puts the addresses in place of their names.
    fn fill(self, value: &mut Value) {
        match value {
            Value::String(text) if text.contains('$') => {
                let net = |ip: IpAddr, length| {
                    let net = ipnet::IpNet::new(ip, length).expect("a range").trunc();
                    net.to_string()
                };
                *text = text
                    .replace("$ROUTER_NET4", &net(self.ipv4, 24))
                    .replace("$ROUTER_NET6", &net(self.ipv6, 64))
                    .replace("$ROUTER4", &self.ipv4.to_string())
                    .replace("$ROUTER6", &self.ipv6.to_string());
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.fill(member)),
            _ => {}
        }
    }
}

impl Scenario {
    #[track_caller]
    fn of(index: usize, members: &Map<String, Value>) -> Self {
        let mut scenario = Self {
            name: members["name"].as_str().expect("a name").to_owned(),
            objects: Vec::new(),
            services: Vec::new(),
        };
        for (number, (key, spec)) in members.iter().filter(|(key, _)| *key != "name").enumerate() {
            let mut words = key.split(' ');
            let (kind, place) = (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            let name = format!("scenario-{index}-{number}");
            match kind {
                "cnp" => scenario
                    .objects
                    .push(with_rules(objects::cnp(place, &name, &Value::Null), spec)),
                "ccnp" => scenario
                    .objects
                    .push(with_rules(objects::ccnp(&name, &Value::Null), spec)),
                "knp" => scenario.objects.push(objects::knp(place, &name, spec)),
                "group" => scenario.objects.push(
                    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
                    "metadata": {"name": place, "labels": {"stage": "test"}}, "spec": spec}),
                ),
                "service" => {
                    let (namespace, name) = place.split_once('/').expect("namespace/name");
                    scenario.services.push(json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
                        "metadata": {"namespace": namespace, "name": name, "labels": {"stage": "test"}}}));
                }
                other => panic!("{}: there is no kind {other}", scenario.name),
            }
        }
        scenario
    }

    /// For the reference model.
    ///
    /// # Panics
    /// If an object is refused.
    #[must_use]
    #[track_caller]
    pub fn rules(&self) -> Rules {
        let mut rules =
            objects::rules(&self.objects).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        rules.services = self.services.iter().map(service).collect();
        rules
    }
}

/// One rule, or a list of them.
fn with_rules(mut object: Value, spec: &Value) -> Value {
    let member = if spec.is_array() { "specs" } else { "spec" };
    let members = object.as_object_mut().expect("an object");
    members.remove("spec");
    members.insert(member.to_owned(), spec.clone());
    object
}

fn service(object: &Value) -> Service {
    let map = |value: &Value| {
        let members = value.as_object().into_iter().flatten();
        members
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect()
    };
    Service {
        namespace: object["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        name: object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        labels: map(&object["metadata"]["labels"]),
        selector: map(&object["spec"]["selector"]),
        addresses: Vec::new(),
    }
}

#[test]
fn the_scenarios_are_right_and_differ() {
    let outside = Outside {
        ipv4: [192, 0, 2, 1].into(),
        ipv6: "2001:db8::1".parse().unwrap(),
    };
    let all = all(outside);
    assert!(all.len() >= 120, "{}", all.len());
    let names: BTreeSet<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "a name stands twice");
    let mut objects = BTreeSet::new();
    for scenario in &all {
        assert_eq!(
            scenario.rules().policies.len() + scenario.rules().groups.len(),
            scenario.objects.len()
        );
        let specs: Vec<String> = scenario
            .objects
            .iter()
            .map(|object| {
                format!(
                    "{} {} {} {}",
                    object["kind"],
                    object["metadata"]["namespace"],
                    object["spec"],
                    object["specs"]
                )
            })
            .collect();
        assert!(
            objects.insert(specs),
            "{}: the same stands there under another name",
            scenario.name
        );
    }
}
