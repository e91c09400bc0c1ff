//! The first process of a container, and the helper by which commands get into one.
//!
//! The kubelet starts the *first process* inside the pod's network, a new pid namespace and the container's cgroup. It makes the container's other
//! namespaces and its file system, starts the command, passes signals on and collects orphans; for a built-in
//! server it is the server. Standard input is a socket to the kubelet: the description comes in on it as one frame, then one byte
//! once the process is in its cgroup, messages go out on it, and afterwards it carries the command's input where that is wanted.
//! Standard output and error are the log.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::holder::private_mounts;
use super::rootfs::{self, RootSpec};
use crate::workload::Server;

/// A description that is longer is none.
const MAX_FRAME: usize = 8 << 20;

/// What a container is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Host name; `None` keeps the machine's.
    pub hostname: Option<String>,
    /// Its files.
    pub root: RootSpec,
    /// What to run.
    pub run: Run,
    /// A command is the first process itself; else it has one above it, which collects orphans.
    pub direct: bool,
    /// How.
    pub process: Process,
}

/// How a process in a container runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    /// Environment, complete.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub dir: Option<PathBuf>,
    /// User id, where not 0.
    pub user: Option<u32>,
    /// Group id, where not 0.
    pub group: Option<u32>,
    /// The only capabilities it may have; `None` is all.
    pub capabilities: Option<Vec<String>>,
    /// It gets input.
    pub stdin: bool,
    /// Input, output and error are a terminal.
    pub tty: bool,
}

/// The program of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Run {
    /// A program of the host with its arguments.
    Command(Vec<String>),
    /// A built-in server with its arguments.
    Server(Server, Vec<String>),
}

impl Default for Run {
    fn default() -> Self {
        Run::Server(Server::Echo, Vec::new())
    }
}

/// A command in a container that runs already.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How.
    pub process: Process,
}

/// What the first process tells, one JSON object per line. One that becomes the command tells only of failure: its end of the
/// socket closes when the command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Message {
    /// The command runs, or the server listens.
    Running,
    /// It could not be started.
    Failed {
        /// Why.
        message: String,
    },
}

/// What is sent once the process is in its cgroup.
pub const JOINED: u8 = b'j';

/// A description as it is sent: its length in four bytes, then JSON.
pub fn frame(spec: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(spec)?;
    let mut all = u32::try_from(body.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes()
        .to_vec();
    all.extend(body);
    Ok(all)
}

/// Reads exactly one frame; what follows it stays.
fn read_frame<T: for<'de> Deserialize<'de>>(mut from: impl Read) -> anyhow::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)
        .context("no description came")?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        bail!("a description of {length} bytes is too long");
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)
        .context("the description is cut off")?;
    serde_json::from_slice(&body).context("the description is malformed")
}

/// The socket to the kubelet, a copy of the descriptor.
fn kubelet() -> anyhow::Result<UnixStream> {
    let fd = io::stdin().as_fd().try_clone_to_owned();
    Ok(UnixStream::from(fd.context("no socket to the kubelet")?))
}

/// Waits until the kubelet has moved this process into its cgroup.
fn wait_joined() -> anyhow::Result<()> {
    let mut told = [0];
    let read = kubelet()?.read_exact(&mut told);
    read.context("the kubelet did not say that the container has its control group")
}

fn tell(message: &Message) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    // Nobody may listen any more when the supervisor was killed; the container then goes on until the lab is cleaned.
    let _ = kubelet()?.write_all(line.as_bytes());
    Ok(())
}

/// The code by which a shell would report it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs as pid 1 of a container: returns the exit code.
pub fn pid1() -> anyhow::Result<i32> {
    let result = kubelet()
        .and_then(read_frame::<ContainerSpec>)
        .and_then(|spec| {
            isolate(&spec)?;
            match &spec.run {
                Run::Server(server, args) => serve(&spec, *server, args),
                Run::Command(argv) if spec.direct => become_command(&spec, argv),
                Run::Command(argv) => supervise(&spec, argv),
            }
        });
    result.or_else(|e| {
        let message = format!("{e:#}");
        tell(&Message::Failed { message })?;
        Ok(128)
    })
}

