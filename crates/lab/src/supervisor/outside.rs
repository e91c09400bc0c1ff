//! An API server that is not the lab's own: its kubeconfig, and the ways between it and the nodes, which stand in namespaces
//! that nothing outside reaches.
//!
//! Into the nodes: every node has the addresses of the cluster's service `kubernetes` and of its endpoints on its loopback, and whoever
//! connects to one of them speaks with the server. Its certificate is for that address in every cluster, so that pods and agents need nothing
//! that other clusters do not have. Out of the nodes: a port of this machine per kubelet, which the node's status tells.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use netlink::{Address, Handle, Scope};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::api::{self, into_tokio, write};
use super::owned::Record;
use crate::hosts::{Host, Network};
use crate::kubelet::node::Node;
use crate::kubelet::serve;
use crate::spec::{LabSpec, Outside};
use crate::state::StateDir;

/// How long the server may take to say which one it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: the process is out of files, for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// From the address of the service `kubernetes` to that of cluster DNS, by custom.
const DNS_OFFSET: u8 = 9;

/// What is different in a cluster that is not the lab's own.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    /// The value of [`super::owned::LABEL`] on what the lab creates there.
    pub(super) owner: String,
    /// Where the server reaches the kubelet of each node.
    pub(super) kubelets: BTreeMap<String, SocketAddr>,
    /// Where cluster DNS is to be, if the cluster has none.
    pub(super) dns: IpAddr,
}

/// Opens the ways and writes the kubeconfigs. Nothing is created in the cluster yet, but what will be is on record.
pub(super) async fn join(
    spec: &LabSpec,
    outside: &Outside,
    dir: &StateDir,
    network: &Network,
    nodes: &[Arc<Node>],
) -> anyhow::Result<api::Api> {
    let config = kubeconfig(&outside.kubeconfig, outside.context.as_deref())?;
    let url = server_of(&config)?;
    let server = Server::parse(&url)?;
    write(&dir.kubeconfig(), &pretty(&config)?)?;
    let client = crate::client::connect(&dir.kubeconfig())?;
    let service = service(&client)
        .await
        .with_context(|| format!("the API server at {url}"))?;
    // Agents that balance the load of services lead there.
    let endpoints = endpoints(&client, service)
        .await
        .with_context(|| format!("the API server at {url}"))?;
    let mut record = Record::open(dir, spec, &url)?;
    record.note_kinds(&client).await;
    record.write(dir, &pretty(&config)?)?;
    let mut kubelets = BTreeMap::new();
    for (node, host) in nodes.iter().zip(&network.nodes) {
        for at in iter::once(service).chain(endpoints.clone()) {
            let listener = listen_inside(host, at)
                .with_context(|| format!("the way from {} to the API server", node.name))?;
            let target = server.clone();
            let connect = move || {
                let target = target.clone();
                async move { TcpStream::connect((target.host.as_str(), target.port)).await }
            };
            tokio::spawn(relay(into_tokio(listener)?, connect));
        }
        let (at, listener) = listen_outside(outside.kubelet_address)?;
        let to = node.clone();
        let connect = move || {
            let node = to.clone();
            async move {
                let ip = node.addresses.first().copied();
                let ip = ip.ok_or_else(|| std::io::Error::other("the node has no address"))?;
                node.connect(SocketAddr::new(ip, serve::PORT)).await
            }
        };
        tokio::spawn(relay(listener, connect));
        kubelets.insert(node.name.clone(), at);
    }
    let url_inside = format!("{}://{service}", server.scheme);
    Ok(api::Api {
        kubelet_clients: Some(kubelet_clients(&client, outside, dir).await?),
        url,
        url_inside,
        client,
        joined: Some(Joined {
            owner: record.owner,
            kubelets,
            dns: plus(service.ip(), DNS_OFFSET),
        }),
    })
}

/// The host and port of a server's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    scheme: String,
    host: String,
    port: u16,
}

impl Server {
    fn parse(url: &str) -> anyhow::Result<Server> {
        let uri: http::Uri = url
            .parse()
            .with_context(|| format!("the server {url:?} of the kubeconfig is no URL"))?;
        let scheme = uri.scheme_str().unwrap_or("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if host.is_empty() || !["http", "https"].contains(&scheme) {
            bail!("the server {url:?} of the kubeconfig is no https://HOST:PORT");
        }
        if !["", "/"].contains(&uri.path()) {
            bail!(
                "the server {url:?} of the kubeconfig stands below a path, which nodes cannot be given"
            );
        }
        let usual = if scheme == "http" { 80 } else { 443 };
        Ok(Server {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(usual),
        })
    }
}

/// A kubeconfig with one context alone and with all files that it names inside of it.
fn kubeconfig(path: &Path, context: Option<&str>) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
    let all: Value = serde_saphyr::from_str(&text)
        .with_context(|| format!("{} is no kubeconfig", path.display()))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    reduced(&all, context, dir).with_context(|| format!("the kubeconfig {}", path.display()))
}

