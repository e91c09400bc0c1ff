//! Opening the datapath: adopt what is pinned when it is what this binary would load, else load it and put it in place.
use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use abi::{ABI_VERSION, DatapathConfig, names};
use zerocopy::IntoBytes;

use crate::{
    Datapath, Error, Object, Result,
    attach::{AttachMode, Attacher, Replaced},
    digest::digest,
    load,
    maps::{MapHandle, copy_entries, count_entries},
    object::{self, Program},
    pins::{self, Pins},
    record::{Record, RecordMap},
    spec::{MapKind, MapSizes, MapSpec, specs},
    sys::{self, MapShape},
};

/// What to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Mount point of the bpffs, as a rule `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// What the programs are told.
    pub config: DatapathConfig,
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// How programs are attached to devices.
    pub attach: AttachMode,
    /// The eBPF object; [`Object::embedded`] but in tests.
    pub object: Object,
}

/// What became of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapFate {
    /// The pinned one is used.
    Reused,
    /// There was none.
    Created,
    /// The pinned one did not fit and was replaced.
    Replaced {
        /// In what it did not fit.
        why: String,
        /// Entries taken over; `None` when they could not be understood.
        copied: Option<usize>,
    },
}

/// What opening did.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// The pinned programs were adopted, nothing was loaded.
    pub adopted: bool,
    /// Every map, in the order of [`names::MAPS`].
    pub maps: Vec<(&'static str, MapFate)>,
    /// Attachments whose program was replaced, and what was stale.
    pub replaced: Replaced,
    /// Time it took.
    pub elapsed: Duration,
}

impl OpenReport {
    /// Maps whose entries were lost: the caller must fill them again.
    pub fn emptied(&self) -> impl Iterator<Item = &'static str> {
        self.maps
            .iter()
            .filter(|(_, fate)| matches!(fate, MapFate::Replaced { copied: None, .. }))
            .map(|(name, _)| *name)
    }
}

/// A pinned map as found.
struct Found {
    fd: OwnedFd,
    shape: MapShape,
}

impl Datapath {
    /// Opens the datapath under a bpffs: [`Datapath::prepare`] and [`Datapath::activate`] in one.
    ///
    /// # Errors
    /// When the bpffs cannot be used or the programs cannot be loaded; what was attached before goes on working.
    pub fn open(options: &OpenOptions) -> Result<(Self, OpenReport)> {
        let start = Instant::now();
        let (mut datapath, mut report) = Self::prepare(options)?;
        report.replaced = datapath.activate()?;
        report.elapsed = start.elapsed();
        Ok((datapath, report))
    }

    /// The first half of opening: maps and programs are there, but what is attached still runs the programs it ran before.
    /// Where maps were emptied ([`OpenReport::emptied`]) the caller fills them before [`Datapath::activate`].
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn prepare(options: &OpenOptions) -> Result<(Self, OpenReport)> {
        let start = Instant::now();
        let pins = Pins::prepare(&options.bpffs)?;
        let mode = options.attach.resolve()?;
        let mut specs = specs(&options.sizes);
        let record_map = RecordMap::open(&pins)?;
        let record = record_map.read()?;
        let found = specs
            .iter()
            .map(|spec| find_map(&pins, spec))
            .collect::<Result<Vec<_>>>()?;
        if record.abi == ABI_VERSION {
            leave_room(&mut specs, &found)?;
        }
        let wanted = wanted_digest(options, &specs);
        let adopted = if record.digest == wanted && maps_match(&record, &specs, &found) {
            find_programs(&pins, &record, &options.config)?
        } else {
            None
        };
        let (programs, maps, fates, pending) = match adopted {
            Some(programs) => {
                let maps = found
                    .into_iter()
                    .zip(specs)
                    .filter_map(|(f, spec)| f.map(|f| (f.fd, spec)))
                    .collect::<Vec<_>>();
                let fates = specs
                    .iter()
                    .map(|spec| (spec.name, MapFate::Reused))
                    .collect();
                (programs, maps, fates, None)
            }
            None => {
                let (programs, maps, fates) =
                    load_beside(options, &pins, &record_map, record, &specs, &found)?;
                (programs, maps, fates, Some(wanted))
            }
        };
        let report = OpenReport {
            adopted: pending.is_none(),
            maps: fates,
            replaced: Replaced::default(),
            elapsed: start.elapsed(),
        };
        let maps = maps
            .into_iter()
            .map(|(fd, spec)| MapHandle::new(fd, spec))
            .collect::<Result<Vec<_>>>()?;
        let attacher = Attacher::new(pins.clone(), mode, programs)?;
        Ok((
            Self {
                pins,
                record_map,
                maps,
                attacher,
                pending,
            },
            report,
        ))
    }