fn isolate(spec: &ContainerSpec) -> anyhow::Result<()> {
    let kinds = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(kinds).context("cannot make the container's namespaces")?;
    let shared = rootfs::shared(&spec.root)?;
    private_mounts()?;
    if let Some(name) = &spec.hostname {
        nix::unistd::sethostname(name).context("cannot set the host name")?;
    }
    let own_groups = || {
        wait_joined()?;
        if spec.root.privileged {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot make the container's namespaces")
    };
    rootfs::enter(&spec.root, shared, own_groups)
}

/// For the built-in server this process is the server.
fn serve(spec: &ContainerSpec, server: Server, args: &[String]) -> anyhow::Result<i32> {
    crate::workload::run_as_container(server, args, &spec.process.env, || tell(&Message::Running))
}

/// Where a program is found, by the container's own PATH.
fn find(program: &str, process: &Process) -> PathBuf {
    if program.contains('/') {
        return PathBuf::from(program);
    }
    let path = process.env.iter().find(|(k, _)| k == "PATH");
    let path = path.map_or(crate::kubelet::DEFAULT_PATH, |(_, v)| v.as_str());
    let found = std::env::split_paths(path).map(|d| d.join(program));
    found
        .into_iter()
        .find(|p| p.is_file())
        .unwrap_or_else(|| PathBuf::from(program))
}

/// The command with environment, directory and user; not its input and output.
fn prepare(argv: &[String], process: &Process) -> anyhow::Result<Command> {
    let (program, args) = argv.split_first().context("there is no command")?;
    let mut command = Command::new(find(program, process));
    command
        .arg0(program)
        .args(args)
        .env_clear()
        .envs(process.env.iter().map(|(k, v)| (k, v)));
    let dir = process.dir.as_deref().unwrap_or(Path::new("/"));
    if process.dir.is_some() {
        // As runtimes do it: a working directory that is missing is made.
        let _ = std::fs::create_dir_all(dir);
    }
    command.current_dir(dir);
    if let Some(group) = process.group.or(process.user.map(|_| 0)) {
        command.gid(group);
    }
    if let Some(user) = process.user {
        command.uid(user);
    }
    Ok(command)
}

/// Takes capabilities from the calling thread and all that it starts.
fn limit(process: &Process) -> anyhow::Result<()> {
    let Some(kept) = &process.capabilities else {
        return Ok(());
    };
    let kept = |c: &caps::Capability| {
        let name = c.to_string();
        kept.iter()
            .any(|k| name.strip_prefix("CAP_") == Some(k.as_str()))
    };
    for capability in caps::all() {
        if !kept(&capability) && caps::has_cap(None, caps::CapSet::Bounding, capability)? {
            caps::drop(None, caps::CapSet::Bounding, capability)
                .with_context(|| format!("cannot give up {capability}"))?;
        }
    }
    Ok(())
}

/// Makes the terminal that is open as standard output the one of a new session.
fn own_terminal() -> anyhow::Result<()> {
    let _ = nix::unistd::setsid();
    let terminal = rustix::termios::ttyname(io::stdout(), Vec::new()).context("no terminal")?;
    let path = terminal.to_string_lossy().into_owned();
    // A leader of a session without a terminal gets the one it opens.
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path);
    opened
        .with_context(|| format!("cannot open {path}"))
        .map(drop)
}

/// The input of the command: a terminal, what the kubelet sends, or nothing.
fn input(process: &Process) -> anyhow::Result<Stdio> {
    if process.tty {
        let fd = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("no terminal")?;
        return Ok(Stdio::from(fd));
    }
    if !process.stdin {
        return Ok(Stdio::null());
    }
    // A pipe and not the socket itself: programs open /dev/stdin.
    let (read, write) = io::pipe().context("no pipe")?;
    let mut socket = Plain(kubelet()?);
    let mut write = File::from(OwnedFd::from(write));
    std::thread::spawn(move || io::copy(&mut socket, &mut write));
    Ok(Stdio::from(OwnedFd::from(read)))
}

/// Runs the command in this process. Returns only when that fails.
fn become_command(spec: &ContainerSpec, argv: &[String]) -> anyhow::Result<i32> {
    let mut command = prepare(argv, &spec.process)?;
    command.stdin(Stdio::null());
    // Standard input is gone by the time it fails.
    let socket = kubelet()?;
    limit(&spec.process)?;
    let error = command.exec();
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let message = format!("cannot start {program:?}: {error}");
    let mut line = serde_json::to_vec(&Message::Failed { message })?;
    line.push(b'\n');
    let _ = (&socket).write_all(&line);
    Ok(128)
}

fn start_command(spec: &ContainerSpec, argv: &[String]) -> anyhow::Result<Child> {
    let mut command = prepare(argv, &spec.process)?;
    command.stdin(input(&spec.process)?);
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    limit(&spec.process)?;
    let program = argv.first().map(String::as_str).unwrap_or_default();
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
        Signal::SIGQUIT,
        Signal::SIGCHLD,
    ]
    .into_iter()
    .collect();
    wanted.thread_block().context("cannot block signals")?;
    if spec.process.tty {
        own_terminal()?;
    }
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
            // The terminal told the command itself.
            Signal::SIGINT | Signal::SIGQUIT if spec.process.tty => {}
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

/// Becomes a command in a container whose namespaces the caller is in already. Returns only when that fails: with the exit
/// code that a shell would give.
pub fn exec() -> anyhow::Result<i32> {
    let started = read_frame::<ExecSpec>(Raw).and_then(|spec| {
        if spec.process.tty {
            own_terminal()?;
        } else {
            let _ = nix::unistd::setsid();
        }
        let mut command = prepare(&spec.command, &spec.process)?;
        if spec.process.tty || !spec.process.stdin {
            command.stdin(input(&spec.process)?);
        }
        limit(&spec.process)?;
        let error = command.exec();
        let program = spec.command.first().cloned().unwrap_or_default();
        let code = if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        };
        eprintln!("cannot run {program:?}: {error}");
        Ok(code)
    });
    started.or_else(|e| {
        eprintln!("error: {e:#}");
        Ok(126)
    })
}

/// A socket that is read and written, never spliced: a splice that waits for more keeps what it has from the pipe's reader.
struct Plain<R>(R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Standard input without a buffer, which would swallow what follows the frame.
struct Raw;

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        nix::unistd::read(io::stdin(), buffer).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_they_end() {
        let spec = ExecSpec {
            command: vec!["ls".into()],
            ..ExecSpec::default()
        };
        let mut bytes = frame(&spec).unwrap();
        bytes.extend(b"input");
        let mut from = bytes.as_slice();
        let read: ExecSpec = read_frame(&mut from).unwrap();
        assert_eq!(read.command, ["ls"]);
        assert_eq!(from, b"input");
        assert!(read_frame::<ExecSpec>(&b"\xff\xff\xff\xff"[..]).is_err());
        assert!(read_frame::<ExecSpec>(&b"\0\0\0\x09{}"[..]).is_err());
    }
}
