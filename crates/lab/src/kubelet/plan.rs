//! From a pod's YAML to what a container process gets. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, SecurityContext, VolumeMount,
};

use super::env::{Sources, environment, expand};
use super::images::{HOST, Image, plain_name};
use crate::init::container::{ContainerSpec, Process, Run};
use crate::init::rootfs::{Bind, Propagation, RootSpec};

/// Where a program is looked for when nothing else is said.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The domain of the cluster's names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Where termination messages stand.
pub const DEFAULT_TERMINATION_LOG: &str = "/dev/termination-log";

/// What containers may do that ask for nothing.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Why a container cannot start yet, in the words of a container status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// A container that cannot be made of its description.
pub(super) fn config_error(message: String) -> Waiting {
    Waiting {
        reason: "CreateContainerConfigError",
        message,
    }
}

/// What is known of a pod once its sandbox stands.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node.
    pub node: String,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// Its host name.
    pub hostname: String,
    /// The pod's directory as the node sees it.
    pub dir: PathBuf,
    /// Processors of the node.
    pub cpus: usize,
    /// Memory of the node, bytes.
    pub memory: u64,
}

/// The pod uses its node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|s| s.host_network)
        .unwrap_or(false)
}

/// What is asked for and not done, for one event. Nothing that only guards.
pub fn not_honoured(pod: &Pod) -> Vec<&'static str> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let limits = containers
        .filter_map(|c| c.resources.as_ref()?.limits.as_ref())
        .any(|l| l.contains_key("cpu") || l.contains_key("memory"));
    let sysctls = spec
        .security_context
        .as_ref()
        .and_then(|s| s.sysctls.as_ref());
    let all = [
        (limits, "resources.limits"),
        (spec.host_pid == Some(true), "hostPID"),
        (
            spec.share_process_namespace == Some(true),
            "shareProcessNamespace",
        ),
        (sysctls.is_some_and(|s| !s.is_empty()), "sysctls"),
        (spec.runtime_class_name.is_some(), "runtimeClassName"),
    ];
    let asked = all.into_iter().filter(|(asked, _)| *asked);
    asked.map(|(_, name)| name).collect()
}

/// The host name of a pod.
pub fn hostname(pod: &Pod, node: &str) -> String {
    if host_network(pod) {
        return node.to_owned();
    }
    let asked = pod.spec.as_ref().and_then(|s| s.hostname.clone());
    let mut name = asked
        .filter(|n| !n.is_empty())
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// Text of /etc/hosts.
pub fn hosts_file(pod: &Pod, facts: &Facts) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let spec = pod.spec.as_ref();
    let subdomain = spec
        .and_then(|s| s.subdomain.as_deref())
        .filter(|s| !s.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for ip in &facts.pod_ips {
        let name = &facts.hostname;
        match subdomain {
            Some(sub) => text.push_str(&format!(
                "{ip}\t{name}.{sub}.{namespace}.svc.{CLUSTER_DOMAIN}\t{name}\n"
            )),
            None => text.push_str(&format!("{ip}\t{name}\n")),
        }
    }
    for alias in spec.iter().flat_map(|s| s.host_aliases.iter().flatten()) {
        let names = alias.hostnames.iter().flatten().map(String::as_str);
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            names.collect::<Vec<_>>().join("\t")
        ));
    }
    text
}

/// Text of /etc/resolv.conf. `cluster` are the servers of cluster DNS, `host` is the host's own file.
pub fn resolv_conf(pod: &Pod, cluster: &[IpAddr], host: &str) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let words = |key: &str| {
        let lines = host.lines().filter_map(|l| l.trim().strip_prefix(key));
        let words = lines
            .filter(|l| l.starts_with([' ', '\t']))
            .flat_map(str::split_ascii_whitespace);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let (mut servers, mut search, mut options) =
        (words("nameserver"), words("search"), words("options"));
    let in_cluster = match policy {
        "None" => {
            (servers, search, options) = (Vec::new(), Vec::new(), Vec::new());
            false
        }
        "Default" => false,
        "ClusterFirst" => !host_network(pod),
        _ => true,
    };
    if in_cluster {
        if !cluster.is_empty() {
            servers = cluster.iter().map(ToString::to_string).collect();
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let own = [format!("{namespace}.svc."), "svc.".into(), String::new()];
        let own = own.iter().map(|p| format!("{p}{CLUSTER_DOMAIN}"));
        search = own.chain(search).collect();
        options = vec!["ndots:5".into()];
    }
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        servers.extend(config.nameservers.iter().flatten().cloned());
        search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|o| o.split(':').next() != Some(name.as_str()));
            options.push(
                option
                    .value
                    .as_ref()
                    .map_or(name.clone(), |v| format!("{name}:{v}")),
            );
        }
    }
    render_resolv(servers, search, &options)
}

