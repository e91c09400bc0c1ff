//! Programs of the system that the lab, the tests and the benchmarks start.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::report::Outcome;
use crate::{paths, proc};

/// A program, and Debian's packages that bring it.
type Program = (&'static str, &'static str);

/// For building.
pub const BUILD: [Program; 2] = [("cc", "gcc libc6-dev"), ("musl-gcc", "musl-tools")];

/// For labs, tests and benchmarks.
pub const LAB: [Program; 12] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ping", "iputils-ping"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("dnsperf", "dnsperf"),
    ("prometheus", "prometheus"),
];

/// What the proxy and the load balancer are measured against.
pub const BENCH: [Program; 5] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("dnsdist", "dnsdist"),
    ("unbound", "unbound"),
    ("iptables-legacy-restore", "iptables"),
];

/// For tests of the page of flows, with what it writes in.
pub const BROWSER: [Program; 1] = [("chromium", "chromium fonts-dejavu-core fonts-inter")];

/// For virtual machines with other kernels.
pub const KERNELS: [Program; 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("depmod", "kmod"),
    ("zstd", "zstd"),
    ("python3", "python3"),
];

/// Installs the packages of the missing programs where apt can, and otherwise says what is missing.
pub fn install(needed: &[Program]) -> Result<Outcome> {
    let missing: Vec<_> = needed
        .iter()
        .filter(|(name, _)| paths::which(name).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(Outcome::Present(format!("{} programs", needed.len())));
    }
    let programs = missing
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ");
    let mut packages: Vec<&str> = missing
        .iter()
        .flat_map(|(_, list)| list.split(' '))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let names = packages.join(" ");
    if !is_debian() {
        return Ok(Outcome::Missing(format!(
            "install the programs {programs} (on Debian: {names})"
        )));
    }
    if !is_root()? {
        return Ok(Outcome::Missing(format!(
            "{programs}; as root: apt-get install {names}"
        )));
    }
    apt_install(&packages)?;
    Ok(Outcome::Done(format!("installed {names}")))
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = |line: &str| {
        let Some((key, value)) = line.split_once('=') else {
            return false;
        };
        matches!(key, "ID" | "ID_LIKE")
            && value.trim_matches('"').split(' ').any(|id| id == "debian")
    };
    release.lines().any(debian) && paths::which("apt-get").is_some()
}

/// Whether this process is root, by the owner of its own entry in /proc.
fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let me = fs::metadata("/proc/self").context("cannot look at /proc/self")?;
    Ok(me.uid() == 0)
}

/// Keeps services of new packages from being started, as long as it is there: the programs alone are wanted.
struct Quiet(Option<&'static str>);

impl Quiet {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // Debian asks this program before it starts a service; where there is one, somebody has decided already.
        const POLICY: &str = "/usr/sbin/policy-rc.d";
        if fs::exists(POLICY).unwrap_or(true) {
            return Ok(Self(None));
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").context("cannot write policy-rc.d")?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .context("cannot make policy-rc.d a program")?;
        Ok(Self(Some(POLICY)))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // What is left starts no services: whoever wonders finds two lines that say so.
            let _ = fs::remove_file(path);
        }
    }
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let _quiet = Quiet::new()?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let limit = Duration::from_secs(600);
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(packages);
    if proc::logged("packages", &mut apt(&install), limit).is_ok() {
        return Ok(());
    }
    // The lists may be missing or older than the mirror.
    proc::logged("packages", &mut apt(&["update"]), limit)?;
    proc::logged("packages", &mut apt(&install), limit)
}
