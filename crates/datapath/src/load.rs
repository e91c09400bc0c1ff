//! Making maps and programs of the object.
//!
//! `aya-obj` parses and relocates; the loading itself is here and not aya's, for two reasons: aya reads the kernel's own type
//! information whether the object needs it or not (megabytes and tens of milliseconds), and it loads one program after the other.
use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use abi::{DatapathConfig, names};
use aya_obj::{EbpfSectionKind, Function, btf::Btf};
use zerocopy::IntoBytes;

use crate::{
    Error, Object, Result,
    object::{self, Program},
    pins, probes,
    spec::MapSpec,
    sys::{self, MapShape, NewProgram, Records},
};

fn failed<E: StdError + Send + Sync + 'static>(op: &'static str) -> impl FnOnce(E) -> Error {
    move |e| Error::Object {
        op,
        source: Box::new(e),
    }
}

/// Loads every program that the config wants. Maps are taken from their pins in `maps`, those that are not there are made and pinned there.
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
    let mut parsed = aya_obj::Object::parse(object.bytes()).map_err(failed("parse"))?;
    let config = DatapathConfig {
        coarse_clock: probes::has_coarse_clock().into(),
        refusal_says_why: probes::has_refusal_reasons().into(),
        ..*config
    };
    let globals = HashMap::from([(names::CONFIG_GLOBAL, (config.as_bytes(), true))]);
    parsed
        .patch_map_data(globals)
        .map_err(failed("set the config in"))?;
    let btf = load_types(&mut parsed)?;
    let maps = load_maps(&mut parsed, specs, maps)?;
    relocate(&mut parsed, &maps)?;
    let btf = btf.as_ref().map(|fd| fd.as_fd());
    // The verifier takes one core per program; there are more.
    thread::scope(|scope| {
        let parsed = &parsed;
        let threads: Vec<_> = object::wanted(&config)
            .map(|name| scope.spawn(move || load_program(parsed, name, btf)))
            .collect();
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// Gives the kernel the object's type information; without it everything works, but dumps name no types.
fn load_types(parsed: &mut aya_obj::Object) -> Result<Option<OwnedFd>> {
    let Some(features) = aya::features().btf() else {
        return Ok(None);
    };
    let Some(btf) = parsed
        .fixup_and_sanitize_btf(features)
        .map_err(failed("adapt the types of"))?
    else {
        return Ok(None);
    };
    match sys::btf_load(&btf.to_bytes()) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not take the object's type information");
            Ok(None)
        }
    }
}

type LoadedMap = (String, OwnedFd, aya_obj::Map);

fn load_maps(
    parsed: &mut aya_obj::Object,
    specs: &[MapSpec],
    pinned: &Path,
) -> Result<Vec<LoadedMap>> {
    let maps: Vec<_> = parsed.maps.drain().collect();
    let mut loaded = Vec::with_capacity(maps.len());
    for (name, map) in maps {
        let spec = specs.iter().find(|spec| spec.name == name);
        let path = pinned.join(&name);
        let found = if spec.is_some() {
            pins::open(&path)?
        } else {
            None
        };
        let fd = match found {
            Some(fd) => fd,
            None => make_map(&name, &map, spec)?,
        };
        if spec.is_some() {
            pins::replace(fd.as_fd(), &path)?;
        }
        loaded.push((name, fd, map));
    }
    Ok(loaded)
}

/// Makes a map and gives it the data of its section, if it is one of global variables.
fn make_map(name: &str, map: &aya_obj::Map, spec: Option<&MapSpec>) -> Result<OwnedFd> {
    let shape = MapShape {
        id: 0,
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: spec.map_or_else(|| map.max_entries(), |spec| spec.max_entries),
        flags: map.map_flags(),
        name: name.to_owned(),
    };
    let fd = sys::map_create(&shape).map_err(Error::bpf("make map", name))?;
    if !map.data().is_empty() {
        if map.data().len() != shape.value_size as usize || shape.key_size != 4 {
            let what = format!(
                "{} B of data for a value of {} B",
                map.data().len(),
                shape.value_size
            );
            return Err(Error::Invalid(format!(
                "map {name} of the eBPF object: {what}"
            )));
        }
        sys::update(fd.as_fd(), &[0; 4], map.data(), 0).map_err(Error::bpf("write map", name))?;
    }
    if map.section_kind() == EbpfSectionKind::Rodata {
        sys::map_freeze(fd.as_fd()).map_err(Error::bpf("freeze map", name))?;
    }
    Ok(fd)
}

/// Puts the maps and called functions into the programs' instructions.
fn relocate(parsed: &mut aya_obj::Object, maps: &[LoadedMap]) -> Result<()> {
    if parsed.has_btf_relocations() {
        let kernel = Btf::from_sys_fs().map_err(failed("read the kernel's types for"))?;
        parsed
            .relocate_btf(&kernel)
            .map_err(failed("relocate types in"))?;
    }
    let sections: HashSet<usize> = parsed
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let maps = maps
        .iter()
        .map(|(name, fd, map)| (name.as_str(), fd.as_raw_fd(), map));
    parsed
        .relocate_maps(maps, &sections)
        .map_err(failed("relocate maps in"))?;
    parsed
        .relocate_calls(&sections)
        .map_err(failed("relocate calls in"))
}

fn load_program(
    parsed: &aya_obj::Object,
    name: &'static str,
    btf: Option<BorrowedFd<'_>>,
) -> Result<Program> {
    let missing = || Error::NoProgram { name };
    let program = parsed.programs.get(name).ok_or_else(missing)?;
    let kind = object::kind(name);
    if !object::is_of(&program.section, kind) {
        return Err(missing());
    }
    let function = parsed
        .functions
        .get(&program.function_key())
        .ok_or_else(missing)?;
    let (functions, lines) = type_records(function);
    let records = |bytes, count, size| Records { bytes, count, size };
    let program = NewProgram {
        name,
        kind,
        instructions: &function.instructions,
        license: &program.license,
        btf: btf.map(|fd| {
            let functions = records(
                &functions,
                function.func_info.len(),
                function.func_info_rec_size,
            );
            let lines = records(
                &lines,
                function.line_info.len(),
                function.line_info_rec_size,
            );
            (fd, functions, lines)
        }),
    };
    match sys::prog_load(&program) {
        Ok(fd) => Program::new(name, fd),
        Err((source, log)) => Err(Error::Program {
            name,
            source,
            log: last_lines(&log),
        }),
    }
}

fn type_records(function: &Function) -> (Vec<u8>, Vec<u8>) {
    (
        function.func_info.func_info_bytes(),
        function.line_info.line_info_bytes(),
    )
}

/// The end of the verifier's log, where it says what it does not like.
fn last_lines(log: &str) -> String {
    const LINES: usize = 24;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Kernels before 5.11 charge maps to the locked memory of the process.
fn raise_memory_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    // Without the right to raise it, loading says what is missing.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}