fn render_resolv(servers: Vec<String>, search: Vec<String>, options: &[String]) -> String {
    let unique = |list: Vec<String>| {
        let mut seen = Vec::<String>::new();
        for item in list {
            if !seen.contains(&item) {
                seen.push(item);
            }
        }
        seen
    };
    let mut text = String::new();
    let search = unique(search);
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    // Resolvers take no more than three.
    for server in unique(servers).iter().take(3) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// Where a volume of a pod stands, below the pod's directory.
pub fn volume_dir(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(volume)
}

/// Where a container leaves its last words, below the pod's directory.
pub fn termination_file(pod_dir: &Path, container: &str) -> PathBuf {
    pod_dir
        .join("containers")
        .join(format!("{container}.message"))
}

/// The container's process. `volumes` says where each volume of the pod stands on the node.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &Image,
    facts: &Facts,
    sources: &Sources,
    volumes: &BTreeMap<String, PathBuf>,
) -> Result<ContainerSpec, Waiting> {
    let env = environment(pod, container, facts, sources)?;
    let known: BTreeMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let words = |list: &Option<Vec<String>>| {
        list.iter()
            .flatten()
            .map(|w| expand(w, &known))
            .collect::<Vec<_>>()
    };
    let run = image.run(words(&container.command), words(&container.args))?;
    let binds = binds(container, facts, volumes, &known)?;
    let (pod_context, own) = (
        pod.spec.as_ref().and_then(|s| s.security_context.as_ref()),
        container.security_context.as_ref(),
    );
    let host = plain_name(container.image.as_deref().unwrap_or_default()) == HOST;
    let user = user(pod_context, own, image, &run)?;
    let process = Process {
        dir: container
            .working_dir
            .clone()
            .filter(|d| !d.is_empty())
            .map(PathBuf::from)
            .or_else(|| image.dir.clone()),
        user,
        group: own
            .and_then(|s| s.run_as_group)
            .or(pod_context.and_then(|s| s.run_as_group))
            .and_then(|g| g.try_into().ok()),
        capabilities: capabilities(own, host),
        stdin: container.stdin.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        env,
    };
    let network = host_network(pod);
    Ok(ContainerSpec {
        hostname: (!network).then(|| facts.hostname.clone()),
        root: RootSpec {
            stage: facts.dir.join("containers").join(&container.name),
            machine_network: network,
            machine_files: network && host,
            privileged: own.and_then(|s| s.privileged) == Some(true),
            read_only: own
                .and_then(|s| s.read_only_root_filesystem)
                .unwrap_or(false),
            binds,
            files: vec![("/etc/hostname".into(), format!("{}\n", facts.hostname))],
        },
        direct: image.own && !process.stdin && !process.tty,
        run,
        process,
    })
}

fn user(
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    image: &Image,
    run: &Run,
) -> Result<Option<u32>, Waiting> {
    let asked = own
        .and_then(|s| s.run_as_user)
        .or(pod.and_then(|s| s.run_as_user));
    let user = asked.and_then(|u| u.try_into().ok()).or(image.user);
    let not_root = own
        .and_then(|s| s.run_as_non_root)
        .or(pod.and_then(|s| s.run_as_non_root));
    // A built-in server touches nothing of the host, whoever it runs as.
    let command = matches!(run, Run::Command(_));
    if not_root == Some(true) && command && user.is_none_or(|u| u == 0) {
        return Err(config_error(
            "container has runAsNonRoot and would run as root: set runAsUser".into(),
        ));
    }
    Ok(user)
}

