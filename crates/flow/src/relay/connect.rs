//! Connections to observers: by unix socket, TCP or TLS.
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Where an observer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// Host name or address, and port.
    Tcp(String, u16),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("accepted: unix:///path/of/the/socket".to_owned())
            };
        }
        let wrong = || "accepted: HOST:PORT, tls://HOST:PORT, unix:///PATH".to_owned();
        let rest = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .map_or_else(|| (!host.contains([':', '/'])).then_some(host), Some)
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What proves both sides to each other. The files are read for every connection, so that new ones count from the next on.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates of authorities that may vouch for the server; none: those of the system.
    pub authorities: Vec<PathBuf>,
    /// Our own certificate and its key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate is to have; none: the host's.
    pub server_name: Option<String>,
    /// Whoever answers is believed.
    pub insecure: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file cannot be used.
    #[error("{path}: {cause}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// What the files have does not work.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The name is none.
    #[error("`{0}` is no name of a server")]
    Name(String),
    /// The network or the other side.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nobody answered in time.
    #[error("no answer in {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Io(error) => error,
            other => Self::other(other),
        }
    }
}

/// Where the systems that we know keep the authorities they trust.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// The certificates of a file.
///
/// # Errors
/// It cannot be read, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let wrong = |cause: String| ConnectError::File {
        path: path.to_owned(),
        cause,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

/// The private key of a file.
///
/// # Errors
/// It cannot be read, or has none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConnectError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| ConnectError::File {
        path: path.to_owned(),
        cause: error.to_string(),
    })
}

/// The authorities of some files.
///
/// # Errors
/// A file cannot be used.
pub fn authorities(files: &[PathBuf]) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    for path in files {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| ConnectError::File {
                path: path.clone(),
                cause: error.to_string(),
            })?;
        }
    }
    Ok(roots)
}

/// The only cryptography that this project uses.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Tls {
    fn config(&self) -> Result<ClientConfig, ConnectError> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = if self.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        } else {
            let roots = if self.authorities.is_empty() {
                let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
                let usual = SYSTEM.iter().map(PathBuf::from);
                let found = named.into_iter().chain(usual).find(|path| path.exists());
                authorities(&found.into_iter().collect::<Vec<_>>())?
            } else {
                authorities(&self.authorities)?
            };
            builder.with_root_certificates(roots)
        };
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// TLS over a connection that is open; `host` is the name to expect where `tls` has none.
///
/// # Errors
/// A file cannot be used, or one side does not believe the other.
pub async fn wrapped(tls: &Tls, host: &str, stream: Stream) -> Result<Stream, ConnectError> {
    let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
    let server = ServerName::try_from(name.clone()).map_err(|_| ConnectError::Name(name))?;
    let connector = TlsConnector::from(Arc::new(tls.config()?));
    Ok(Box::new(connector.connect(server, stream).await?))
}

/// Bytes both ways.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A connection of whatever kind.
pub type Stream = Box<dyn Bytes>;

/// Opens a connection.
///
/// # Errors
/// Nobody listens there, or one side does not believe the other.
pub async fn open(
    address: &Address,
    tls: Option<&Tls>,
    limit: Duration,
) -> Result<Stream, ConnectError> {
    let connected = async {
        let stream: Stream = match (address, tls) {
            (Address::Unix(path), _) => Box::new(UnixStream::connect(path).await?),
            (Address::Tcp(host, port), tls) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match tls {
                    Some(tls) => wrapped(tls, host, Box::new(stream)).await?,
                    None => Box::new(stream),
                }
            }
        };
        Ok(stream)
    };
    tokio::time::timeout(limit, connected)
        .await
        .unwrap_or(Err(ConnectError::Timeout(limit)))
}

/// A channel to an observer: one connection, opened now; `watched` ends it if the other side falls silent.
///
/// # Errors
/// As [`open`].
pub async fn channel(
    address: &Address,
    tls: Option<&Tls>,
    limit: Duration,
    watched: bool,
) -> Result<Channel, ConnectError> {
    let stream = open(address, tls, limit).await?;
    over(stream, watched).await
}

/// A channel over a connection that is open.
///
/// # Errors
/// The other side does not speak HTTP/2.
pub async fn over(stream: Stream, watched: bool) -> Result<Channel, ConnectError> {
    // The address is not looked at: the connection is there.
    let endpoint = Endpoint::from(Uri::from_static("http://hubble"));
    let endpoint = if watched {
        endpoint
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
    } else {
        endpoint
    };
    let mut stream = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = stream
            .take()
            .map(TokioIo::new)
            .ok_or_else(|| io::Error::other("the connection has ended"));
        std::future::ready(stream)
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| ConnectError::Io(io::Error::other(innermost(&error))))
}

/// The last cause of an error, which says what happened.
#[must_use]
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Believes every server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Address::Tcp(host.to_owned(), port));
        for (text, meant) in [
            ("localhost:4245", tcp("localhost", 4245)),
            ("tcp://192.0.2.1:80", tcp("192.0.2.1", 80)),
            ("[fd00::1]:4244", tcp("fd00::1", 4244)),
            (
                "unix:///run/x.sock",
                Ok(Address::Unix("/run/x.sock".into())),
            ),
            ("unix:/run/x.sock", Ok(Address::Unix("/run/x.sock".into()))),
        ] {
            assert_eq!(text.parse(), meant);
        }
        assert_eq!(
            tcp("::1", 1).map(|one| one.to_string()),
            Ok("[::1]:1".to_owned())
        );
        for text in [
            "localhost",
            "fd00::1",
            ":80",
            "a:99999",
            "unix:x",
            "http://a:1",
            "",
        ] {
            assert!(
                text.parse::<Address>().unwrap_err().contains("accepted"),
                "{text}"
            );
        }
    }
}
