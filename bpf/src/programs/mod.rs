//! One file per hook.

/// Defines `by_family(skb)`, which tells `run`'s story in the packet's family; other packets pass. The families are calls of
/// their own: their stacks do not add up, and the verifier looks at one at a time.
macro_rules! by_family {
    ($hook:expr, $unreadable:expr) => {
        by_family!(Skb, $hook, $unreadable);
    };
    ($packet:ident, $hook:expr, $unreadable:expr) => {
        #[inline(always)]
        fn by_family(packet: $packet) -> i32 {
            use crate::packet::Packet;
            match packet.ethertype() {
                <wire::V4 as wire::Family>::ETHERTYPE if crate::config::ipv4() => v4(packet),
                <wire::V6 as wire::Family>::ETHERTYPE if crate::config::ipv6() => v6(packet),
                _ => $packet::PASS,
            }
        }

        #[inline(never)]
        fn v4(packet: $packet) -> i32 {
            crate::flow::tell::<wire::V4, $packet>(packet, $hook, 0, $unreadable, run)
        }

        #[inline(never)]
        fn v6(packet: $packet) -> i32 {
            crate::flow::tell::<wire::V6, $packet>(packet, $hook, 0, $unreadable, run)
        }
    };
}

mod from_container;
mod from_host;
mod from_netdev;
mod from_overlay;
mod from_proxy;
mod sock;
mod to_container;
mod to_netdev;
mod to_proxy;
mod xdp_entry;
