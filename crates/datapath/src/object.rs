//! The eBPF object: its bytes, and how programs and maps are made of it.
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use abi::{DatapathConfig, names};
use aya::{EbpfLoader, programs::SchedClassifier};
use zerocopy::IntoBytes;

use crate::{Error, Result, digest::digest, spec::MapSpec, sys};

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

/// A program in the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) id: u32,
}

impl Program {
    pub(crate) fn new(name: &'static str, fd: OwnedFd) -> Result<Self> {
        let info = sys::prog_info(fd.as_fd()).map_err(Error::bpf("look at program", name))?;
        Ok(Self {
            name,
            fd: Arc::new(fd),
            id: info.id,
        })
    }
}

/// Loads every program. Maps are taken from their pins in `maps`, those that are not there are made and pinned there.
pub(crate) fn load(
    object: &Object,
    config: &DatapathConfig,
    specs: &[MapSpec],
    maps: &Path,
) -> Result<Vec<Program>> {
    if object.is_empty() {
        return Err(Error::NoObject);
    }
    raise_memory_limit();
    let mut loader = EbpfLoader::new();
    loader.override_global(names::CONFIG_GLOBAL, config.as_bytes(), true);
    for spec in specs {
        loader.map_max_entries(spec.name, spec.max_entries);
        loader.map_pin_path(spec.name, maps.join(spec.name));
    }
    let mut loaded = loader.load(object.bytes()).map_err(|e| Error::Object {
        source: Box::new(e),
    })?;
    names::PROGRAMS
        .iter()
        .map(|name| load_program(&mut loaded, name))
        .collect()
}

fn load_program(loaded: &mut aya::Ebpf, name: &'static str) -> Result<Program> {
    let failed = |e| Error::Program {
        name,
        source: Box::new(e),
    };
    let program = loaded.program_mut(name).ok_or(Error::NoProgram { name })?;
    let program: &mut SchedClassifier =
        program.try_into().map_err(|_| Error::NoProgram { name })?;
    program.load().map_err(failed)?;
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
    Program::new(
        name,
        fd.map_err(Error::bpf("duplicate the descriptor of program", name))?,
    )
}

/// Kernels before 5.11 charge maps to the locked memory of the process.
fn raise_memory_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    // Without the right to raise it, loading says what is missing.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}
