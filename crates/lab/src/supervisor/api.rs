//! The lab's API server: its listeners, where it keeps what it has to keep, and the kubeconfigs of its clients.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use apiserver::tls::Authority;
use kube::Client;

use super::outside::Joined;
use super::server::{self, Told};
use crate::hosts::Network;
use crate::kubelet::node::Node;
use crate::spec::LabName;
use crate::state::StateDir;
use crate::topology::API_PORT;

/// The user that the kubeconfig of the lab's owner names, and the group that makes it an administrator.
const ADMIN: (&str, &str) = ("kubernetes-admin", "system:masters");

/// A server that runs.
pub(super) struct Api {
    /// Its URL on this machine.
    pub(super) url: String,
    /// Its URL on the nodes' network.
    pub(super) url_inside: String,
    /// A client of the administrator.
    pub(super) client: Client,
    /// Who signs the certificate that it shows to kubelets.
    pub(super) kubelet_clients: Option<String>,
    /// What is different if it is not the lab's own.
    pub(super) joined: Option<Joined>,
}

/// Starts it: on the first node's address, and on the loopback of this machine.
pub(super) async fn start(
    name: &LabName,
    dir: &StateDir,
    network: &Network,
    nodes: &[Arc<Node>],
) -> anyhow::Result<Api> {
    let (host, machine) = network
        .nodes
        .first()
        .zip(network.topology.nodes.first())
        .context("a lab has a node")?;
    let inside = SocketAddr::new(machine.primary(), API_PORT);
    // On all addresses of the node, of both families where it has both.
    let any = match machine.addresses().any(|ip| ip.is_ipv6()) {
        true => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::from(Ipv4Addr::UNSPECIFIED),
    };
    let inner = host
        .ns
        .run(|| bind(SocketAddr::new(any, API_PORT)))
        .context("cannot enter the first node")??;
    let outer = bind_outside(&dir.data_file("port")?)?;
    let outside = outer
        .local_addr()
        .context("the API server has no address")?;
    let told = told(dir, machine.addresses(), nodes)?;
    let authority = Authority::open(&told.tls()).context("cannot start the API server")?;
    let failed = server::keep(name, dir, &told, [inner, outer])?;
    let (url, url_inside) = (format!("https://{outside}"), format!("https://{inside}"));
    let cluster = format!("hypha-lab-{name}");
    let made = authority.kubeconfig(&cluster, &url, ADMIN.0, ADMIN.1);
    write(&dir.kubeconfig(), &made.context("no kubeconfig")?)?;
    let client = crate::client::connect(&dir.kubeconfig())?;
    tokio::select! {
        answer = client.apiserver_version() => drop(answer.context("the API server does not answer")?),
        Ok(how) = failed => bail!("the API server ended ({how}): {}", dir.api_server_log().display()),
    }
    Ok(Api {
        url,
        url_inside,
        client,
        kubelet_clients: Some(authority.certificate().to_owned()),
        joined: None,
    })
}

fn told(
    dir: &StateDir,
    addresses: impl Iterator<Item = IpAddr>,
    nodes: &[Arc<Node>],
) -> anyhow::Result<Told> {
    let kubelets = nodes.iter().filter_map(|node| {
        let address = *node.addresses.first()?;
        Some((node.name.clone(), address, node.holder().clone()))
    });
    let addresses = addresses.map(|ip| SocketAddr::new(ip, API_PORT));
    Ok(Told {
        objects: dir.objects()?,
        pki: dir.data_file("pki")?,
        addresses: addresses.collect(),
        kubelets: kubelets.collect(),
    })
}

fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).with_context(|| format!("cannot listen on {addr}"))
}

/// Listens on the loopback: on the port of the lab's earlier life if nobody else took it, so that copies of the kubeconfig
/// stay valid.
fn bind_outside(kept: &Path) -> anyhow::Result<TcpListener> {
    let earlier = fs::read_to_string(kept)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let again = earlier.and_then(|port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let listener = match again {
        Some(listener) => listener,
        None => bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?,
    };
    let port = listener
        .local_addr()
        .context("the API server has no address")?
        .port();
    fs::write(kept, format!("{port}\n"))
        .with_context(|| format!("cannot write {}", kept.display()))?;
    Ok(listener)
}

/// Writes a file that nobody else may read.
pub(super) fn write(path: &PathBuf, text: &str) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let written = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)
        })
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

pub(super) fn into_tokio(listener: TcpListener) -> anyhow::Result<tokio::net::TcpListener> {
    let made = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener));
    made.context("cannot prepare a listener")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("port");
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let first = port(&bind_outside(&file).unwrap());
        let again = bind_outside(&file).unwrap();
        assert_eq!(port(&again), first);
        // Taken by another: a new one.
        assert_ne!(port(&bind_outside(&file).unwrap()), first);
    }
}
