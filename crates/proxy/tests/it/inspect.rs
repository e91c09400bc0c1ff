//! TLS that ends in the proxy: requests of real clients are held against rules, and go on encrypted anew.
use crate::tls::{Https, World, certificate, curl, is_denied};
use crate::world::{Plain, echo, rule, snapshot, soon};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use hypha_proxy::{
    config::{
        Certificate, HeaderRule, HttpRule, Inspection, Mismatch, Rules, Snapshot, TlsRule,
        Transport, Trust, Value,
    },
    record::{Layer7, Verdict},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{net::SocketAddr, path::Path, process::Output, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn read(path: &Path) -> Value {
    Value(std::fs::read_to_string(path).unwrap())
}

fn own(dir: &Path) -> Certificate {
    Certificate {
        chain: read(&dir.join("tls.crt")),
        key: read(&dir.join("tls.key")),
    }
}

fn inspect(version: u64, inspection: Inspection) -> Snapshot {
    let rules = Rules::Inspect(Box::new(inspection));
    snapshot(version, Transport::Tcp, 443, rules)
}

async fn ask(world: &World, name: &str, authority: &Path, what: &[&str]) -> Output {
    let (name, at, authority) = (name.to_owned(), world.proxy, authority.to_owned());
    let what: Vec<String> = what.iter().map(ToString::to_string).collect();
    let work = move || {
        let what: Vec<&str> = what.iter().map(String::as_str).collect();
        curl(&name, at, &authority, &what)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{output:?}", String::from_utf8_lossy(&output.stdout))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_inside_are_held_against_rules() {
    let (server_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Https::new(server_dir.path(), 0);
    certificate(dir.path(), "a.org");
    let at = SocketAddr::new("127.0.0.1".parse().unwrap(), server.port);
    let inspection = |chain: &Path, trusted: &Path| Inspection {
        server_names: vec![TlsRule {
            server_name: "*.a.org".into(),
        }],
        terminating: Some(own(chain)),
        originating: Some(Trust {
            authorities: read(&trusted.join("tls.crt")),
            certificate: None,
        }),
        http: Some(vec![rule("GET", "/public")]),
    };
    let rules = inspect(1, inspection(dir.path(), server_dir.path()));
    let mut world = World::new(Plain::new(at, 443), &rules).await;
    let authority = dir.path().join("tls.crt");
    for words in [&["/public"][..], &["/public", "--http1.1"]] {
        let output = ask(&world, "b.a.org", &authority, words).await;
        assert!(
            output.stdout.starts_with(b"127.0.0.1 "),
            "{}",
            text(&output)
        );
    }
    let output = ask(&world, "b.a.org", &authority, &["/private"]).await;
    assert!(
        text(&output).starts_with("Access denied"),
        "{}",
        text(&output)
    );
    let output = ask(&world, "a.org", &authority, &["/public"]).await;
    assert!(is_denied(&output), "{}", text(&output));
    // The client believes the proxy's certificate alone.
    let output = ask(
        &world,
        "b.a.org",
        &server_dir.path().join("tls.crt"),
        &["/public"],
    )
    .await;
    assert_eq!(output.status.code(), Some(60), "{}", text(&output));
    let mut seen = Vec::new();
    while let Some(record) = world.records.ready() {
        if let Layer7::Http(http) = record.layer7 {
            seen.push((record.verdict, http.url, http.code));
        }
    }
    let is_told = |(verdict, url, _): &(Verdict, String, u16)| {
        *verdict == Verdict::Denied && url.starts_with("https://b.a.org")
    };
    assert!(seen.iter().any(is_told), "{seen:?}");
    // Another certificate holds for the next connection.
    let newer = tempfile::tempdir().unwrap();
    certificate(newer.path(), "a.org");
    world.change(&inspect(2, inspection(newer.path(), server_dir.path())));
    let output = ask(
        &world,
        "b.a.org",
        &newer.path().join("tls.crt"),
        &["/public"],
    )
    .await;
    assert!(output.status.success(), "{}", text(&output));
    // A server that is not to be believed.
    world.change(&inspect(3, inspection(newer.path(), newer.path())));
    let output = ask(
        &world,
        "b.a.org",
        &newer.path().join("tls.crt"),
        &["/public"],
    )
    .await;
    assert!(
        text(&output).contains("cannot be reached"),
        "{}",
        text(&output)
    );
}

/// A server of both versions of HTTP behind TLS, of which the client chooses one.
async fn both_versions(dir: &Path) -> SocketAddr {
    certificate(dir, "a.org");
    let own = own(dir);
    let chain = CertificateDer::pem_slice_iter(own.chain.0.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key.0.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (server, behind) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        echo().await,
    );
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut front = acceptor.accept(stream).await?;
                let mut back = TcpStream::connect(behind).await?;
                copy_bidirectional(&mut front, &mut back).await
            });
        }
    });
    address
}

