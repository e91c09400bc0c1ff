//! Rules of connections that are decrypted or encrypted here, compiled.
use super::{http::HttpRules, tls::TlsRules};
use crate::config::{Inspection, Trust};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::sync::Arc;

/// What the proxy is to both ends of a connection.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// The server that clients of TLS see; none: they speak without.
    pub server: Option<Arc<ServerConfig>>,
    /// The client of TLS that servers see; none: they are spoken to without.
    pub client: Option<Arc<ClientConfig>>,
}

/// What is known of a connection once its beginning is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// It begins as TLS does.
    pub tls: bool,
    /// The server that the client wants, in its canonical form.
    pub server_name: Option<String>,
}

/// Rules of one place, compiled.
#[derive(Debug)]
pub(super) struct Inspect {
    names: Option<TlsRules>,
    pub(super) ends: Ends,
    pub(super) http: Option<HttpRules>,
}

impl Inspect {
    /// None where its certificates are of no use: nothing is allowed then.
    pub(super) fn compile(rules: &Inspection, problems: &mut Vec<String>) -> Option<Self> {
        let ends = match ends(rules) {
            Ok(ends) => ends,
            Err(why) => {
                problems.push(why);
                return None;
            }
        };
        let http = rules.http.as_ref();
        Some(Self {
            names: (!rules.server_names.is_empty()).then(|| TlsRules::compile(&rules.server_names)),
            ends,
            http: http.map(|rules| HttpRules::compile(rules, problems)),
        })
    }

    /// The first rule that such a beginning meets.
    pub(super) fn first(&self, greeting: &Greeting) -> Option<usize> {
        match (&self.names, &greeting.server_name) {
            _ if greeting.tls != self.ends.server.is_some() => None,
            (None, _) => Some(0),
            (Some(names), Some(name)) => names.first(name),
            (Some(_), None) => None,
        }
    }
}

fn ends(rules: &Inspection) -> Result<Ends, String> {
    let terminating = rules.terminating.as_ref();
    let server = terminating.map(|own| server(&own.chain.0, &own.key.0));
    let server = server.transpose()?;
    let client = rules.originating.as_ref().map(client).transpose()?;
    Ok(Ends {
        server: server.map(Arc::new),
        client: client.map(Arc::new),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Whether clients can be shown a certificate, and its key belongs to it.
///
/// # Errors
/// What is wrong, without anything of the key.
pub fn check_certificate(chain: &str, key: &str) -> Result<(), String> {
    server(chain, key).map(drop)
}

/// Whether servers can be believed by these authorities.
///
/// # Errors
/// What is wrong.
pub fn check_authorities(text: &str) -> Result<(), String> {
    roots(text).map(drop)
}

fn server(chain: &str, key: &str) -> Result<ServerConfig, String> {
    let (chain, key) = parts(chain, key)?;
    let unfit = |error: rustls::Error| format!("the certificate for clients is of no use: {error}");
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unfit)
}

fn roots(text: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(text)? {
        let added = roots.add(authority);
        added.map_err(|error| format!("an authority is of no use: {error}"))?;
    }
    Ok(roots)
}

fn client(trust: &Trust) -> Result<ClientConfig, String> {
    let unfit = |error: rustls::Error| format!("the certificate for servers is of no use: {error}");
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_root_certificates(roots(&trust.authorities.0)?);
    match &trust.certificate {
        None => Ok(builder.with_no_client_auth()),
        Some(certificate) => {
            let (chain, key) = parts(&certificate.chain.0, &certificate.key.0)?;
            builder.with_client_auth_cert(chain, key).map_err(unfit)
        }
    }
}

type Parts = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parts(chain: &str, key: &str) -> Result<Parts, String> {
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    // What stands in it is nobody's business.
    let key = key.map_err(|_| "there is no private key in PEM".to_owned())?;
    Ok((chain, key))
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err("there is no certificate in PEM".to_owned()),
    }
}
