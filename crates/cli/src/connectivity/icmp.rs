//! Echo requests and replies, as bytes.
use std::net::IpAddr;

/// Bytes of an echo message before its data.
pub const HEADER: usize = 8;

/// What an echo message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    /// A request, not a reply.
    pub request: bool,
    /// Who asks.
    pub id: u16,
    /// The data, the same in the reply.
    pub data: &'a [u8],
}

/// An echo request of `target`'s family; the kernel fills in the checksum of IPv6.
#[must_use]
pub fn request(target: IpAddr, id: u16, data: &[u8]) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(1u16.to_be_bytes());
    message.extend(data);
    if target.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Reads what a raw socket of the family returned: for IPv4 the IP header stands before the message.
#[must_use]
pub fn parse(ipv4: bool, packet: &[u8]) -> Option<Echo<'_>> {
    let message = if ipv4 {
        packet.get(usize::from(packet.first()? & 0xF) * 4..)?
    } else {
        packet
    };
    let request = match (ipv4, *message.first()?) {
        (true, 8) | (false, 128) => true,
        (true, 0) | (false, 129) => false,
        _ => return None,
    };
    let id = u16::from_be_bytes([*message.get(4)?, *message.get(5)?]);
    Some(Echo {
        request,
        id,
        data: message.get(HEADER..)?,
    })
}

/// The Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        for target in ["192.0.2.1", "2001:db8::1"] {
            let target: IpAddr = target.parse().unwrap();
            let message = request(target, 77, b"hello");
            let mut packet = if target.is_ipv4() {
                vec![0x45; 20]
            } else {
                Vec::new()
            };
            packet.extend(&message);
            let echo = parse(target.is_ipv4(), &packet).unwrap();
            assert_eq!(
                echo,
                Echo {
                    request: true,
                    id: 77,
                    data: b"hello"
                }
            );
        }
    }

    #[test]
    fn checksum_of_a_whole_message_is_zero() {
        for length in [0, 1, 7, 64] {
            let message = request("192.0.2.1".parse().unwrap(), 0xBEEF, &vec![0xA5; length]);
            assert_eq!(checksum(&message), 0);
        }
    }

    #[test]
    fn short_and_foreign_packets_are_nothing() {
        let good = [
            vec![0x45; 20],
            request("192.0.2.1".parse().unwrap(), 1, b""),
        ]
        .concat();
        for length in 0..good.len() {
            assert_eq!(parse(true, &good[..length]), None);
        }
        assert_eq!(parse(false, &[135, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
