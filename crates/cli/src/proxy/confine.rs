//! Capabilities of the proxy: given up before the first thread starts.
use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// What stays: transparent sockets; answers from low ports; reading the map of sessions.
const KEPT: [Capability; 3] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_BPF,
];

/// Gives up every capability but the needed ones; what is left, as a text for the log.
///
/// # Errors
/// The kernel refuses.
pub fn drop_unneeded() -> Result<String> {
    let permitted =
        caps::read(None, CapSet::Permitted).context("reading the permitted capabilities")?;
    let supported = caps::runtime::thread_all_supported();
    let mut wanted: CapsHashSet = KEPT.into_iter().collect();
    if !supported.contains(&Capability::CAP_BPF) {
        // Before 5.8.
        wanted.insert(Capability::CAP_SYS_ADMIN);
    }
    let kept: CapsHashSet = wanted.intersection(&permitted).copied().collect();
    let refused = "giving up capabilities";
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).context(refused)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).context(refused)?;
        for cap in bounding.difference(&wanted) {
            caps::drop(None, CapSet::Bounding, *cap).context(refused)?;
        }
    }
    caps::set(None, CapSet::Effective, &kept).context(refused)?;
    caps::set(None, CapSet::Permitted, &kept).context(refused)?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(names.join(","))
}
