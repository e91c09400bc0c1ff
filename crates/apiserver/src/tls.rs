//! The server's certificate authority: its own certificate, those of its clients, and the key that signs tokens.
//!
//! Authority and token key are kept, so that what was given out stays valid after a restart; the server's own certificate
//! is made anew at every start for the names and addresses it has then.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Zoned;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SigningKey, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Names under which pods and tools call an API server.
const NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
/// How many years certificates hold.
const YEARS: i32 = 10;

/// Where the authority is kept and what the server is called.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Folder of the authority and of the token key, which is made with what is missing in it; `None`: new ones in memory.
    pub dir: Option<PathBuf>,
    /// Names and addresses of the server besides `localhost`, its loopback addresses and `kubernetes.default.svc…`.
    pub names: Vec<String>,
}

/// Keys or certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path}: {why}; remove it and its neighbours to get new ones")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate for {name}: {source}")]
    Make {
        /// Whose.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// TLS cannot be set up with them.
    #[error("cannot set up TLS: {0}")]
    Setup(String),
}

/// A client's certificate and key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate as PEM.
    pub certificate: String,
    /// The private key as PEM.
    pub key: String,
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    token_key: KeyPair,
    names: Vec<String>,
}

fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    let year = i32::from(Zoned::now().year());
    params.not_before = date_time_ymd(year - 1, 1, 1);
    params.not_after = date_time_ymd(year + YEARS, 1, 1);
    params
}

fn authority_params() -> CertificateParams {
    let mut params = params("hypha-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// Reads a file, or writes what `make` gives; nobody else may read it.
fn keep(
    dir: Option<&Path>,
    name: &str,
    make: impl FnOnce() -> Result<String, TlsError>,
) -> Result<String, TlsError> {
    let Some(dir) = dir else {
        return make();
    };
    let path = dir.join(name);
    let failed = |source| TlsError::File {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(failed),
    }
    let text = make()?;
    // Whole or not at all: a half-written key would be refused for ever.
    let draft = dir.join(format!(".{name}.new"));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::rename(&draft, &path));
    written.map_err(failed)?;
    Ok(text)
}

impl Authority {
    /// Opens the authority, or makes it.
    ///
    /// # Errors
    /// Its files cannot be read or written, or hold something else.
    pub fn open(options: &TlsOptions) -> Result<Self, TlsError> {
        let dir = options.dir.as_deref();
        if let Some(dir) = dir {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            made.map_err(|source| TlsError::File {
                path: dir.to_owned(),
                source,
            })?;
        }
        let key = key(dir, "ca.key")?;
        let params = authority_params();
        let fail = |source| TlsError::Make {
            name: "hypha-ca".to_owned(),
            source,
        };
        let certificate = keep(dir, "ca.crt", || {
            Ok(params.self_signed(&key).map_err(fail)?.pem())
        })?;
        CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| TlsError::Content {
            path: dir.unwrap_or(Path::new("")).join("ca.crt"),
            why: format!("no certificate: {e}"),
        })?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            token_key: self::key(dir, "service-account.key")?,
            names: options.names.clone(),
        })
    }

    /// The authority's certificate as PEM, which clients trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's certificate as DER.
    pub(crate) fn der(&self) -> Result<CertificateDer<'static>, TlsError> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        der.map_err(|error| TlsError::Setup(error.to_string()))
    }

    /// Signs (ECDSA with SHA-256).
    pub(crate) fn sign(&self, said: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.issuer.key().sign(said)
    }

    /// The key that signs tokens, as PKCS 8.
    pub(crate) fn token_key(&self) -> &[u8] {
        self.token_key.serialized_der()
    }

    /// Makes a certificate for a client, who is then a user of this name in this group.
    ///
    /// # Errors
    /// The name is not one that a certificate can hold.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, TlsError> {
        let mut params = params(user, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(user, &params)
    }

    /// A certificate for a server of these names and addresses.
    ///
    /// # Errors
    /// A name is not one that a certificate can hold.
    pub fn server(&self, name: &str, names: Vec<String>) -> Result<Identity, TlsError> {
        let fail = |source| TlsError::Make {
            name: name.to_owned(),
            source,
        };
        let mut params = params(name, None);
        params.subject_alt_names = CertificateParams::new(names)
            .map_err(fail)?
            .subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(name, &params)
    }

    fn issue(&self, name: &str, params: &CertificateParams) -> Result<Identity, TlsError> {
        let fail = |source| TlsError::Make {
            name: name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// TLS for the server: clients may show a certificate of this authority, and need not.
    ///
    /// # Errors
    /// A name of the server is not one that a certificate can hold.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let loopback = [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        let names = NAMES
            .iter()
            .map(ToString::to_string)
            .chain(loopback.iter().map(ToString::to_string))
            .chain(self.names.iter().cloned())
            .collect();
        let identity = self.server("hypha-apiserver", names)?;
        let setup = |what: &dyn std::fmt::Display| TlsError::Setup(what.to_string());
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| setup(&e));
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.certificate)?).map_err(|e| setup(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|e| setup(&e))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| setup(&e))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| setup(&e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![der(&identity.certificate)?], key)
            .map_err(|e| setup(&e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A kubeconfig for a server at a URL, with everything in it: authority, certificate and key of a user in a group.
    ///
    /// # Errors
    /// The name is not one that a certificate can hold.
    pub fn kubeconfig(
        &self,
        context: &str,
        url: &str,
        user: &str,
        group: &str,
    ) -> Result<String, TlsError> {
        let identity = self.client(user, Some(group))?;
        let [ca, certificate, key] = [&self.certificate, &identity.certificate, &identity.key]
            .map(|pem| STANDARD.encode(pem));
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {context}\nclusters:\n- name: {context}\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {ca}\ncontexts:\n- name: {context}\n  context:\n    cluster: {context}\n    user: {user}\n    \
             namespace: default\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        ))
    }
}

fn key(dir: Option<&Path>, name: &str) -> Result<KeyPair, TlsError> {
    let pem = keep(dir, name, || {
        let key = KeyPair::generate().map_err(|source| TlsError::Make {
            name: name.to_owned(),
            source,
        })?;
        Ok(key.serialize_pem())
    })?;
    let content = |why: String| TlsError::Content {
        path: dir.unwrap_or(Path::new("")).join(name),
        why,
    };
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| content(format!("no private key: {e}")))?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|e| content(format!("no key of the curve P-256: {e}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_authority_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let options = TlsOptions {
            dir: Some(dir.path().join("pki")),
            names: vec!["192.0.2.1".to_owned(), "api.example".to_owned()],
        };
        let first = Authority::open(&options).unwrap();
        let again = Authority::open(&options).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        assert_eq!(first.token_key(), again.token_key());
        again.server_config().unwrap();
        for entry in fs::read_dir(dir.path().join("pki")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().mode() & 0o777,
                0o600,
                "{:?}",
                entry.path()
            );
        }
        fs::write(dir.path().join("pki/ca.key"), "nonsense").unwrap();
        let error = Authority::open(&options).err().unwrap().to_string();
        assert!(
            error.contains("ca.key") && error.contains("no private key"),
            "{error}"
        );
    }

    #[test]
    fn names_that_no_certificate_can_hold_are_refused() {
        let options = TlsOptions {
            dir: None,
            names: vec!["näme".to_owned()],
        };
        assert!(Authority::open(&options).unwrap().server_config().is_err());
    }
}