/// What the container may do; `None` is everything.
fn capabilities(own: Option<&SecurityContext>, host: bool) -> Option<Vec<String>> {
    if own.and_then(|s| s.privileged) == Some(true) {
        return None;
    }
    let asked = own.and_then(|s| s.capabilities.as_ref());
    if host && asked.is_none() {
        return None;
    }
    let plain = |list: &Option<Vec<String>>| {
        let all = list.iter().flatten();
        all.map(|c| c.trim_start_matches("CAP_").to_owned())
            .collect::<Vec<_>>()
    };
    let (add, drop) = asked
        .map(|c| (plain(&c.add), plain(&c.drop)))
        .unwrap_or_default();
    if add.iter().any(|c| c == "ALL") {
        return None;
    }
    let none = drop.iter().any(|c| c == "ALL");
    let base = CAPABILITIES
        .iter()
        .map(|c| (*c).to_owned())
        .filter(|c| !none && !drop.contains(c));
    Some(base.chain(add).collect())
}

fn binds(
    container: &Container,
    facts: &Facts,
    volumes: &BTreeMap<String, PathBuf>,
    env: &BTreeMap<&str, &str>,
) -> Result<Vec<Bind>, Waiting> {
    let own = ["hosts", "resolv.conf"].map(|name| Bind {
        from: facts.dir.join("etc").join(name),
        to: Path::new("/etc").join(name),
        ..Bind::default()
    });
    let mut binds = Vec::from(own);
    let message = container
        .termination_message_path
        .as_deref()
        .filter(|p| !p.is_empty());
    binds.push(Bind {
        from: termination_file(&facts.dir, &container.name),
        to: PathBuf::from(message.unwrap_or(DEFAULT_TERMINATION_LOG)),
        ..Bind::default()
    });
    let mut mounts: Vec<&VolumeMount> = container.volume_mounts.iter().flatten().collect();
    // What lies deeper is mounted later.
    mounts.sort_by_key(|m| m.mount_path.split('/').filter(|p| !p.is_empty()).count());
    for mount in mounts {
        let from = volumes.get(&mount.name).ok_or_else(|| {
            config_error(format!(
                "volumeMount {:?} has no volume of that name",
                mount.name
            ))
        })?;
        let sub = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(text), _) => expand(text, env),
            (None, sub) => sub.clone().unwrap_or_default(),
        };
        if Path::new(&sub).is_absolute() || sub.split('/').any(|p| p == "..") {
            return Err(config_error(format!(
                "subPath {sub:?} must stay in its volume"
            )));
        }
        binds.retain(|b| b.to != Path::new(&mount.mount_path));
        binds.push(Bind {
            from: if sub.is_empty() {
                from.clone()
            } else {
                from.join(sub)
            },
            to: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false),
            propagation: propagation(mount)?,
        });
    }
    Ok(binds)
}

