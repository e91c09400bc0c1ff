//! From a pod's YAML to what a container process gets: images, command, environment. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use crate::init::container::{ContainerSpec, Run};

/// Where a program is looked for when nothing else is said.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a container cannot start yet, in the words of a container status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// What is known of a pod once its sandbox stands.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node.
    pub node: String,
    /// The node's address.
    pub host_ip: Option<IpAddr>,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// Its network namespace inside the node; `None` is the node's.
    pub netns: Option<PathBuf>,
}

/// What the lab does not do with pods, so that nobody waits in vain.
pub fn unsupported(pod: &Pod) -> Option<Waiting> {
    let spec = pod.spec.as_ref()?;
    let refuse = |what: &str| {
        Some(Waiting {
            reason: "CreateContainerConfigError",
            message: format!("the lab does not run {what}"),
        })
    };
    if spec.init_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        return refuse("init containers");
    }
    let mounts = spec
        .containers
        .iter()
        .flat_map(|c| c.volume_mounts.iter().flatten());
    // Every client of a real cluster gets a service account mounted; that one is ignored.
    let mut mounts = mounts.filter(|m| !m.mount_path.starts_with("/var/run/secrets/"));
    mounts
        .next()
        .and_then(|m| refuse(&format!("containers with volumes (mount {:?})", m.name)))
}

/// The container's process.
pub fn container(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
) -> Result<ContainerSpec, Waiting> {
    let env = environment(pod, container, facts)?;
    let known: BTreeMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let words = |list: &Option<Vec<String>>| {
        list.iter()
            .flatten()
            .map(|w| expand(w, &known))
            .collect::<Vec<_>>()
    };
    let (command, args) = (words(&container.command), words(&container.args));
    let run = program(container, command, args)?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    Ok(ContainerSpec {
        hostname: facts.netns.is_some().then(|| hostname(pod)),
        cgroup: PathBuf::from(format!(
            "/sys/fs/cgroup/kubepods/pod{uid}/{}",
            container.name
        )),
        net: facts.netns.clone(),
        hosts: facts.netns.is_some().then(|| hosts_file(pod, facts)),
        run,
        dir: container.working_dir.clone().map(PathBuf::from),
        env,
    })
}

fn program(container: &Container, command: Vec<String>, args: Vec<String>) -> Result<Run, Waiting> {
    let image = container.image.as_deref().unwrap_or_default();
    match image.strip_suffix(":latest").unwrap_or(image) {
        "host" | "hypha/echo" if !command.is_empty() => {
            Ok(Run::Command(command.into_iter().chain(args).collect()))
        }
        "hypha/echo" => Ok(Run::Server(args)),
        "host" => Err(Waiting {
            reason: "CreateContainerConfigError",
            message: "image \"host\" has no program of its own: set `command`".into(),
        }),
        other => Err(Waiting {
            reason: "ErrImagePull",
            message: format!(
                "the lab has no image {other:?}: it knows \"hypha/echo\" (the built-in server) and \"host\" (`command` from the host's files)"
            ),
        }),
    }
}

fn hostname(pod: &Pod) -> String {
    let asked = pod.spec.as_ref().and_then(|s| s.hostname.clone());
    let mut name = asked
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    name.truncate(63);
    name
}

fn hosts_file(pod: &Pod, facts: &Facts) -> String {
    let mut text =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ip in &facts.pod_ips {
        text.push_str(&format!("{ip}\t{}\n", hostname(pod)));
    }
    text
}

fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
) -> Result<Vec<(String, String)>, Waiting> {
    let mut env: BTreeMap<String, String> = BTreeMap::from([
        ("PATH".into(), DEFAULT_PATH.into()),
        ("HOME".into(), "/root".into()),
        ("HOSTNAME".into(), hostname(pod)),
    ]);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(_)) => from_field(pod, variable, facts)?,
            (value, None) => {
                let known = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                expand(value.as_deref().unwrap_or_default(), &known)
            }
        };
        env.insert(variable.name.clone(), value);
    }
    Ok(env.into_iter().collect())
}