fn reduced(all: &Value, context: Option<&str>, dir: &Path) -> anyhow::Result<Value> {
    let wanted = context
        .or(all["current-context"].as_str())
        .unwrap_or_default();
    if wanted.is_empty() {
        bail!("has no current context: choose one with --context");
    }
    let context = named(all, "contexts", wanted)?;
    let mut cluster = named(all, "clusters", text(&context["context"]["cluster"]))?;
    if cluster["cluster"]["proxy-url"].is_string() {
        bail!("reaches its cluster through a proxy (proxy-url), which nodes cannot");
    }
    inline(&mut cluster["cluster"], "certificate-authority", dir)?;
    let mut user = match text(&context["context"]["user"]) {
        "" => json!({"name": "", "user": {}}),
        name => named(all, "users", name)?,
    };
    for field in ["client-certificate", "client-key"] {
        inline(&mut user["user"], field, dir)?;
    }
    if let Some(file) = user["user"]["tokenFile"].as_str() {
        user["user"]["tokenFile"] = json!(dir.join(file));
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": wanted,
        "contexts": [context], "clusters": [cluster], "users": [user],
    }))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn named(all: &Value, list: &str, name: &str) -> anyhow::Result<Value> {
    let entries = || all[list].as_array().into_iter().flatten();
    let found = entries().find(|entry| entry["name"] == name);
    found.cloned().with_context(|| {
        let known: Vec<&str> = entries().filter_map(|e| e["name"].as_str()).collect();
        format!(
            "has no {name:?} in its {list}; there are: {}",
            known.join(", ")
        )
    })
}

/// Puts what a file holds beside the field that names it.
fn inline(object: &mut Value, field: &str, dir: &Path) -> anyhow::Result<()> {
    let Some(file) = object[field].as_str().map(|file| dir.join(file)) else {
        return Ok(());
    };
    let bytes =
        std::fs::read(&file).with_context(|| format!("{field}: cannot read {}", file.display()))?;
    object[format!("{field}-data")] = json!(BASE64_STANDARD.encode(bytes));
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
    Ok(())
}

fn server_of(config: &Value) -> anyhow::Result<String> {
    let server = config["clusters"][0]["cluster"]["server"].as_str();
    server
        .map(|url| url.trim_end_matches('/').to_owned())
        .context("the kubeconfig names no server")
}

fn pretty(config: &Value) -> anyhow::Result<String> {
    serde_json::to_string_pretty(config).context("a kubeconfig cannot be written")
}

/// Where pods of the cluster find its API server.
async fn service(client: &Client) -> anyhow::Result<SocketAddr> {
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = tokio::time::timeout(ANSWER_LIMIT, services.get("kubernetes"))
        .await
        .with_context(|| format!("no answer within {} s", ANSWER_LIMIT.as_secs()))?
        .context("its service default/kubernetes, by which pods find it")?;
    let spec = service.spec.unwrap_or_default();
    let ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
    let port = spec.ports.iter().flatten().next().map(|port| port.port);
    let port = port.and_then(|port| u16::try_from(port).ok());
    let (Some(ip), Some(port)) = (ip, port) else {
        bail!("its service default/kubernetes has no address or no port");
    };
    Ok(SocketAddr::new(ip, port))
}

/// Where the service leads, in its family; nowhere in a cluster that has no endpoint slices yet.
async fn endpoints(client: &Client, service: SocketAddr) -> anyhow::Result<BTreeSet<SocketAddr>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let own = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let started = Instant::now();
    loop {
        let slices = match slices.list(&own).await {
            Err(kube::Error::Api(e)) if e.code == 404 => return Ok(BTreeSet::new()),
            slices => slices.context("the endpoints of its service default/kubernetes")?,
        };
        let all = slices.iter().flat_map(addresses);
        let ours = |at: &SocketAddr| at.is_ipv4() == service.is_ipv4() && *at != service;
        let found: BTreeSet<SocketAddr> = all.filter(ours).collect();
        // A server that has just started writes them after the service.
        if !found.is_empty() || started.elapsed() > ANSWER_LIMIT {
            return Ok(found);
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
    let ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
    let ips = slice.endpoints.iter().flatten().flat_map(|e| &e.addresses);
    let ips = ips.filter_map(|ip| ip.parse::<IpAddr>().ok());
    ips.flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)))
        .collect()
}

/// Listens on an address in a node, which gets it for that.
fn listen_inside(host: &Host, at: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = host.ns.run(|| -> anyhow::Result<TcpListener> {
        let mut handle = Handle::new()?;
        let lo = handle.links()?.into_iter().find(|link| link.name == "lo");
        let lo = lo.context("no loopback")?.index;
        handle.address_replace(&Address::host(lo, at.ip()).scope(Scope::Host))?;
        TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))
    });
    listener.context("cannot enter the node")?
}

fn listen_outside(ip: IpAddr) -> anyhow::Result<(SocketAddr, tokio::net::TcpListener)> {
    let listener = TcpListener::bind((ip, 0))
        .with_context(|| format!("cannot listen on {ip} for the kubelets (--kubelet-address)"))?;
    let at = listener.local_addr().context("a listener has no address")?;
    Ok((at, into_tokio(listener)?))
}

