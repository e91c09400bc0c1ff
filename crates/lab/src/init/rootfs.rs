//! A container's own file system: the host's files with a writable layer in memory on top, and what is mounted into it.
//!
//! The layer goes with the mount namespace: nothing a container writes reaches the host, and a container that starts
//! again begins afresh. Made by the first process of the container, which has a mount namespace of its own by then.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod, stat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

use super::holder::{LAYER, mount_fs};

/// Where the machine's files stand while the container's are prepared.
const OLD: &str = "/.machine";

/// Something of the machine that a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Path in the machine; it exists.
    pub from: PathBuf,
    /// Path in the container; made where it is missing.
    pub to: PathBuf,
    /// Not writable.
    pub read_only: bool,
    /// Whether later mounts below it pass between machine and container.
    #[serde(default)]
    pub propagation: Propagation,
}

/// Which way mounts pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None do.
    #[default]
    None,
    /// From the machine into the container.
    HostToContainer,
    /// Both ways: what the container mounts stays when it ends.
    Bidirectional,
}

/// How a container's file system looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// A directory of the machine for this container alone, to build upon.
    pub stage: PathBuf,
    /// It shares the machine's network, and so its /sys.
    pub machine_network: bool,
    /// It sees the machine's /run and /etc, too: for commands that look after the machine.
    pub machine_files: bool,
    /// It sees all of the host's devices, and its machine's control groups.
    pub privileged: bool,
    /// Nothing but volumes is writable.
    pub read_only: bool,
    /// What is mounted, in order.
    pub binds: Vec<Bind>,
    /// Files of its own, path and text.
    pub files: Vec<(PathBuf, String)>,
}

/// Mounts that stay shared with the machine, by their places in the list of binds.
pub(super) type Shared = BTreeMap<usize, OwnedFd>;

/// Takes copies of what passes mounts both ways, while the caller's mounts are still the machine's peers.
pub(super) fn shared(spec: &RootSpec) -> anyhow::Result<Shared> {
    let both = |(_, b): &(usize, &Bind)| b.propagation == Propagation::Bidirectional;
    let copy = |(index, bind): (usize, &Bind)| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let from = resolve(Path::new("/"), &bind.from);
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &from, flags);
        tree.map(|tree| (index, tree))
            .with_context(|| format!("mount {}", bind.from.display()))
    };
    spec.binds
        .iter()
        .enumerate()
        .filter(both)
        .map(copy)
        .collect()
}

