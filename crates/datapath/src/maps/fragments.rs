//! Fragmented datagrams whose ports are known.
use std::net::IpAddr;

use abi::{FragKey4, FragKey6, FragValue};

use super::TypedMap;
use crate::Result;

/// The fragment maps of both families.
#[derive(Clone, Debug)]
pub struct Fragments {
    v4: TypedMap<FragKey4, FragValue>,
    v6: TypedMap<FragKey6, FragValue>,
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FragmentRow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Identification.
    pub id: u32,
    /// IP protocol.
    pub proto: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

macro_rules! row {
    ($key:ident, $value:ident) => {
        FragmentRow {
            source: $key.src.into(),
            destination: $key.dst.into(),
            id: u32::from_be_bytes($key.id),
            proto: $key.proto,
            source_port: u16::from_be_bytes($value.sport),
            destination_port: u16::from_be_bytes($value.dport),
        }
    };
}

impl Fragments {
    pub(super) fn new(
        v4: TypedMap<FragKey4, FragValue>,
        v6: TypedMap<FragKey6, FragValue>,
    ) -> Self {
        Self { v4, v6 }
    }

    /// Every datagram, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<FragmentRow>> {
        let v4 = self
            .v4
            .dump()?
            .into_iter()
            .map(|(key, value)| row!(key, value));
        let v6 = self
            .v6
            .dump()?
            .into_iter()
            .map(|(key, value)| row!(key, value));
        let mut rows: Vec<_> = v4.chain(v6).collect();
        rows.sort();
        Ok(rows)
    }

    /// Forgets every datagram; how many there were.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&self) -> Result<usize> {
        Ok(self.v4.clear()? + self.v6.clear()?)
    }
}