/// Joins every connection of a listener with one of `connect`'s, for the life of the lab.
async fn relay<F>(listener: tokio::net::TcpListener, connect: impl Fn() -> F)
where
    F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
{
    loop {
        let mut from = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let to = connect();
        tokio::spawn(async move {
            let _ = from.set_nodelay(true);
            match to.await {
                Ok(mut to) => {
                    let _ = to.set_nodelay(true);
                    // Either side may go away at any time.
                    let _ = copy_bidirectional(&mut from, &mut to).await;
                }
                Err(e) => tracing::debug!("nobody answers at the end of a way: {e}"),
            }
        });
    }
}

/// Who signs the certificate that the API server shows to kubelets: what it tells all who extend it, or a file.
async fn kubelet_clients(
    client: &Client,
    outside: &Outside,
    dir: &StateDir,
) -> anyhow::Result<String> {
    if let Some(path) = &outside.kubelet_client_ca {
        return std::fs::read_to_string(path)
            .with_context(|| format!("cannot read --kubelet-client-ca {}", path.display()));
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let told = maps.get_opt("extension-apiserver-authentication").await;
    let told = told.ok().flatten().and_then(|map| map.data);
    told.and_then(|mut data| data.remove("client-ca-file"))
        .or_else(|| super::nodes::root_ca(&dir.kubeconfig()))
        .context("the cluster does not tell who signs clients' certificates: name the file with --kubelet-client-ca")
}

fn plus(ip: IpAddr, offset: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::from(ip.to_bits().wrapping_add(offset.into()).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from(ip.to_bits().wrapping_add(offset.into()).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Value {
        json!({
            "current-context": "b",
            "contexts": [
                {"name": "a", "context": {"cluster": "one", "user": "me"}},
                {"name": "b", "context": {"cluster": "two", "user": "me"}},
            ],
            "clusters": [
                {"name": "one", "cluster": {"server": "https://127.0.0.1:6443/", "certificate-authority": "ca.crt"}},
                {"name": "two", "cluster": {"server": "https://two.example"}},
            ],
            "users": [{"name": "me", "user": {"token": "t"}}],
        })
    }

    #[test]
    fn the_endpoints_are_addresses_and_ports() {
        let slice = json!({"addressType": "IPv4", "metadata": {}, "ports": [{"name": "https", "port": 6443}, {"name": "any"}],
            "endpoints": [{"addresses": ["192.0.2.1", "192.0.2.2"]}, {"addresses": ["no-address"]}]});
        let found = addresses(&serde_json::from_value(slice).unwrap());
        let wanted = ["192.0.2.1:6443", "192.0.2.2:6443"];
        assert_eq!(found, wanted.map(|at| at.parse().unwrap()));
    }

    #[test]
    fn a_kubeconfig_is_reduced_to_one_context() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), "CA").unwrap();
        let current = reduced(&example(), None, dir.path()).unwrap();
        assert_eq!(server_of(&current).unwrap(), "https://two.example");
        let one = reduced(&example(), Some("a"), dir.path()).unwrap();
        assert_eq!(server_of(&one).unwrap(), "https://127.0.0.1:6443");
        assert_eq!(
            one["clusters"][0]["cluster"]["certificate-authority-data"],
            "Q0E="
        );
        assert_eq!(one["users"][0]["user"]["token"], "t");
    }

    #[test]
    fn what_is_missing_is_said() {
        let error = |all: &Value, context| {
            let error = reduced(all, context, Path::new("/none")).unwrap_err();
            format!("{error:#}")
        };
        assert_eq!(
            error(&example(), Some("c")),
            "has no \"c\" in its contexts; there are: a, b"
        );
        assert!(error(&example(), Some("a")).contains("cannot read /none/ca.crt"));
        assert!(error(&json!({}), None).contains("--context"));
        let mut proxied = example();
        proxied["clusters"][1]["cluster"]["proxy-url"] = json!("http://p");
        assert!(error(&proxied, None).contains("proxy"));
    }

    #[test]
    fn servers_of_kubeconfigs() {
        let of = |url: &str| Server::parse(url).map(|s| (s.host, s.port)).ok();
        assert_eq!(
            of("https://127.0.0.1:6443"),
            Some(("127.0.0.1".into(), 6443))
        );
        assert_eq!(of("https://[::1]:6443"), Some(("::1".into(), 6443)));
        assert_eq!(of("https://api.example"), Some(("api.example".into(), 443)));
        for bad in ["", "ftp://x", "https://x/k8s/clusters/c", "https://"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cluster_dns_stands_nine_further() {
        assert_eq!(
            plus([10, 96, 0, 1].into(), DNS_OFFSET),
            IpAddr::from([10, 96, 0, 10])
        );
        let v6: IpAddr = "fd00:96::1".parse().unwrap();
        assert_eq!(plus(v6, DNS_OFFSET).to_string(), "fd00:96::a");
    }
}
