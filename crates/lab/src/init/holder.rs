//! The process that holds a machine's namespaces: it makes them, prepares mounts and kernel settings, says so, and waits
//! to be ended.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;

/// What to prepare; read as JSON from standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HolderSpec {
    /// Host name of the machine.
    pub name: String,
    /// Its cgroup, which becomes the root of its cgroup namespace.
    pub cgroup: PathBuf,
    /// Kernel settings below /proc/sys.
    pub sysctls: Vec<(String, String)>,
    /// With file systems of its own; the fabric needs none.
    pub mounts: bool,
}

/// The line the holder prints when all is prepared.
pub const READY: &str = "ready";

/// Runs the holder. It returns only on failure.
pub fn run() -> anyhow::Result<()> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the machine's description")?;
    let spec: HolderSpec =
        serde_json::from_str(&text).context("the machine's description is malformed")?;
    prepare(&spec).with_context(|| format!("cannot prepare machine {}", spec.name))?;
    let mut out = io::stdout();
    writeln!(out, "{READY}")
        .and_then(|()| out.flush())
        .context("nobody waits for this machine")?;
    loop {
        nix::unistd::pause();
    }
}

fn prepare(spec: &HolderSpec) -> anyhow::Result<()> {
    Cgroup::at(&spec.cgroup).create()?;
    Cgroup::at(&spec.cgroup).join(0)?;
    let kinds = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(kinds).context("cannot make namespaces (is this root with CAP_SYS_ADMIN?)")?;
    nix::unistd::sethostname(&spec.name).context("cannot set the host name")?;
    private_mounts()?;
    if spec.mounts {
        mounts()?;
        shared_mounts()?;
    }
    for (key, value) in &spec.sysctls {
        write_sysctl(key, value)?;
    }
    crate::build::loopback_up()?;
    Ok(())
}

/// Cuts the mount namespace off from the one it was copied from: nothing gets out, what is unmounted there goes here too.
pub(super) fn private_mounts() -> anyhow::Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot cut the mounts off")
}

/// Lets mounts pass to the containers that want them, and back.
fn shared_mounts() -> anyhow::Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot share the mounts")
}

/// A mount with a fitting error.
pub(super) fn mount_fs(
    kind: &str,
    at: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> anyhow::Result<()> {
    mount(Some(kind), at, Some(kind), flags, data)
        .with_context(|| format!("cannot mount {kind} on {at}"))
}

fn mounts() -> anyhow::Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_fs("sysfs", "/sys", plain, None)?;
    mount_fs("bpf", "/sys/fs/bpf", plain, Some("mode=0700"))?;
    mount_fs("cgroup2", "/sys/fs/cgroup", plain, None)?;
    mount_fs(
        "tmpfs",
        "/run",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )?;
    own_etc()?;
    fs::create_dir_all("/opt").context("cannot make /opt")?;
    own_layer("/opt")?;
    for dir in [
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/run/netns",
        "/run/lock",
        "/run/cilium",
    ] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    Ok(())
}

/// The source of a machine's own layers, by which they are known in lists of mounts.
pub(super) const LAYER: &str = "lab";

/// Lets the machine write below a directory without a trace on the host: an overlay whose upper layer is in memory.
fn own_layer(at: &str) -> anyhow::Result<()> {
    let [upper, work] = ["upper", "work"].map(|part| format!("/run/.layers{at}/{part}"));
    for dir in [&upper, &work] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    let layers = format!("lowerdir={at},upperdir={upper},workdir={work}");
    let (kind, flags) = (Some("overlay"), MsFlags::empty());
    mount(Some(LAYER), at, kind, flags, Some(layers.as_str()))
        .with_context(|| format!("cannot give the machine its own {at}"))
}

fn own_etc() -> anyhow::Result<()> {
    if own_layer("/etc").is_ok() {
        let _ = fs::write(
            "/etc/hostname",
            nix::unistd::gethostname()
                .unwrap_or_default()
                .as_encoded_bytes(),
        );
        return Ok(());
    }
    // A kernel without overlayfs: at least the CNI configuration is the machine's own. The empty directory stays.
    fs::create_dir_all("/etc/cni/net.d").context("cannot make /etc/cni/net.d")?;
    mount_fs(
        "tmpfs",
        "/etc/cni/net.d",
        MsFlags::MS_NOSUID,
        Some("mode=0755"),
    )
}

fn write_sysctl(key: &str, value: &str) -> anyhow::Result<()> {
    let path = Path::new("/proc/sys").join(key);
    // A kernel without IPv6 has none of its settings; the lab then fails later and clearer, when an address is added.
    if !path.exists() && key.starts_with("net/ipv6") {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}
