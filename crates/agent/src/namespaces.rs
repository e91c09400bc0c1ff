//! What is to be done inside of the pods' network namespaces, which the agent itself may not enter.
//!
//! A helper may: a process that is started before the agent gives its capabilities up, keeps the two that it needs, and answers
//! two questions, a line of JSON each. It ends with the agent.
use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use netlink::{
    netns,
    sock_diag::{SockDiag, is_unsupported},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The hidden command that is the helper.
pub const COMMAND: &str = "agent-namespaces";
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A question.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// What the kernel's programs call the namespace at this path.
    Cookie(String),
    /// Ends those sockets of the namespace at this path.
    End(String, BTreeSet<u64>),
}

/// Enters namespaces, by itself or with a helper.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Option<Arc<Mutex<Helper>>>);

#[derive(Debug)]
struct Helper {
    stream: BufReader<UnixStream>,
    child: Child,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends when nobody asks any longer.
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl Namespaces {
    /// Starts a helper. To be called while the process may still enter namespaces.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (own, other) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, flags).context("socketpair")?;
        let program = std::env::current_exe().context("looking for this program")?;
        let child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::from(other))
            .stdout(Stdio::null())
            .spawn()
            .context("starting the helper for namespaces")?;
        let stream = UnixStream::from(own);
        stream
            .set_read_timeout(Some(LIMIT))
            .context("setting a time limit")?;
        let helper = Helper {
            stream: BufReader::new(stream),
            child,
        };
        Ok(Self(Some(Arc::new(Mutex::new(helper)))))
    }

    /// What the kernel's programs call the namespace at a path; none where nobody can tell.
    #[must_use]
    pub fn cookie(&self, path: &str) -> Option<u64> {
        self.ask(&Question::Cookie(path.to_owned())).ok()
    }

    /// Ends those sockets that are in the namespace at a path; gives them.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn end(&self, path: &str, cookies: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
        self.ask(&Question::End(path.to_owned(), cookies.clone()))
    }

    fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, String> {
        let answer = match &self.0 {
            None => answer(question),
            Some(helper) => {
                let mut helper = helper.lock().unwrap_or_else(PoisonError::into_inner);
                helper
                    .ask(question)
                    .map_err(|error| format!("the helper for namespaces: {error:#}"))?
            }
        }?;
        serde_json::from_value(answer).map_err(|error| error.to_string())
    }
}

type Answer = Result<serde_json::Value, String>;

impl Helper {
    fn ask(&mut self, question: &Question) -> Result<Answer> {
        let mut line = serde_json::to_string(question)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "it has ended");
        Ok(serde_json::from_str(&line)?)
    }
}

/// Is the helper: answers what comes by the standard input, a socket, until it is closed.
///
/// # Errors
/// The standard input is no such socket.
pub fn help() -> Result<()> {
    let kept: CapsHashSet = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]
        .into_iter()
        .collect();
    let own = caps::read(None, CapSet::Permitted).context("reading the capabilities")?;
    let kept: CapsHashSet = kept.intersection(&own).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).context("reducing the capabilities")?;
    }
    let input: OwnedFd = nix::unistd::dup(std::io::stdin()).context("the standard input")?;
    let stream = UnixStream::from(input);
    let mut out = stream.try_clone().context("the standard input")?;
    for line in BufReader::new(stream).lines() {
        let question = serde_json::from_str::<Question>(&line?)?;
        let mut line = serde_json::to_string(&answer(&question))?;
        line.push('\n');
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn answer(question: &Question) -> Answer {
    let value = match question {
        Question::Cookie(path) => {
            let ns = netns::open(path).map_err(|error| error.to_string())?;
            let found = ns
                .run(datapath::netns_cookie)
                .map_err(|error| error.to_string())?;
            let cookie = found.map_err(|error| error.to_string())?;
            let cookie = cookie.ok_or("the kernel has no numbers of namespaces (Linux 5.14)")?;
            serde_json::to_value(cookie)
        }
        Question::End(path, cookies) => {
            let ns = netns::open(path).map_err(|error| error.to_string())?;
            let ended = ns
                .run(|| end_here(cookies))
                .map_err(|error| error.to_string())?;
            serde_json::to_value(ended?)
        }
    };
    value.map_err(|error| error.to_string())
}

/// Ends those sockets that are in the calling thread's namespace; gives them.
///
/// # Errors
/// The kernel refuses, or cannot do it at all.
pub fn end_here(cookies: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
    let ended = || -> netlink::Result<BTreeSet<u64>> {
        let mut diag = SockDiag::new()?;
        let mut ended = BTreeSet::new();
        for socket in diag.connected_udp()? {
            if cookies.contains(&socket.cookie) {
                diag.destroy(&socket)?;
                ended.insert(socket.cookie);
            }
        }
        Ok(ended)
    };
    ended().map_err(|error| match is_unsupported(&error) {
        true => "the kernel cannot end sockets (CONFIG_INET_DIAG_DESTROY)".to_owned(),
        false => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_of_another_namespace_is_ended_and_others_stay() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let ns = netns::create_unnamed().unwrap();
        let sockets = ns
            .run(|| {
                let mut handle = netlink::Handle::new().unwrap();
                handle.link_up("lo").unwrap();
                let pair: Vec<UdpSocket> = (0..2)
                    .map(|_| {
                        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                        socket.connect("127.0.0.1:9").unwrap();
                        socket
                    })
                    .collect();
                pair
            })
            .unwrap();
        let listed = ns
            .run(|| SockDiag::new().unwrap().connected_udp().unwrap())
            .unwrap();
        assert_eq!(listed.len(), 2);
        // As a container runtime gives it.
        use std::os::fd::{AsFd, AsRawFd};
        let path = format!("/proc/self/fd/{}", ns.as_fd().as_raw_fd());
        let namespaces = Namespaces::default();
        let own = datapath::netns_cookie().unwrap();
        assert!(own.is_none() || namespaces.cookie(&path) != own);
        let gone: BTreeSet<u64> = [listed[0].cookie, 1].into_iter().collect();
        match namespaces.end(&path, &gone) {
            Err(error) if error.contains("cannot end sockets") => return,
            ended => assert_eq!(ended.unwrap(), [listed[0].cookie].into_iter().collect()),
        }
        let left = ns
            .run(|| SockDiag::new().unwrap().connected_udp().unwrap())
            .unwrap();
        assert_eq!(left, [listed[1].clone()]);
        drop(sockets);
        assert!(namespaces.end("/nowhere", &gone).is_err());
    }
}
