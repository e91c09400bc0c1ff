//! A container's environment. Pure: what it refers to is read before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, Pod, ResourceFieldSelector, Secret,
    Service,
};

use super::DEFAULT_PATH;
use super::plan::{Facts, Waiting, config_error};

/// What pods refer to, as it is now. An object that is not there is missing here.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps of the pod's namespace.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets of the pod's namespace.
    pub secrets: BTreeMap<String, Secret>,
    /// Services whose addresses are told, `kubernetes` among them.
    pub services: Vec<Service>,
    /// Service account tokens, by audience.
    pub tokens: BTreeMap<String, String>,
}

/// All keys of a ConfigMap, or one of them, as bytes.
pub(super) fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten();
    let text = text.map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten();
    text.chain(binary.map(|(k, v)| (k.clone(), v.0.clone())))
        .collect()
}

/// All keys of a Secret.
pub(super) fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let text = secret.string_data.iter().flatten();
    let text = text.map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let data = secret.data.iter().flatten();
    text.chain(data.map(|(k, v)| (k.clone(), v.0.clone())))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The environment of a container, complete.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &Sources,
) -> Result<Vec<(String, String)>, Waiting> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), facts.hostname.clone()),
    ]);
    let spec = pod.spec.as_ref();
    let links = spec.and_then(|s| s.enable_service_links).unwrap_or(true);
    let own = pod.metadata.namespace.as_deref().unwrap_or_default();
    env.extend(services(&sources.services, own, links));
    for from in container.env_from.iter().flatten() {
        env.extend(env_from(from, sources)?);
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => from_source(pod, container, variable, from, facts, sources)?,
            None => {
                let known = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                Some(expand(
                    variable.value.as_deref().unwrap_or_default(),
                    &known,
                ))
            }
        };
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env.into_iter().collect())
}

/// Variables with the addresses of services, as users of links know them.
fn services(all: &[Service], own: &str, links: bool) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for service in all {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = namespace == "default" && name == "kubernetes";
        if !(master || links && namespace == own) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let (Ok(ip), Some(first)) = (ip.parse::<IpAddr>(), ports.first()) else {
            continue;
        };
        let prefix = name.to_uppercase().replace('-', "_");
        let mut set =
            |suffix: String, value: String| env.insert(format!("{prefix}_{suffix}"), value);
        let url = |protocol: &str, port: i32| match ip {
            IpAddr::V4(ip) => format!("{protocol}://{ip}:{port}"),
            IpAddr::V6(ip) => format!("{protocol}://[{ip}]:{port}"),
        };
        set("SERVICE_HOST".into(), ip.to_string());
        set("SERVICE_PORT".into(), first.port.to_string());
        let protocol = |p: Option<&str>| p.unwrap_or("TCP").to_lowercase();
        set(
            "PORT".into(),
            url(&protocol(first.protocol.as_deref()), first.port),
        );
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                set(format!("SERVICE_PORT_{name}"), port.port.to_string());
            }
            let protocol = protocol(port.protocol.as_deref());
            let base = format!("PORT_{}_{}", port.port, protocol.to_uppercase());
            set(base.clone(), url(&protocol, port.port));
            set(format!("{base}_PROTO"), protocol);
            set(format!("{base}_PORT"), port.port.to_string());
            set(format!("{base}_ADDR"), ip.to_string());
        }
    }
    env
}

fn env_from(from: &EnvFromSource, sources: &Sources) -> Result<BTreeMap<String, String>, Waiting> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    let data = if let Some(map) = &from.config_map_ref {
        let found = sources.config_maps.get(&map.name).map(config_map_data);
        (found, map.optional, format!("configmap {:?}", map.name))
    } else if let Some(secret) = &from.secret_ref {
        let found = sources.secrets.get(&secret.name).map(secret_data);
        (found, secret.optional, format!("secret {:?}", secret.name))
    } else {
        return Ok(BTreeMap::new());
    };
    match data {
        (Some(data), _, _) => Ok(data
            .iter()
            .filter(|(k, _)| !k.contains('='))
            .map(|(k, v)| (format!("{prefix}{k}"), text(v)))
            .collect()),
        (None, Some(true), _) => Ok(BTreeMap::new()),
        (None, _, what) => Err(config_error(format!("{what} not found"))),
    }
}

