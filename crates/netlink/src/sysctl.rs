//! Kernel parameters, in the calling thread's network namespace or in another one.
//!
//! Names are written with slashes (`net/ipv4/conf/eth0.100/rp_filter`), as device names may have dots.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{Error, Result, netns};

const ROOT: &str = "/proc/sys";
/// In a container without privileges `/proc/sys` is read-only; there the node's own may be mounted here. Either shows the
/// network namespace of whoever looks.
const NODES_ROOT: &str = "/host/proc/sys";

/// The node's own where it is mounted.
fn root(name: &str) -> &'static str {
    static MOUNTED: OnceLock<bool> = OnceLock::new();
    let mounted = || Path::new(NODES_ROOT).join("net").is_dir();
    if name.starts_with("net/") && *MOUNTED.get_or_init(mounted) {
        NODES_ROOT
    } else {
        ROOT
    }
}

fn path(name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty()
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if plain {
        return Ok(Path::new(root(name)).join(name));
    }
    Err(Error::Sysctl {
        name: name.to_owned(),
        op: "name",
        source: io::ErrorKind::InvalidInput.into(),
    })
}

fn failed(op: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    let name = name.to_owned();
    move |source| Error::Sysctl { name, op, source }
}

/// Reads a parameter, without the trailing line end.
pub fn read(name: &str) -> Result<String> {
    let text = fs::read_to_string(path(name)?).map_err(failed("read", name))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a parameter.
pub fn write(name: &str, value: &str) -> Result<()> {
    // Opened without creating: a missing parameter is an error, not a new file.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(path(name)?)
        .map_err(failed("open", name))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(failed("write", name))
}

/// Writes a parameter unless it has the value already; tells whether it wrote. (Some parameters are read-only in
/// containers yet already right.)
pub fn ensure(name: &str, value: &str) -> Result<bool> {
    if read(name)? == value {
        return Ok(false);
    }
    write(name, value).map(|()| true)
}

/// Writes parameters inside another network namespace; the first failure ends it.
pub fn write_in(ns: impl AsFd, parameters: &[(&str, &str)]) -> Result<()> {
    netns::run_in(ns, || {
        parameters
            .iter()
            .try_for_each(|(name, value)| write(name, value))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for bad in [
            "",
            "/etc/passwd",
            "net//ipv4",
            "net/../../etc/passwd",
            "net/./ipv4",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(!read("kernel/ostype").unwrap().is_empty());
    }
}
