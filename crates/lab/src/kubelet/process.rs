//! Processes in containers: how the kubelet starts the first one and further commands, and how it reaches their input and output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};

use super::node::{Node, aside};
use super::starter::{FirstProcess, Starter};
use crate::cgroup::Cgroup;
use crate::init::container::{ContainerSpec, ExecSpec, JOINED, Process, frame};
use crate::ns::Namespaces;
use crate::proc::ProcId;

/// The kubelet's end of a terminal. Its two directions are handled as pipes, which is what the runtime has for descriptors.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    from: Arc<pipe::Receiver>,
    to: Arc<pipe::Sender>,
}

impl Terminal {
    /// A terminal, and the end for the program.
    fn open() -> io::Result<(Terminal, OwnedFd)> {
        let pair = nix::pty::openpty(None, None)?;
        for fd in [&pair.master, &pair.slave] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::RDWR;
        rustix::fs::fcntl_setfl(&pair.master, flags)?;
        let terminal = Terminal {
            from: Arc::new(pipe::Receiver::from_owned_fd_unchecked(
                pair.master.try_clone()?,
            )?),
            to: Arc::new(pipe::Sender::from_owned_fd_unchecked(pair.master)?),
        };
        terminal.resize(80, 24);
        Ok((terminal, pair.slave))
    }

    /// What the program wrote; 0 when nobody has it open any more.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.from.readable().await?;
            match self.from.try_read(buffer) {
                Err(e) if e.raw_os_error() == Some(nix::libc::EIO) => return Ok(0),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Types.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.to.writable().await?;
            match self.to.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                put => bytes = &bytes[put?..],
            }
        }
        Ok(())
    }

    /// Changes its size, in characters.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A terminal without a program does not care.
        let _ = rustix::termios::tcsetwinsize(self.to.as_fd(), size);
    }
}

/// Where a process's output comes from.
pub(crate) enum Output {
    /// Standard output and error.
    Pipes(
        Box<dyn AsyncRead + Send + Unpin>,
        Box<dyn AsyncRead + Send + Unpin>,
    ),
    /// One terminal.
    Terminal(Terminal),
}

/// Where a process's output will come from, and its ends of that: standard output and error.
fn output(tty: bool) -> io::Result<(Output, [OwnedFd; 2])> {
    if tty {
        let (terminal, slave) = Terminal::open()?;
        return Ok((Output::Terminal(terminal), [slave.try_clone()?, slave]));
    }
    let pipe = || -> io::Result<(Box<dyn AsyncRead + Send + Unpin>, OwnedFd)> {
        let (read, write) = io::pipe()?;
        Ok((
            Box::new(pipe::Receiver::from_owned_fd(read.into())?),
            write.into(),
        ))
    };
    let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
    Ok((Output::Pipes(out, err), [out_end, err_end]))
}

/// A container's first process.
pub(crate) struct Started {
    pub(crate) process: FirstProcess,
    pub(crate) control: tokio::net::UnixStream,
    pub(crate) output: Output,
}

/// Starts a container's first process, in the network namespace `net` of the node or in the node's own.
pub(crate) async fn start(
    node: &Node,
    starter: &Starter,
    net: Option<&Path>,
    cgroup: &Cgroup,
    spec: &ContainerSpec,
) -> anyhow::Result<Started> {
    cgroup.create()?;
    let stage = node.path(&spec.root.stage);
    std::fs::create_dir_all(&stage).with_context(|| format!("cannot make {}", stage.display()))?;
    let (ours, theirs) = UnixStream::pair().context("no socket")?;
    ours.set_nonblocking(true).context("no socket")?;
    let (output, [out, err]) = output(spec.process.tty).context("no output")?;
    let started = starter.process(net, [theirs.into(), out, err]).await;
    let process = started.context("cannot start the container's first process")?;
    let mut control = tokio::net::UnixStream::from_std(ours).context("no socket")?;
    // It prepares itself meanwhile, and waits before it needs its group or starts anything.
    let joined = join(cgroup, process.id.pid);
    let sent = control.write_all(&frame(spec)?).await;
    sent.context("the container's first process ended at once")?;
    joined.await?;
    let told = control.write_all(&[JOINED]).await;
    told.context("the container's first process ended at once")?;
    Ok(Started {
        process,
        control,
        output,
    })
}

