//! Services at sockets: a call that names a frontend goes to a backend, and its packets need nothing more.
//!
//! These programs run for processes, not packets: a program of a device may interrupt them on their CPU. They use none of the memory
//! that those have per CPU.
mod bind;
mod forward;
mod report;
mod reverse;

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
};
pub use bind::check;
pub use forward::to_backend;
pub use reverse::to_frontend;
use wire::{Family, V4, V6};
use zerocopy::transmute;

use crate::{
    config,
    service::{Place, Services},
};

/// The call goes on.
pub const GO: i32 = 1;
/// The call fails.
const REFUSE: i32 = 0;

/// What a refused call fails with, where the kernel allows to say it; else it is `EPERM`.
#[derive(Clone, Copy)]
enum Errno {
    NoMemory = 12,
    AddressInUse = 98,
    HostUnreachable = 113,
}

const TCP: u32 = 6;
const UDP: u32 = 17;

/// A call of a socket, with the address in it.
#[derive(Clone, Copy)]
pub struct Call(pub *mut bpf_sock_addr);

/// Reads a field of the context as the one load that the verifier allows.
macro_rules! field {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the context is valid while the program runs.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx).$($field)+) }
    };
}
use field;

/// Writes a field of the context by one store.
macro_rules! set_field {
    ($ctx:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for reading.
        unsafe { core::ptr::write_volatile(&raw mut (*$ctx).$($field)+, $value) }
    };
}

impl Call {
    /// TCP or UDP, as a number; other sockets are not translated.
    #[inline(always)]
    fn proto(self) -> Option<u8> {
        known(field!(self.0, protocol))
    }

    /// True for a socket whose every datagram may be sent to another place.
    #[inline(always)]
    fn is_udp(self) -> bool {
        field!(self.0, protocol) == UDP
    }

    /// Number of the socket, unique since boot.
    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: a helper call.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// Number of the socket's network namespace, unique since boot.
    #[inline(always)]
    fn netns(self) -> u64 {
        // SAFETY: a helper call.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [
            field!(self.0, user_ip6[0]),
            field!(self.0, user_ip6[1]),
            field!(self.0, user_ip6[2]),
            field!(self.0, user_ip6[3]),
        ]
    }

    #[inline(always)]
    fn set_words(self, words: [u32; 4]) {
        set_field!(self.0, words[0], user_ip6[0]);
        set_field!(self.0, words[1], user_ip6[1]);
        set_field!(self.0, words[2], user_ip6[2]);
        set_field!(self.0, words[3], user_ip6[3]);
    }

    #[inline(always)]
    fn port(self) -> u16 {
        field!(self.0, user_port) as u16
    }

    /// True if an IPv6 socket means an IPv4 address.
    #[inline(always)]
    pub fn is_mapped(self) -> bool {
        is_mapped(self.words())
    }
}

#[inline(always)]
fn known(proto: u32) -> Option<u8> {
    matches!(proto, TCP | UDP).then_some(proto as u8)
}

/// The third word of `::ffff:0:0/96`.
const MAPPED: u32 = 0xFFFF_u32.to_be();

#[inline(always)]
fn is_mapped(words: [u32; 4]) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == MAPPED
}

/// How an address lies in a call.
pub trait Named {
    type F: Services;
    fn get(call: Call) -> Place<Self::F>;
    fn set(call: Call, place: Place<Self::F>);
    /// True if the call may name an IPv4 address, too.
    const MAPS: bool = false;
    /// The IPv4 backend of this number in that form.
    #[inline(always)]
    fn mapped_backend(_: u32) -> Option<Place<Self::F>> {
        None
    }
}

/// An IPv4 address.
pub struct In4;
/// An IPv6 address.
pub struct In6;
/// An IPv4 address in an IPv6 one.
pub struct Mapped;

impl Named for In4 {
    type F = V4;

    #[inline(always)]
    fn get(call: Call) -> Place<V4> {
        Place {
            addr: field!(call.0, user_ip4),
            port: call.port(),
        }
    }

    #[inline(always)]
    fn set(call: Call, place: Place<V4>) {
        set_field!(call.0, place.addr, user_ip4);
        set_field!(call.0, u32::from(place.port), user_port);
    }
}

impl Named for In6 {
    type F = V6;

    #[inline(always)]
    fn get(call: Call) -> Place<V6> {
        Place {
            addr: transmute!(call.words()),
            port: call.port(),
        }
    }

    #[inline(always)]
    fn set(call: Call, place: Place<V6>) {
        call.set_words(transmute!(place.addr));
        set_field!(call.0, u32::from(place.port), user_port);
    }

    const MAPS: bool = true;

    #[inline(always)]
    fn mapped_backend(id: u32) -> Option<Place<V6>> {
        let (at, _) = V4::backend(id)?;
        Some(Place {
            addr: V6::mapped(at.addr),
            port: at.port,
        })
    }
}

impl Named for Mapped {
    type F = V4;

    #[inline(always)]
    fn get(call: Call) -> Place<V4> {
        Place {
            addr: field!(call.0, user_ip6[3]),
            port: call.port(),
        }
    }

    #[inline(always)]
    fn set(call: Call, place: Place<V4>) {
        set_field!(call.0, place.addr, user_ip6[3]);
        set_field!(call.0, u32::from(place.port), user_port);
    }
}

/// True if this is the number of the node's own network namespace.
#[inline(always)]
fn is_host(netns: u64) -> bool {
    let host = match config::host_netns() {
        // SAFETY: a helper call; without a socket it tells of the machine's first namespace.
        0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
        host => host,
    };
    netns == host
}

/// True for an address by which a network namespace means itself.
#[inline(always)]
fn is_itself<F: Family>(addr: F::Addr) -> bool {
    if addr == F::zero() {
        return true;
    }
    if F::IS_V6 {
        F::widen(addr) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    } else {
        F::first_word(addr).to_ne_bytes()[0] == 127
    }
}

/// Refuses the call.
#[inline(always)]
fn refuse(error: Errno) -> i32 {
    core::hint::cold_path();
    if config::refusal_says_why() {
        // SAFETY: a helper call. Kernels that lack it never see it: its condition is a constant to the verifier.
        unsafe { bpf_set_retval(-(error as i32)) };
    }
    REFUSE
}
