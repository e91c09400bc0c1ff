//! The two processes under every container.
//!
//! The *shim* makes the container's namespaces inside the machine's and stays outside of the new pid namespace to wait.
//! The *first process* is pid 1 in there: it starts the command, passes signals on and collects orphans. For the
//! built-in server it is the server.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::holder::{mount_fs, private_mounts};
use crate::cgroup::Cgroup;

/// What to run and where; read as JSON from standard input by both processes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Host name; `None` keeps the machine's.
    pub hostname: Option<String>,
    /// Its cgroup as the machine sees it.
    pub cgroup: PathBuf,
    /// Its network namespace as the machine sees it; `None` is the machine's own.
    pub net: Option<PathBuf>,
    /// Text of /etc/hosts; `None` keeps the machine's.
    pub hosts: Option<String>,
    /// What to run.
    pub run: Run,
    /// Environment, complete.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub dir: Option<PathBuf>,
}

/// The program of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Run {
    /// A program of the host with its arguments.
    Command(Vec<String>),
    /// The built-in server with its arguments.
    Server(Vec<String>),
}

impl Default for Run {
    fn default() -> Self {
        Run::Server(Vec::new())
    }
}

/// What the two processes tell on standard output, one JSON object per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Message {
    /// The first process exists.
    Created {
        /// Its id as the shim's pid namespace sees it.
        pid: i32,
    },
    /// The command runs, or the server listens.
    Running,
    /// It could not be started.
    Failed {
        /// Why.
        message: String,
    },
}

fn tell(message: &Message) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    let mut out = io::stdout();
    // Nobody may listen any more when the supervisor was killed; the container then goes on until the lab is cleaned.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

fn read_spec() -> anyhow::Result<(ContainerSpec, String)> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the container's description")?;
    let spec = serde_json::from_str(&text).context("the container's description is malformed")?;
    Ok((spec, text))
}

/// Runs the shim: returns the exit code of the container.
pub fn shim() -> anyhow::Result<i32> {
    let started = read_spec().and_then(|(spec, text)| {
        isolate(&spec)?;
        start_first(&text)
    });
    match started {
        Ok(mut child) => Ok(exit_code(
            child.wait().context("cannot wait for the container")?,
        )),
        Err(e) => {
            tell(&Message::Failed {
                message: format!("{e:#}"),
            })?;
            Ok(128)
        }
    }
}

fn isolate(spec: &ContainerSpec) -> anyhow::Result<()> {
    let cgroup = Cgroup::at(&spec.cgroup);
    cgroup.create()?;
    cgroup.join(0)?;
    if let Some(net) = &spec.net {
        let file = std::fs::File::open(net)
            .with_context(|| format!("no network namespace {}", net.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", net.display()))?;
    }
    let kinds = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    unshare(kinds).context("cannot make the container's namespaces")?;
    private_mounts()?;
    if let Some(name) = &spec.hostname {
        nix::unistd::sethostname(name).context("cannot set the host name")?;
    }
    if spec.net.is_some() {
        own_views(spec)?;
    }
    Ok(())
}

/// /sys of its own network, an empty /run, its own /etc/hosts: nothing of the machine's that a pod has no business with.
fn own_views(spec: &ContainerSpec) -> anyhow::Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_fs(
        "sysfs",
        "/sys",
        safe | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY,
        None,
    )?;
    mount_fs("tmpfs", "/run", safe, Some("mode=0755"))?;
    if let Some(text) = spec
        .hosts
        .as_ref()
        .filter(|_| Path::new("/etc/hosts").exists())
    {
        std::fs::write("/run/.hosts", text).context("cannot write the container's hosts file")?;
        let bind = mount(
            Some("/run/.hosts"),
            "/etc/hosts",
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        );
        bind.context("cannot mount the container's /etc/hosts")?;
    }
    Ok(())
}

fn start_first(text: &str) -> anyhow::Result<Child> {
    let mut child = super::command("pid1")?
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start the first process")?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(text.as_bytes())
            .context("the first process ended at once")?;
    }
    tell(&Message::Created {
        pid: child.id() as i32,
    })?;
    Ok(child)
}

/// The code by which a shell would report it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs as pid 1 of a container: returns the exit code.
pub fn pid1() -> anyhow::Result<i32> {
    set_pdeathsig(Signal::SIGKILL).context("cannot tie the container to its shim")?;
    let (spec, _) = read_spec()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let result = mount_fs("proc", "/proc", flags, None).and_then(|()| match &spec.run {
        Run::Server(args) => crate::workload::run_as_container(args, || tell(&Message::Running)),
        Run::Command(argv) => supervise(&spec, argv),
    });
    result.or_else(|e| {
        tell(&Message::Failed {
            message: format!("{e:#}"),
        })?;
        Ok(127)
    })
}

fn start_command(spec: &ContainerSpec, argv: &[String]) -> anyhow::Result<Child> {
    let (program, args) = argv.split_first().context("the container has no command")?;
    let log = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot hand the log over")?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(spec.env.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(log);
    command.current_dir(spec.dir.as_deref().unwrap_or(Path::new("/")));
    command
        .spawn()
        .with_context(|| format!("cannot start {program:?}"))
}

fn supervise(spec: &ContainerSpec, argv: &[String]) -> anyhow::Result<i32> {
    let wanted: SigSet = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ]
    .into_iter()
    .collect();
    wanted.thread_block().context("cannot block signals")?;
    // A new thread inherits the blocked signals, and so would the command: it starts from a thread that unblocks them.
    let child = std::thread::scope(|scope| {
        let task = scope.spawn(|| {
            wanted.thread_unblock().context("cannot unblock signals")?;
            let child = start_command(spec, argv);
            wanted.thread_block().context("cannot block signals")?;
            child
        });
        task.join().unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "the thread that starts the command panicked"
            ))
        })
    })?;
    tell(&Message::Running)?;
    let main = Pid::from_raw(child.id() as i32);
    loop {
        if let Some(code) = reap(main)? {
            return Ok(code);
        }
        match wanted.wait().context("cannot wait for signals")? {
            Signal::SIGCHLD => {}
            other => drop(kill(main, other)),
        }
    }
}

/// Collects every process that ended; the exit code when `main` is among them.
fn reap(main: Pid) -> anyhow::Result<Option<i32>> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG))
            .context("cannot wait for processes")?
        {
            WaitStatus::Exited(pid, code) if pid == main => return Ok(Some(code)),
            WaitStatus::Signaled(pid, signal, _) if pid == main => {
                return Ok(Some(128 + signal as i32));
            }
            WaitStatus::StillAlive => return Ok(None),
            _ => {}
        }
    }
}
