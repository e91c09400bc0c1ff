//! Traffic that never stops, to find the one moment in which something passes that may not, or does not that may.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlink::Netns;

/// Time between two packets.
const PACE: Duration = Duration::from_micros(200);
/// How long the receiver waits for what is still on the way.
const QUIET: Duration = Duration::from_millis(100);

/// One datagram after the other, from many source ports in turn, so that there are packets of known connections and of new
/// ones all the time.
#[derive(Debug)]
pub struct Hammer {
    name: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Account>,
}

/// What became of the packets.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// From whom to whom.
    pub name: String,
    /// How many were sent.
    pub sent: u64,
    /// When those arrived that did, by their numbers.
    pub arrived: Vec<(u64, Instant)>,
}

/// Where packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One source port: one connection.
    One,
    /// A new source port for every packet.
    Fresh,
}

impl Hammer {
    /// Starts to send from a namespace to an address in another.
    ///
    /// # Panics
    /// If a socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn start(
        name: &str,
        from: &Netns,
        to: &Netns,
        target: IpAddr,
        port: u16,
        ports: Ports,
    ) -> Self {
        let receiver = to
            .run(|| UdpSocket::bind((target, port)))
            .expect("entering a network namespace")
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        receiver
            .set_nonblocking(true)
            .expect("a socket that does not wait");
        let from = from.try_clone().expect("a handle of a network namespace");
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut account = Account {
            name: name.to_owned(),
            ..Account::default()
        };
        let (told, count) = (stop.clone(), sent.clone());
        let address = SocketAddr::new(target, port);
        let thread = thread::spawn(move || {
            // The namespace may come to be only now, or go away: what cannot be sent is not counted.
            let ran = from.run(|| run(&receiver, address, ports, &told, &count, &mut account));
            ran.expect("entering a network namespace");
            account
        });
        Self {
            name: name.to_owned(),
            stop,
            sent,
            thread,
        }
    }

    /// How many packets were sent until now.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Waits until some more packets were sent.
    ///
    /// # Panics
    /// If none is sent any more.
    #[track_caller]
    pub fn wait_for_more(&self, packets: u64) {
        let (start, from) = (Instant::now(), self.sent());
        while self.sent() < from + packets {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{} does not send",
                self.name
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it; what became of the packets.
    ///
    /// # Panics
    /// If the thread panicked.
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> Account {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the hammer ended early")
    }
}

fn run(
    receiver: &UdpSocket,
    target: SocketAddr,
    ports: Ports,
    stop: &AtomicBool,
    sent: &AtomicU64,
    account: &mut Account,
) {
    let any: IpAddr = if target.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let open = || UdpSocket::bind((any, 0));
    let mut socket = open();
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if ports == Ports::Fresh || socket.is_err() {
            socket = open();
        }
        let is_sent = socket
            .as_ref()
            .is_ok_and(|socket| socket.send_to(&account.sent.to_be_bytes(), target).is_ok());
        if is_sent {
            account.sent += 1;
            sent.store(account.sent, Ordering::Release);
        }
        receive(receiver, account);
        next = (next + PACE).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let end = Instant::now() + QUIET;
    while Instant::now() < end {
        receive(receiver, account);
        thread::sleep(Duration::from_millis(1));
    }
}

fn receive(receiver: &UdpSocket, account: &mut Account) {
    let mut buffer = [0; 64];
    loop {
        match receiver.recv_from(&mut buffer) {
            Ok((8, _)) => {
                let number = buffer[..8]
                    .iter()
                    .fold(0, |number, byte| number << 8 | u64::from(*byte));
                account.arrived.push((number, Instant::now()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

impl Account {
    /// Nothing arrived.
    ///
    /// # Panics
    /// If something did, or nothing was sent.
    #[track_caller]
    pub fn assert_nothing(&self, during: &str) {
        assert!(self.sent > 0, "{}, {during}: nothing was sent", self.name);
        assert!(
            self.arrived.is_empty(),
            "{}, {during}: {} of {} packets passed that may not; the first is number {:?}",
            self.name,
            self.arrived.len(),
            self.sent,
            self.arrived.first().map(|(number, _)| number)
        );
    }

    /// Everything arrived.
    ///
    /// # Panics
    /// If something did not, or nothing was sent.
    #[track_caller]
    pub fn assert_all(&self, during: &str) {
        assert!(self.sent > 0, "{}, {during}: nothing was sent", self.name);
        let arrived: BTreeSet<u64> = self.arrived.iter().map(|(number, _)| *number).collect();
        let mut missing = (0..self.sent).filter(|number| !arrived.contains(number));
        let first = missing.next();
        assert!(
            first.is_none(),
            "{}, {during}: {} of {} packets did not pass that may; the first is number {first:?}",
            self.name,
            1 + missing.count(),
            self.sent
        );
    }

    /// Of the packets from number `since` on, nothing arrived; of those before, something did.
    ///
    /// # Panics
    /// If that is not so.
    #[track_caller]
    pub fn assert_cut_at(&self, since: u64, during: &str) {
        let late: Vec<u64> = self
            .arrived
            .iter()
            .map(|(n, _)| *n)
            .filter(|n| *n >= since)
            .collect();
        assert!(
            self.arrived.iter().any(|(n, _)| *n < since),
            "{}, {during}: nothing passed before",
            self.name
        );
        assert!(
            self.sent > since,
            "{}, {during}: nothing was sent after",
            self.name
        );
        assert!(
            late.is_empty(),
            "{}, {during}: {} packets passed after number {since}: {:?}",
            self.name,
            late.len(),
            late.first()
        );
    }
}
