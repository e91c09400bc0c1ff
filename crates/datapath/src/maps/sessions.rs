//! Connections by way of the proxy, as the proxy itself reads them.
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use abi::{ProxySession, ProxySessionKey, family, names, widen};

use super::{MapHandle, TypedMap};
use crate::{
    Error, Result, pins,
    spec::{self, MapSizes},
};

type Sessions = TypedMap<ProxySessionKey, ProxySession>;

/// What the programs know of connections that they handed over. Reads one pinned map and opens nothing else; a map that an agent of
/// another version put in its place is found again.
#[derive(Debug)]
pub struct ProxySessions {
    path: PathBuf,
    map: RwLock<Sessions>,
}

impl ProxySessions {
    /// Opens the map under the agent's bpffs.
    ///
    /// # Errors
    /// It is not there yet, or is of another version.
    pub fn open(bpffs: &Path) -> Result<Self> {
        let path = bpffs.join(pins::MAPS).join(names::PROXY_SESSIONS);
        let map = RwLock::new(open(&path)?);
        Ok(Self { path, map })
    }

    /// What is known of the connection of this IP protocol that a client at `source` opened to `destination`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lookup(
        &self,
        proto: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Option<ProxySession>> {
        let Some(key) = key(proto, source, destination) else {
            return Ok(None);
        };
        let found = self
            .map
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)?;
        if found.is_some() {
            return Ok(found);
        }
        let fresh = open(&self.path)?;
        let found = fresh.get(&key)?;
        if found.is_some() {
            *self.map.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(found)
    }
}

fn open(path: &Path) -> Result<Sessions> {
    let name = names::PROXY_SESSIONS;
    let missing = || Error::Layout {
        name,
        what: format!("is not at {}", path.display()),
    };
    let specs = spec::specs(&MapSizes::default());
    let spec = specs
        .into_iter()
        .find(|spec| spec.name == name)
        .ok_or_else(missing)?;
    let fd = pins::open(path)?.ok_or_else(missing)?;
    TypedMap::new(MapHandle::new(fd, spec)?)
}

/// The key of a client's connection. IPv4 addresses in IPv6 form are IPv4; none for two families.
fn key(proto: u8, source: SocketAddr, destination: SocketAddr) -> Option<ProxySessionKey> {
    let (src, dst, family) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => (widen(s.octets()), widen(d.octets()), family::V4),
        (IpAddr::V6(s), IpAddr::V6(d)) => (s.octets(), d.octets(), family::V6),
        _ => return None,
    };
    Some(ProxySessionKey {
        src,
        dst,
        sport: source.port().to_be_bytes(),
        dport: destination.port().to_be_bytes(),
        proto,
        family,
        pad: [0; 2],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_programs_make() {
        let of = |source: &str, destination: &str| {
            key(6, source.parse().unwrap(), destination.parse().unwrap())
        };
        let v4 = of("10.0.0.1:1000", "10.0.0.2:80").unwrap();
        assert_eq!(v4.src[..5], [10, 0, 0, 1, 0]);
        assert_eq!(
            (v4.sport, v4.dport, v4.family),
            ([3, 232], [0, 80], family::V4)
        );
        assert_eq!(of("[::ffff:10.0.0.1]:1000", "10.0.0.2:80"), Some(v4));
        let v6 = of("[fd00::1]:1000", "[fd00::2]:80").unwrap();
        assert_eq!((v6.src[15], v6.dst[15], v6.family), (1, 2, family::V6));
        assert_eq!(of("10.0.0.1:1000", "[fd00::2]:80"), None);
    }
}
