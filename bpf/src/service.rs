//! From a frontend to a backend: what socket programs and packet programs have in common.
use abi::{
    LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6,
    LbFrontend4, LbFrontend6, LbKey4, LbKey6, LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4,
    LbSkipKey6, LbSockKey4, LbSockKey6, LbSourceKey4, LbSourceKey6, MAGLEV_CHUNK, lb_algorithm,
    lb_flags, lb_scope,
};
use aya_ebpf::{
    helpers::generated::bpf_get_prandom_u32,
    macros::map,
    maps::{HashMap, LpmTrie, LruHashMap, lpm_trie::Key},
};
use wire::{Family, V4, V6};
use zerocopy::transmute;

use crate::{clock, config};

const NO_PREALLOC: u32 = 1;
const ROWS: u32 = 65_536;
const CHUNKS: u32 = 262_144;

#[map(name = "cilium_lb4_services_v2")]
static SERVICES4: HashMap<LbKey4, LbService> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb6_services_v2")]
static SERVICES6: HashMap<LbKey6, LbService> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb4_backends_v3")]
static BACKENDS4: HashMap<u32, LbBackend4> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb6_backends_v3")]
static BACKENDS6: HashMap<u32, LbBackend6> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb4_reverse_nat")]
static REVERSE4: HashMap<u16, LbFrontend4> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb6_reverse_nat")]
static REVERSE6: HashMap<u16, LbFrontend6> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb4_affinity")]
static AFFINITY4: LruHashMap<LbAffinityKey4, LbAffinity> = LruHashMap::pinned(ROWS, 0);
#[map(name = "cilium_lb6_affinity")]
static AFFINITY6: LruHashMap<LbAffinityKey6, LbAffinity> = LruHashMap::pinned(ROWS, 0);
#[map(name = "cilium_lb_affinity_match")]
static AFFINITY_MATCH: HashMap<LbAffinityMatch, u8> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb4_source_range")]
static SOURCES4: LpmTrie<[u8; size_of::<LbSourceKey4>() - 4], u8> =
    LpmTrie::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb6_source_range")]
static SOURCES6: LpmTrie<[u8; size_of::<LbSourceKey6>() - 4], u8> =
    LpmTrie::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_lb4_maglev")]
static MAGLEV4: HashMap<LbMaglevKey, LbMaglevChunk> = HashMap::pinned(CHUNKS, NO_PREALLOC);
#[map(name = "cilium_lb6_maglev")]
static MAGLEV6: HashMap<LbMaglevKey, LbMaglevChunk> = HashMap::pinned(CHUNKS, NO_PREALLOC);
#[map(name = "cilium_lb4_reverse_sk")]
static SOCKETS4: LruHashMap<LbSockKey4, LbFrontend4> = LruHashMap::pinned(ROWS, 0);
#[map(name = "cilium_lb6_reverse_sk")]
static SOCKETS6: LruHashMap<LbSockKey6, LbFrontend6> = LruHashMap::pinned(ROWS, 0);
#[map(name = "cilium_skip_lb4")]
static SKIP4: HashMap<LbSkipKey4, u8> = HashMap::pinned(ROWS, NO_PREALLOC);
#[map(name = "cilium_skip_lb6")]
static SKIP6: HashMap<LbSkipKey6, u8> = HashMap::pinned(ROWS, NO_PREALLOC);

/// Address and port, in network order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place<F: Family> {
    pub addr: F::Addr,
    pub port: u16,
}

/// The family's own maps of services.
pub trait Services: Family {
    /// Row of a frontend (slot 0) or of one of its slots.
    fn service(at: Place<Self>, proto: u8, scope: u8, slot: u16) -> Option<&'static LbService>;
    /// A backend, and its state.
    fn backend(id: u32) -> Option<(Place<Self>, u8)>;
    /// The frontend of this number.
    fn reverse(id: u16) -> Option<Place<Self>>;
    /// What is remembered of a client of the frontend.
    fn affinity(client: &Client<Self>, id: u16) -> Option<LbAffinity>;
    /// Remembers where a client of the frontend was sent.
    fn keep(client: &Client<Self>, id: u16, to: &LbAffinity);
    /// Backend at a place of the frontend's Maglev table; zero if there is none.
    fn maglev(id: u16, place: u32) -> u32;
    /// What the longest range of the frontend that has `addr` says: 1 for may.
    fn source(id: u16, addr: Self::Addr) -> Option<u8>;
    /// Remembers which frontend a socket means by a backend.
    fn remember(cookie: u64, backend: Place<Self>, frontend: Place<Self>, id: u16) -> bool;
    /// The frontend that a socket means by a backend, and its number.
    fn meant(cookie: u64, backend: Place<Self>) -> Option<(Place<Self>, u16)>;
    /// True if what this network namespace sends to the frontend is left as it is.
    fn is_skipped(netns: u64, at: Place<Self>, proto: u8) -> bool;
}

/// Who is kept at a backend.
#[derive(Clone, Copy)]
pub enum Client<F: Family> {
    Address(F::Addr),
    /// Cookie of a network namespace.
    Namespace(u64),
}

