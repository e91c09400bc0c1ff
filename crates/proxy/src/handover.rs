//! Replacement without a gap: the new process takes the old one's listening sockets, and the old one goes on until it hears that
//! the new one serves. Both accept from the same queues in between: no connection is refused, whatever happens to either.
//!
//! ```text
//! new: connect                     old: sockets and their names  (SCM_RIGHTS)
//! new: serves, then one byte   →   old: takes nothing new any more, and drains
//! ```
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

/// Most sockets in one go.
pub const SOCKETS_MAX: usize = 64;
/// Longest list of their names.
const NAMES_MAX: usize = 16 << 10;
/// How long the other process may take for a step.
const STEP: Duration = Duration::from_secs(10);
const SERVING: u8 = b'!';

/// Listening sockets by the names of what listens.
pub type Sockets = BTreeMap<String, OwnedFd>;

#[derive(Serialize, Deserialize)]
struct Offer {
    format: u32,
    names: Vec<String>,
    /// Number of the network namespace that the sockets are in; 0 where nobody knows.
    #[serde(default)]
    netns: u64,
}

const FORMAT: u32 = 1;

/// What was taken over; to be confirmed once it serves.
#[derive(Debug)]
pub struct Taken {
    /// The sockets.
    pub sockets: Sockets,
    stream: UnixStream,
}

/// What is sent from process to process.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) sockets: Sockets,
    /// Number of the network namespace that they are in; 0 where nobody knows.
    pub(crate) netns: u64,
}

impl Parcel {
    /// Sockets of the calling thread's network.
    pub(crate) fn new(sockets: Sockets) -> Self {
        let netns = own_netns();
        Self { sockets, netns }
    }

    /// The sockets, if they are of use in the calling thread's network.
    pub(crate) fn of_use(self) -> Option<Sockets> {
        let known = [self.netns, own_netns()];
        let elsewhere = known[0] != known[1] && !known.contains(&0);
        (!elsewhere && !self.sockets.is_empty()).then_some(self.sockets)
    }
}

fn own_netns() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |netns| netns.ino())
}

/// Asks the process at `path` for its sockets; `None` where there is none, or none of this network.
///
/// # Errors
/// There is one, and it does not hand them over.
pub fn take(path: &Path) -> io::Result<Option<Taken>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // What a process that was killed leaves behind, or nothing at all.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(STEP))?;
    let parcel = receive(&stream)?;
    Ok(parcel.of_use().map(|sockets| Taken { sockets, stream }))
}

impl Taken {
    /// Tells the old process that it may go.
    ///
    /// # Errors
    /// It is gone already.
    pub fn confirm(mut self) -> io::Result<()> {
        self.stream.write_all(&[SERVING])
    }
}

/// Hands sockets to whoever connects until one confirms that it serves. Blocks.
///
/// # Errors
/// The listener is of no use any more.
pub fn offer(listener: &UnixListener, sockets: Sockets) -> io::Result<()> {
    let parcel = Parcel::new(sockets);
    loop {
        let (stream, _) = listener.accept()?;
        match hand_over(stream, &parcel) {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the new process did not take over; this one goes on")
            }
        }
    }
}

fn hand_over(mut stream: UnixStream, parcel: &Parcel) -> io::Result<()> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    send(&stream, parcel)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte[0] == SERVING {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

pub(crate) fn send(stream: &UnixStream, parcel: &Parcel) -> io::Result<()> {
    let Parcel { sockets, netns } = parcel;
    if sockets.len() > SOCKETS_MAX {
        return Err(io::Error::other(format!("more than {SOCKETS_MAX} sockets")));
    }
    let text = serde_json::to_vec(&Offer {
        format: FORMAT,
        names: sockets.keys().cloned().collect(),
        netns: *netns,
    })?;
    let fds: Vec<_> = sockets.values().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("the sockets do not fit"));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&text)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent < text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

pub(crate) fn receive(stream: &UnixStream) -> io::Result<Parcel> {
    let mut text = vec![0; NAMES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    text.truncate(received.bytes);
    let offer: Offer = serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if offer.format != FORMAT || offer.names.len() != fds.len() {
        let why = format!(
            "{} names for {} sockets in format {}, {FORMAT} is understood",
            offer.names.len(),
            fds.len(),
            offer.format
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Parcel {
        sockets: offer.names.into_iter().zip(fds).collect(),
        netns: offer.netns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_listening_socket_changes_hands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        assert!(take(&path).unwrap().is_none());
        let listener = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let sockets: Sockets = [("http".to_owned(), OwnedFd::from(tcp))].into();
        let old = std::thread::spawn(move || offer(&listener, sockets));

        // One that gives up half-way changes nothing.
        drop(take(&path).unwrap().unwrap());
        let mut waiting = TcpStream::connect(address).unwrap();
        waiting.write_all(b"x").unwrap();
        let mut taken = take(&path).unwrap().unwrap();
        let fd = taken.sockets.remove("http").unwrap();
        taken.confirm().unwrap();
        old.join().unwrap().unwrap();
        // The old one's sockets are closed; who was in the queue is not lost.
        let (mut accepted, _) = TcpListener::from(fd).accept().unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        // The path is still there, and nobody behind it.
        assert!(take(&path).unwrap().is_none());
    }
}
