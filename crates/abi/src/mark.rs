//! `skb->mark` values with which one program tells the next one on the same node what it did already.

/// The bits that carry the kind of mark; Kubernetes' own 0x4000 and 0x8000 lie outside.
pub const MASK: u32 = 0x0F00;
/// The source address is translated already, or must stay as it is: `to_netdev` lets the packet pass.
pub const SNAT_DONE: u32 = 0x0300;
/// The packet goes into the tunnel; the outer packet inherits the mark.
pub const OVERLAY: u32 = 0x0400;
/// The packet comes from a process of the node.
pub const HOST: u32 = 0x0C00;
/// The packet comes from a pod by way of the host stack; the identity is in the other bits ([`with_identity`]).
pub const IDENTITY: u32 = 0x0F00;

/// A mark of kind [`IDENTITY`] that carries `identity`: the low 16 bits in the mark's upper half, bits 16–23 in the low byte.
#[must_use]
pub const fn with_identity(identity: u32) -> u32 {
    IDENTITY | (identity & 0xFFFF) << 16 | (identity >> 16) & 0xFF
}

/// The identity that `mark` carries if it is of kind [`IDENTITY`].
#[must_use]
pub const fn identity(mark: u32) -> Option<u32> {
    if mark & MASK == IDENTITY {
        Some(mark >> 16 | (mark & 0xFF) << 16)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_the_mark() {
        for id in [1, 2, 256, 65535, 0x0012_3456 & 0x00FF_FFFF] {
            assert_eq!(identity(with_identity(id)), Some(id));
        }
        assert_eq!(identity(SNAT_DONE), None);
    }
}
