//! Sockets that outlive their process: the agent keeps copies, so that after SIGKILL nobody is turned away. Connections and datagrams
//! wait in the sockets' queues, and the next process serves them.
//!
//! ```text
//! proxy that serves: its sockets        →  agent: keeps them ─ for a while, should the proxy be gone without a word
//! proxy that ends:   one byte           →  agent: lets go of them
//! proxy that starts: asks (no sockets)  →  agent: what it keeps
//! ```
use crate::{
    folder,
    handover::{Parcel, Sockets, receive, send},
};
use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// The agent's socket, in the folder of the proxy's.
const SOCKET: &str = "keeper.sock";
/// How long either end may take for a step.
const STEP: Duration = Duration::from_secs(2);
/// How long nobody serves before whoever waits is turned away: longer than a container's first restart.
const HOLD: Duration = Duration::from_secs(10);
/// Pause before the agent is looked for again.
const AGAIN: Duration = Duration::from_millis(200);
const GOODBYE: u8 = b'.';

#[derive(Default)]
struct Kept {
    /// Counts who gave sockets; the last one's are kept.
    giver: u64,
    parcel: Option<Parcel>,
}

/// The agent's end.
#[derive(Default)]
struct Keeper {
    kept: Mutex<Kept>,
    given: Condvar,
}

/// Keeps the sockets of the proxies of this folder from now on, in threads of its own.
///
/// # Errors
/// The folder cannot be made, or the socket in it.
pub fn keep(run: &Path) -> io::Result<()> {
    folder::private(run)?;
    let path = run.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let keeper = Arc::new(Keeper::default());
    let accept = move || {
        for stream in listener.incoming() {
            let keeper = keeper.clone();
            let talk = move |stream: UnixStream| keeper.talk(stream);
            let begun = stream.and_then(|stream| spawn("proxy-kept", move || talk(stream)));
            if begun.is_err() {
                thread::sleep(AGAIN);
            }
        }
    };
    spawn("proxy-keeper", accept)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(work).map(drop)
}

impl Keeper {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn talk(&self, mut stream: UnixStream) {
        let limits = stream
            .set_read_timeout(Some(STEP))
            .and_then(|()| stream.set_write_timeout(Some(STEP)));
        let Ok(parcel) = limits.and_then(|()| receive(&stream)) else {
            return;
        };
        if parcel.sockets.is_empty() {
            let kept = self.kept();
            let nothing = Parcel::new(Sockets::new());
            let _ = send(&stream, kept.parcel.as_ref().unwrap_or(&nothing));
            return;
        }
        let giver = {
            let mut kept = self.kept();
            kept.giver += 1;
            kept.parcel = Some(parcel);
            kept.giver
        };
        self.given.notify_all();
        let mut byte = [0];
        let left = stream
            .set_read_timeout(None)
            .and_then(|()| stream.read_exact(&mut byte));
        let mut kept = self.kept();
        if left.is_err() {
            let waits = |kept: &mut Kept| kept.giver == giver;
            let waited = self.given.wait_timeout_while(kept, HOLD, waits);
            kept = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if kept.giver == giver {
            kept.parcel = None;
        }
    }
}

/// What the agent keeps; none where there is no agent, or nothing of this network.
///
/// # Errors
/// There is an agent, and it does not answer.
pub(crate) fn ask(run: &Path) -> io::Result<Option<Sockets>> {
    let Ok(stream) = connect(run) else {
        return Ok(None);
    };
    send(&stream, &Parcel::new(Sockets::new()))?;
    Ok(receive(&stream)?.of_use())
}

fn connect(run: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(run.join(SOCKET))?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    Ok(stream)
}

/// The proxy's end: gives its sockets to the agent, and to the next one should that end. Dropped, it says that it goes.
pub(crate) struct Giving(Arc<Given>);

#[derive(Default)]
struct Given {
    line: Mutex<Line>,
    /// Told when it is over.
    over: Condvar,
}

#[derive(Default)]
struct Line {
    over: bool,
    stream: Option<UnixStream>,
}

impl Giving {
    /// Begins, in a thread of its own.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(run: PathBuf, sockets: Sockets) -> io::Result<Self> {
        let given = Arc::new(Given::default());
        let giving = Self(given.clone());
        let parcel = Parcel::new(sockets);
        let give = move || {
            while !given.is_over() {
                // Whoever keeps them has nothing to say but by its end.
                if let Ok(mut stream) = given.give(&run, &parcel) {
                    let _ = stream.read(&mut [0]);
                }
                given.pause();
            }
        };
        spawn("kept", give).map(|()| giving)
    }
}

impl Given {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.line().over
    }

    fn give(&self, run: &Path, parcel: &Parcel) -> io::Result<UnixStream> {
        let stream = connect(run)?;
        stream.set_read_timeout(None)?;
        let mut line = self.line();
        if line.over {
            return Err(io::ErrorKind::NotConnected.into());
        }
        send(&stream, parcel)?;
        line.stream = Some(stream.try_clone()?);
        Ok(stream)
    }

    fn pause(&self) {
        let waits = |line: &mut Line| !line.over;
        drop(self.over.wait_timeout_while(self.line(), AGAIN, waits));
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.over = true;
        if let Some(mut stream) = line.stream.take() {
            let _ = stream.write_all(&[GOODBYE]);
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(line);
        self.0.over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::OwnedFd,
        time::Instant,
    };

    #[track_caller]
    fn soon(what: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(Instant::now() < end, "never");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn sockets_are_kept_by_whoever_is_there_until_their_process_goes() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        assert!(ask(&run).unwrap().is_none());
        folder::private(&run).unwrap();
        let first = UnixListener::bind(run.join(SOCKET)).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let sockets: Sockets = [("http".to_owned(), OwnedFd::from(tcp))].into();
        let giving = Giving::start(run.clone(), sockets).unwrap();
        // One that ends, as an agent does that is replaced.
        let (stream, _) = first.accept().unwrap();
        assert_eq!(receive(&stream).unwrap().sockets.len(), 1);
        drop((first, stream));
        keep(&run).unwrap();
        soon(|| ask(&run).unwrap().is_some());
        let waiting = TcpStream::connect(address).unwrap();
        drop(giving);
        soon(|| ask(&run).unwrap().is_none());
        soon(|| TcpStream::connect(address).is_err());
        drop(waiting);
    }

    #[test]
    fn sockets_of_another_network_are_of_no_use() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut parcel = Parcel::new([("http".to_owned(), OwnedFd::from(tcp))].into());
        assert_ne!(parcel.netns, 0);
        parcel.netns += 1;
        assert!(parcel.of_use().is_none());
    }
}