/// Moves the caller, alone in its mount namespace, into the new root. `own_groups` is called before its control groups are shown.
pub(super) fn enter(
    spec: &RootSpec,
    mut shared: Shared,
    own_groups: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let root = layers(&spec.stage)?;
    other_mounts(&root)?;
    let old = root.join(OLD.trim_start_matches('/'));
    fs::create_dir_all(&old).with_context(|| format!("cannot make {}", old.display()))?;
    nix::unistd::pivot_root(&root, &old).context("cannot change the root directory")?;
    std::env::set_current_dir("/").context("cannot enter the new root directory")?;
    kernel_views(spec, own_groups)?;
    for (index, bind) in spec.binds.iter().enumerate() {
        mount_bind(bind, shared.remove(&index))
            .with_context(|| format!("mount {}", bind.to.display()))?;
    }
    for (path, text) in &spec.files {
        let path = inside(path)?;
        parents(&path)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    umount2(OLD, MntFlags::MNT_DETACH).context("cannot let the machine's files go")?;
    fs::remove_dir(OLD).with_context(|| format!("cannot remove {OLD}"))?;
    if spec.read_only {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .context("cannot make the root directory read-only")?;
    }
    Ok(())
}

/// The layers; the path of the mount.
fn layers(stage: &Path) -> anyhow::Result<PathBuf> {
    let at = stage.to_string_lossy();
    mount_fs("tmpfs", &at, MsFlags::empty(), Some("mode=0755"))?;
    for part in ["upper", "work", "root"] {
        let dir = stage.join(part);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let options = format!("lowerdir=/,upperdir={at}/upper,workdir={at}/work");
    let root = stage.join("root");
    mount_fs(
        "overlay",
        &root.to_string_lossy(),
        MsFlags::empty(),
        Some(&options),
    )
    .context("containers need overlayfs (CONFIG_OVERLAY_FS)")?;
    Ok(root)
}

/// What the host has mounted separately and programs need, /usr for one, read-only. The lowest layer has only one file system.
fn other_mounts(root: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for path in separate(&text) {
        let to = root.join(path.trim_start_matches('/'));
        if !to.is_dir() {
            continue;
        }
        let bound = mount(
            Some(path),
            &to,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        );
        bound.with_context(|| format!("cannot mount {path}"))?;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        // A mount with flags of its own that are locked stays as it is.
        let _ = mount(None::<&str>, &to, None::<&str>, flags, None::<&str>);
    }
    Ok(())
}

/// Mount points that hold programs, in the text of /proc/self/mountinfo.
fn separate(mountinfo: &str) -> impl Iterator<Item = &str> {
    const PROGRAMS: [&str; 9] = [
        "/usr", "/opt", "/lib", "/lib64", "/bin", "/sbin", "/nix", "/home", "/root",
    ];
    let own = format!(" - overlay {LAYER} ");
    let lines = mountinfo.lines().filter(move |l| !l.contains(&own));
    let points = lines.filter_map(|l| l.split(' ').nth(4));
    points.filter(|p| PROGRAMS.iter().any(|dir| Path::new(p).starts_with(dir)))
}

/// /proc, /sys, /dev, /run, /tmp.
fn kernel_views(
    spec: &RootSpec,
    own_groups: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let plain = safe | MsFlags::MS_NOEXEC;
    mount_fs("proc", "/proc", plain, None)?;
    devices(spec.privileged)?;
    if spec.machine_files {
        bind_tree("/run")?;
        bind_tree("/etc")?;
    } else {
        mount_fs("tmpfs", "/run", safe, Some("mode=0755"))?;
    }
    mount_fs("tmpfs", "/tmp", safe, Some("mode=1777"))?;
    own_groups()?;
    if spec.machine_network {
        bind_tree("/sys")
    } else {
        mount_fs("sysfs", "/sys", plain | MsFlags::MS_RDONLY, None)?;
        // Not there on a kernel without cgroups: then nobody expects it.
        let _ = mount_fs(
            "cgroup2",
            "/sys/fs/cgroup",
            plain | MsFlags::MS_RDONLY,
            None,
        );
        Ok(())
    }
}

/// Devices that every program expects.
const DEVICES: [&str; 9] = [
    "null", "zero", "full", "random", "urandom", "tty", "ptmx", "net/tun", "kmsg",
];

fn devices(all: bool) -> anyhow::Result<()> {
    if all {
        return bind_tree("/dev");
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_fs("tmpfs", "/dev", flags, Some("mode=0755"))?;
    for device in DEVICES {
        let from = format!("{OLD}/dev/{device}");
        if !Path::new(&from).exists() {
            continue;
        }
        let to = Path::new("/dev").join(device);
        parents(&to)?;
        make_device(&from, &to).or_else(|_| show_device(&from, &to))?;
    }
    for dir in ["/dev/pts", "/dev/shm"] {
        fs::create_dir(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    bind_tree("/dev/pts")?;
    mount_fs(
        "tmpfs",
        "/dev/shm",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )?;
    for (link, to) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        let made = std::os::unix::fs::symlink(format!("/proc/self/fd{to}"), format!("/dev/{link}"));
        made.with_context(|| format!("cannot make /dev/{link}"))?;
    }
    Ok(())
}

/// Makes a device that is the same as another one; a mount would cost more, at the start and at the end of every container.
fn make_device(from: &str, to: &Path) -> io::Result<()> {
    let there = stat(from)?;
    let kind = SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT;
    mknod(to, kind, Mode::empty(), there.st_rdev)?;
    fs::set_permissions(to, fs::Permissions::from_mode(there.st_mode & 0o7777))
}

/// Shows a device of the machine: for those who may not make devices.
fn show_device(from: &str, to: &Path) -> anyhow::Result<()> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(to)
        .map(drop::<File>)
        .with_context(|| format!("cannot make {}", to.display()))?;
    let flags = MsFlags::MS_BIND;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot mount {}", to.display()))
}

fn bind_tree(path: &str) -> anyhow::Result<()> {
    let from = format!("{OLD}{path}");
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from.as_str()), path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot mount {path}"))
}

/// A path below a root with every link in it followed as one who lives in that root would. What is not there stays as it is.
pub(crate) fn resolve(root: &Path, path: &Path) -> PathBuf {
    const MOST_LINKS: u32 = 40;
    let parts = |path: &Path| -> Vec<std::ffi::OsString> {
        let parts = path.components().rev();
        let parts = parts.filter(|c| !matches!(c, Component::RootDir | Component::CurDir));
        parts.map(|c| c.as_os_str().to_owned()).collect()
    };
    let (mut at, mut left, mut links) = (PathBuf::new(), parts(path), 0);
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        match fs::read_link(root.join(&at).join(&part)) {
            Ok(to) if links < MOST_LINKS => {
                links += 1;
                if to.is_absolute() {
                    at.clear();
                }
                left.extend(parts(&to));
            }
            _ => at.push(part),
        }
    }
    root.join(at)
}

fn mount_bind(bind: &Bind, shared: Option<OwnedFd>) -> anyhow::Result<()> {
    let from = resolve(Path::new(OLD), &bind.from);
    let kind = fs::metadata(&from)
        .with_context(|| format!("there is no {} on the node", bind.from.display()))?;
    let to = inside(&bind.to)?;
    parents(&to)?;
    if kind.is_dir() {
        fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    } else {
        // A link into nowhere, as /etc/resolv.conf often is, gives way to a file.
        if to.is_symlink() {
            fs::remove_file(&to).with_context(|| format!("cannot replace {}", to.display()))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&to)
            .map(drop::<File>)
            .with_context(|| format!("cannot make {}", to.display()))?;
    }
    match shared {
        Some(tree) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &to, flags).context("mount")?;
        }
        None => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(&from), &to, None::<&str>, flags, None::<&str>).context("bind mount")?;
        }
    }
    if bind.propagation == Propagation::None {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, &to, None::<&str>, flags, None::<&str>).context("propagation")?;
    }
    if bind.read_only {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &to, None::<&str>, flags, None::<&str>).context("read-only")?;
    }
    Ok(())
}

