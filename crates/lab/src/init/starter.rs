//! A node's starter: the process of which the first processes of its containers are copies, and which makes the pods' network
//! namespaces.
//!
//! A program takes longer to load than a container to prepare: the loader asks the processor for its features dozens of times,
//! and every question is a way out of a virtual machine. The starter is loaded once, lives in the node's namespaces, and has a
//! single thread, so that a copy of it may go on as any other process. The kubelet talks to it over a socket that keeps messages
//! apart, JSON both ways; descriptors come along with what is asked.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::container;

/// What the kubelet asks for; the answer has the same number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Tells answers apart.
    pub number: u64,
    /// What is to be made.
    pub make: Make,
}

/// What a starter makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Make {
    /// A network namespace that stays at this path.
    Network(PathBuf),
    /// The first process of a container in the network namespace at this path, or in the node's own. Its standard input, output
    /// and error come with the request.
    Process(Option<PathBuf>),
}

/// What a starter tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// The network namespace is there.
    Network {
        /// Of the request.
        number: u64,
    },
    /// The process runs.
    Process {
        /// Of the request.
        number: u64,
        /// Its id, as the starter and the kubelet see it.
        pid: i32,
    },
    /// It could not be made, and nothing is left of it.
    Failed {
        /// Of the request.
        number: u64,
        /// Why.
        message: String,
    },
    /// A process ended.
    Ended {
        /// Its id.
        pid: i32,
        /// Its status, as wait(2) encodes it.
        status: i32,
    },
}

/// No message is longer.
const LONGEST: usize = 16 << 10;
/// Standard input, output and error.
const STREAMS: usize = 3;

/// Sends a message with descriptors, which stay the caller's.
pub fn send(socket: impl AsFd, message: &impl Serialize, with: &[OwnedFd]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let fds: Vec<_> = with.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(&text)], &mut control, flags)?;
    Ok(())
}

/// The next message with its descriptors; `None` when the other end is gone.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = rights.flatten().collect();
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text[..got.bytes])?, fds)))
}

/// The namespaces that the starter always comes back to.
struct Home {
    net: File,
    pid: File,
}

impl Home {
    fn open() -> io::Result<Home> {
        Ok(Home {
            net: File::open("/proc/self/ns/net")?,
            pid: File::open("/proc/self/ns/pid")?,
        })
    }

    fn back(&self) -> anyhow::Result<()> {
        let failed = "the starter cannot come back to its node";
        setns(&self.net, CloneFlags::CLONE_NEWNET).context(failed)?;
        setns(&self.pid, CloneFlags::CLONE_NEWPID).context(failed)
    }
}

/// Serves the kubelet until it is gone, and is then a container's first process in every copy: the exit code.
pub fn run() -> anyhow::Result<i32> {
    match serve()? {
        None => Ok(0),
        Some(streams) => become_first(streams),
    }
}

/// In a copy: its standard streams; `None` in the starter itself, when the kubelet is gone.
fn serve() -> anyhow::Result<Option<Vec<OwnedFd>>> {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.context("no socket to the kubelet")?;
    let home = Home::open().context("no namespaces")?;
    let ends = SigSet::from(Signal::SIGCHLD);
    ends.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&ends, flags).context("cannot watch for SIGCHLD")?;
    loop {
        let mut both =
            [socket.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut both, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled.context("cannot wait")?,
        };
        let [asked, ended] = both.map(|fd| fd.any().unwrap_or(false));
        if ended {
            while let Ok(Some(_)) = signals.read_signal() {}
            tell_ends(&socket)?;
        }
        if !asked {
            continue;
        }
        let Some((Request { number, make }, streams)) = receive(&socket)? else {
            return Ok(None);
        };
        let told = match make {
            Make::Network(at) => network(&at).map(|()| Told::Network { number }),
            Make::Process(net) => match process(net.as_deref(), &streams) {
                Ok(None) => return Ok(Some(streams)),
                Ok(Some(pid)) => Ok(Told::Process { number, pid }),
                Err(e) => Err(e),
            },
        };
        home.back()?;
        let message = |e| Told::Failed {
            number,
            message: format!("{e:#}"),
        };
        send(&socket, &told.unwrap_or_else(message), &[])?;
    }
}

/// Tells of every process that ended.
fn tell_ends(socket: &OwnedFd) -> anyhow::Result<()> {
    loop {
        let (pid, status) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code << 8),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return Ok(()),
            Ok(_) => continue,
        };
        let pid = pid.as_raw();
        send(socket, &Told::Ended { pid, status }, &[])?;
    }
}

/// Makes a network namespace that stays at a path. The caller is in it afterwards.
fn network(at: &Path) -> anyhow::Result<()> {
    let make = || {
        let mut file = OpenOptions::new();
        file.write(true).create_new(true).open(at)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let (own, none) = (Some("/proc/self/ns/net"), None::<&str>);
        mount(own, at, none, MsFlags::MS_BIND, none)?;
        anyhow::Ok(netlink::Handle::new()?.link_up("lo")?)
    };
    make().with_context(|| {
        let _ = netlink::netns::delete_at(at);
        format!("cannot make {}", at.display())
    })
}

/// Copies this process into a new pid namespace: the copy's id, or `None` in the copy.
fn process(net: Option<&Path>, streams: &[OwnedFd]) -> anyhow::Result<Option<i32>> {
    if streams.len() != STREAMS {
        bail!("{} of {STREAMS} descriptors came", streams.len());
    }
    if let Some(net) = net {
        let net = File::open(net).context("no network namespace")?;
        setns(net, CloneFlags::CLONE_NEWNET).context("no network namespace")?;
    }
    // For the next process that is made.
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a pid namespace")?;
    match fork::fork().context("cannot copy the starter")? {
        fork::Fork::Parent(pid) => Ok(Some(pid)),
        fork::Fork::Child => Ok(None),
    }
}

/// Goes on as the first process of a container.
fn become_first(streams: Vec<OwnedFd>) -> anyhow::Result<i32> {
    SigSet::from(Signal::SIGCHLD).thread_unblock()?;
    nix::unistd::dup2_stdin(&streams[0])?;
    nix::unistd::dup2_stdout(&streams[1])?;
    nix::unistd::dup2_stderr(&streams[2])?;
    drop(streams);
    container::pid1()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn messages_stay_apart_and_bring_descriptors() {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (mut read, write) = io::pipe().unwrap();
        let first = Request {
            number: 1,
            make: Make::Process(Some("/run/netns/x".into())),
        };
        let second = Request {
            number: 2,
            make: Make::Network("/run/netns/y".into()),
        };
        send(&ours, &first, &[write.into()]).unwrap();
        send(&ours, &second, &[]).unwrap();
        let (got, mut fds) = receive::<Request>(&theirs).unwrap().unwrap();
        assert_eq!(got, first);
        File::from(fds.pop().unwrap()).write_all(b"here").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here", "the sender's copy is closed, too");
        let (got, fds) = receive::<Request>(&theirs).unwrap().unwrap();
        assert_eq!((got, fds.len()), (second, 0));
        drop(ours);
        assert!(receive::<Request>(&theirs).unwrap().is_none());
    }
}