    /// The second half of opening: every attachment gets the new programs, one after the other and each between two
    /// packets. Does nothing when the pinned programs were adopted.
    ///
    /// # Errors
    /// When a program cannot be replaced on a device that exists. Calling it again goes on where it stopped.
    pub fn activate(&mut self) -> Result<Replaced> {
        let Some(digest) = self.pending else {
            return Ok(Replaced::default());
        };
        let replaced = self.attacher.replace_all()?;
        let mut record = Record {
            digest,
            ..Record::unfinished()
        };
        for (name, id) in names::PROGRAMS.iter().zip(&mut record.programs) {
            let pin = self.pins.program(name);
            match self.attacher.program(name) {
                Some(program) => {
                    pins::replace(program.fd.as_fd(), &pin)?;
                    *id = program.id;
                }
                None => drop(pins::remove(&pin)?),
            }
        }
        for (map, id) in self.maps.iter().zip(&mut record.maps) {
            *id = map.id();
        }
        self.record_map.write(&record)?;
        self.pending = None;
        Ok(replaced)
    }
}

fn find_map(pins: &Pins, spec: &MapSpec) -> Result<Option<Found>> {
    let Some(fd) = pins::open(&pins.map(spec.name))? else {
        return Ok(None);
    };
    let shape = sys::map_info(fd.as_fd()).map_err(Error::bpf("look at map", spec.name))?;
    Ok(Some(Found { fd, shape }))
}

/// A map does not become too small for what is in it: rows that are in force are not lost to a setting, nor does an agent
/// fail for it. Maps that drop what is oldest may shrink.
fn leave_room(specs: &mut [MapSpec], found: &[Option<Found>]) -> Result<()> {
    for (spec, found) in specs.iter_mut().zip(found) {
        let Some(found) = found.as_ref().filter(|found| {
            found.shape.max_entries > spec.max_entries
                && spec.kind != MapKind::LruHash
                && spec.can_take_entries_of(&found.shape)
        }) else {
            continue;
        };
        let entries = count_entries(found.fd.as_fd(), spec)?;
        if entries > spec.max_entries as usize {
            tracing::warn!(
                map = spec.name,
                entries,
                wanted = spec.max_entries,
                size = found.shape.max_entries,
                "the map keeps its size: it has more entries than the setting would leave room for"
            );
            spec.max_entries = found.shape.max_entries;
        }
    }
    Ok(())
}

/// The digest under which the programs and maps of these options are pinned.
fn wanted_digest(options: &OpenOptions, specs: &[MapSpec]) -> [u8; 16] {
    let shapes: Vec<u32> = specs
        .iter()
        .flat_map(|s| [s.kind as u32, s.key_size, s.value_size, s.max_entries])
        .collect();
    digest(&[
        &options.object.digest(),
        options.config.as_bytes(),
        &ABI_VERSION.to_ne_bytes(),
        shapes.as_bytes(),
    ])
}

fn maps_match(record: &Record, specs: &[MapSpec], found: &[Option<Found>]) -> bool {
    record.abi == ABI_VERSION
        && record
            .maps
            .iter()
            .zip(specs)
            .zip(found)
            .all(|((id, spec), found)| {
                found
                    .as_ref()
                    .is_some_and(|f| f.shape.id == *id && spec.difference(&f.shape).is_none())
            })
}

/// The pinned programs, if they are those of the record.
fn find_programs(
    pins: &Pins,
    record: &Record,
    config: &DatapathConfig,
) -> Result<Option<Vec<Program>>> {
    let mut programs = Vec::with_capacity(names::PROGRAMS.len());
    for (name, id) in object::wanted(config).zip(record.programs) {
        let Some(fd) = pins::open(&pins.program(name))? else {
            return Ok(None);
        };
        let program = Program::new(name, fd)?;
        if program.id != id {
            return Ok(None);
        }
        programs.push(program);
    }
    Ok(Some(programs))
}

