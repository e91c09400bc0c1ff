//! Certificates that templates make, by the names that Helm gives these functions. What they give is a map with `Cert` and `Key`,
//! both PEM.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::certs::{self, Pair, Validity};

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
    let made = certs::authority(name, validity(days)?).map_err(said)?;
    Ok(shown(&made))
}

/// What was made before: both come in base64, as Secrets have them.
fn kept(certificate: &str, key: &str) -> Result<Value, String> {
    let made = Pair {
        certificate: decoded(certificate)?,
        key: decoded(key)?,
    };
    certs::check(&made).map_err(said)?;
    Ok(shown(&made))
}

fn signed(name: &str, names: &Value, days: &Value, authority: &Value) -> Result<Value, String> {
    let names = names.as_array().into_iter().flatten();
    let names = names.filter_map(|name| name.as_str().map(str::to_owned));
    let part = |name: &str| {
        let text = authority[name].as_str();
        text.map(str::to_owned)
            .ok_or_else(|| format!("an authority without {name}"))
    };
    let authority = Pair {
        certificate: part("Cert")?,
        key: part("Key")?,
    };
    let made = certs::signed(name, names.collect(), validity(days)?, &authority);
    Ok(shown(&made.map_err(said)?))
}

fn shown(pair: &Pair) -> Value {
    json!({"Cert": pair.certificate, "Key": pair.key})
}

fn validity(days: &Value) -> Result<Validity, String> {
    let days = days.as_u64().and_then(|days| u32::try_from(days).ok());
    let days = days.filter(|days| (1..=36_500).contains(days));
    days.map(Validity::days)
        .ok_or_else(|| "a certificate is good for 1 to 36500 days".to_owned())
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
