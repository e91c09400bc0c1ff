//! Packet sizes.
use crate::Plan;
use model::LocalNode;

/// Headers of VXLAN and Geneve over IPv4: IP 20, UDP 8, tunnel 8, inner Ethernet 14.
const TUNNEL_OVER_IPV4: u32 = 50;
/// The same over IPv6, whose header is 40 bytes long.
const TUNNEL_OVER_IPV6: u32 = 70;
/// Geneve's option with the frontend of a service, IPv4. That of IPv6 is longer, but goes with datagrams and openings alone.
const FRONTEND: u32 = 12;
/// Used where no device tells: that of Ethernet.
const FALLBACK: u32 = 1500;

/// Packet sizes of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtus {
    /// Of pod devices and `cilium_host`.
    pub device: u32,
    /// Of routes whose packets may be encapsulated.
    pub route: u32,
}

/// The packet sizes of this node: the smallest of its devices, or what the user said; less the tunnel's headers on routes.
#[must_use]
pub fn mtus(plan: &Plan, local: &LocalNode) -> Mtus {
    let detected = local
        .devices
        .iter()
        .map(|device| device.mtu)
        .filter(|mtu| *mtu > 0)
        .min()
        .unwrap_or(FALLBACK);
    let device = plan.mtu.unwrap_or(detected);
    let overhead = match plan.tunnel {
        None => 0,
        Some(_) if local.primary(false).is_some() => TUNNEL_OVER_IPV4,
        Some(_) => TUNNEL_OVER_IPV6,
    };
    let overhead = if plan.tunnel_options {
        overhead + FRONTEND
    } else {
        overhead
    };
    Mtus {
        device,
        route: device.saturating_sub(overhead),
    }
}
