//! What can go wrong, told with the object and the operation.

use std::{io, path::PathBuf};

use nix::errno::Errno;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("{op} {object}: {} ({errno:?}){}", errno.desc(), detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Kernel {
        /// What was attempted, for example `add route`.
        op: &'static str,
        /// The object it was attempted on.
        object: String,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own words, if it had any.
        detail: Option<String>,
    },
    /// The netlink socket itself failed.
    #[error("netlink socket: {op}: {source}")]
    Socket {
        /// What was attempted.
        op: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The kernel's answer does not follow the protocol.
    #[error("netlink answer to {op} {object}: {what}")]
    Answer {
        /// The operation that was answered.
        op: &'static str,
        /// Its object.
        object: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The caller's request cannot be expressed.
    #[error("{object}: {what}")]
    Invalid {
        /// The object it was attempted on.
        object: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A namespace could not be opened, made, entered or removed.
    #[error("network namespace {}: {op}: {source}", path.display())]
    Netns {
        /// What was attempted.
        op: &'static str,
        /// Which namespace.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A kernel parameter could not be read or written.
    #[error("sysctl {name}: {op}: {source}")]
    Sysctl {
        /// The parameter, with slashes.
        name: String,
        /// What was attempted.
        op: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// The error number, where the cause is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Socket { source, .. }
            | Self::Netns { source, .. }
            | Self::Sysctl { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Answer { .. } | Self::Invalid { .. } => None,
        }
    }
    /// The object does not exist (any of the numbers the kernel uses to say so).
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(
                Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO
            )
        )
    }
    /// The object exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
    /// The kernel does not know the kind of object or the attribute.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT)
        )
    }
    pub(crate) fn socket(op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { op, source }
    }
}