/// One key of an object; `None` when it is optional and not there.
fn one_key(
    data: Option<BTreeMap<String, Vec<u8>>>,
    key: &str,
    optional: bool,
    what: &str,
) -> Result<Option<String>, Waiting> {
    match data.map(|d| d.get(key).map(|v| text(v))) {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional => Ok(None),
        Some(None) => Err(config_error(format!("couldn't find key {key} in {what}"))),
        None => Err(config_error(format!("{what} not found"))),
    }
}

fn from_source(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    from: &EnvVarSource,
    facts: &Facts,
    sources: &Sources,
) -> Result<Option<String>, Waiting> {
    if let Some(key) = &from.config_map_key_ref {
        let data = sources.config_maps.get(&key.name).map(config_map_data);
        let what = format!("configmap {:?}", key.name);
        return one_key(data, &key.key, key.optional.unwrap_or(false), &what);
    }
    if let Some(key) = &from.secret_key_ref {
        let data = sources.secrets.get(&key.name).map(secret_data);
        let what = format!("secret {:?}", key.name);
        return one_key(data, &key.key, key.optional.unwrap_or(false), &what);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_field(container, resource, facts)
            .map(|n| Some(n.to_string()))
            .map_err(|e| config_error(format!("variable {:?}: {e}", variable.name)));
    }
    let path = from.field_ref.as_ref().map(|f| f.field_path.as_str());
    match path.and_then(|p| field(pod, p, facts)) {
        Some(value) => Ok(Some(value)),
        None => {
            let what =
                path.map_or_else(|| "this source".to_owned(), |p| format!("the field {p:?}"));
            let name = &variable.name;
            Err(config_error(format!(
                "variable {name:?}: the lab takes no values from {what}"
            )))
        }
    }
}

/// A field of the pod as text; `None` for a field that is not offered.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Option<String> {
    let meta = &pod.metadata;
    let list = |map: &Option<BTreeMap<String, String>>| {
        let lines = map.iter().flatten().map(|(k, v)| format!("{k}={v:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let key = |map: &Option<BTreeMap<String, String>>, rest: &str| {
        let key = rest.strip_prefix("['")?.strip_suffix("']")?;
        Some(
            map.as_ref()
                .and_then(|m| m.get(key).cloned())
                .unwrap_or_default(),
        )
    };
    let join = |ips: &[IpAddr]| {
        ips.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => list(&meta.labels),
        "metadata.annotations" => list(&meta.annotations),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => service_account(pod).to_owned(),
        "status.hostIP" => facts
            .host_ips
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => facts
            .pod_ips
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        "status.podIPs" => join(&facts.pod_ips),
        other => {
            if let Some(rest) = other.strip_prefix("metadata.labels") {
                return key(&meta.labels, rest);
            }
            return key(
                &meta.annotations,
                other.strip_prefix("metadata.annotations")?,
            );
        }
    })
}

/// The service account a pod runs as.
pub fn service_account(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.service_account_name.as_deref())
        .filter(|n| !n.is_empty())
        .unwrap_or("default")
}

