//! TLS of the kubelet's API: a certificate of its own making, which API servers do not check; theirs are checked.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An acceptor with a fresh certificate for a node, and with what checks those of clients.
pub(super) fn acceptor(
    node: &str,
    addresses: &[IpAddr],
    clients: Arc<dyn ClientCertVerifier>,
) -> anyhow::Result<TlsAcceptor> {
    let names: Vec<String> = std::iter::once(node.to_owned())
        .chain(addresses.iter().map(ToString::to_string))
        .collect();
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|e| anyhow::anyhow!("cannot use the key of a certificate: {e}"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("no TLS")?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .context("cannot use the certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS over a connection, whoever answers: probes ask whether somebody does, not who.
pub(crate) async fn connect_unverified(stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    TlsConnector::from(Arc::new(apiserver::trusting()))
        .connect(name, stream)
        .await
}
