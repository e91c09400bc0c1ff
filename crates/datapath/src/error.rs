//! What can go wrong, told with the object, the action and what to check.
use std::{io, path::PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on the datapath.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bpf(2) refused.
    #[error("{op} {object}: {source}{}", hint(source))]
    Bpf {
        /// What was attempted, for example `update map`.
        op: &'static str,
        /// The object it was attempted on.
        object: String,
        /// The cause.
        source: io::Error,
    },
    /// A file operation on the bpffs failed.
    #[error("{op} {}: {source}", path.display())]
    Pin {
        /// What was attempted.
        op: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory is not on a bpffs.
    #[error("{} is not on a bpffs: mount one there (mount -t bpf bpf {})", path.display(), path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is not a control group.
    #[error(
        "{} is not a control group: mount cgroup v2 there (mount -t cgroup2 none {})", path.display(), path.display()
    )]
    NotCgroup {
        /// The directory.
        path: PathBuf,
    },
    /// The binary was built without the eBPF object.
    #[error(
        "this binary was built without the eBPF object (HYPHA_SKIP_BPF=1): run `cargo xtask build-bpf` and build it again"
    )]
    NoObject,
    /// The object cannot be used as a whole.
    #[error("{op} the eBPF object: {source}")]
    Object {
        /// What was attempted.
        op: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// One program cannot be loaded.
    #[error("load program {name}: {source}{}\n{log}", hint(source))]
    Program {
        /// The program.
        name: &'static str,
        /// The cause.
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The object lacks a program, or it is of another type.
    #[error(
        "the eBPF object has no program {name} of the kind that belongs to its hook: it was built from another version, run `cargo xtask build-bpf`"
    )]
    NoProgram {
        /// The program.
        name: &'static str,
    },
    /// A map is not what this version expects.
    #[error(
        "map {name}: {what}; the eBPF object and this binary are of different versions, run `cargo xtask build-bpf`"
    )]
    Layout {
        /// The map.
        name: &'static str,
        /// The difference.
        what: String,
    },
    /// Attaching or detaching failed.
    #[error("{op} {program} on {device}: {source}{}", hint(source))]
    Attach {
        /// What was attempted.
        op: &'static str,
        /// The program.
        program: &'static str,
        /// The device, with its ifindex.
        device: String,
        /// The cause.
        source: io::Error,
    },
    /// A device cannot have the program that takes up services in its driver.
    #[error("services cannot be balanced in the driver of {device}: {why}")]
    Driver {
        /// The device.
        device: String,
        /// What is missing, or what the kernel said.
        why: String,
    },
    /// Setting a device up failed.
    #[error("set up {device}: {source}")]
    Device {
        /// The device.
        device: String,
        /// The cause.
        source: netlink::Error,
    },
    /// The caller's input cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The event ring cannot be read.
    #[error("open the event ring: {0}")]
    Events(#[from] aya::maps::MapError),
}

impl Error {
    pub(crate) fn bpf(
        op: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.into();
        move |source| Self::Bpf { op, object, source }
    }

    pub(crate) fn pin(
        op: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Pin { op, path, source }
    }

    /// The error number of the kernel, where the cause is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Bpf { source, .. } | Self::Pin { source, .. } | Self::Attach { source, .. } => {
                source.raw_os_error()
            }
            Self::Device { source, .. } => source.errno().map(|e| e as i32),
            _ => None,
        }
    }
}

/// What to check, where the number alone does not say it.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => {
            " (needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN before Linux 5.8)"
        }
        Some(libc::ENODEV) => " (the device is gone)",
        Some(libc::E2BIG | libc::ENOSPC) => " (the map is full: raise its size)",
        Some(libc::ENOMEM) => " (not enough memory: lower the map sizes)",
        _ => "",
    }
}