/// A path in the container, which must be absolute and must not climb.
fn inside(path: &Path) -> anyhow::Result<PathBuf> {
    let plain = |c: Component<'_>| {
        matches!(
            c,
            Component::Normal(_) | Component::RootDir | Component::CurDir
        )
    };
    if !path.components().all(plain) {
        bail!("{} has \"..\" in it", path.display());
    }
    Ok(Path::new("/").join(path))
}

fn parents(path: &Path) -> anyhow::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_programs() {
        let text = "1 0 8:1 / / rw - ext4 a rw\n9 1 0:9 / /opt rw - overlay lab rw\n2 1 8:2 / /usr rw - ext4 b rw\n3 1 0:1 / /run rw - tmpfs t rw\n4 1 8:3 / /usr/local rw - ext4 c rw\n5 1 8:3 / /usrx rw - ext4 c rw\n";
        assert_eq!(separate(text).collect::<Vec<_>>(), ["/usr", "/usr/local"]);
    }

    #[test]
    fn links_lead_to_places_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("run/x")).unwrap();
        fs::create_dir(root.join("var")).unwrap();
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
        link("/run", "var/run");
        link("../../run/x", "run/y");
        link("loop", "loop");
        for (path, to) in [
            ("/var/run/x", "run/x"),
            ("/var/run/new/sub", "run/new/sub"),
            ("/run/y", "run/x"),
            ("/../../var", "var"),
            ("/loop", "loop"),
        ] {
            assert_eq!(resolve(root, Path::new(path)), root.join(to), "{path}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(inside(Path::new("/a/b")).unwrap(), Path::new("/a/b"));
        assert_eq!(inside(Path::new("a")).unwrap(), Path::new("/a"));
        assert!(inside(Path::new("/a/../../b")).is_err());
    }
}
