//! Certificates: an authority, what it vouches for, and both once more before their time is over. All of it PEM.
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::{Duration, SystemTime};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{GeneralName, X509Certificate};

/// Clocks of nodes differ: what is made now counts from a while ago on.
const SLACK: Duration = Duration::from_hours(24);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The authority's key is not what it should be.
    #[error("the authority's key cannot be used: {0}")]
    Key(rcgen::Error),
    /// The authority's certificate is not what it should be.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(rcgen::Error),
    /// It cannot be made.
    #[error("{0}")]
    Make(#[from] rcgen::Error),
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Read(String),
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub begin: SystemTime,
    /// Until then.
    pub end: SystemTime,
}

impl Validity {
    /// So many days from now on, and a day more on both sides.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let day = Duration::from_hours(24);
        Self::of(SystemTime::now(), day * (days + 2))
    }

    /// So long, with what differs between clocks before `now`.
    #[must_use]
    pub fn of(now: SystemTime, lifetime: Duration) -> Self {
        let begin = now - SLACK.min(lifetime / 10);
        Self {
            begin,
            end: begin + lifetime,
        }
    }

    /// From its first moment to its last.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.end.duration_since(self.begin).unwrap_or_default()
    }

    /// When what is made at `now` is to be made anew: two thirds of its time are over then.
    #[must_use]
    pub fn renewal(&self, now: SystemTime) -> SystemTime {
        now + self.end.duration_since(now).unwrap_or_default() * 2 / 3
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is: the common name.
    pub name: String,
    /// The names it is good for.
    pub names: Vec<String>,
    /// When it is good.
    pub validity: Validity,
    /// Whether its owner vouches for itself, and is called by nothing but the common name.
    pub own: bool,
}

impl Facts {
    /// What the first certificate of a text says.
    ///
    /// # Errors
    /// There is none, or it makes no sense.
    pub fn read(pem: &str) -> Result<Self, CertError> {
        let read = |error: &dyn ToString| CertError::Read(error.to_string());
        let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|error| read(&error))?;
        let found: X509Certificate<'_> = pem.parse_x509().map_err(|error| read(&error))?;
        let subject = found.subject();
        let name = subject.iter_common_name().next();
        let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        let alternatives = found.subject_alternative_name();
        let alternatives = alternatives.map_err(|error| read(&error))?;
        let names = alternatives.iter().flat_map(|all| &all.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        };
        Ok(Self {
            name: name.to_owned(),
            names: names.collect(),
            validity: Validity {
                begin: at(found.validity().not_before.timestamp()),
                end: at(found.validity().not_after.timestamp()),
            },
            own: subject == found.issuer() && subject.iter_attributes().count() == 1,
        })
    }
}

/// A new authority.
///
/// # Errors
/// There is no randomness.
pub fn authority(name: &str, validity: Validity) -> Result<Pair, CertError> {
    let key = KeyPair::generate()?;
    Ok(Pair {
        certificate: vouched_by_itself(name, validity, &key)?,
        key: key.serialize_pem(),
    })
}

/// The certificate of an authority for another time. Name and key are the same: what the one vouches for, the other does.
///
/// # Errors
/// The key cannot be used.
pub fn authority_again(name: &str, validity: Validity, key: &str) -> Result<String, CertError> {
    let key = KeyPair::from_pem(key).map_err(CertError::Key)?;
    vouched_by_itself(name, validity, &key)
}

fn vouched_by_itself(name: &str, validity: Validity, key: &KeyPair) -> Result<String, CertError> {
    let mut params = params(name, Vec::new(), validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(params.self_signed(key)?.pem())
}

/// A certificate for both sides of a connection, of these names, with a key of its own.
///
/// # Errors
/// The authority cannot be used, or a name is none.
pub fn signed(
    name: &str,
    names: Vec<String>,
    validity: Validity,
    authority: &Pair,
) -> Result<Pair, CertError> {
    let mut params = params(name, names, validity)?;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let made = params.signed_by(&key, &issuer(authority)?)?;
    Ok(Pair {
        certificate: made.pem(),
        key: key.serialize_pem(),
    })
}

/// Whether an authority can be used.
///
/// # Errors
/// It cannot: why.
pub fn check(authority: &Pair) -> Result<(), CertError> {
    issuer(authority).map(|_| ())
}

fn issuer(authority: &Pair) -> Result<Issuer<'static, KeyPair>, CertError> {
    let key = KeyPair::from_pem(&authority.key).map_err(CertError::Key)?;
    Issuer::from_ca_cert_pem(&authority.certificate, key).map_err(CertError::Authority)
}

fn params(
    name: &str,
    names: Vec<String>,
    validity: Validity,
) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.begin.into();
    params.not_after = validity.end.into();
    Ok(params)
}
