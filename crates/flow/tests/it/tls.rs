//! The port for relays: certificates on both sides.
use super::world::World;
use hyper_util::rt::TokioIo;
use hypha_flow::{
    proto::observer::{ServerStatusRequest, observer_client::ObserverClient},
    serve::{Listen, NodeServer, Peers, TlsFiles, serve},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::stop;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

const NAME: &str = "w1.default.hubble-grpc.cilium.io";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// As [`Authority::issue`], of a time that is over.
    fn expired(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, directory: &Path) -> TlsFiles {
        self.write_pair(directory, self.issue(NAME))
    }

    fn write_pair(&self, directory: &Path, (certificate, key): (String, String)) -> TlsFiles {
        let files = TlsFiles {
            certificate: directory.join("server.crt"),
            key: directory.join("server.key"),
            client_authorities: vec![directory.join("ca.crt")],
        };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
        std::fs::write(&files.client_authorities[0], self.0.pem()).unwrap();
        files
    }
}

/// What a client gets that trusts `authority` and shows a certificate of `own`.
async fn ask(
    address: SocketAddr,
    authority: &Authority,
    own: Option<&Authority>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<u64, String> {
    let own = own.map(|own| own.issue("relay"));
    let channel = connect(address, authority, own, version).await?;
    status(channel).await
}

async fn status(channel: Channel) -> Result<u64, String> {
    let mut client = ObserverClient::new(channel);
    let status = client.server_status(ServerStatusRequest {}).await;
    status
        .map(|status| status.into_inner().max_flows)
        .map_err(|error| format!("{error:?}"))
}

/// A connection that trusts `authority` and shows `own`.
async fn connect(
    address: SocketAddr,
    authority: &Authority,
    own: Option<(String, String)>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<Channel, String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.0.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(NAME).unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    };
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(connect))
        .await
        .map_err(|error| format!("{error:?}"))
}

async fn listening(world: &World, files: TlsFiles, stop: &stop::Stop) -> SocketAddr {
    let server = NodeServer::new(world.observer.clone(), stop.clone());
    let peers = Peers::new(
        world.tables.clone(),
        "default",
        None,
        true,
        false,
        stop.clone(),
    );
    let listen = Listen {
        address: Some("127.0.0.1:0".into()),
        tls: Some(files),
        ..Listen::default()
    };
    serve(server, peers, &listen, stop).await.unwrap().unwrap()
}

#[tokio::test]
async fn both_sides_show_certificates_and_new_ones_are_taken() {
    let world = World::new(7);
    let directory = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new(), Authority::new());
    let files = ours.write(directory.path());
    let (_stopper, stop) = stop::channel();
    let address = listening(&world, files, &stop).await;
    assert_eq!(ask(address, &ours, Some(&ours), &TLS13).await, Ok(7));
    assert!(
        ask(address, &ours, None, &TLS13).await.is_err(),
        "no certificate"
    );
    assert!(
        ask(address, &ours, Some(&others), &TLS13).await.is_err(),
        "of somebody else"
    );
    assert!(
        ask(address, &ours, Some(&ours), &TLS12).await.is_err(),
        "too old"
    );
    assert!(
        TcpStream::connect(address).await.is_ok(),
        "one that says nothing harms nobody"
    );
    assert_eq!(ask(address, &ours, Some(&ours), &TLS13).await, Ok(7));
    // Renewed by another authority: taken when the files are looked at next.
    others.write(directory.path());
    let renewed = async {
        while ask(address, &others, Some(&others), &TLS13).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), renewed)
        .await
        .unwrap();
    assert!(ask(address, &ours, Some(&ours), &TLS13).await.is_err());
}

#[tokio::test]
async fn files_that_do_not_serve_are_named() {
    let world = World::new(7);
    let directory = tempfile::tempdir().unwrap();
    let mut files = Authority::new().write(directory.path());
    files.key = directory.path().join("missing.key");
    let (_stopper, stop) = stop::channel();
    let server = NodeServer::new(world.observer.clone(), stop.clone());
    let peers = Peers::new(
        world.tables.clone(),
        "default",
        None,
        true,
        false,
        stop.clone(),
    );
    let listen = Listen {
        address: Some("127.0.0.1:0".into()),
        tls: Some(files),
        ..Listen::default()
    };
    let error = serve(server, peers, &listen, &stop)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("missing.key"), "{error}");
}

/// What is over is refused on both sides, and says why.
#[tokio::test]
async fn certificates_of_a_time_that_is_over_are_refused() {
    let world = World::new(7);
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let files = ours.write(directory.path());
    let (_stopper, stop) = stop::channel();
    let address = listening(&world, files, &stop).await;
    let old = connect(address, &ours, Some(ours.expired("relay")), &TLS13).await;
    let refused = match old {
        // The client hears of it once it asks.
        Ok(channel) => status(channel).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(!refused.is_empty());
    assert_eq!(ask(address, &ours, Some(&ours), &TLS13).await, Ok(7));
    // A server whose own is over: its clients see that.
    let stale = tempfile::tempdir().unwrap();
    let files = ours.write_pair(stale.path(), ours.expired(NAME));
    let address = listening(&world, files, &stop).await;
    let error = ask(address, &ours, Some(&ours), &TLS13).await.unwrap_err();
    assert!(error.contains("Expired"), "{error}");
    // It is renewed without a restart.
    ours.write(stale.path());
    let renewed = async {
        while ask(address, &ours, Some(&ours), &TLS13).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), renewed)
        .await
        .unwrap();
}

/// While many ask, certificates are renewed again and again by the same authority: nobody is refused, and who is connected stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_under_load() {
    use std::time::{Duration, Instant};
    let world = World::new(7);
    let directory = tempfile::tempdir().unwrap();
    let ours = Arc::new(Authority::new());
    let files = ours.write(directory.path());
    let (_stopper, stop) = stop::channel();
    let address = listening(&world, files.clone(), &stop).await;
    let steady = connect(address, &ours, Some(ours.issue("relay")), &TLS13)
        .await
        .unwrap();
    let end = Instant::now() + Duration::from_secs(7);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let ours = ours.clone();
            tokio::spawn(async move {
                let mut asked = 0;
                while Instant::now() < end {
                    assert_eq!(ask(address, &ours, Some(&ours), &TLS13).await, Ok(7));
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let mut renewed = 0;
    while Instant::now() < end {
        // As a kubelet does it: other files take the place of those there are. Between the two, the old pair stays in force.
        let (certificate, key) = ours.issue(NAME);
        for (path, text) in [(&files.key, key), (&files.certificate, certificate)] {
            let next = path.with_extension("next");
            std::fs::write(&next, text).unwrap();
            std::fs::rename(next, path).unwrap();
        }
        renewed += 1;
        assert_eq!(status(steady.clone()).await, Ok(7));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert!(renewed > 2);
}
