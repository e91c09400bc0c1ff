//! Rows of services, as the agent writes them.
use std::net::IpAddr;

use abi::{
    LbAffinityMatch, LbBackend4, LbBackend6, LbFrontend4, LbFrontend6, LbKey4, LbKey6,
    LbMaglevChunk, LbMaglevKey, LbService, LbSourceKey4, LbSourceKey6, MAGLEV_CHUNK, lb_algorithm,
    lb_flags, lb_scope,
};
use datapath::maps::{Lb4, Lb6, LbMaps};

use super::{packet::End, scene::Scene};

/// A service as a test writes it.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: u16,
    pub at: End,
    pub proto: u8,
    pub scope: u8,
    pub flags: u16,
    pub affinity: u32,
    /// Numbers of the backends in its slots.
    pub slots: Vec<u32>,
    /// Numbers of the backends in its Maglev table; empty: one is chosen at random.
    pub maglev: Vec<u32>,
}

impl Service {
    /// One that is served to the outside, too.
    pub fn new(id: u16, at: End, proto: u8, slots: &[u32]) -> Self {
        Self {
            id,
            at,
            proto,
            scope: lb_scope::EXTERNAL,
            flags: lb_flags::ROUTABLE,
            affinity: 0,
            slots: slots.to_vec(),
            maglev: Vec::new(),
        }
    }

    pub fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Not served to the outside.
    pub fn inside(mut self) -> Self {
        self.flags &= !lb_flags::ROUTABLE;
        self
    }

    fn rows(&self) -> Vec<(u16, LbService)> {
        let master = LbService {
            backend: 0,
            affinity: self.affinity,
            count: self.slots.len() as u16,
            id: self.id,
            flags: self.flags,
            algorithm: if self.maglev.is_empty() {
                lb_algorithm::RANDOM
            } else {
                lb_algorithm::MAGLEV
            },
            serving: 0,
        };
        let slots = self.slots.iter().map(|backend| LbService {
            backend: *backend,
            ..LbService::default()
        });
        (1..).zip(slots).chain([(0, master)]).collect()
    }

    fn chunks(&self) -> Vec<(LbMaglevKey, LbMaglevChunk)> {
        let chunks = self.maglev.chunks(MAGLEV_CHUNK).enumerate();
        let row = |(chunk, places): (usize, &[u32])| {
            let mut backends = [0; MAGLEV_CHUNK];
            backends[..places.len()].copy_from_slice(places);
            let key = LbMaglevKey {
                id: self.id,
                chunk: chunk as u16,
            };
            (key, LbMaglevChunk { backends })
        };
        chunks.map(row).collect()
    }
}

/// The maps of a scene.
pub struct Frontends {
    lb: LbMaps,
}

impl Frontends {
    pub fn of(scene: &Scene) -> Self {
        Self {
            lb: scene.datapath.services().unwrap(),
        }
    }

    /// Gives a backend its number.
    pub fn backend(&self, id: u32, (ip, port): End) {
        let port = port.to_be_bytes();
        let (proto, state) = (0, 0);
        match ip {
            IpAddr::V4(ip) => {
                let addr = ip.octets();
                let row = LbBackend4 {
                    addr,
                    port,
                    proto,
                    state,
                };
                self.lb.v4.backends.put_all(&[(id, row)]).unwrap();
            }
            IpAddr::V6(ip) => {
                let addr = ip.octets();
                let row = LbBackend6 {
                    addr,
                    port,
                    proto,
                    state,
                };
                self.lb.v6.backends.put_all(&[(id, row)]).unwrap();
            }
        }
    }

    /// Takes a backend away.
    pub fn remove_backend(&self, id: u32) {
        self.lb.v4.backends.delete_all(&[id]).unwrap();
        self.lb.v6.backends.delete_all(&[id]).unwrap();
    }

    /// Writes a service's rows.
    pub fn serve(&self, service: &Service) {
        for backend in &service.slots {
            let key = LbAffinityMatch {
                backend: *backend,
                id: service.id,
                pad: 0,
            };
            self.lb.affinity.put_all(&[(key, 1)]).unwrap();
        }
        match service.at.0 {
            IpAddr::V4(ip) => serve4(&self.lb.v4, service, ip.octets()),
            IpAddr::V6(ip) => serve6(&self.lb.v6, service, ip.octets()),
        }
    }

    /// A client may no longer be kept at the backend.
    pub fn let_go(&self, id: u16, backend: u32) {
        let key = LbAffinityMatch {
            backend,
            id,
            pad: 0,
        };
        self.lb.affinity.delete_all(&[key]).unwrap();
    }

    /// Says whether clients of a range may use the frontend.
    pub fn source(&self, id: u16, (net, bits): (IpAddr, u32), may: bool) {
        let prefix_len = LbSourceKey4::FIXED_BITS + bits;
        match net {
            IpAddr::V4(net) => {
                let key = LbSourceKey4 {
                    prefix_len,
                    id,
                    pad: 0,
                    addr: net.octets(),
                };
                let rows = [(key, u8::from(may))];
                self.lb.v4.sources.put_all(&rows).unwrap();
            }
            IpAddr::V6(net) => {
                let key = LbSourceKey6 {
                    prefix_len,
                    id,
                    pad: 0,
                    addr: net.octets(),
                };
                let rows = [(key, u8::from(may))];
                self.lb.v6.sources.put_all(&rows).unwrap();
            }
        }
    }
}

/// Defines what writes the rows of a service in the maps of one family.
macro_rules! serve {
    ($name:ident, $maps:ident, $key:ident, $frontend:ident, $addr:ty) => {
        fn $name(lb: &$maps, service: &Service, addr: $addr) {
            let key = |port: u16, proto, scope, slot| $key {
                addr,
                port: port.to_be_bytes(),
                proto,
                scope,
                slot,
                pad: 0,
            };
            let rows = service.rows();
            let mut all = vec![(key(0, 0, 0, 0), LbService::default())];
            let own = |slot| key(service.at.1, service.proto, service.scope, slot);
            all.extend(rows.iter().map(|(slot, row)| (own(*slot), *row)));
            lb.maglev.put_all(&service.chunks()).unwrap();
            let (port, id) = (service.at.1.to_be_bytes(), service.id);
            lb.reverse
                .put_all(&[(id, $frontend { addr, port, id })])
                .unwrap();
            assert_eq!(lb.services.put_all(&all).unwrap(), all.len());
        }
    };
}

serve!(serve4, Lb4, LbKey4, LbFrontend4, [u8; 4]);
serve!(serve6, Lb6, LbKey6, LbFrontend6, [u8; 16]);
