//! Certificates of the server: both sides show theirs, TLS 1.3 alone. The files are read again when they change: whoever
//! renews them has nothing more to do. New ones that cannot be read leave the old ones in force.
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the files are looked at, at most: at the next connection.
const LOOK: Duration = Duration::from_secs(5);

/// Where the certificates are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose clients may connect; none: anybody may.
    pub client_authorities: Vec<PathBuf>,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// They do not fit each other.
    #[error("{path} and its key do not serve: {cause}")]
    Unfit {
        /// The certificate.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// The files with what was in them when they were looked at last.
#[derive(Debug)]
pub(super) struct Certificates {
    files: TlsFiles,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    stamp: Vec<Option<(SystemTime, u64)>>,
    looked: Instant,
}

impl Certificates {
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let stamp = stamp(&files);
        let config = Arc::new(load(&files)?);
        Ok(Self {
            files,
            state: Mutex::new(State {
                config,
                stamp,
                looked: Instant::now(),
            }),
        })
    }

    /// What the next connection is to be accepted by.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        state.config.clone()
    }

    fn look(&self, state: &mut State) {
        let now = stamp(&self.files);
        if now == state.stamp {
            return;
        }
        match load(&self.files) {
            Ok(config) => {
                tracing::info!(certificate = %self.files.certificate.display(), "certificates of the flow server are new");
                state.config = Arc::new(config);
                state.stamp = now;
            }
            // They may be half written: the next look may find more.
            Err(error) => {
                tracing::warn!(%error, "new certificates of the flow server are not usable; the old ones stay");
            }
        }
    }
}

/// Time and size of every file: what tells that one is another.
fn stamp(files: &TlsFiles) -> Vec<Option<(SystemTime, u64)>> {
    let of = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    [&files.certificate, &files.key]
        .into_iter()
        .chain(&files.client_authorities)
        .map(of)
        .collect()
}

fn load(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.certificate)?;
    let file = |cause: String| TlsError::File {
        path: files.key.clone(),
        cause,
    };
    let key = std::fs::read(&files.key).map_err(|error| file(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| file(error.to_string()))?;
    let unfit = |cause: String| TlsError::Unfit {
        path: files.certificate.clone(),
        cause,
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(error.to_string()))?;
    let builder = if files.client_authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let roots = Arc::new(authorities(&files.client_authorities)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| unfit(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| unfit(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |cause: String| TlsError::File {
        path: path.to_owned(),
        cause,
    };
    let text = std::fs::read(path).map_err(|error: io::Error| file(error.to_string()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| file(error.to_string()))?;
    if all.is_empty() {
        return Err(file("it holds no certificate".to_owned()));
    }
    Ok(all)
}

fn authorities(paths: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| TlsError::File {
                path: path.clone(),
                cause: error.to_string(),
            })?;
        }
    }
    Ok(roots)
}
