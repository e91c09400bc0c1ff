//! Types of ICMP messages by number or name.
use super::{Result, cursor::At};
use crate::rule::IcmpMatch;

/// Most fields of one item of `icmps`.
const MAX_FIELDS: usize = 40;

const V4: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const V6: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// One item of `icmps`.
pub(super) fn rule(at: &At<'_>) -> Result<Vec<IcmpMatch>> {
    at.fields(&["fields"])?;
    let fields = at.list("fields")?.unwrap_or_default();
    if fields.is_empty() || fields.len() > MAX_FIELDS {
        return Err(at.wrong(
            format!("{} fields", fields.len()),
            format!("1 to {MAX_FIELDS} fields such as {{family: IPv4, type: EchoRequest}}"),
        ));
    }
    fields.iter().map(field).collect()
}

fn field(at: &At<'_>) -> Result<IcmpMatch> {
    at.fields(&["family", "type"])?;
    let v6 = match at.get("family") {
        Some(at) => at.one_of(&["IPv4", "IPv6"])? == "IPv6",
        None => false,
    };
    let names: &[(&str, u8)] = if v6 { &V6 } else { &V4 };
    let kind = at.need("type", "a number or a name such as EchoRequest")?;
    if kind.value.is_number() {
        let number = kind.number(0, 255)?;
        return Ok(IcmpMatch {
            v6,
            kind: u8::try_from(number).unwrap_or(u8::MAX),
        });
    }
    let text = kind.text()?;
    let named = names
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number);
    match named.or_else(|| text.parse().ok()) {
        Some(kind) => Ok(IcmpMatch { v6, kind }),
        None => {
            let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            Err(kind.wrong(
                format!("{text:?} is no type of ICMP message"),
                format!("a number from 0 to 255, or {}", names.join(", ")),
            ))
        }
    }
}
