//! `hypha node-setup`: what an agent's pod does to its node before the agent starts.
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ::api::conflist;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, statfs};

use crate::output;

/// `statfs` calls a bpf file system so.
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// `hypha node-setup`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Mount cgroup v2 where it is not mounted
    MountCgroup {
        /// Where
        #[arg(long, value_name = "DIR", default_value = "/run/cilium/cgroupv2")]
        at: PathBuf,
    },
    /// Mount the bpf file system where it is not mounted
    MountBpfFs {
        /// Where
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
        at: PathBuf,
    },
    /// Make the network namespace of the layer 7 proxy where there is none
    MakeProxyNetns {
        /// Its name
        #[arg(long, value_name = "FILE", default_value = datapath::proxy::NETNS)]
        at: PathBuf,
    },
    /// Take the layer 7 proxy's network namespace and its device away, on a node that is left for good
    RemoveProxyNetns {
        /// Its name
        #[arg(long, value_name = "FILE", default_value = datapath::proxy::NETNS)]
        at: PathBuf,
    },
    /// Copy the CNI plugin to where the container runtime looks for it
    InstallCni {
        /// Where
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        to: PathBuf,
        /// The plugin; by default the one beside this program
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Take the CNI configuration and the plugin away, on a node that is left for good
    UninstallCni {
        /// Directory of the configurations
        #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
        config: PathBuf,
        /// Directory of the plugins
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        plugins: PathBuf,
    },
    /// Stop translating services at sockets, on a node that is left for good
    ReleaseSockets {
        /// Where the bpf file system is mounted
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
        bpf_root: PathBuf,
    },
}

/// Does one step and says what was done.
///
/// # Errors
/// The kernel or the file system refuses.
pub fn run(args: &NodeArgs) -> Result<()> {
    let done = match &args.step {
        Step::MountCgroup { at } => mounted("cgroup v2", "cgroup2", CGROUP2_SUPER_MAGIC, at, None)?,
        Step::MountBpfFs { at } => {
            mounted("the bpf file system", "bpf", BPF_FS, at, Some("mode=0700"))?
        }
        Step::MakeProxyNetns { at } => match datapath::proxy::ensure_netns(at)? {
            true => format!("made the network namespace {}", at.display()),
            false => format!("the network namespace {} is there already", at.display()),
        },
        Step::RemoveProxyNetns { at } => {
            match datapath::proxy::remove(&mut netlink::Handle::new()?, at)? {
                true => format!("removed {} and its device", at.display()),
                false => format!("there was no {}", at.display()),
            }
        }
        Step::InstallCni { to, from } => {
            let from = match from {
                Some(path) => path.clone(),
                None => beside_this()?,
            };
            copied(&from, to)?
        }
        Step::UninstallCni { config, plugins } => {
            conflist::remove(config)?;
            let plugin = plugins.join(conflist::PLUGIN);
            match fs::remove_file(&plugin) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", plugin.display()));
                }
                _ => {}
            }
            format!(
                "took the CNI configuration in {} and {} away",
                config.display(),
                plugin.display()
            )
        }
        Step::ReleaseSockets { bpf_root } => released(bpf_root)?,
    };
    output::write_out(&format!("{done}\n"))
}

fn mounted(
    what: &str,
    kind: &str,
    magic: FsType,
    at: &Path,
    options: Option<&str>,
) -> Result<String> {
    fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
    let there = statfs(at).with_context(|| format!("looking at {}", at.display()))?;
    if there.filesystem_type() == magic {
        return Ok(format!("{what} is mounted at {} already", at.display()));
    }
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mounting {what} at {}", at.display()))?;
    Ok(format!("mounted {what} at {}", at.display()))
}

/// Unpins what holds the programs at sockets. Connections stay as they are.
fn released(bpf_root: &Path) -> Result<String> {
    let pins = bpf_root.join("cilium/socketlb");
    match fs::remove_dir_all(&pins) {
        Ok(()) => Ok("services are no longer translated at sockets".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok("services were not translated at sockets".to_owned())
        }
        Err(error) => Err(error).with_context(|| format!("removing {}", pins.display())),
    }
}

fn beside_this() -> Result<PathBuf> {
    let program = std::env::current_exe().context("looking for this program's directory")?;
    let path = program.with_file_name(conflist::PLUGIN);
    if path.exists() {
        return Ok(path);
    }
    bail!(
        "there is no {} beside {}; --from names it",
        conflist::PLUGIN,
        program.display()
    )
}

/// Copies the plugin. The runtime sees the old one or the new one, never a part of either.
fn copied(from: &Path, to: &Path) -> Result<String> {
    let program = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let target = to.join(conflist::PLUGIN);
    if fs::read(&target).is_ok_and(|there| there == program) {
        return Ok(format!("{} is up to date", target.display()));
    }
    let temporary = to.join(format!(".{}.{}.tmp", conflist::PLUGIN, std::process::id()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o755)
            .open(&temporary)?;
        file.write_all(&program)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &target)
    };
    let written = write().with_context(|| format!("writing {}", target.display()));
    if written.is_err() {
        // Best effort: the first error is what counts.
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| format!("installed {}", target.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sockets_are_released_once() {
        let dir = tempfile::tempdir().unwrap();
        let links = dir.path().join("cilium/socketlb/links/cgroup");
        fs::create_dir_all(&links).unwrap();
        fs::write(links.join("cil_sock4_connect"), "").unwrap();
        assert!(released(dir.path()).unwrap().contains("no longer"));
        assert!(!dir.path().join("cilium/socketlb").exists());
        assert!(dir.path().join("cilium").exists());
        assert!(released(dir.path()).unwrap().contains("were not"));
    }

    #[test]
    fn the_plugin_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("new"), dir.path().join("opt/cni/bin"));
        fs::write(&from, "one").unwrap();
        let target = to.join("hypha-cni");
        assert_eq!(
            copied(&from, &to).unwrap(),
            format!("installed {}", target.display())
        );
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert!(copied(&from, &to).unwrap().ends_with("is up to date"));
        // A runtime that is just starting the old one keeps it.
        let held = fs::File::open(&target).unwrap();
        fs::write(&from, "two").unwrap();
        copied(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "two");
        assert_eq!(std::io::read_to_string(held).unwrap(), "one");
        assert_eq!(
            fs::read_dir(&to).unwrap().count(),
            1,
            "nothing else is left"
        );
        let error = copied(Path::new("/nowhere"), &to).unwrap_err();
        assert!(format!("{error:#}").starts_with("reading /nowhere: No such file"));
    }
}
