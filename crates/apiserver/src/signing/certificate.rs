//! A certificate for somebody else's key, written as DER: the subject stays as it was asked for, with however many groups.

use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::super::tls::Authority;

/// Tags of DER.
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const TIME: u8 = 0x18;
/// Members with a number of their own.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const KEY_ID: u8 = 0x80;
/// Objects: ECDSA with SHA-256, extensions (2.5.29.x), purposes.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const KEY_USAGE: u8 = 15;
const NAMES: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const AUTHORITY_KEY: u8 = 35;
const PURPOSES: u8 = 37;
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const TRUE: &[u8] = &[0x01, 0x01, 0xff];
/// Clocks may differ by this.
const EARLIER: SignedDuration = SignedDuration::from_mins(5);

/// What a certificate says.
pub struct Terms<'a> {
    /// Who it is for, as DER.
    pub subject: &'a [u8],
    /// The public key, as DER.
    pub key: &'a [u8],
    /// Further names, as DER.
    pub names: Option<&'a [u8]>,
    /// How long it holds.
    pub seconds: i64,
    /// What for, in the words of the API.
    pub usages: &'a [&'a str],
}

/// A value in DER.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if length < 128 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let used = &bytes[length.leading_zeros() as usize / 8..];
        out.push(0x80 | used.len() as u8);
        out.extend_from_slice(used);
    }
    out.extend(parts.iter().copied().flatten());
    out
}

fn time(at: Timestamp) -> Vec<u8> {
    let year = at.strftime("%Y").to_string();
    let rest = at.strftime("%m%d%H%M%SZ").to_string();
    // Two digits of the year until they would be those of the century before.
    match year.parse::<i32>() {
        Ok(1950..2050) => tlv(UTC_TIME, &[&year.as_bytes()[2..], rest.as_bytes()]),
        _ => tlv(TIME, &[year.as_bytes(), rest.as_bytes()]),
    }
}

fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let id = tlv(OBJECT, &[&[0x55, 0x1d, number]]);
    let critical = if critical { TRUE } else { &[] };
    tlv(SEQUENCE, &[&id, critical, &tlv(OCTETS, &[value])])
}

/// The usages that are bits, and those that are objects.
fn usages(asked: &[&str]) -> Vec<u8> {
    let mut bits = 0u8;
    let mut purposes = Vec::new();
    for usage in asked {
        match *usage {
            "digital signature" => bits |= 0x80,
            "key encipherment" => bits |= 0x20,
            "server auth" => purposes.extend(tlv(OBJECT, &[SERVER_AUTH])),
            "client auth" => purposes.extend(tlv(OBJECT, &[CLIENT_AUTH])),
            // The signers refuse the rest.
            _ => {}
        }
    }
    let mut out = Vec::new();
    if bits != 0 {
        let unused = bits.trailing_zeros() as u8;
        out.extend(extension(KEY_USAGE, true, &tlv(BITS, &[&[unused, bits]])));
    }
    if !purposes.is_empty() {
        out.extend(extension(PURPOSES, false, &tlv(SEQUENCE, &[&purposes])));
    }
    out
}

/// A number that no other certificate has.
fn serial() -> Result<Vec<u8>, String> {
    let mut number = [0; 16];
    let filled = SystemRandom::new().fill(&mut number);
    filled.map_err(|_| "the system has no source of randomness".to_owned())?;
    // Positive, and not written with a zero in front.
    number[0] = number[0] & 0x7f | 0x40;
    Ok(tlv(INTEGER, &[&number]))
}

/// Makes it, as PEM.
pub fn make(authority: &Authority, terms: &Terms<'_>) -> Result<String, String> {
    let own = authority.der().map_err(|error| error.to_string())?;
    let (_, own) = X509Certificate::from_der(&own).map_err(|error| error.to_string())?;
    let now = Timestamp::now();
    let until = now.saturating_add(SignedDuration::from_secs(terms.seconds));
    let from = now.saturating_sub(EARLIER);
    let (Ok(from), Ok(until)) = (from, until) else {
        return Err("a time without end".to_owned());
    };
    let until = until.as_second().min(own.validity().not_after.timestamp());
    let until = Timestamp::from_second(until).map_err(|error| error.to_string())?;

    let mut extensions = extension(BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[]));
    extensions.extend(usages(terms.usages));
    let key_id = own
        .extensions()
        .iter()
        .find_map(|one| match one.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
    if let Some(id) = key_id {
        let id = tlv(SEQUENCE, &[&tlv(KEY_ID, &[id])]);
        extensions.extend(extension(AUTHORITY_KEY, false, &id));
    }
    if let Some(names) = terms.names {
        extensions.extend(extension(NAMES, false, names));
    }
    let algorithm = tlv(SEQUENCE, &[&tlv(OBJECT, &[ECDSA_SHA256])]);
    let said = tlv(
        SEQUENCE,
        &[
            &tlv(VERSION, &[&[INTEGER, 1, 2]]),
            &serial()?,
            &algorithm,
            own.subject().as_raw(),
            &tlv(SEQUENCE, &[&time(from), &time(until)]),
            terms.subject,
            terms.key,
            &tlv(EXTENSIONS, &[&tlv(SEQUENCE, &[&extensions])]),
        ],
    );
    let signature = authority.sign(&said).map_err(|error| error.to_string())?;
    let whole = tlv(
        SEQUENCE,
        &[&said, &algorithm, &tlv(BITS, &[&[0], &signature])],
    );
    Ok(pem(&whole))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_times_are_der() {
        assert_eq!(tlv(OCTETS, &[&[7; 3]])[..2], [OCTETS, 3]);
        assert_eq!(
            tlv(OCTETS, &[&[7; 100], &[7; 100]])[..3],
            [OCTETS, 0x81, 200]
        );
        assert_eq!(tlv(OCTETS, &[&[7; 300]])[..4], [OCTETS, 0x82, 1, 44]);
        let at = |text: &str| time(text.parse().unwrap());
        assert_eq!(at("2026-01-02T03:04:05Z")[2..], *b"260102030405Z");
        assert_eq!(at("2050-01-02T03:04:05Z")[..6], *b"\x18\x0f2050");
    }
}