/// Moves a process into a group, beside what the caller does: the kernel waits for all processors first, which takes it longer
/// than a container to start, and no thread of the runtime may wait for that.
fn join(cgroup: &Cgroup, pid: i32) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let cgroup = cgroup.clone();
    let joined = tokio::task::spawn_blocking(move || cgroup.join(pid));
    async move {
        Ok(joined
            .await
            .context("the thread that moves processes panicked")??)
    }
}

/// What is known of a container that runs, enough to start commands in it.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    pub(crate) process: ProcId,
    pub(crate) cgroup: Cgroup,
    pub(crate) how: Process,
}

/// A command in a container. Killed, with what it started in its session, when dropped before its end.
pub(crate) struct Executed {
    child: Child,
    pid: Option<i32>,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) output: Option<Output>,
}

impl Executed {
    /// Waits for its end: the exit code as shells have it.
    pub(crate) async fn wait(&mut self) -> io::Result<i32> {
        let status = self.child.wait().await?;
        self.pid = None;
        Ok(crate::init::container::exit_code(status))
    }
}

impl Drop for Executed {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // Its helper makes it the leader of a session first of all.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Starts a command in a container.
pub(crate) async fn exec(
    inside: &Inside,
    lab: &str,
    command: Vec<String>,
    stdin: bool,
    tty: bool,
) -> anyhow::Result<Executed> {
    let mut how = inside.how.clone();
    (how.stdin, how.tty) = (stdin, tty);
    if tty && !how.env.iter().any(|(k, _)| k == "TERM") {
        how.env.push(("TERM".into(), "xterm".into()));
    }
    let namespaces =
        Namespaces::of_container(inside.process.pid).context("the container has ended")?;
    if !inside.process.alive() {
        anyhow::bail!("the container has ended");
    }
    // By this name it is found whatever the container has mounted where.
    let mut helper = Command::new("/proc/self/exe");
    helper
        .args(["lab", crate::init::SUBCOMMAND, "exec"])
        .env_clear()
        .env(crate::init::LAB_ENV, lab)
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    let (output, [out, err]) = output(tty).context("no output")?;
    helper.stdout(out).stderr(err);
    let runtime = tokio::runtime::Handle::current();
    let spawned = aside(move || {
        namespaces.enter()?;
        let _guard = runtime.enter();
        helper.spawn()
    });
    let mut child = spawned
        .await?
        .context("cannot start a process in the container")?;
    let pid = child.id().map(|p| p as i32);
    let mut executed = Executed {
        stdin: child.stdin.take(),
        output: Some(output),
        child,
        pid,
    };
    if let Some(pid) = pid {
        // It waits for its description meanwhile. A group on its way out: the command ends with the container.
        let _ = join(&inside.cgroup, pid).await;
    }
    let spec = frame(&ExecSpec {
        command,
        process: how,
    })?;
    if let Some(pipe) = &mut executed.stdin {
        pipe.write_all(&spec)
            .await
            .context("the command ended at once")?;
    }
    if !stdin || tty {
        executed.stdin = None;
    }
    Ok(executed)
}

/// Runs a command to its end without input: exit code, and the beginning of what it wrote.
pub(crate) async fn run(
    inside: &Inside,
    lab: &str,
    command: Vec<String>,
) -> anyhow::Result<(i32, String)> {
    const KEPT: u64 = 10 << 10;
    let mut executed = exec(inside, lab, command, false, false).await?;
    let mut text = Vec::new();
    if let Some(Output::Pipes(out, err)) = executed.output.take() {
        let (mut from_out, mut from_err) = (Vec::new(), Vec::new());
        let read = async |mut from: Box<dyn AsyncRead + Send + Unpin>, to: &mut Vec<u8>| {
            let _ = (&mut from).take(KEPT).read_to_end(to).await;
            // The rest is thrown away, so that the command does not block.
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        };
        tokio::join!(read(out, &mut from_out), read(err, &mut from_err));
        text = from_out;
        text.extend(from_err);
    }
    let code = executed.wait().await?;
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}