/// A connection over which requests can be made one after the other.
async fn connect(at: SocketAddr, name: &str, authority: &Path) -> http1::SendRequest<Empty<Bytes>> {
    let mut roots = RootCertStore::empty();
    let read = read(authority);
    for one in CertificateDer::pem_slice_iter(read.0.as_bytes()) {
        roots.add(one.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_are_spoken_and_open_connections_outlive_their_certificate() {
    let (server_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = both_versions(server_dir.path()).await;
    certificate(dir.path(), "a.org");
    let rules = |version, dir: &Path, path: &str| {
        let inspection = Inspection {
            terminating: Some(own(dir)),
            originating: Some(Trust {
                authorities: read(&server_dir.path().join("tls.crt")),
                certificate: None,
            }),
            http: Some(vec![rule("GET", path)]),
            ..Inspection::default()
        };
        inspect(version, inspection)
    };
    let first = rules(1, dir.path(), "/public");
    let world = World::new(Plain::new(server, 443), &first).await;
    let authority = dir.path().join("tls.crt");
    for (words, version) in [
        (&["/public"][..], "HTTP/2.0"),
        (&["/public", "--http1.1"], "HTTP/1.1"),
    ] {
        let output = ask(&world, "b.a.org", &authority, words).await;
        assert!(text(&output).contains(version), "{}", text(&output));
    }
    let mut open = connect(world.proxy, "b.a.org", &authority).await;
    let mut get = async || {
        let request = Request::get("/public").header("host", "b.a.org");
        let request = request.body(Empty::new()).unwrap();
        let answer = soon(open.send_request(request)).await.unwrap();
        let status = answer.status();
        answer.into_body().collect().await.unwrap();
        open.ready().await.unwrap();
        status
    };
    assert_eq!(get().await, 200);
    let newer = tempfile::tempdir().unwrap();
    certificate(newer.path(), "a.org");
    world.change(&rules(2, newer.path(), "/public"));
    assert_eq!(get().await, 200, "with the certificate that it began with");
    let output = ask(
        &world,
        "b.a.org",
        &newer.path().join("tls.crt"),
        &["/public"],
    )
    .await;
    assert!(output.status.success(), "{}", text(&output));
    world.change(&rules(3, newer.path(), "/other"));
    assert_eq!(get().await, 403, "the rules are those of now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_end_alone_may_be_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "a.org");
    let authority = dir.path().join("tls.crt");
    let added = HttpRule {
        headers: vec![HeaderRule {
            name: "x-token".into(),
            value: Some(Value("s3cret".into())),
            mismatch: Mismatch::Add,
        }],
        ..HttpRule::default()
    };
    let rules = Inspection {
        terminating: Some(own(dir.path())),
        http: Some(vec![added]),
        ..Inspection::default()
    };
    let world = World::new(Plain::new(echo().await, 443), &inspect(1, rules)).await;
    let output = ask(&world, "a.org", &authority, &["/x"]).await;
    assert!(
        text(&output).contains("x-token: s3cret"),
        "{}",
        text(&output)
    );

    let server_dir = tempfile::tempdir().unwrap();
    let server = Https::new(server_dir.path(), 0);
    let at = SocketAddr::new("127.0.0.1".parse().unwrap(), server.port);
    let rules = Inspection {
        originating: Some(Trust {
            authorities: read(&server_dir.path().join("tls.crt")),
            certificate: None,
        }),
        http: Some(vec![rule("GET", "/a")]),
        ..Inspection::default()
    };
    let world = World::new(Plain::new(at, 443), &inspect(1, rules)).await;
    let proxy = world.proxy;
    let get = |host: &'static str, path: &'static str| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = soon(stream.read_to_string(&mut answer)).await;
        answer
    };
    let answer = get("b.a.org", "/a").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("127.0.0.1 "),
        "{answer}"
    );
    assert!(get("b.a.org", "/b").await.starts_with("HTTP/1.1 403"));
    // The certificate is not that of such a server.
    assert!(get("c.org", "/a").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_certificate_that_is_of_no_use_allows_nothing() {
    use hypha_proxy::policy::Policy;
    let bad = Certificate {
        chain: Value("no".into()),
        key: Value("s3cret".into()),
    };
    let rules = Inspection {
        terminating: Some(bad),
        ..Inspection::default()
    };
    let policy = Policy::compile(&inspect(1, rules), None);
    assert_eq!(
        policy.problems(),
        ["shop/web: there is no certificate in PEM"]
    );
}