type Loaded = (
    Vec<Program>,
    Vec<(OwnedFd, MapSpec)>,
    Vec<(&'static str, MapFate)>,
);

/// Loads the programs beside what runs, and only then moves the new maps to their places.
fn load_beside(
    options: &OpenOptions,
    pins: &Pins,
    record_map: &RecordMap,
    record: Record,
    specs: &[MapSpec],
    found: &[Option<Found>],
) -> Result<Loaded> {
    let known_abi = record.abi == ABI_VERSION;
    let staged = pins.staged_maps();
    pins::remove_dir(&staged)?;
    pins::make_dir(&staged)?;
    for (spec, found) in specs.iter().zip(found) {
        if let Some(found) = found
            .as_ref()
            .filter(|f| known_abi && spec.difference(&f.shape).is_none())
        {
            pins::replace(found.fd.as_fd(), &staged.join(spec.name))?;
        }
    }
    let programs = load::load(&options.object, &options.config, specs, &staged)?;
    let mut maps = Vec::with_capacity(specs.len());
    let mut fates = Vec::with_capacity(specs.len());
    for (spec, found) in specs.iter().zip(found) {
        let fd = staged_map(&staged.join(spec.name), spec)?;
        let fate = settle_map(spec, found.as_ref(), &fd, known_abi)?;
        maps.push((fd, *spec));
        fates.push((spec.name, fate));
    }
    let before = if known_abi {
        Record::unfinished()
    } else {
        Record {
            abi: 0,
            ..Record::unfinished()
        }
    };
    record_map.write(&before)?;
    for (name, _) in fates.iter().filter(|(_, fate)| *fate != MapFate::Reused) {
        pins::rename(&staged.join(name), &pins.map(name))?;
    }
    record_map.write(&Record::unfinished())?;
    pins::remove_dir(&staged)?;
    Ok((programs, maps, fates))
}

/// The map that the loader pinned, checked; one is made if the object does not use it.
fn staged_map(path: &std::path::Path, spec: &MapSpec) -> Result<OwnedFd> {
    const NO_PREALLOC: u32 = 1;
    let Some(fd) = pins::open(path)? else {
        let flags = if spec.kind == MapKind::LpmTrie {
            NO_PREALLOC
        } else {
            0
        };
        let shape = MapShape {
            id: 0,
            kind: spec.kind as u32,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            flags,
            name: spec.name.to_owned(),
        };
        let fd = sys::map_create(&shape).map_err(Error::bpf("make map", spec.name))?;
        pins::replace(fd.as_fd(), path)?;
        return Ok(fd);
    };
    let shape = sys::map_info(fd.as_fd()).map_err(Error::bpf("look at map", spec.name))?;
    match spec.difference(&shape) {
        None => Ok(fd),
        Some(what) => Err(Error::Layout {
            name: spec.name,
            what,
        }),
    }
}

/// Says what became of a map, and takes the entries of the one it replaces over.
fn settle_map(
    spec: &MapSpec,
    found: Option<&Found>,
    new: &OwnedFd,
    known_abi: bool,
) -> Result<MapFate> {
    let Some(found) = found else {
        return Ok(MapFate::Created);
    };
    let shape = sys::map_info(new.as_fd()).map_err(Error::bpf("look at map", spec.name))?;
    if shape.id == found.shape.id {
        return Ok(MapFate::Reused);
    }
    let why = spec
        .difference(&found.shape)
        .unwrap_or_else(|| "made by another version".to_owned());
    let copied = if known_abi && spec.can_take_entries_of(&found.shape) {
        Some(copy_entries(found.fd.as_fd(), new.as_fd(), spec)?)
    } else {
        None
    };
    tracing::info!(map = spec.name, why, copied, "pinned map replaced");
    Ok(MapFate::Replaced { why, copied })
}

/// An opened map of the datapath, shared by the typed views of it.
pub(crate) type SharedFd = Arc<OwnedFd>;
