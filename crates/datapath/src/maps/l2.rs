//! Addresses that this node answers for, as long as it is told to.
use std::{net::IpAddr, time::Duration};

use abi::{L2Answers, L2Key4, L2Key6};

use super::TypedMap;
use crate::{Result, sys};

/// The rows by which the device programs answer neighbours that ask for addresses of services.
#[derive(Clone, Debug)]
pub struct L2Responder {
    v4: TypedMap<L2Key4, L2Answers>,
    v6: TypedMap<L2Key6, L2Answers>,
}

/// One address on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L2Row {
    /// The address.
    pub address: IpAddr,
    /// The device on whose network it is answered for.
    pub ifindex: u32,
    /// What is answered.
    pub mac: [u8; 6],
    /// For how long from now; zero: it is over.
    pub left: Duration,
    /// Answers so far.
    pub answers: u64,
}

impl L2Responder {
    pub(crate) fn new(v4: TypedMap<L2Key4, L2Answers>, v6: TypedMap<L2Key6, L2Answers>) -> Self {
        Self { v4, v6 }
    }

    /// Answers for an address on a device with `mac`, for so long from now. Answers are counted on.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the map is full.
    pub fn answer(
        &self,
        address: IpAddr,
        ifindex: u32,
        mac: [u8; 6],
        time: Duration,
    ) -> Result<()> {
        let until = sys::monotonic_nanoseconds().saturating_add(nanoseconds(time));
        let row = |before: Option<L2Answers>| L2Answers {
            answers: before.map_or(0, |before| before.answers),
            until,
            mac,
            pad: [0; 2],
        };
        match address {
            IpAddr::V4(ip) => {
                let key = key4(ip.octets(), ifindex);
                self.v4.put(&key, &row(self.v4.get(&key)?))
            }
            IpAddr::V6(ip) => {
                let key = key6(ip.octets(), ifindex);
                self.v6.put(&key, &row(self.v6.get(&key)?))
            }
        }
    }

    /// Answers no longer; whether it did.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn silence(&self, address: IpAddr, ifindex: u32) -> Result<bool> {
        match address {
            IpAddr::V4(ip) => self.v4.remove(&key4(ip.octets(), ifindex)),
            IpAddr::V6(ip) => self.v6.remove(&key6(ip.octets(), ifindex)),
        }
    }

    /// Every row, in no order.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rows(&self) -> Result<Vec<L2Row>> {
        let now = sys::monotonic_nanoseconds();
        let row = |address: IpAddr, ifindex: u32, value: L2Answers| L2Row {
            address,
            ifindex,
            mac: value.mac,
            left: Duration::from_nanos(value.until.saturating_sub(now)),
            answers: value.answers,
        };
        let mut all = Vec::new();
        for (key, value) in self.v4.dump()? {
            all.push(row(key.addr.into(), key.ifindex, value));
        }
        for (key, value) in self.v6.dump()? {
            all.push(row(key.addr.into(), key.ifindex, value));
        }
        Ok(all)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn key4(addr: [u8; 4], ifindex: u32) -> L2Key4 {
    L2Key4 { addr, ifindex }
}

fn key6(addr: [u8; 16], ifindex: u32) -> L2Key6 {
    L2Key6 { addr, ifindex }
}