fn from_field(pod: &Pod, variable: &EnvVar, facts: &Facts) -> Result<String, Waiting> {
    let path = variable
        .value_from
        .as_ref()
        .and_then(|f| f.field_ref.as_ref())
        .map(|f| f.field_path.as_str());
    let spec = pod.spec.as_ref();
    let join = |ips: &[IpAddr]| {
        ips.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let value = match path {
        Some("metadata.name") => pod.metadata.name.clone(),
        Some("metadata.namespace") => pod.metadata.namespace.clone(),
        Some("metadata.uid") => pod.metadata.uid.clone(),
        Some("spec.nodeName") => Some(facts.node.clone()),
        Some("spec.serviceAccountName") => spec
            .and_then(|s| s.service_account_name.clone())
            .or(Some("default".into())),
        Some("status.hostIP") => facts.host_ip.map(|ip| ip.to_string()),
        Some("status.podIP") => facts.pod_ips.first().map(ToString::to_string),
        Some("status.podIPs") => Some(join(&facts.pod_ips)),
        other => {
            let what = other.map_or_else(
                || "other sources than fieldRef".into(),
                |p| format!("the field {p:?}"),
            );
            let message = format!(
                "variable {:?}: the lab does not take values from {what}",
                variable.name
            );
            return Err(Waiting {
                reason: "CreateContainerConfigError",
                message,
            });
        }
    };
    Ok(value.unwrap_or_default())
}

/// `$(NAME)` becomes the variable's value when there is one; `$$` is a dollar sign.
fn expand(text: &str, known: &BTreeMap<&str, &str>) -> String {
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

    fn pod(container: serde_json::Value) -> Pod {
        let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n","uid":"u"},"spec":{"containers":[container]}});
        serde_json::from_value(pod).unwrap()
    }

    fn plan(pod: &Pod) -> Result<ContainerSpec, Waiting> {
        let facts = Facts {
            node: "node1".into(),
            pod_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            netns: Some("/run/netns/x".into()),
            ..Facts::default()
        };
        container(pod, &pod.spec.as_ref().unwrap().containers[0], &facts)
    }

    #[test]
    fn the_known_images() {
        let p = pod(json!({"name":"c","image":"hypha/echo:latest","args":["--http","80"]}));
        assert!(matches!(plan(&p).unwrap().run, Run::Server(args) if args == ["--http", "80"]));
        let p = pod(json!({"name":"c","image":"host","command":["sleep"],"args":["1"]}));
        assert!(matches!(plan(&p).unwrap().run, Run::Command(argv) if argv == ["sleep", "1"]));
        assert_eq!(
            plan(&pod(json!({"name":"c","image":"host"})))
                .unwrap_err()
                .reason,
            "CreateContainerConfigError"
        );
        assert_eq!(
            plan(&pod(json!({"name":"c","image":"nginx:1"})))
                .unwrap_err()
                .reason,
            "ErrImagePull"
        );
    }

    #[test]
    fn environment_and_expansion() {
        let p = pod(
            json!({"name":"c","image":"host","command":["$(A)x$(B)$$(A)$(NO)$"],"env":[
            {"name":"A","value":"1"},{"name":"B","value":"<$(A)>"},
            {"name":"IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}}]}),
        );
        let spec = plan(&p).unwrap();
        assert!(matches!(&spec.run, Run::Command(argv) if argv == &["1x<1>$(A)$(NO)$"]));
        assert!(
            spec.env
                .contains(&("IPS".into(), "10.0.0.1,fd00::1".into()))
        );
        assert_eq!(spec.hostname.as_deref(), Some("p"));
        let p = pod(
            json!({"name":"c","image":"host","command":["x"],"env":[{"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}),
        );
        assert!(plan(&p).unwrap_err().message.contains("\"S\""));
    }

    #[test]
    fn what_is_not_done_is_said() {
        let mut p = pod(
            json!({"name":"c","image":"host","command":["x"],"volumeMounts":[{"name":"v","mountPath":"/v"}]}),
        );
        assert!(unsupported(&p).unwrap().message.contains("\"v\""));
        p.spec.as_mut().unwrap().containers[0].volume_mounts = None;
        assert_eq!(unsupported(&p), None);
    }
}