fn propagation(mount: &VolumeMount) -> Result<Propagation, Waiting> {
    match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => Ok(Propagation::None),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => Err(config_error(format!(
            "mountPropagation {other:?} is none of None, HostToContainer, Bidirectional"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::images::{Added, resolve};
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n","uid":"u"},"spec":spec});
        serde_json::from_value(pod).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            node: "node1".into(),
            pod_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            hostname: "p".into(),
            dir: "/run/kubelet/pods/u".into(),
            ..Facts::default()
        }
    }

    fn plan(pod: &Pod) -> Result<ContainerSpec, Waiting> {
        let c = &pod.spec.as_ref().unwrap().containers[0];
        let image = resolve(c.image.as_deref().unwrap(), &Added::new(), |_| true)?;
        let volumes = [("v".to_owned(), PathBuf::from("/run/v"))].into();
        container(pod, c, &image, &facts(), &Sources::default(), &volumes)
    }

    #[test]
    fn mounts() {
        let spec = json!({"containers":[{"name":"c","image":"host","command":["x"],"env":[{"name":"A","value":"z"}],"volumeMounts":[
            {"name":"v","mountPath":"/a/b/c","subPath":"s"},{"name":"v","mountPath":"/a","readOnly":true},{"name":"v","mountPath":"/e","subPathExpr":"$(A)/q"},
            {"name":"v","mountPath":"/etc/hosts","subPath":"h"}]}]});
        let binds = plan(&pod(spec)).unwrap().root.binds;
        let short: Vec<String> = binds
            .iter()
            .map(|b| format!("{}:{}:{}", b.from.display(), b.to.display(), b.read_only))
            .collect();
        assert_eq!(
            short,
            [
                "/run/kubelet/pods/u/etc/resolv.conf:/etc/resolv.conf:false",
                "/run/kubelet/pods/u/containers/c.message:/dev/termination-log:false",
                "/run/v:/a:true",
                "/run/v/z/q:/e:false",
                "/run/v/h:/etc/hosts:false",
                "/run/v/s:/a/b/c:false",
            ]
        );
        for (mount, part) in [
            (
                json!({"name":"v","mountPath":"/a","subPath":"../x"}),
                "../x",
            ),
            (json!({"name":"w","mountPath":"/a"}), "\"w\""),
        ] {
            let spec = json!({"containers":[{"name":"c","image":"host","command":["x"],"volumeMounts":[mount]}]});
            assert!(plan(&pod(spec)).unwrap_err().message.contains(part));
        }
    }

    #[test]
    fn rights() {
        let get = |image: &str, context: serde_json::Value| {
            plan(&pod(json!({"containers":[{"name":"c","image":image,"command":["x"],"securityContext":context}]}))).map(|s| s.process)
        };
        assert_eq!(get("host", json!({})).unwrap().capabilities, None);
        assert_eq!(
            get("nginx", json!({"privileged": true}))
                .unwrap()
                .capabilities,
            None
        );
        let plain = get("nginx", json!({})).unwrap().capabilities.unwrap();
        assert!(plain.contains(&"NET_RAW".to_owned()) && !plain.contains(&"SYS_ADMIN".to_owned()));
        let own = get(
            "host",
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "CAP_NET_RAW"]}}),
        )
        .unwrap();
        assert_eq!(own.capabilities.unwrap(), ["NET_ADMIN", "NET_RAW"]);
        assert_eq!(
            get("host", json!({"runAsUser": 1000, "runAsGroup": 7}))
                .unwrap()
                .user,
            Some(1000)
        );
        assert!(
            get("host", json!({"runAsNonRoot": true}))
                .unwrap_err()
                .message
                .contains("runAsNonRoot")
        );
    }

    #[test]
    fn names_and_servers() {
        let host = "# x\nnameserver 8.8.8.8\nsearch corp.example\noptions timeout:1\n";
        let dns = ["10.96.0.10".parse().unwrap()];
        let p = pod(json!({"containers":[]}));
        assert_eq!(
            resolv_conf(&p, &dns, host),
            "search n.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        let p = pod(json!({"containers":[],"hostNetwork":true}));
        assert_eq!(
            resolv_conf(&p, &dns, host),
            "search corp.example\nnameserver 8.8.8.8\noptions timeout:1\n"
        );
        let config = json!({"nameservers":["1.1.1.1"],"searches":["a.b"],"options":[{"name":"ndots","value":"2"},{"name":"rotate"}]});
        let p = pod(json!({"containers":[],"dnsPolicy":"None","dnsConfig":config}));
        assert_eq!(
            resolv_conf(&p, &dns, host),
            "search a.b\nnameserver 1.1.1.1\noptions ndots:2 rotate\n"
        );
        let p = pod(
            json!({"containers":[],"subdomain":"sub","hostAliases":[{"ip":"1.2.3.4","hostnames":["x","y"]}]}),
        );
        let hosts = hosts_file(&p, &facts());
        assert!(
            hosts.contains("10.0.0.1\tp.sub.n.svc.cluster.local\tp\n")
                && hosts.contains("1.2.3.4\tx\ty\n"),
            "{hosts}"
        );
        assert_eq!(
            hostname(&pod(json!({"containers":[],"hostname":"h"})), "node1"),
            "h"
        );
        assert_eq!(
            hostname(&pod(json!({"containers":[],"hostNetwork":true})), "node1"),
            "node1"
        );
    }

    #[test]
    fn what_is_not_done_is_said() {
        let p = pod(
            json!({"hostPID": true, "containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]}),
        );
        assert_eq!(not_honoured(&p), ["resources.limits", "hostPID"]);
        assert!(not_honoured(&pod(json!({"containers":[{"name":"c"}]}))).is_empty());
    }
}
