//! Many questions at once: does a packet from here to there arrive, and does its answer come back?
//!
//! Servers and clients are sockets of this process that were made in the pods' network namespaces; one loop serves all of
//! them. What must pass is waited for; what must not has been sent before, on the same machine, so that it would have
//! arrived by then.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket,
    sockopt,
};

use super::raw::{self, Sctp};
use super::stage::{Actor, PORTS, Role, Stage};

/// How long one round waits for what must pass. On an idle machine that takes a few milliseconds.
const LIMIT: Duration = Duration::from_millis(1500);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(8);
/// How long the loop goes on once everything that must pass has passed, for what must not.
const AFTER: Duration = Duration::from_millis(8);

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A connection.
    Tcp,
    /// A datagram and its echo.
    Udp,
    /// The first packet of an association and its answer.
    Sctp,
    /// A ping.
    Icmp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];

    /// Number of the protocol.
    #[must_use]
    pub const fn number(self, ipv4: bool) -> u8 {
        match (self, ipv4) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Sctp, _) => 132,
            (Self::Icmp, true) => 1,
            (Self::Icmp, false) => 58,
        }
    }
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Place of the sender in the stage's list.
    pub source: usize,
    /// Place of the receiver.
    pub destination: usize,
    /// How.
    pub kind: Kind,
    /// To which port; zero for a ping.
    pub port: u16,
    /// Family.
    pub ipv4: bool,
}

impl Cell {
    /// For people.
    #[must_use]
    pub fn text(&self, stage: &Stage) -> String {
        let family = if self.ipv4 { "ipv4" } else { "ipv6" };
        let name = |place: usize| stage.actors[place].name.as_str();
        format!(
            "{} → {} {:?} {} {family}",
            name(self.source),
            name(self.destination),
            self.kind,
            self.port
        )
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The receiver got the packet.
    pub arrived: bool,
    /// The sender got the answer.
    pub answered: bool,
}

/// All pairs of pods, and between pods and the other actors what such can talk: everything with all protocols and ports.
#[must_use]
pub fn whole_table(stage: &Stage, ipv4: bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (source, from) in stage.actors.iter().enumerate() {
        for (destination, to) in stage.actors.iter().enumerate() {
            // What is not a pod answers to no one but pods, and nobody outside knows the way to pods.
            let may_ask = match (from.is_pod(), to.is_pod()) {
                (true, true) => source != destination,
                (true, false) => to.node.is_empty(),
                (false, true) => !from.node.is_empty(),
                (false, false) => false,
            };
            if !may_ask || from.ip(ipv4).is_none() || to.ip(ipv4).is_none() {
                continue;
            }
            for kind in Kind::ALL {
                // Masquerade knows no SCTP.
                if kind == Kind::Sctp && !(from.is_pod() && to.is_pod()) {
                    continue;
                }
                cells.extend(at_ports(source, destination, kind, ipv4));
            }
        }
    }
    cells
}

/// A question for each port that is asked about; echo has none.
fn at_ports(
    source: usize,
    destination: usize,
    kind: Kind,
    ipv4: bool,
) -> impl Iterator<Item = Cell> {
    let ports = if kind == Kind::Icmp { &[0][..] } else { &PORTS };
    ports.iter().map(move |&port| Cell {
        source,
        destination,
        kind,
        port,
        ipv4,
    })
}

/// What concerns nodes: between them, from and to the outside, between a node and pods.
#[must_use]
pub fn host_table(stage: &Stage, ipv4: bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (source, from) in stage.actors.iter().enumerate() {
        for (destination, to) in stage.actors.iter().enumerate() {
            let is_host = |actor: &Actor| actor.role == Role::Host;
            let asks = match (is_host(from), is_host(to)) {
                (true, true) => source != destination,
                // Other nodes know a pod that asks them by its node's address.
                (false, true) => !from.is_pod() || from.node == to.node,
                (true, false) => true,
                (false, false) => false,
            };
            if !asks || from.ip(ipv4).is_none() || to.ip(ipv4).is_none() {
                continue;
            }
            for kind in [Kind::Tcp, Kind::Udp, Kind::Icmp] {
                cells.extend(at_ports(source, destination, kind, ipv4));
            }
        }
    }
    cells
}

/// The sockets that answer at one actor, in one family.
#[derive(Debug)]
struct Answerer {
    listeners: Vec<TcpListener>,
    echoes: Vec<UdpSocket>,
    sctp: UdpSocket,
}

/// Answerers in every actor.
#[derive(Debug)]
pub struct Prober {
    ipv4: bool,
    answerers: Vec<Option<Answerer>>,
    round: u16,
}

/// Makes sockets inside a namespace.
#[track_caller]
fn inside<T: Send>(netns: &Netns, what: &str, make: impl FnOnce() -> io::Result<T> + Send) -> T {
    let made = netns.run(make).expect("entering a network namespace");
    made.unwrap_or_else(|error| panic!("{what}: {error}"))
}

impl Prober {
    /// Starts to answer.
    ///
    /// # Panics
    /// If a socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(stage: &Stage, ipv4: bool) -> Self {
        let answerers = stage.actors.iter().map(|actor| {
            let ip = actor.ip(ipv4)?;
            Some(inside(&actor.netns, &actor.name, || Answerer::new(ip)))
        });
        Self {
            ipv4,
            answerers: answerers.collect(),
            round: 0,
        }
    }

