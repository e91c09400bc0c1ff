//! Certificates that templates make, by the names that Helm gives these functions. What they give is a map with `Cert` and `Key`,
//! both PEM.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// Calls a function; none if it is not one of these.
pub(super) fn call(name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
    Some(match (name, arguments) {
        ("genCA", [Value::String(name), days]) => authority(name, days),
        ("buildCustomCert", [Value::String(certificate), Value::String(key)]) => {
            kept(certificate, key)
        }
        ("genSignedCert", [Value::String(name), _, names, days, authority]) => {
            signed(name, names, days, authority)
        }
        // A moment is its seconds since 1970; what becomes a text of it is the same.
        ("now", []) => Ok(Timestamp::now().as_second().into()),
        ("unixEpoch", [Value::Number(seconds)]) => Ok(seconds.to_string().into()),
        ("b64enc", [Value::String(text)]) => Ok(STANDARD.encode(text).into()),
        ("b64dec", [Value::String(text)]) => decoded(text).map(Value::from),
        _ => return None,
    })
}

fn authority(name: &str, days: &Value) -> Result<Value, String> {
    let mut params = params(name, Vec::new(), days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().map_err(said)?;
    let made = params.self_signed(&key).map_err(said)?;
    Ok(json!({"Cert": made.pem(), "Key": key.serialize_pem()}))
}

/// What was made before: both come in base64, as Secrets have them.
fn kept(certificate: &str, key: &str) -> Result<Value, String> {
    let made = json!({"Cert": decoded(certificate)?, "Key": decoded(key)?});
    issuer(&made).map(|_| made)
}

fn signed(name: &str, names: &Value, days: &Value, authority: &Value) -> Result<Value, String> {
    let names = names.as_array().into_iter().flatten();
    let names = names.filter_map(|name| name.as_str().map(str::to_owned));
    let mut params = params(name, names.collect(), days)?;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(said)?;
    let made = params.signed_by(&key, &issuer(authority)?).map_err(said)?;
    Ok(json!({"Cert": made.pem(), "Key": key.serialize_pem()}))
}

fn issuer(authority: &Value) -> Result<Issuer<'static, KeyPair>, String> {
    let part = |name: &str| {
        authority[name]
            .as_str()
            .ok_or_else(|| format!("an authority without {name}"))
    };
    let key = KeyPair::from_pem(part("Key")?)
        .map_err(|error| format!("the authority's key cannot be used: {error}"))?;
    Issuer::from_ca_cert_pem(part("Cert")?, key)
        .map_err(|error| format!("the authority's certificate cannot be used: {error}"))
}

fn params(name: &str, names: Vec<String>, days: &Value) -> Result<CertificateParams, String> {
    let days = days
        .as_i64()
        .filter(|days| (1..=36_500).contains(days))
        .ok_or("a certificate is good for 1 to 36500 days")?;
    let mut params = CertificateParams::new(names).map_err(said)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = Timestamp::now();
    // Clocks of nodes differ.
    let day = |hours: i64| {
        let at = now.saturating_add(SignedDuration::from_hours(hours));
        let at = at.unwrap_or(now).to_zoned(jiff::tz::TimeZone::UTC);
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(at.year().into(), part(at.month()), part(at.day()))
    };
    params.not_before = day(-24);
    params.not_after = day(days * 24 + 24);
    Ok(params)
}

fn decoded(text: &str) -> Result<String, String> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| format!("not base64: {error}"))?;
    String::from_utf8(bytes).map_err(said)
}

fn said(error: impl ToString) -> String {
    error.to_string()
}
