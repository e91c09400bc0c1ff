//! Capabilities: given up before the first thread starts, so that no thread ever has more.
use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// What stays, and what for.
const KEPT: [(Capability, &str); 3] = [
    (
        Capability::CAP_NET_ADMIN,
        "devices, routes, attaching programs, network sysctls",
    ),
    (
        Capability::CAP_BPF,
        "loading programs, reading and writing maps",
    ),
    (
        Capability::CAP_PERFMON,
        "programs that the verifier lets compare pointers",
    ),
];

/// Packet sockets, where captures are allowed.
const CAPTURES: Capability = Capability::CAP_NET_RAW;

/// On kernels before 5.8 these do what `CAP_BPF` and `CAP_PERFMON` do since.
const OLD_KERNEL: [(Capability, &str); 2] = [
    (
        Capability::CAP_SYS_ADMIN,
        "what CAP_BPF and CAP_PERFMON are for on newer kernels",
    ),
    (
        Capability::CAP_SYS_RESOURCE,
        "memory locked by maps, before 5.11",
    ),
];

/// Gives up every capability but the needed ones, from all sets of this thread and those that it will start.
/// Gives what is left, as a text for the log. `captures`: packets may be captured.
///
/// # Errors
/// The kernel refuses.
pub fn drop_unneeded(captures: bool) -> Result<String> {
    let bounding =
        caps::read(None, CapSet::Bounding).context("reading the capability bounding set")?;
    let permitted =
        caps::read(None, CapSet::Permitted).context("reading the permitted capabilities")?;
    let supported = caps::runtime::thread_all_supported();
    let mut wanted: CapsHashSet = if supported.contains(&Capability::CAP_BPF) {
        KEPT.iter().map(|(cap, _)| *cap).collect()
    } else {
        KEPT.iter()
            .chain(&OLD_KERNEL)
            .map(|(cap, _)| *cap)
            .filter(|cap| supported.contains(cap))
            .collect()
    };
    if captures {
        wanted.insert(CAPTURES);
    }
    let kept: CapsHashSet = wanted.intersection(&permitted).copied().collect();
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())
        .context("clearing the inheritable capabilities")?;
    // Needs CAP_SETPCAP, which goes away with the next step.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for cap in bounding.difference(&wanted) {
            caps::drop(None, CapSet::Bounding, *cap)
                .with_context(|| format!("dropping {cap} from the bounding set"))?;
        }
    }
    caps::set(None, CapSet::Effective, &kept).context("reducing the effective capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("reducing the permitted capabilities")?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    let missing: Vec<String> = wanted.difference(&kept).map(ToString::to_string).collect();
    if !missing.is_empty() {
        tracing::warn!(
            missing = missing.join(","),
            "capabilities that the agent needs are missing; expect refusals"
        );
    }
    Ok(if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    })
}