    /// Whether it asks by IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.ipv4
    }

    /// Asks all questions at once; what became of each. Ends as soon as everything in `wanted` is answered.
    ///
    /// # Panics
    /// If a socket cannot be made.
    #[must_use]
    #[track_caller]
    pub fn ask(&mut self, stage: &Stage, cells: &[Cell], wanted: &[bool]) -> Vec<Outcome> {
        self.round = self.round.wrapping_add(1);
        let mut round = Round::new(self, stage, cells);
        round.run(&self.answerers, wanted);
        round.outcomes
    }
}

impl Answerer {
    fn new(ip: IpAddr) -> io::Result<Self> {
        let (mut listeners, mut echoes) = (Vec::new(), Vec::new());
        for port in PORTS {
            let listener = TcpListener::bind((ip, port))?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
            let echo = UdpSocket::bind((ip, port))?;
            echo.set_nonblocking(true)?;
            echoes.push(echo);
        }
        Ok(Self {
            listeners,
            echoes,
            sctp: raw::sctp_socket(ip.is_ipv4())?,
        })
    }
}

/// The clients of one actor in one round.
struct Asker {
    udp: UdpSocket,
    sctp: UdpSocket,
    icmp: UdpSocket,
    /// Connections that are being made, with the number of their question.
    tcp: Vec<(u32, OwnedFd)>,
}

struct Round<'a> {
    ipv4: bool,
    number: u16,
    cells: &'a [Cell],
    askers: BTreeMap<usize, Asker>,
    outcomes: Vec<Outcome>,
}

impl<'a> Round<'a> {
    #[track_caller]
    fn new(prober: &Prober, stage: &Stage, cells: &'a [Cell]) -> Self {
        let mut round = Self {
            ipv4: prober.ipv4,
            number: prober.round,
            cells,
            askers: BTreeMap::new(),
            outcomes: vec![Outcome::default(); cells.len()],
        };
        for (source, actor) in stage.actors.iter().enumerate() {
            let connections = cells
                .iter()
                .filter(|cell| cell.source == source && cell.kind == Kind::Tcp)
                .count();
            if !cells.iter().any(|cell| cell.source == source) {
                continue;
            }
            let ipv4 = prober.ipv4;
            let asker = inside(&actor.netns, &actor.name, || Asker::new(ipv4, connections));
            round.askers.insert(source, asker);
        }
        for (number, cell) in cells.iter().enumerate() {
            let Some(ip) = stage.actors[cell.destination].ip(prober.ipv4) else {
                continue;
            };
            round.send(number as u32, cell, ip);
        }
        round
    }

