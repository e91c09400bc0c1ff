//! Requests for certificates: looked at when they come, signed by the server's authority once somebody has approved them.
//!
//! The signers are those of every cluster: of clients, of kubelets as clients, and of kubelets as servers. Requests to others wait for
//! those.

mod certificate;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::auth::ADMINS;
use super::error::ApiError;
use super::object::{Key, child_mut, now};
use super::server::Shared;
use super::store::{ListOptions, Part, WriteOptions};
use super::validate::{FieldErrors, check_dns_subdomain};
use certificate::Terms;

/// The table of the requests.
const TABLE: &str = "certificatesigningrequests.certificates.k8s.io";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// A signer of old that may not be asked by this version of the API.
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Of kubelets: their only group, and what their names begin with.
const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";
/// Seconds for which a certificate holds: at most (a year), and what may be asked for at least.
const LONGEST: i64 = 365 * 24 * 3600;
const SHORTEST: i64 = 600;
/// What a certificate may be for.
const USAGES: [&str; 23] = [
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

/// The request in a PEM block, as DER.
fn der_of(spec: &Value) -> Result<Vec<u8>, String> {
    let text = STANDARD.decode(spec["request"].as_str().unwrap_or_default());
    let text = text.map_err(|error| format!("no base64: {error}"))?;
    let wanted = "one PEM block of type CERTIFICATE REQUEST is accepted";
    let mut blocks = Pem::iter_from_buffer(&text);
    match (blocks.next(), blocks.next()) {
        (Some(Ok(block)), None) if block.label == "CERTIFICATE REQUEST" => Ok(block.contents),
        _ => Err(wanted.to_owned()),
    }
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| format!("no certificate request: {error}"))?;
    if !rest.is_empty() {
        return Err("something follows the certificate request".to_owned());
    }
    let signed = request.verify_signature();
    signed.map_err(|_| "its signature is not by the key in it".to_owned())?;
    Ok(request)
}

/// The names besides the subject, as they stand in the request and as they are.
fn names<'a>(
    request: &'a X509CertificationRequest<'_>,
) -> Option<(&'a [u8], &'a [GeneralName<'a>])> {
    let attributes = request.certification_request_info.iter_attributes();
    let mut extensions = attributes.filter_map(|one| match one.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => Some(asked.extensions.as_slice()),
        _ => None,
    });
    extensions.find_map(|all| {
        all.iter().find_map(|one| match one.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                Some((one.value, names.general_names.as_slice()))
            }
            _ => None,
        })
    })
}

/// Name and groups of whom a certificate would be for.
fn subject<'a>(request: &'a X509CertificationRequest<'_>) -> (&'a str, Vec<&'a str>) {
    let subject = &request.certification_request_info.subject;
    let name = subject.iter_common_name().next();
    let groups = subject.iter_organization();
    (
        name.and_then(|name| name.as_str().ok()).unwrap_or_default(),
        groups.filter_map(|group| group.as_str().ok()).collect(),
    )
}

fn usages(spec: &Value) -> Vec<&str> {
    let usages = spec["usages"].as_array().into_iter().flatten();
    usages.filter_map(Value::as_str).collect()
}

/// Adds what is wrong with a request as somebody makes it.
pub(crate) fn check(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let signer = spec["signerName"].as_str().unwrap_or_default();
    let path = signer.split_once('/');
    if signer.is_empty() {
        errors.required("spec.signerName", "");
    } else if signer == LEGACY {
        let why = "this signer is not there in certificates.k8s.io/v1";
        errors.invalid("spec.signerName", &spec["signerName"], why);
    } else if path.is_none_or(|(domain, name)| {
        !domain.contains('.') || check_dns_subdomain(domain).is_err() || name.is_empty()
    }) {
        let why = "must be a domain and a path, such as example.com/signer-name";
        errors.invalid("spec.signerName", &spec["signerName"], why);
    }
    if usages(spec).is_empty() {
        errors.required("spec.usages", "");
    }
    for (i, usage) in usages(spec).into_iter().enumerate() {
        if !USAGES.contains(&usage) {
            errors.unsupported(format!("spec.usages[{i}]"), &json!(usage), &USAGES);
        }
    }
    if spec["expirationSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < SHORTEST)
    {
        let why = "must be at least 600 seconds (10 minutes)";
        errors.invalid("spec.expirationSeconds", &spec["expirationSeconds"], why);
    }
    let der = der_of(spec);
    match der
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|der| parse(der))
    {
        Err(why) => errors.invalid("spec.request", &json!("<PEM>"), &why),
        Ok(request) if signer == CLIENT && subject(&request).1.contains(&ADMINS) => {
            let why = format!("use of {CLIENT} signer with {ADMINS} group is not allowed");
            errors.forbidden("spec.signerName", &why);
        }
        Ok(_) => {}
    }
    let has = |kind: &str| has_condition(object, kind);
    if has("Approved") && has("Denied") {
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.forbidden("status.conditions", why);
    }
}

fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|one| one["type"] == kind)
}

/// Whether a signer of ours has to do something.
fn is_due(object: &Value) -> bool {
    let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
    [CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&signer)
        && has_condition(object, "Approved")
        && !has_condition(object, "Denied")
        && !has_condition(object, "Failed")
        && object["status"]["certificate"]
            .as_str()
            .is_none_or(str::is_empty)
}

/// What a signer does not sign, approved or not.
fn refuse(
    signer: &str,
    asked: &[&str],
    request: &X509CertificationRequest<'_>,
) -> Result<(), String> {
    let (name, groups) = subject(request);
    let names = names(request).map_or(&[][..], |(_, names)| names);
    let kind = if signer == KUBELET_SERVING {
        "server auth"
    } else {
        "client auth"
    };
    let accepted = ["digital signature", "key encipherment", kind];
    let is_kubelets = signer != CLIENT;
    let required = if is_kubelets {
        &[accepted[0], kind][..]
    } else {
        &[kind][..]
    };
    if let Some(usage) = asked.iter().find(|usage| !accepted.contains(usage)) {
        return Err(format!(
            "usage {usage} is not for this signer; accepted: {}",
            accepted.join(", ")
        ));
    }
    if let Some(usage) = required.iter().find(|usage| !asked.contains(usage)) {
        return Err(format!("usage {usage} is missing"));
    }
    if !is_kubelets {
        return Ok(());
    }
    if groups != [NODES] {
        return Err(format!("the subject's organization must be {NODES} alone"));
    }
    if !name.starts_with(NODE) {
        return Err(format!("the subject's common name must begin with {NODE}"));
    }
    let is_address =
        |one: &GeneralName<'_>| matches!(one, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    match signer {
        KUBELET_CLIENT if !names.is_empty() => {
            Err("names besides the subject are not for this signer".to_owned())
        }
        KUBELET_SERVING if names.is_empty() || !names.iter().all(is_address) => Err(
            "DNS names and IP addresses are needed besides the subject, and nothing else"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// The certificate that is asked for, as PEM; or why there is none.
fn sign(server: &Shared, spec: &Value) -> Result<String, String> {
    let signer = spec["signerName"].as_str().unwrap_or_default();
    let der = der_of(spec)?;
    let request = parse(&der)?;
    let asked = usages(spec);
    refuse(signer, &asked, &request)?;
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(LONGEST);
    let terms = Terms {
        subject: request.certification_request_info.subject.as_raw(),
        key: request.certification_request_info.subject_pki.raw,
        names: names(&request).map(|(raw, _)| raw),
        seconds: seconds.clamp(SHORTEST, LONGEST),
        usages: &asked,
    };
    certificate::make(&server.authority, &terms)
}

/// Signs one request, if it is due. What is not to be signed fails, and says why.
pub(crate) fn sign_approved(server: &Shared, key: &Key) -> Result<(), ApiError> {
    let kind = server.store.kind(TABLE)?;
    if !is_due(&server.store.get(&kind, key)?.whole()) {
        return Ok(());
    }
    let options = WriteOptions::default();
    server.store.modify(&kind, key, Part::Status, &options, |current| {
        let mut new = current.clone();
        if !is_due(current) {
            return Ok(new);
        }
        let outcome = sign(server, &current["spec"]);
        let status = child_mut(&mut new, "status");
        match outcome {
            Ok(pem) => {
                status.insert("certificate".to_owned(), json!(STANDARD.encode(pem)));
            }
            Err(why) => {
                tracing::warn!(request = key.name, "not signed: {why}");
                let failed = json!({
                    "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
                    "lastUpdateTime": now(), "lastTransitionTime": now(),
                });
                if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
                    list.push(failed);
                }
            }
        }
        Ok(new)
    })?;
    Ok(())
}

/// Signs what was approved right before the server ended.
pub(crate) fn sign_all(server: &Shared) {
    let Ok(kind) = server.store.kind(TABLE) else {
        return;
    };
    let Ok(all) = server.store.list(&kind, &ListOptions::default()) else {
        return;
    };
    for object in all.items.iter().filter(|object| is_due(&object.whole())) {
        if let Err(error) = sign_approved(server, &Key::of(object)) {
            tracing::warn!("a request for a certificate is not signed: {error}");
        }
    }
}
