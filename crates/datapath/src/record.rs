//! The record beside the pins: what was loaded, and which programs and maps it made.
//!
//! It lives in the bpffs as a map of one entry, so it goes when the pins go. Whatever does not match it exactly is loaded
//! anew; that makes every interruption between two steps harmless.
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use abi::{ABI_VERSION, names};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::{
    Error, Result, pins,
    pins::Pins,
    spec::MapKind,
    sys::{self, MapShape},
};

/// Name of the record's map under `tc/globals`.
pub const RECORD_MAP: &str = "hypha_digest";

/// What is pinned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(crate) struct Record {
    /// Of object, config, sizes and ABI; zero while anything is being changed.
    pub(crate) digest: [u8; 16],
    /// Version of the layouts in the pinned maps; zero while they are being changed.
    pub(crate) abi: u32,
    pub(crate) programs: [u32; names::PROGRAMS.len()],
    pub(crate) maps: [u32; names::MAPS.len()],
}

impl Record {
    /// Layouts of this version, nothing adoptable.
    pub(crate) fn unfinished() -> Self {
        Self {
            abi: ABI_VERSION,
            ..Self::new_zeroed()
        }
    }
}

/// The pinned record.
#[derive(Clone, Debug)]
pub(crate) struct RecordMap {
    fd: Arc<OwnedFd>,
}

impl RecordMap {
    /// Opens the record, or makes one that says that nothing is known.
    pub(crate) fn open(pins: &Pins) -> Result<Self> {
        let wanted = Self::shape();
        let path = pins.map(RECORD_MAP);
        if let Some(fd) = pins::open(&path)? {
            let found = sys::map_info(fd.as_fd()).map_err(Error::bpf("look at map", RECORD_MAP))?;
            if (found.kind, found.key_size, found.value_size)
                == (wanted.kind, wanted.key_size, wanted.value_size)
            {
                return Ok(Self { fd: Arc::new(fd) });
            }
        }
        let fd = sys::map_create(&wanted).map_err(Error::bpf("make map", RECORD_MAP))?;
        pins::replace(fd.as_fd(), &path)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    fn shape() -> MapShape {
        MapShape {
            id: 0,
            kind: MapKind::Array as u32,
            key_size: 4,
            value_size: size_of::<Record>() as u32,
            max_entries: 1,
            flags: 0,
            name: RECORD_MAP.to_owned(),
        }
    }

    pub(crate) fn read(&self) -> Result<Record> {
        let mut record = Record::new_zeroed();
        sys::lookup(self.fd.as_fd(), &[0; 4], record.as_mut_bytes())
            .map_err(Error::bpf("read map", RECORD_MAP))?;
        Ok(record)
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        sys::update(self.fd.as_fd(), &[0; 4], record.as_bytes(), 0)
            .map_err(Error::bpf("write map", RECORD_MAP))
    }
}