    #[track_caller]
    fn send(&mut self, number: u32, cell: &Cell, ip: IpAddr) {
        let Some(asker) = self.askers.get_mut(&cell.source) else {
            return;
        };
        let target = SocketAddr::new(ip, cell.port);
        let sent = match cell.kind {
            Kind::Tcp => {
                let unused = asker.tcp.iter_mut().find(|(number, _)| *number == u32::MAX);
                let Some((mark, fd)) = unused else { return };
                *mark = number;
                let address = SockaddrStorage::from(target);
                match connect(fd.as_raw_fd(), &address) {
                    Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(0),
                    Err(error) => Err(error.into()),
                }
            }
            Kind::Udp => asker.udp.send_to(&message(self.number, number), target),
            Kind::Sctp => {
                let packet = Sctp {
                    source: 20_000 + self.number % 40_000,
                    destination: cell.port,
                    is_answer: false,
                    tag: tag(self.number, number),
                };
                asker.sctp.send_to(&packet.bytes(), raw::to(ip))
            }
            Kind::Icmp => {
                let packet = raw::echo_request(self.ipv4, self.number, number as u16);
                asker.icmp.send_to(&packet, raw::to(ip))
            }
        };
        match sent {
            Ok(_) => {}
            // The node's own programs dropped it on its way out.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            Err(error) => panic!("sending {cell:?}: {error}"),
        }
    }

    fn run(&mut self, answerers: &[Option<Answerer>], wanted: &[bool]) {
        let mut end = Instant::now() + LIMIT;
        let mut is_done = false;
        loop {
            self.answer(answerers);
            self.receive();
            let all = self
                .outcomes
                .iter()
                .zip(wanted)
                .all(|(outcome, wanted)| outcome.answered || !wanted);
            if all && !is_done {
                is_done = true;
                end = Instant::now() + AFTER;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.wait(answerers, left);
        }
    }

    fn wait(&self, answerers: &[Option<Answerer>], left: Duration) {
        let mut fds = Vec::new();
        for answerer in answerers.iter().flatten() {
            fds.extend(
                answerer
                    .listeners
                    .iter()
                    .map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)),
            );
            fds.extend(
                answerer
                    .echoes
                    .iter()
                    .map(|e| PollFd::new(e.as_fd(), PollFlags::POLLIN)),
            );
            fds.push(PollFd::new(answerer.sctp.as_fd(), PollFlags::POLLIN));
        }
        for asker in self.askers.values() {
            let sockets = [&asker.udp, &asker.sctp, &asker.icmp];
            fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
            let open = asker.tcp.iter().filter(|(number, _)| *number != u32::MAX);
            fds.extend(open.map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        }
        let millis = u16::try_from(left.as_millis().max(1)).unwrap_or(u16::MAX);
        // Interrupted or not: the loop looks at everything again.
        let _ = poll(&mut fds, PollTimeout::from(millis));
    }

    /// The servers' part.
    fn answer(&mut self, answerers: &[Option<Answerer>]) {
        let mut buffer = [0; 2048];
        for answerer in answerers.iter().flatten() {
            for listener in &answerer.listeners {
                // That the client is connected says enough.
                while let Ok((stream, _)) = listener.accept() {
                    drop(stream);
                }
            }
            for echo in &answerer.echoes {
                while let Some((length, from)) = received(echo, &mut buffer) {
                    self.arrived(&buffer[..length]);
                    let _ = echo.send_to(&buffer[..length], from);
                }
            }
            while let Some((length, from)) = received(&answerer.sctp, &mut buffer) {
                let Some(packet) = Sctp::read(&buffer[..length], self.ipv4) else {
                    continue;
                };
                if packet.is_answer {
                    continue;
                }
                if let Some(number) = self.number_of(packet.tag) {
                    self.outcomes[number].arrived = true;
                }
                let answer = Sctp {
                    source: packet.destination,
                    destination: packet.source,
                    is_answer: true,
                    ..packet
                };
                let _ = answerer.sctp.send_to(&answer.bytes(), raw::to(from.ip()));
            }
        }
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if let Some(number) =
            number_in(bytes, self.number).filter(|number| *number < self.outcomes.len())
        {
            self.outcomes[number].arrived = true;
        }
    }

    fn number_of(&self, tag: u32) -> Option<usize> {
        let number = (tag & 0xffff) as usize;
        (tag >> 16 == u32::from(self.number) && number < self.cells.len()).then_some(number)
    }

