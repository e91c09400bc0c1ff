//! What attachments belong to, and the directory where they are pinned.
use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    Result,
    pins::{self, Pins},
};

/// Directory of an owner's links.
pub(super) const LINKS: &str = "links";
/// Directory, in that of the links, of those of a control group.
const CGROUP: &str = "cgroup";
/// Directories of this prefix and an ifindex record on which device an owner has filters: those cannot be pinned.
const FILTERS: &str = "clsact_";

/// What an attachment belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// An endpoint, by its number.
    Endpoint(u16),
    /// A device, by its name.
    Device(String),
    /// The sockets of a control group.
    Sockets,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(id) => write!(f, "endpoint {id}"),
            Self::Device(name) => write!(f, "device {name}"),
            Self::Sockets => write!(f, "sockets"),
        }
    }
}

impl Owner {
    pub(super) fn dir(&self, pins: &Pins) -> PathBuf {
        match self {
            Self::Endpoint(id) => pins.endpoints().join(id.to_string()),
            Self::Device(name) => pins.devices().join(pin_name(name)),
            Self::Sockets => pins.sockets(),
        }
    }

    /// Where its links are pinned.
    pub(super) fn links(&self, pins: &Pins) -> PathBuf {
        let links = self.dir(pins).join(LINKS);
        match self {
            Self::Sockets => links.join(CGROUP),
            _ => links,
        }
    }

    /// The owner under its device's own name, where the directory's had to differ.
    pub(super) fn named(&self, ifindex: u32) -> Self {
        let Self::Device(dir) = self else {
            return self.clone();
        };
        let name = nix::net::if_::if_indextoname(ifindex)
            .ok()
            .and_then(|n| n.into_string().ok());
        Self::Device(
            name.filter(|n| pin_name(n) == *dir)
                .unwrap_or_else(|| dir.clone()),
        )
    }
}

/// The bpffs allows no dots in names.
fn pin_name(device: &str) -> String {
    device.replace('.', "-")
}

pub(super) fn filters_name(ifindex: u32) -> String {
    format!("{FILTERS}{ifindex}")
}

/// Devices on which the owner of `dir` has filters.
pub(super) fn filter_devices(dir: &Path) -> Result<Vec<u32>> {
    let names = pins::names(dir)?;
    Ok(names
        .iter()
        .filter_map(|n| n.strip_prefix(FILTERS)?.parse().ok())
        .collect())
}

/// Every owner that may have attachments; devices under the directory's name.
pub(super) fn all(pins: &Pins) -> Result<Vec<Owner>> {
    let mut endpoints: Vec<u16> = pins::names(&pins.endpoints())?
        .iter()
        .filter_map(|n| n.parse().ok())
        .collect();
    endpoints.sort_unstable();
    let devices = pins::names(&pins.devices())?;
    Ok(endpoints
        .into_iter()
        .map(Owner::Endpoint)
        .chain(devices.into_iter().map(Owner::Device))
        .chain([Owner::Sockets])
        .collect())
}
