//! The planner's rows in the maps of the datapath.
use abi::{
    LbAffinityMatch, LbBackend4, LbBackend6, LbFrontend4, LbFrontend6, LbKey4, LbKey6,
    LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4, LbSkipKey6, LbSourceKey4, LbSourceKey6,
    MAGLEV_CHUNK, lb_algorithm, lb_scope,
};
use datapath::maps::{Lb4, Lb6, LbMap, LbMaps};
use ipnet::IpNet;
use lb::{
    frontend::{Algorithm, BackendKey, FrontendKey, Scope, State},
    input::Protocol,
    rows::{Master, Op, Row, RowKey},
};
use std::{net::IpAddr, sync::Arc};

/// What a network namespace sends to a frontend is not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skip {
    /// Cookie of the namespace.
    pub netns: u64,
    /// The frontend; its scope does not count.
    pub frontend: FrontendKey,
}

/// Why the kernel does not have what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// The kernel's side.
pub trait Kernel: Send {
    /// Makes writes in their order.
    ///
    /// # Errors
    /// Those from this index on may not have been made; to make them once more does no harm.
    fn write(&mut self, ops: &[Op]) -> Result<(), (usize, Refusal)>;
    /// Every row but those of [`Skip`]s. What Maglev tables hold is left out.
    ///
    /// # Errors
    /// The kernel refuses.
    fn rows(&mut self) -> Result<Vec<Row>, Refusal>;
    /// Writes, or removes, what is not translated.
    ///
    /// # Errors
    /// The kernel refuses.
    fn set_skips(&mut self, put: &[Skip], delete: &[Skip]) -> Result<(), Refusal>;
    /// Everything that is not translated.
    ///
    /// # Errors
    /// The kernel refuses.
    fn skips(&mut self) -> Result<Vec<Skip>, Refusal>;
}

/// The maps of the datapath.
#[derive(Clone, Debug)]
pub struct Maps {
    maps: LbMaps,
    /// Places of a Maglev table.
    places: usize,
}

impl Maps {
    /// Writes to `maps`, with Maglev tables of so many places.
    #[must_use]
    pub const fn new(maps: LbMaps, places: usize) -> Self {
        Self { maps, places }
    }
}

/// Which writes may be made in any order among themselves: a run of the same step goes map by map.
fn step(op: &Op) -> (bool, u8) {
    match op {
        Op::Put(Row::Backend(..)) => (true, 0),
        Op::Put(Row::Slot(..)) => (true, 3),
        Op::Put(Row::Frontend(..)) => (true, 4),
        Op::Put(Row::Maglev(..)) => (true, 2),
        Op::Put(_) => (true, 1),
        Op::Delete(RowKey::Frontend(_)) => (false, 0),
        Op::Delete(RowKey::Backend(..)) => (false, 2),
        Op::Delete(_) => (false, 1),
    }
}

impl Kernel for Maps {
    fn write(&mut self, ops: &[Op]) -> Result<(), (usize, Refusal)> {
        let mut done = 0;
        for run in ops.chunk_by(|a, b| step(a) == step(b)) {
            self.run(run).map_err(|why| (done, why))?;
            done += run.len();
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<Vec<Row>, Refusal> {
        let mut rows = Vec::new();
        v4::rows(&self.maps.v4, &mut rows)?;
        v6::rows(&self.maps.v6, &mut rows)?;
        for (key, _) in self.maps.affinity.dump().map_err(refused)? {
            rows.push(Row::Affinity(key.id, key.backend));
        }
        Ok(rows)
    }

    fn set_skips(&mut self, put: &[Skip], delete: &[Skip]) -> Result<(), Refusal> {
        let one = |skips: &[Skip], ipv6: bool| -> Vec<Skip> {
            let own = skips
                .iter()
                .filter(|skip| skip.frontend.address.is_ipv6() == ipv6);
            own.copied().collect()
        };
        v4::set_skips(&self.maps.v4, &one(put, false), &one(delete, false))?;
        v6::set_skips(&self.maps.v6, &one(put, true), &one(delete, true))
    }

    fn skips(&mut self) -> Result<Vec<Skip>, Refusal> {
        let mut all = v4::skips(&self.maps.v4)?;
        all.extend(v6::skips(&self.maps.v6)?);
        Ok(all)
    }
}

impl Maps {
    fn run(&self, ops: &[Op]) -> Result<(), Refusal> {
        v4::write(&self.maps.v4, self.places, ops)?;
        v6::write(&self.maps.v6, self.places, ops)?;
        let (mut put, mut delete) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Put(Row::Affinity(id, backend)) => put.push((affinity(*id, *backend), 1)),
                Op::Delete(RowKey::Affinity(id, backend)) => delete.push(affinity(*id, *backend)),
                _ => {}
            }
        }
        put_all(&self.maps.affinity, &put)?;
        delete_all(&self.maps.affinity, &delete)
    }
}

