//! The eBPF object, and a program made of it.
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use abi::{DatapathConfig, names};
use aya_obj::{ProgramSection, generated::bpf_attach_type};

use crate::{
    Error, Result,
    digest::digest,
    sys::{self, AttachType, Kind},
};

static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hypha.bpf.o"));
const EMBEDDED_DIGEST: [u8; 16] = include!(concat!(env!("OUT_DIR"), "/digest.rs"));

/// The eBPF object to load.
#[derive(Clone)]
pub struct Object {
    bytes: Bytes,
    digest: [u8; 16],
}

#[derive(Clone)]
enum Bytes {
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
}

impl Object {
    /// The object that was built into this binary.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            bytes: Bytes::Static(EMBEDDED),
            digest: EMBEDDED_DIGEST,
        }
    }

    /// Another object, for development and tests.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let digest = digest(&[&bytes]);
        Self {
            bytes: Bytes::Shared(bytes),
            digest,
        }
    }

    /// The ELF file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Static(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }

    /// Its digest: the same for the same bytes only.
    #[must_use]
    pub const fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// Whether the binary was built without it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }
}

impl Default for Object {
    fn default() -> Self {
        Self::embedded()
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object")
            .field("len", &self.bytes().len())
            .finish_non_exhaustive()
    }
}

/// What kind of program it is that has this name.
pub(crate) fn kind(program: &str) -> Kind {
    let at = match program {
        names::SOCK4_CONNECT => AttachType::Connect4,
        names::SOCK6_CONNECT => AttachType::Connect6,
        names::SOCK4_SENDMSG => AttachType::SendMsg4,
        names::SOCK6_SENDMSG => AttachType::SendMsg6,
        names::SOCK4_RECVMSG => AttachType::RecvMsg4,
        names::SOCK6_RECVMSG => AttachType::RecvMsg6,
        names::SOCK4_GETPEERNAME => AttachType::GetPeerName4,
        names::SOCK6_GETPEERNAME => AttachType::GetPeerName6,
        names::SOCK4_POST_BIND => return Kind::Sock(AttachType::PostBind4),
        names::SOCK6_POST_BIND => return Kind::Sock(AttachType::PostBind6),
        names::XDP_ENTRY => return Kind::Xdp,
        _ => return Kind::Classifier,
    };
    Kind::SockAddr(at)
}

/// The programs that a config wants loaded, in the order of [`names::PROGRAMS`].
pub(crate) fn wanted(config: &DatapathConfig) -> impl Iterator<Item = &'static str> {
    let without_drivers = config.xdp == 0;
    names::PROGRAMS
        .into_iter()
        .filter(move |name| *name != names::XDP_ENTRY || !without_drivers)
}

/// Whether a program of this section of an object is of a kind.
pub(crate) fn is_of(section: &ProgramSection, kind: Kind) -> bool {
    let same = |found: bpf_attach_type, wanted: AttachType| found as u32 == wanted as u32;
    match (section, kind) {
        (ProgramSection::SchedClassifier, Kind::Classifier)
        | (ProgramSection::Xdp { frags: false, .. }, Kind::Xdp) => true,
        (ProgramSection::CgroupSock { attach_type }, Kind::Sock(at)) => {
            same((*attach_type).into(), at)
        }
        (ProgramSection::CgroupSockAddr { attach_type }, Kind::SockAddr(at)) => {
            same((*attach_type).into(), at)
        }
        _ => false,
    }
}

/// A program in the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) id: u32,
}

impl Program {
    pub(crate) fn new(name: &'static str, fd: OwnedFd) -> Result<Self> {
        let failed = || Error::bpf("look at program", name);
        let info = sys::prog_info(fd.as_fd()).map_err(failed())?;
        if sys::prog_kind(fd.as_fd()).map_err(failed())? != kind(name).number() {
            return Err(Error::NoProgram { name });
        }
        Ok(Self {
            name,
            fd: Arc::new(fd),
            id: info.id,
        })
    }
}
