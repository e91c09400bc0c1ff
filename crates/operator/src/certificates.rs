//! Certificates of the flow API, as the chart made them: the authority, and what it vouches for. They are made anew when two thirds
//! of their time are over, for the same names and for as long; agents and relay read them again by themselves.
//!
//! An authority keeps its name and its key, so whoever trusts either of its certificates trusts what it vouches for: nobody has to hear
//! of the new one first. One that the chart did not make is left alone.
use crate::{controller::Context, rounds::Rounds};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use install::certs::{self, Facts, Pair, Validity};
use k8s::{
    error::{is_conflict, says},
    write::Objects,
};
use kube::api::DynamicObject;
use runtime::stop::Stop;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// The Secret of the authority.
const AUTHORITY: &str = "cilium-ca";
/// The Secrets of what it vouches for. Those that are not there are not asked for.
const VOUCHED: [&str; 3] = [
    "hubble-server-certs",
    "hubble-relay-client-certs",
    "hubble-relay-server-certs",
];
/// When a certificate is to be made anew, in seconds since 1970; only those that the chart made have it.
const RENEW_AFTER: &str = "hypha.io/renew-after";
/// Between two looks.
const LOOK: Duration = Duration::from_secs(30);
const GROUP: &str = "controller/certificates";

/// Renews certificates again and again until `stop`.
pub(crate) async fn renew(context: Context, stop: Stop) {
    let health = context.health.component(GROUP);
    if !context.settings.hubble_tls_auto_renew {
        return health.ok("not asked for");
    }
    let namespace = &context.settings.k8s_namespace;
    let secrets = Objects::core(&context.client, "Secret", "secrets", Some(namespace));
    let mut rounds = Rounds::new();
    loop {
        let looked = stop.or(look(&secrets)).await;
        let (failed, pause) = match looked {
            None => return,
            Some(Ok(next)) => {
                health.ok("certificates are good");
                let left = next.and_then(|next| next.duration_since(SystemTime::now()).ok());
                (false, left.map_or(LOOK, |left| left.min(LOOK)))
            }
            Some(Err(error)) => {
                tracing::warn!("{error}");
                health.degraded(error);
                (true, LOOK)
            }
        };
        context.metrics.ran(GROUP, !failed);
        // A second at least: whoever writes the Secrets, too, is not raced with.
        let pause = tokio::time::sleep(pause.max(Duration::from_secs(1)));
        if !rounds.next(&stop, failed, pause).await {
            return;
        }
    }
}

/// Renews what is due; when the next one will be.
async fn look(secrets: &Objects) -> Result<Option<SystemTime>, String> {
    let Some(kept) = get(secrets, AUTHORITY).await? else {
        return Err(format!(
            "Secret {AUTHORITY}: there is none, so certificates cannot be renewed"
        ));
    };
    let authority = Pair {
        certificate: part(&kept, "ca.crt")?,
        key: part(&kept, "ca.key")?,
    };
    let authority = renewed_authority(secrets, &kept, authority).await?;
    let mut next = None;
    for name in VOUCHED {
        let Some(secret) = get(secrets, name).await? else {
            continue;
        };
        let Some(due) = due(&secret) else { continue };
        let stale = part(&secret, "ca.crt")? != authority.certificate;
        let then = if stale || due <= SystemTime::now() {
            renewed(secrets, &secret, &authority).await?
        } else {
            due
        };
        next = Some(next.map_or(then, |next: SystemTime| next.min(then)));
    }
    Ok(next)
}

/// The authority, with another certificate if two thirds of the time of this one are over.
async fn renewed_authority(
    secrets: &Objects,
    kept: &DynamicObject,
    authority: Pair,
) -> Result<Pair, String> {
    let wrong = |error: certs::CertError| format!("Secret {AUTHORITY}: {error}");
    let facts = Facts::read(&authority.certificate).map_err(wrong)?;
    let now = SystemTime::now();
    if !facts.own || now < facts.validity.renewal(facts.validity.begin) {
        return Ok(authority);
    }
    let validity = Validity::of(now, facts.validity.lifetime());
    let certificate = certs::authority_again(&facts.name, validity, &authority.key);
    let certificate = certificate.map_err(wrong)?;
    let data = json!({"data": {"ca.crt": STANDARD.encode(&certificate)}});
    write(secrets, kept, data).await?;
    tracing::info!(
        secret = AUTHORITY,
        "the authority of the flow API is renewed"
    );
    Ok(Pair {
        certificate,
        ..authority
    })
}

/// Makes a certificate anew; when it is due again.
async fn renewed(
    secrets: &Objects,
    secret: &DynamicObject,
    authority: &Pair,
) -> Result<SystemTime, String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let wrong = |error: certs::CertError| format!("Secret {name}: {error}");
    let facts = Facts::read(&part(secret, "tls.crt")?).map_err(wrong)?;
    let now = SystemTime::now();
    let validity = Validity::of(now, facts.validity.lifetime());
    let made = certs::signed(&facts.name, facts.names, validity, authority).map_err(wrong)?;
    let due = validity.renewal(now);
    let since = due
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let value = json!({
        "metadata": {"annotations": {RENEW_AFTER: since.as_secs().to_string()}},
        "data": {
            "ca.crt": STANDARD.encode(&authority.certificate),
            "tls.crt": STANDARD.encode(&made.certificate),
            "tls.key": STANDARD.encode(&made.key),
        },
    });
    write(secrets, secret, value).await?;
    tracing::info!(secret = name, "certificate of the flow API is renewed");
    Ok(due)
}

async fn get(secrets: &Objects, name: &str) -> Result<Option<DynamicObject>, String> {
    let found = secrets.get(name).await;
    found.map_err(|error| format!("Secret {name}: {}", says(&error)))
}

/// Writes what was decided from this version of a Secret.
async fn write(secrets: &Objects, secret: &DynamicObject, value: Value) -> Result<(), String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let version = secret.metadata.resource_version.as_deref();
    match secrets.merge(name, value, version).await {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => Err(format!(
            "Secret {name}: somebody else has changed it meanwhile; the next look decides anew"
        )),
        Err(error) => Err(format!("Secret {name}: {}", says(&error))),
    }
}

/// When a certificate is to be made anew; none if that is somebody else's work.
fn due(secret: &DynamicObject) -> Option<SystemTime> {
    let notes = secret.metadata.annotations.as_ref()?;
    let seconds: u64 = notes.get(RENEW_AFTER)?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A text of a Secret.
fn part(secret: &DynamicObject, key: &str) -> Result<String, String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let text = secret.data["data"][key].as_str().unwrap_or_default();
    let text = STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty());
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| format!("Secret {name}: there is no text {key} in it"))
}