macro_rules! services {
    ($family:ident, $key:ident, $backend:ident, $frontend:ident, $affinity:ident, $source:ident, $skip:ident, $sock:ident, $skip_pad:literal,
     $services:ident, $backends:ident, $reverse:ident, $affinities:ident, $sources:ident, $maglev:ident, $skips:ident, $sockets:ident,
     $cookie:expr, $client:expr) => {
        impl Services for $family {
            #[inline(always)]
            fn service(
                at: Place<Self>,
                proto: u8,
                scope: u8,
                slot: u16,
            ) -> Option<&'static LbService> {
                let key = $key {
                    addr: transmute!(at.addr),
                    port: at.port.to_ne_bytes(),
                    proto,
                    scope,
                    slot,
                    pad: 0,
                };
                // SAFETY: a row removed meanwhile stays readable until this program ends (NO_PREALLOC frees by RCU).
                unsafe { $services.get(&key) }
            }

            #[inline(always)]
            fn backend(id: u32) -> Option<(Place<Self>, u8)> {
                // SAFETY: as above.
                let row = unsafe { $backends.get(&id) }?;
                let at = Place {
                    addr: transmute!(row.addr),
                    port: u16::from_ne_bytes(row.port),
                };
                Some((at, row.state))
            }

            #[inline(always)]
            fn reverse(id: u16) -> Option<Place<Self>> {
                // SAFETY: as above.
                let row = unsafe { $reverse.get(&id) }?;
                Some(Place {
                    addr: transmute!(row.addr),
                    port: u16::from_ne_bytes(row.port),
                })
            }

            #[inline(always)]
            fn affinity(client: &Client<Self>, id: u16) -> Option<LbAffinity> {
                // SAFETY: read at once; an LRU entry that is reused meanwhile names a backend that is checked.
                unsafe { $affinities.get(&Self::affinity_key(client, id)) }.copied()
            }

            #[inline(always)]
            fn keep(client: &Client<Self>, id: u16, to: &LbAffinity) {
                let _ = $affinities.insert(&Self::affinity_key(client, id), to, 0);
            }

            #[inline(always)]
            fn maglev(id: u16, place: u32) -> u32 {
                let key = LbMaglevKey {
                    id,
                    chunk: (place / MAGLEV_CHUNK as u32) as u16,
                };
                // SAFETY: as for services.
                match unsafe { $maglev.get(&key) } {
                    Some(row) => row.backends[place as usize % MAGLEV_CHUNK],
                    None => 0,
                }
            }

            #[inline(always)]
            fn source(id: u16, addr: Self::Addr) -> Option<u8> {
                let key = $source {
                    prefix_len: $source::FIXED_BITS + 8 * Self::ADDR_LEN as u32,
                    id,
                    pad: 0,
                    addr: transmute!(addr),
                };
                // SAFETY: `Key` is the prefix length followed by the data, which is how the key lies in memory.
                let key =
                    unsafe { &*(&raw const key).cast::<Key<[u8; size_of::<$source>() - 4]>>() };
                $sources.get(key).copied()
            }

            #[inline(always)]
            fn remember(cookie: u64, backend: Place<Self>, frontend: Place<Self>, id: u16) -> bool {
                let key = Self::sock_key(cookie, backend);
                let value = $frontend {
                    addr: transmute!(frontend.addr),
                    port: frontend.port.to_ne_bytes(),
                    id,
                };
                $sockets.insert(&key, &value, 0).is_ok()
            }

            #[inline(always)]
            fn meant(cookie: u64, backend: Place<Self>) -> Option<(Place<Self>, u16)> {
                let key = Self::sock_key(cookie, backend);
                // SAFETY: read at once; an LRU entry that is reused meanwhile shows another frontend for a moment.
                let row = unsafe { $sockets.get(&key) }?;
                let at = Place {
                    addr: transmute!(row.addr),
                    port: u16::from_ne_bytes(row.port),
                };
                Some((at, row.id))
            }

            #[inline(always)]
            fn is_skipped(netns: u64, at: Place<Self>, proto: u8) -> bool {
                let key = $skip {
                    netns,
                    addr: transmute!(at.addr),
                    port: at.port.to_ne_bytes(),
                    proto,
                    pad: [0; $skip_pad],
                };
                // SAFETY: as for services.
                unsafe { $skips.get(&key) }.is_some()
            }
        }

        impl Keys for $family {
            type Affinity = $affinity;
            type Sock = $sock;

            #[inline(always)]
            fn sock_key(cookie: u64, at: Place<Self>) -> $sock {
                $sock {
                    cookie,
                    addr: transmute!(at.addr),
                    port: at.port.to_ne_bytes(),
                    pad: [0; $skip_pad + 1],
                }
            }

            #[inline(always)]
            fn affinity_key(client: &Client<Self>, id: u16) -> $affinity {
                let (client, by_cookie) = match *client {
                    Client::Address(addr) => ($client(addr), 0),
                    Client::Namespace(cookie) => ($cookie(cookie), 1),
                };
                $affinity {
                    client: transmute!(client),
                    id,
                    by_cookie,
                    pad: [0; 5],
                }
            }
        }
    };
}