    /// The clients' part.
    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        let mut answered = Vec::new();
        for asker in self.askers.values_mut() {
            while let Some((length, _)) = received(&asker.udp, &mut buffer) {
                answered.extend(number_in(&buffer[..length], self.number));
            }
            while let Some((length, _)) = received(&asker.sctp, &mut buffer) {
                let packet =
                    Sctp::read(&buffer[..length], self.ipv4).filter(|packet| packet.is_answer);
                let of_round = packet.filter(|packet| packet.tag >> 16 == u32::from(self.number));
                answered.extend(of_round.map(|packet| (packet.tag & 0xffff) as usize));
            }
            while let Some((length, _)) = received(&asker.icmp, &mut buffer) {
                let reply = raw::echo_reply(&buffer[..length], self.ipv4);
                let of_round = reply.filter(|(id, _)| *id == self.number);
                answered.extend(of_round.map(|(_, sequence)| usize::from(sequence)));
            }
            asker.tcp.retain(|(number, fd)| match is_connected(fd) {
                Some(is_good) => {
                    answered.extend(is_good.then_some(*number as usize));
                    false
                }
                None => true,
            });
        }
        for number in answered {
            if let Some(outcome) = self.outcomes.get_mut(number) {
                *outcome = Outcome {
                    arrived: true,
                    answered: true,
                };
            }
        }
    }
}

impl Asker {
    fn new(ipv4: bool, connections: usize) -> io::Result<Self> {
        let any: IpAddr = if ipv4 { [0; 4].into() } else { [0; 16].into() };
        let udp = UdpSocket::bind((any, 0))?;
        udp.set_nonblocking(true)?;
        let family = if ipv4 {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let mut tcp = Vec::new();
        for _ in 0..connections {
            let fd = socket(family, SockType::Stream, flags, None)?;
            // Closing resets: thousands of connections would wait for their end else.
            let linger = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&fd, sockopt::Linger, &linger)?;
            tcp.push((u32::MAX, fd));
        }
        Ok(Self {
            udp,
            sctp: raw::sctp_socket(ipv4)?,
            icmp: raw::icmp_socket(ipv4)?,
            tcp,
        })
    }
}

/// True if a connection came about, false if it failed; none while that is open.
fn is_connected(fd: &OwnedFd) -> Option<bool> {
    let mut poll_fd = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut poll_fd, PollTimeout::ZERO).unwrap_or(0);
    if ready == 0 {
        return None;
    }
    // A socket that was never connected says so by hanging up.
    let error = getsockopt(fd, sockopt::SocketError).unwrap_or(1);
    let peer = nix::sys::socket::getpeername::<SockaddrStorage>(fd.as_raw_fd());
    Some(error == 0 && peer.is_ok())
}

fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Ok(found) => return Some(found),
            // An ICMP error about an earlier packet.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}

const fn tag(round: u16, number: u32) -> u32 {
    (round as u32) << 16 | (number & 0xffff)
}

fn message(round: u16, number: u32) -> [u8; 6] {
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&round.to_be_bytes());
    bytes[2..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number_in(bytes: &[u8], round: u16) -> Option<usize> {
    let (head, rest) = bytes.split_at_checked(2)?;
    let number = u32::from_be_bytes(rest.try_into().ok()?);
    (head == round.to_be_bytes()).then_some(number as usize)
}

/// A connected pair of TCP sockets between two actors.
///
/// # Errors
/// If it does not come about within the limit.
pub fn connection(
    stage: &Stage,
    source: usize,
    destination: usize,
    ipv4: bool,
) -> io::Result<(TcpStream, TcpStream)> {
    let (from, to) = (&stage.actors[source], &stage.actors[destination]);
    let ip = to.ip(ipv4).ok_or(ErrorKind::AddrNotAvailable)?;
    let run = |netns: &Netns| netns.try_clone().map_err(io::Error::other);
    let listener = run(&to.netns)?
        .run(|| TcpListener::bind((ip, 0)))
        .map_err(io::Error::other)??;
    let address = listener.local_addr()?;
    let client = run(&from.netns)?
        .run(|| TcpStream::connect_timeout(&address, CONNECT))
        .map_err(io::Error::other)??;
    Ok((client, listener.accept()?.0))
}
