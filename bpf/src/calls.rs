//! Calls of which the verifier follows the way once for a program, and not once for every way to each call: functions that are
//! global know nothing of their callers, and callers nothing of what comes of them but a number. All that both know lies in the
//! packet's state.
use abi::DropReason;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use wire::{Family, V4, V6};

use crate::{
    conntrack, cross, direct,
    flow::{self, Code, State},
    maps::Maps,
    policy, proxy, refuse,
    skb::Skb,
    snat, translate,
    xdp::Xdp,
};

/// Gives each `module::function(packet, state)` a global function for each kind of packet and each family, and those one name.
macro_rules! shared {
    ($($(#[$doc:meta])* $name:ident: $module:ident::$function:ident as $skb4:ident, $skb6:ident, $xdp4:ident, $xdp6:ident;)*) => {
        /// The global functions of each kind of packet. They write into the packet's state.
        pub trait Shared {
            $($(#[$doc])* fn $name<F: Family>(self) -> Code;)*
        }
        shared!(Skb __sk_buff: $($name $module $function $skb4 $skb6)*);
        shared!(Xdp xdp_md: $($name $module $function $xdp4 $xdp6)*);
    };
    ($packet:ident $context:ident: $($name:ident $module:ident $function:ident $v4:ident $v6:ident)*) => {
        impl Shared for $packet {
            $(
                #[inline(always)]
                fn $name<F: Family>(self) -> Code {
                    if F::IS_V6 {
                        $v6(self.0) as Code
                    } else {
                        $v4(self.0) as Code
                    }
                }
            )*
        }
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v4(context: *mut $context) -> u32 {
                with_state::<V4, _>(context, |context, state| $module::$function($packet(context), state))
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v6(context: *mut $context) -> u32 {
                with_state::<V6, _>(context, |context, state| $module::$function($packet(context), state))
            }
        )*
    };
}

shared! {
    /// Writes the record that the state tells of into the ring.
    report: flow::emit as report4, report6, xdp_report4, xdp_report6;
    /// Finds the frontend that the packet is for, and the backend that its connection has.
    serve: translate::serve as serve4, serve6, xdp_serve4, xdp_serve6;
    /// Chooses a backend.
    choose: translate::choose as choose4, choose6, xdp_choose4, xdp_choose6;
    /// Makes the entry that remembers the backend.
    settle: translate::settle as settle4, settle6, xdp_settle4, xdp_settle6;
    /// Sends the packet to the backend.
    translate: translate::translate as translate4, translate6, xdp_translate4, xdp_translate6;
    /// Gives an answer to a frontend's client the frontend's address.
    unserve: translate::unserve as unserve4, unserve6, xdp_unserve4, xdp_unserve6;
    /// Looks whether a packet that is passed on has room for its frontend, which it remembers.
    fit: direct::fit as fit4, fit6, xdp_fit4, xdp_fit6;
    /// Puts the frontend into the packet.
    label: direct::label as label4, label6, xdp_label4, xdp_label6;
    /// Makes a mapping for an outgoing packet, and makes it the target.
    map_outgoing: snat::map_outgoing as map_outgoing4, map_outgoing6, xdp_map_outgoing4, xdp_map_outgoing6;
}

/// As [`shared`], of packets in the stack alone.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $module:ident::$function:ident as $v4:ident, $v6:ident;)*) => {
        /// The family's global functions. They write into the packet's state.
        pub trait Calls {
            $($(#[$doc])* fn $name(skb: Skb) -> Code;)*
        }
        calls!(V4: $($name $module $function $v4)*);
        calls!(V6: $($name $module $function $v6)*);
    };
    ($family:ident: $($name:ident $module:ident $function:ident $global:ident)*) => {
        impl Calls for $family {
            $(
                #[inline(always)]
                fn $name(skb: Skb) -> Code {
                    $global(skb.0) as Code
                }
            )*
        }
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $global(skb: *mut __sk_buff) -> u32 {
                with_state::<$family, _>(skb, |skb, state| $module::$function(Skb(skb), state))
            }
        )*
    };
}

calls! {
    /// Reads the packet inside an ICMP error into the state. If it cannot be read it then is of no protocol.
    read_inner: flow::read_inner as read_inner4, read_inner6;
    /// Finds or makes the connection of the packet.
    track: conntrack::track as track4, track6;
    /// Asks policy about the packet; returns the reason to drop it if there is one.
    ask: policy::ask as ask4, ask6;
    /// Finds the connection of the packet inside an ICMP error.
    track_error: conntrack::track_error as track_error4, track_error6;
    /// Finds the backend that an ICMP error to a frontend is for.
    serve_error: translate::serve_error as serve_error4, serve_error6;
    /// Turns a packet that nobody serves into its refusal; returns the verdict.
    refuse: refuse::refuse as refuse4, refuse6;
    /// Hands the packet over to the proxy; returns the verdict.
    to_proxy: proxy::redirect as to_proxy4, to_proxy6;
    /// Takes the frontend out of a packet that another node passed on.
    read_label: direct::read_label as read_label4, read_label6;
    /// Takes the frontend out of the option of the tunnel that the packet came by.
    read_tunnel: direct::read_tunnel as read_tunnel4, read_tunnel6;
    /// Gives the packet the tunnel's key to the node of the backend, and the frontend.
    encapsulate: direct::encapsulate as encapsulate4, encapsulate6;
    /// Writes the target over the source of the packet inside an ICMP error.
    rewrite_inner_source: snat::rewrite_inner_source as rewrite_inner_source4, rewrite_inner_source6;
    /// Writes the target over the destination of the packet inside an ICMP error.
    rewrite_inner_destination: snat::rewrite_inner_destination as rewrite_inner_destination4, rewrite_inner_destination6;
    /// See [`cross`]: its steps.
    cross_enter: cross::enter as cross_enter4, cross_enter6;
    cross_track: cross::track as cross_track4, cross_track6;
    cross_leave: cross::leave as cross_leave4, cross_leave6;
    cross_turn: cross::turn as cross_turn4, cross_turn6;
    /// The verdict.
    cross_send: cross::send as cross_send4, cross_send6;
}

/// The packet as an argument that every function uses: callers would else pass nothing to those that do not, which the verifier refuses.
#[inline(always)]
fn needed<C>(mut context: *mut C) -> *mut C {
    // SAFETY: moves a register onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) context, options(nostack, preserves_flags)) };
    context
}

#[inline(always)]
fn with_state<F: Maps, C>(
    context: *mut C,
    function: impl FnOnce(*mut C, &'static mut State<F>) -> Code,
) -> u32 {
    let context = needed(context);
    match F::state() {
        Some(state) => u32::from(function(context, state)),
        // The map has a place for every CPU; the verifier does not know.
        None => DropReason::InvalidPacket as u32,
    }
}