const fn affinity(id: u16, backend: u32) -> LbAffinityMatch {
    LbAffinityMatch {
        backend,
        id,
        pad: 0,
    }
}

fn refused(error: datapath::Error) -> Refusal {
    Refusal(error.to_string())
}

/// What rows are made of.
trait Record: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy {}
impl<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy> Record for T {}

fn put_all<K: Record, V: Record>(map: &LbMap<K, V>, rows: &[(K, V)]) -> Result<(), Refusal> {
    if rows.is_empty() {
        return Ok(());
    }
    match map.put_all(rows) {
        Ok(written) if written == rows.len() => Ok(()),
        Ok(_) => Err(Refusal(format!(
            "{} is full ({} rows; bpf-lb-map-max)",
            map.name(),
            map.capacity()
        ))),
        Err((_, error)) => Err(refused(error)),
    }
}

fn delete_all<K: Record, V: Record>(map: &LbMap<K, V>, keys: &[K]) -> Result<(), Refusal> {
    if keys.is_empty() {
        return Ok(());
    }
    map.delete_all(keys).map(drop).map_err(refused)
}

const fn scope(scope: Scope) -> u8 {
    match scope {
        Scope::External => lb_scope::EXTERNAL,
        Scope::Internal => lb_scope::INTERNAL,
    }
}

const fn service(master: &Master) -> LbService {
    LbService {
        backend: 0,
        affinity: master.affinity,
        count: master.count,
        id: master.id,
        flags: master.flags,
        algorithm: master.algorithm.number(),
        serving: master.serving as u8,
    }
}

fn slot(backend: u32) -> LbService {
    LbService {
        backend,
        ..LbService::default()
    }
}

fn state(number: u8) -> Option<State> {
    State::ALL.get(usize::from(number)).copied()
}

fn master(value: &LbService) -> Option<Master> {
    Some(Master {
        id: value.id,
        count: value.count,
        serving: state(value.serving)?,
        flags: value.flags,
        affinity: value.affinity,
        algorithm: match value.algorithm {
            lb_algorithm::RANDOM => Algorithm::Random,
            lb_algorithm::MAGLEV => Algorithm::Maglev,
            _ => return None,
        },
    })
}

/// The chunks of a table.
fn chunks(id: u16, table: &[u32]) -> impl Iterator<Item = (LbMaglevKey, LbMaglevChunk)> {
    table
        .chunks(MAGLEV_CHUNK)
        .enumerate()
        .map(move |(chunk, places)| {
            let mut backends = [0; MAGLEV_CHUNK];
            backends[..places.len()].copy_from_slice(places);
            let key = LbMaglevKey {
                id,
                chunk: chunk as u16,
            };
            (key, LbMaglevChunk { backends })
        })
}