/// A resource of a container in units of the divisor, rounded up; what the node has, where there is no limit.
pub fn resource_field(
    container: &Container,
    field: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<i64, String> {
    let bad = || format!("the resource {:?} is not offered", field.resource);
    let (list, resource) = field.resource.split_once('.').ok_or_else(bad)?;
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let given = match list {
        "limits" => limits.and_then(|l| l.get(resource)),
        "requests" => requests.and_then(|r| r.get(resource)),
        _ => return Err(bad()),
    };
    let all = match resource {
        "cpu" if list == "limits" => facts.cpus as f64,
        "memory" if list == "limits" => facts.memory as f64,
        _ => 0.0,
    };
    let value = match given {
        Some(quantity) => quantity_value(&quantity.0).ok_or_else(bad)?,
        None => all,
    };
    let divisor = field.divisor.as_ref().and_then(|d| quantity_value(&d.0));
    let divisor = divisor.filter(|d| *d > 0.0).unwrap_or(1.0);
    Ok((value / divisor - 1e-9).ceil() as i64)
}

/// A quantity such as `250m`, `1Gi` or `2e3` as a number.
pub fn quantity_value(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let text = text.trim();
    let with_suffix = SUFFIXES
        .iter()
        .find_map(|(suffix, scale)| Some((text.strip_suffix(suffix)?, *scale)));
    let (number, scale) = with_suffix.unwrap_or((text, 1.0));
    let value = number.parse::<f64>().ok()? * scale;
    value.is_finite().then_some(value)
}

/// `$(NAME)` becomes the variable's value when there is one; `$$` is a dollar sign.
pub fn expand(text: &str, known: &BTreeMap<&str, &str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix("$(")
            .and_then(|r| r.split_once(')'))
            .map(|(name, _)| name);
        match name.and_then(|n| Some((n, known.get(n)?))) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len() + 3..];
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(
        container: serde_json::Value,
        sources: &Sources,
    ) -> Result<BTreeMap<String, String>, Waiting> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"containers": [container], "serviceAccountName": "sa"}}),
        )
        .unwrap();
        let facts = Facts {
            node: "node1".into(),
            hostname: "p".into(),
            pod_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            cpus: 2,
            ..Facts::default()
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        environment(&pod, container, &facts, sources).map(|e| e.into_iter().collect())
    }

    fn sources() -> Sources {
        let map = json!({"metadata": {"name": "m"}, "data": {"K": "v", "bad=key": "x"}});
        let secret = json!({"metadata": {"name": "s"}, "data": {"P": "c2VjcmV0"}});
        let service = json!({"metadata": {"name": "my-web", "namespace": "n"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]}});
        let other = json!({"metadata": {"name": "far", "namespace": "x"}, "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}});
        Sources {
            config_maps: [("m".to_owned(), serde_json::from_value(map).unwrap())].into(),
            secrets: [("s".to_owned(), serde_json::from_value(secret).unwrap())].into(),
            services: vec![
                serde_json::from_value(service).unwrap(),
                serde_json::from_value(other).unwrap(),
            ],
            tokens: BTreeMap::new(),
        }
    }

    #[test]
    fn every_source() {
        let container = json!({"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "<$(A)$(X_K)>"},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "SA", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "P"}}},
                {"name": "NO", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": true}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]});
        let env = env(container, &sources()).unwrap();
        let wanted = [
            ("B", "<1v>"),
            ("IPS", "10.0.0.1,fd00::1"),
            ("L", "b"),
            ("SA", "sa"),
            ("S", "secret"),
            ("MEM", "64"),
            ("CPU", "250"),
            ("CPUS", "2"),
            ("X_K", "v"),
            ("MY_WEB_SERVICE_HOST", "10.96.0.9"),
            ("MY_WEB_SERVICE_PORT_HTTP", "80"),
            ("MY_WEB_PORT_80_TCP", "tcp://10.96.0.9:80"),
        ];
        for (name, value) in wanted {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        for name in ["NO", "X_bad=key", "FAR_SERVICE_HOST"] {
            assert!(!env.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let cases = [
            (
                json!({"configMapKeyRef": {"name": "no", "key": "k"}}),
                "configmap \"no\" not found",
            ),
            (
                json!({"secretKeyRef": {"name": "s", "key": "k"}}),
                "couldn't find key k in secret \"s\"",
            ),
            (json!({"fieldRef": {"fieldPath": "spec.foo"}}), "spec.foo"),
            (json!({"resourceFieldRef": {"resource": "cpu"}}), "\"cpu\""),
        ];
        for (from, part) in cases {
            let container = json!({"name": "c", "env": [{"name": "V", "valueFrom": from}]});
            let waiting = env(container, &sources()).unwrap_err();
            assert_eq!(waiting.reason, "CreateContainerConfigError");
            assert!(waiting.message.contains(part), "{}", waiting.message);
        }
    }

    #[test]
    fn expansion_and_quantities() {
        let known = BTreeMap::from([("A", "1"), ("B", "<1>")]);
        assert_eq!(expand("$(A)x$(B)$$(A)$(NO)$", &known), "1x<1>$(A)$(NO)$");
        assert_eq!(quantity_value("1500m"), Some(1.5));
        assert_eq!(quantity_value("2Gi"), Some(2_147_483_648.0));
        assert_eq!(quantity_value("1e3"), Some(1000.0));
        assert_eq!(quantity_value("x"), None);
    }
}
