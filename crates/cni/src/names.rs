//! Names and addresses that follow from the attachment alone, so that DEL finds what ADD made without asking anybody.

use netlink::Mac;

const PREFIX: &str = "lxc";

/// The host-side interface: `lxc` and twelve hexadecimal digits.
pub fn host_interface(container_id: &str, interface: &str) -> String {
    format!(
        "{PREFIX}{:012x}",
        hash(b"name", container_id, interface) >> 16
    )
}

/// Link-layer address of the host side.
pub fn host_mac(container_id: &str, interface: &str) -> Mac {
    mac(hash(b"host", container_id, interface))
}

/// Link-layer address of the pod's side.
pub fn pod_mac(container_id: &str, interface: &str) -> Mac {
    mac(hash(b"pod", container_id, interface))
}

fn mac(hash: u64) -> Mac {
    let [_, _, a, b, c, d, e, f] = hash.to_be_bytes();
    Mac::local_from([a, b, c, d, e, f])
}

/// FNV-1a with a final mix, so that every bit of the input reaches every bit of the result. Container ids are random
/// already; this only has to spread them.
fn hash(purpose: &[u8], container_id: &str, interface: &str) -> u64 {
    let bytes = purpose
        .iter()
        .chain(b"\0")
        .chain(container_id.as_bytes())
        .chain(b"\0")
        .chain(interface.as_bytes());
    let folded = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_fit_and_stay_the_same() {
        // A changed name would orphan the interfaces of running pods.
        assert_eq!(host_interface("c1", "eth0"), "lxc27cb77d05dca");
        assert_eq!(host_interface("c1", "eth0").len(), 15);
        assert_ne!(host_interface("c1", "eth0"), host_interface("c1", "eth1"));
        assert_ne!(host_mac("c1", "eth0"), pod_mac("c1", "eth0"));
    }

    #[test]
    fn similar_ids_do_not_meet() {
        let names: BTreeSet<_> = (0..100_000)
            .map(|i| host_interface(&format!("container-{i}"), "eth0"))
            .collect();
        let macs: BTreeSet<_> = (0..100_000)
            .map(|i| pod_mac(&format!("container-{i}"), "eth0").0)
            .collect();
        assert_eq!((names.len(), macs.len()), (100_000, 100_000));
    }
}