macro_rules! family {
    ($name:ident, $ipv6:literal, $maps:ty, $key:ident, $backend:ident, $frontend:ident, $source:ident, $skip:ident, $variant:ident, $octets:ty) => {
        mod $name {
            use super::*;

            /// The address, if it is of this family.
            fn addr(ip: IpAddr) -> Option<$octets> {
                match ip {
                    IpAddr::$variant(ip) => Some(ip.octets()),
                    _ => None,
                }
            }

            fn address_key(ip: IpAddr) -> Option<$key> {
                Some($key {
                    addr: addr(ip)?,
                    port: [0; 2],
                    proto: 0,
                    scope: 0,
                    slot: 0,
                    pad: 0,
                })
            }

            fn key(of: &FrontendKey, slot: u16) -> Option<$key> {
                Some($key {
                    addr: addr(of.address)?,
                    port: of.port.to_be_bytes(),
                    proto: of.protocol.number(),
                    scope: scope(of.scope),
                    slot,
                    pad: 0,
                })
            }

            fn frontend_key(key: &$key) -> Option<FrontendKey> {
                Some(FrontendKey {
                    address: IpAddr::from(key.addr),
                    port: u16::from_be_bytes(key.port),
                    protocol: Protocol::from_number(key.proto)?,
                    scope: match key.scope {
                        lb_scope::EXTERNAL => Scope::External,
                        lb_scope::INTERNAL => Scope::Internal,
                        _ => return None,
                    },
                })
            }

            fn source(id: u16, net: &IpNet) -> Option<$source> {
                Some($source {
                    prefix_len: $source::FIXED_BITS + u32::from(net.prefix_len()),
                    id,
                    pad: 0,
                    addr: addr(net.network())?,
                })
            }

            #[derive(Default)]
            struct Puts {
                services: Vec<($key, LbService)>,
                backends: Vec<(u32, $backend)>,
                reverse: Vec<(u16, $frontend)>,
                sources: Vec<($source, u8)>,
            }

            #[derive(Default)]
            struct Deletes {
                services: Vec<$key>,
                backends: Vec<u32>,
                reverse: Vec<u16>,
                sources: Vec<$source>,
                maglev: Vec<LbMaglevKey>,
            }

            impl Puts {
                /// Takes a row; none for one that is of the other family.
                fn take(&mut self, maps: &$maps, row: &Row) -> Result<(), Refusal> {
                    match row {
                        Row::Address(ip) => {
                            let key = address_key(*ip);
                            self.services
                                .extend(key.map(|key| (key, LbService::default())));
                        }
                        Row::Frontend(of, master) => {
                            let key = key(of, 0);
                            self.services.extend(key.map(|key| (key, service(master))));
                        }
                        Row::Slot(of, number, backend) => {
                            let key = key(of, *number);
                            self.services.extend(key.map(|key| (key, slot(*backend))));
                        }
                        Row::Backend(id, of, state) => {
                            let backend = addr(of.address).map(|addr| $backend {
                                addr,
                                port: of.port.to_be_bytes(),
                                proto: of.protocol.number(),
                                state: *state as u8,
                            });
                            self.backends.extend(backend.map(|backend| (*id, backend)));
                        }
                        Row::Reverse(id, ip, port) => {
                            let frontend = addr(*ip).map(|addr| $frontend {
                                addr,
                                port: port.to_be_bytes(),
                                id: *id,
                            });
                            self.reverse
                                .extend(frontend.map(|frontend| (*id, frontend)));
                        }
                        Row::Source(id, net, allow) => {
                            let key = source(*id, net);
                            self.sources.extend(key.map(|key| (key, u8::from(*allow))));
                        }
                        // A table is big: it is not copied before it is written.
                        Row::Maglev(id, $ipv6, table) => {
                            put_all(&maps.maglev, &chunks(*id, table).collect::<Vec<_>>())?;
                        }
                        Row::Maglev(..) | Row::Affinity(..) | Row::Skip(..) => {}
                    }
                    Ok(())
                }
            }

            impl Deletes {
                fn take(&mut self, places: usize, row: &RowKey) {
                    match row {
                        RowKey::Address(ip) => self.services.extend(address_key(*ip)),
                        RowKey::Frontend(of) => self.services.extend(key(of, 0)),
                        RowKey::Slot(of, slot) => self.services.extend(key(of, *slot)),
                        RowKey::Backend(id, $ipv6) => self.backends.push(*id),
                        RowKey::Reverse(id, $ipv6) => self.reverse.push(*id),
                        RowKey::Source(id, net) => self.sources.extend(source(*id, net)),
                        RowKey::Maglev(id, $ipv6) => {
                            let count = places.div_ceil(MAGLEV_CHUNK) as u16;
                            let key = |chunk| LbMaglevKey { id: *id, chunk };
                            self.maglev.extend((0..count).map(key));
                        }
                        RowKey::Backend(..)
                        | RowKey::Reverse(..)
                        | RowKey::Maglev(..)
                        | RowKey::Affinity(..)
                        | RowKey::Skip(..) => {}
                    }
                }
            }

            /// Makes those writes of one step that are of this family.
            pub(super) fn write(maps: &$maps, places: usize, ops: &[Op]) -> Result<(), Refusal> {
                let (mut puts, mut deletes) = (Puts::default(), Deletes::default());
                for op in ops {
                    match op {
                        Op::Put(row) => puts.take(maps, row)?,
                        Op::Delete(key) => deletes.take(places, key),
                    }
                }
                put_all(&maps.backends, &puts.backends)?;
                put_all(&maps.reverse, &puts.reverse)?;
                put_all(&maps.sources, &puts.sources)?;
                put_all(&maps.services, &puts.services)?;
                delete_all(&maps.services, &deletes.services)?;
                delete_all(&maps.sources, &deletes.sources)?;
                delete_all(&maps.reverse, &deletes.reverse)?;
                delete_all(&maps.maglev, &deletes.maglev)?;
                delete_all(&maps.backends, &deletes.backends)
            }

            /// Every row of this family. One that means nothing is removed.
            pub(super) fn rows(maps: &$maps, rows: &mut Vec<Row>) -> Result<(), Refusal> {
                let (mut odd, mut odd_backends) = (Vec::new(), Vec::new());
                for (key, value) in maps.services.dump().map_err(refused)? {
                    let row = if key.proto == 0 && key.port == [0; 2] {
                        Some(Row::Address(IpAddr::from(key.addr)))
                    } else if key.slot == 0 {
                        let of = frontend_key(&key);
                        of.and_then(|of| Some(Row::Frontend(of, master(&value)?)))
                    } else {
                        frontend_key(&key).map(|of| Row::Slot(of, key.slot, value.backend))
                    };
                    match row {
                        Some(row) => rows.push(row),
                        None => odd.push(key),
                    }
                }
                for (id, value) in maps.backends.dump().map_err(refused)? {
                    let key = Protocol::from_number(value.proto).map(|protocol| BackendKey {
                        address: IpAddr::from(value.addr),
                        port: u16::from_be_bytes(value.port),
                        protocol,
                    });
                    match (key, state(value.state)) {
                        (Some(key), Some(state)) => rows.push(Row::Backend(id, key, state)),
                        _ => odd_backends.push(id),
                    }
                }
                delete_all(&maps.services, &odd)?;
                delete_all(&maps.backends, &odd_backends)?;
                for (id, value) in maps.reverse.dump().map_err(refused)? {
                    let port = u16::from_be_bytes(value.port);
                    rows.push(Row::Reverse(id, IpAddr::from(value.addr), port));
                }
                for (key, allow) in maps.sources.dump().map_err(refused)? {
                    let bits = key.prefix_len.saturating_sub($source::FIXED_BITS) as u8;
                    if let Ok(net) = IpNet::new(IpAddr::from(key.addr), bits) {
                        rows.push(Row::Source(key.id, net, allow == 1));
                    }
                }
                let tables = maps.maglev.keys().map_err(refused)?;
                let mut ids: Vec<u16> = tables.iter().map(|key| key.id).collect();
                ids.sort_unstable();
                ids.dedup();
                let table = |id| Row::Maglev(id, $ipv6, Arc::default());
                rows.extend(ids.into_iter().map(table));
                Ok(())
            }

            fn skip_key(skip: &Skip) -> Option<$skip> {
                let frontend = key(&skip.frontend, 0)?;
                Some($skip {
                    netns: skip.netns,
                    addr: frontend.addr,
                    port: frontend.port,
                    proto: frontend.proto,
                    pad: Default::default(),
                })
            }

            pub(super) fn set_skips(
                maps: &$maps,
                put: &[Skip],
                delete: &[Skip],
            ) -> Result<(), Refusal> {
                let put = put.iter().filter_map(skip_key).map(|key| (key, 1));
                put_all(&maps.skips, &put.collect::<Vec<_>>())?;
                let delete: Vec<_> = delete.iter().filter_map(skip_key).collect();
                delete_all(&maps.skips, &delete)
            }

            pub(super) fn skips(maps: &$maps) -> Result<Vec<Skip>, Refusal> {
                let of = |key: &$skip| {
                    Some(Skip {
                        netns: key.netns,
                        frontend: FrontendKey {
                            address: IpAddr::from(key.addr),
                            port: u16::from_be_bytes(key.port),
                            protocol: Protocol::from_number(key.proto)?,
                            scope: Scope::External,
                        },
                    })
                };
                let rows = maps.skips.dump().map_err(refused)?;
                Ok(rows.iter().filter_map(|(key, _)| of(key)).collect())
            }
        }
    };
}

family!(
    v4,
    false,
    Lb4,
    LbKey4,
    LbBackend4,
    LbFrontend4,
    LbSourceKey4,
    LbSkipKey4,
    V4,
    [u8; 4]
);
family!(
    v6,
    true,
    Lb6,
    LbKey6,
    LbBackend6,
    LbFrontend6,
    LbSourceKey6,
    LbSkipKey6,
    V6,
    [u8; 16]
);
