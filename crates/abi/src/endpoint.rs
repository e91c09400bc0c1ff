//! Who an address belongs to: local endpoints, and the cluster-wide address cache.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Values of the `family` field of keys.
pub mod family {
    /// IPv4: the address stands in the first four bytes.
    pub const V4: u8 = 1;
    /// IPv6.
    pub const V6: u8 = 2;
}

/// Bits of [`EndpointInfo::flags`].
pub mod endpoint_flags {
    /// An address of the node itself: packets go up the host stack.
    pub const HOST: u16 = 1;
    /// The device is a netkit pair: what the pod sends is seen as it leaves the pod, and not on the ingress of a device.
    pub const NETKIT: u16 = 2;
    /// Hand packets over by `bpf_redirect` into the peer's device, not by `bpf_redirect_peer`.
    pub const NO_PEER_REDIRECT: u16 = 4;
    /// What policy denies is forwarded all the same, and reported.
    pub const POLICY_AUDIT: u16 = 8;
    /// Every packet that policy would be asked about is dropped: the rows are not what they should be.
    pub const POLICY_LOCKDOWN: u16 = 16;
}

/// Key of [`crate::names::LXC`].
#[repr(C, align(4))]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
pub struct EndpointKey {
    /// The address, an IPv4 one in the first four bytes.
    pub ip: [u8; 16],
    /// One of [`family`].
    pub family: u8,
    /// Always zero.
    pub pad: u8,
    /// Cluster the address is in; zero is this one.
    pub cluster_id: u16,
}

impl EndpointKey {
    /// The key of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4(ip: [u8; 4]) -> Self {
        Self {
            ip: widen(ip),
            family: family::V4,
            pad: 0,
            cluster_id: 0,
        }
    }

    /// The key of an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn v6(ip: [u8; 16]) -> Self {
        Self {
            ip,
            family: family::V6,
            pad: 0,
            cluster_id: 0,
        }
    }
}

/// An IPv4 address in the first four of sixteen bytes.
#[inline(always)]
#[must_use]
pub const fn widen(ip: [u8; 4]) -> [u8; 16] {
    [
        ip[0], ip[1], ip[2], ip[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]
}

/// Value of [`crate::names::LXC`]: how to deliver to an address of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct EndpointInfo {
    /// Host-side device.
    pub ifindex: u32,
    /// Security identity.
    pub sec_id: u32,
    /// Endpoint number.
    pub id: u16,
    /// Bits of [`endpoint_flags`].
    pub flags: u16,
    /// MAC address inside the pod.
    pub mac: [u8; 6],
    /// MAC address of the host-side device: the pod's next hop.
    pub node_mac: [u8; 6],
    /// Whose rows of [`crate::names::POLICY`] hold for it; zero: policy is not asked.
    pub subject: u32,
}

/// Value of [`crate::names::LXC_IFINDEX`]: the endpoint behind a host-side device.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct LocalEndpoint {
    /// As in [`crate::names::LXC`].
    pub info: EndpointInfo,
    /// The endpoint's IPv4 address, zero if it has none.
    pub ipv4: [u8; 4],
    /// The endpoint's IPv6 address, zero if it has none.
    pub ipv6: [u8; 16],
}

/// Key of [`crate::names::IPCACHE`].
#[repr(C, align(8))]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
pub struct IpcacheKey {
    /// Bits that count: [`IpcacheKey::STATIC_BITS`] and those of the prefix.
    pub prefix_len: u32,
    /// Cluster the prefix is in; zero is this one.
    pub cluster_id: u16,
    /// Always zero.
    pub pad: u8,
    /// One of [`family`].
    pub family: u8,
    /// The address, an IPv4 one in the first four bytes.
    pub ip: [u8; 16],
}

impl IpcacheKey {
    /// Bits of the key before the address: cluster, padding and family must always match.
    pub const STATIC_BITS: u32 = 32;

    /// The key of an IPv4 prefix of `bits` bits.
    #[inline(always)]
    #[must_use]
    pub const fn v4(ip: [u8; 4], bits: u32) -> Self {
        Self {
            prefix_len: Self::STATIC_BITS + bits,
            cluster_id: 0,
            pad: 0,
            family: family::V4,
            ip: widen(ip),
        }
    }

    /// The key of an IPv6 prefix of `bits` bits.
    #[inline(always)]
    #[must_use]
    pub const fn v6(ip: [u8; 16], bits: u32) -> Self {
        Self {
            prefix_len: Self::STATIC_BITS + bits,
            cluster_id: 0,
            pad: 0,
            family: family::V6,
            ip,
        }
    }
}

/// Bits of [`IpcacheValue::flags`].
pub mod ipcache_flags {
    /// `tunnel` holds the node to encapsulate to.
    pub const TUNNEL: u8 = 1;
    /// The tunnel's outer packet is IPv6.
    pub const TUNNEL_V6: u8 = 2;
    /// Never encapsulate to this prefix.
    pub const SKIP_TUNNEL: u8 = 4;
}

/// Value of [`crate::names::IPCACHE`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct IpcacheValue {
    /// Security identity of the addresses.
    pub sec_id: u32,
    /// Address of the node behind which they are, an IPv4 one in the first four bytes.
    pub tunnel: [u8; 16],
    /// Bits of [`ipcache_flags`].
    pub flags: u8,
    /// Encryption key number; zero is none.
    pub key: u8,
    /// Always zero.
    pub pad: u16,
}