trait Keys: Family {
    type Affinity;
    type Sock;
    fn affinity_key(client: &Client<Self>, id: u16) -> Self::Affinity;
    fn sock_key(cookie: u64, at: Place<Self>) -> Self::Sock;
}

services!(
    V4,
    LbKey4,
    LbBackend4,
    LbFrontend4,
    LbAffinityKey4,
    LbSourceKey4,
    LbSkipKey4,
    LbSockKey4,
    1,
    SERVICES4,
    BACKENDS4,
    REVERSE4,
    AFFINITY4,
    SOURCES4,
    MAGLEV4,
    SKIP4,
    SOCKETS4,
    |cookie: u64| cookie,
    |addr: u32| u64::from(addr)
);
services!(
    V6,
    LbKey6,
    LbBackend6,
    LbFrontend6,
    LbAffinityKey6,
    LbSourceKey6,
    LbSkipKey6,
    LbSockKey6,
    5,
    SERVICES6,
    BACKENDS6,
    REVERSE6,
    AFFINITY6,
    SOURCES6,
    MAGLEV6,
    SKIP6,
    SOCKETS6,
    |cookie: u64| [cookie, 0],
    |addr: [u64; 2]| addr
);

/// A frontend that was found, and the scope of its row: its slots are of the same.
#[derive(Clone, Copy)]
pub struct Frontend<F: Family> {
    pub at: Place<F>,
    pub proto: u8,
    pub scope: u8,
    pub service: &'static LbService,
}

/// True if the address has frontends at all.
#[inline(always)]
pub fn has_frontends<F: Services>(addr: F::Addr) -> bool {
    F::service(Place { addr, port: 0 }, 0, lb_scope::EXTERNAL, 0).is_some()
}

/// The frontend at a place, as those inside the cluster see it or those outside.
#[inline(always)]
pub fn frontend<F: Services>(at: Place<F>, proto: u8, inside: bool) -> Option<Frontend<F>> {
    let found = |scope, service| Frontend {
        at,
        proto,
        scope,
        service,
    };
    let outer = F::service(at, proto, lb_scope::EXTERNAL, 0)?;
    if inside && outer.flags & lb_flags::TWO_SCOPES != 0 {
        let inner = F::service(at, proto, lb_scope::INTERNAL, 0)?;
        return Some(found(lb_scope::INTERNAL, inner));
    }
    Some(found(lb_scope::EXTERNAL, outer))
}

impl<F: Services> Frontend<F> {
    /// Whether a client of this address may use it.
    #[inline(always)]
    pub fn admits(&self, client: F::Addr) -> bool {
        if self.service.flags & lb_flags::SOURCE_RANGES == 0 {
            return true;
        }
        match F::source(self.service.id, client) {
            Some(verdict) => verdict == 1,
            None => self.service.flags & lb_flags::SOURCE_RANGES_DENY != 0,
        }
    }

    /// Number of the backend for a new connection; zero if there is none. `hash` is of the connection's tuple, for Maglev.
    #[inline(always)]
    pub fn choose(&self, client: &Client<F>, hash: u32) -> u32 {
        let number = if self.service.algorithm == lb_algorithm::MAGLEV {
            hash
        } else {
            random()
        };
        self.choose_by(client, number)
    }

    /// As [`Frontend::choose`]; `number` says which of them it is, whatever the algorithm.
    #[inline(always)]
    pub fn choose_by(&self, client: &Client<F>, number: u32) -> u32 {
        let service = self.service;
        let keeps = service.flags & lb_flags::AFFINITY != 0;
        if keeps && let Some(id) = self.kept(client) {
            return id;
        }
        if service.count == 0 {
            return 0;
        }
        let id = if service.algorithm == lb_algorithm::MAGLEV {
            F::maglev(service.id, number % config::maglev_size())
        } else {
            self.in_slot((number % u32::from(service.count)) as u16 + 1)
        };
        if keeps && id != 0 {
            let used = clock::seconds();
            F::keep(client, service.id, &LbAffinity { backend: id, used });
        }
        id
    }

    /// The backend that the client was sent to before, if it may still be.
    #[inline(always)]
    fn kept(&self, client: &Client<F>) -> Option<u32> {
        let id = self.service.id;
        let known = F::affinity(client, id)?;
        let used = clock::seconds();
        if used.wrapping_sub(known.used) > self.service.affinity {
            return None;
        }
        let may = LbAffinityMatch {
            backend: known.backend,
            id,
            pad: 0,
        };
        // SAFETY: as for services.
        unsafe { AFFINITY_MATCH.get(&may) }?;
        let backend = known.backend;
        F::keep(client, id, &LbAffinity { backend, used });
        Some(backend)
    }

    #[inline(always)]
    fn in_slot(&self, slot: u16) -> u32 {
        match F::service(self.at, self.proto, self.scope, slot) {
            Some(row) => row.backend,
            None => 0,
        }
    }
}

/// Any number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper call.
    unsafe { bpf_get_prandom_u32() as u32 }
}
