//! A control group of the test's own thread, addresses for servers, and rows of services.
use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use abi::{
    DatapathConfig, EndpointInfo, EndpointKey, IpcacheKey, IpcacheValue, LbAffinityMatch,
    LbBackend4, LbBackend6, LbKey4, LbKey6, LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4,
    LbSkipKey6, MAGLEV_CHUNK, endpoint_flags, identity, lb_algorithm,
};
use datapath::{Datapath, maps::LbMaps};
use netlink::{Address, Handle};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::gettid,
};

use crate::support::{Place, place};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Addresses of this machine at which servers listen; no frontend has one, and to no frontend's address there is a route.
pub const SERVERS: [&str; 6] = [
    "10.1.0.1", "10.1.0.2", "10.1.0.3", "fd01::1", "fd01::2", "fd01::3",
];

/// The place of an address and port, written as people do.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A control group of which the calling thread is, and no other.
pub struct Group {
    mount: tempfile::TempDir,
    parent: PathBuf,
    pub path: PathBuf,
}

impl Group {
    fn enter(name: &str) -> Self {
        let mount_at = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        let kind = Some("cgroup2");
        mount(Some("none"), mount_at.path(), kind, MsFlags::empty(), none).expect("cgroup2");
        let own = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let parent = mount_at.path().join(own.expect("a control group"));
        let path = parent.join(format!("hypha-test-{name}-{}", gettid()));
        fs::create_dir(&path).unwrap();
        // The threads of a process may be in different groups only if those are for threads.
        fs::write(path.join("cgroup.type"), "threaded").unwrap();
        let group = Self {
            mount: mount_at,
            parent,
            path,
        };
        group.join();
        group
    }

    /// Moves the calling thread into the group.
    pub fn join(&self) {
        join(&self.path);
    }

    /// Moves the calling thread out of it.
    pub fn leave(&self) {
        join(&self.parent);
    }

    /// Another group beside it, without anybody in it.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self.parent.join(format!("hypha-test-{name}-{}", gettid()));
        fs::create_dir(&path).unwrap();
        path
    }
}

fn join(group: &Path) {
    fs::write(group.join("cgroup.threads"), gettid().to_string()).unwrap();
}

impl Drop for Group {
    fn drop(&mut self) {
        self.leave();
        let _ = fs::remove_dir(&self.path);
        let _ = umount2(self.mount.path(), MntFlags::MNT_DETACH);
    }
}

/// A service as the test writes it.
#[derive(Clone, Debug)]
pub struct Service {
    pub at: SocketAddr,
    pub proto: u8,
    pub scope: u8,
    pub id: u16,
    pub flags: u16,
    pub affinity: u32,
    pub backends: Vec<SocketAddr>,
    /// The Maglev table, as places in `backends`.
    pub maglev: Vec<usize>,
}

impl Service {
    pub fn new(id: u16, frontend: &str, proto: u8, backends: &[&str]) -> Self {
        Self {
            at: at(frontend),
            proto,
            scope: abi::lb_scope::EXTERNAL,
            id,
            flags: 0,
            affinity: 0,
            backends: backends.iter().map(|text| at(text)).collect(),
            maglev: Vec::new(),
        }
    }

    pub fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    fn master(&self) -> LbService {
        LbService {
            backend: 0,
            affinity: self.affinity,
            count: self.backends.len() as u16,
            id: self.id,
            flags: self.flags,
            algorithm: if self.maglev.is_empty() {
                lb_algorithm::RANDOM
            } else {
                lb_algorithm::MAGLEV
            },
            serving: 0,
        }
    }
}

/// Sockets of a machine with services.
pub struct Scene {
    pub datapath: Datapath,
    pub lb: LbMaps,
    pub group: Group,
    backends: Vec<(SocketAddr, u8)>,
}

/// Runs a test on a thread that is in a control group of its own, to whose sockets the programs are attached.
pub fn scene(name: &str, test: impl FnOnce(&mut Scene) + Send) {
    scene_with(name, |_| (), test);
}

/// As [`scene`], with other settings.
pub fn scene_with(
    name: &str,
    set: impl FnOnce(&mut DatapathConfig) + Send,
    test: impl FnOnce(&mut Scene) + Send,
) {
    place(|here| test(&mut Scene::enter(here, name, set)));
}

/// The number of the test's network namespace; `None` where the kernel does not tell: what depends on it is not tested there.
pub fn own_netns() -> Option<u64> {
    let cookie = datapath::netns_cookie().unwrap();
    if cookie.is_none() {
        eprintln!("skipped: this kernel does not number network namespaces (Linux 5.14)");
    }
    cookie
}

impl Scene {
    pub fn enter(here: &Place, name: &str, set: impl FnOnce(&mut DatapathConfig)) -> Self {
        let group = Group::enter(name);
        let mut netlink = Handle::new().unwrap();
        for server in SERVERS {
            let address = Address::host(1, server.parse::<IpAddr>().unwrap()).nodad();
            netlink.address_add(&address).unwrap();
        }
        let mut options = here.options();
        set(&mut options.config);
        let (datapath, _) = Datapath::open(&options).unwrap();
        datapath.attach_sockets(&group.path).unwrap();
        Self {
            lb: datapath.services().unwrap(),
            datapath,
            group,
            backends: Vec::new(),
        }
    }

    /// Number of a backend; it gets a row with its first use.
    pub fn backend(&mut self, backend: SocketAddr, proto: u8) -> u32 {
        if let Some(n) = self.backends.iter().position(|b| *b == (backend, proto)) {
            return n as u32 + 1;
        }
        self.backends.push((backend, proto));
        let number = self.backends.len() as u32;
        let port = backend.port().to_be_bytes();
        let state = abi::lb_state::ACTIVE;
        match backend.ip() {
            IpAddr::V4(ip) => {
                let addr = ip.octets();
                let row = LbBackend4 {
                    addr,
                    port,
                    proto,
                    state,
                };
                self.lb.v4.backends.put_all(&[(number, row)]).unwrap();
            }
            IpAddr::V6(ip) => {
                let addr = ip.octets();
                let row = LbBackend6 {
                    addr,
                    port,
                    proto,
                    state,
                };
                self.lb.v6.backends.put_all(&[(number, row)]).unwrap();
            }
        }
        number
    }

    /// Writes the rows of a service, in the order that the agent writes them.
    pub fn serve(&mut self, service: &Service) {
        let numbers: Vec<u32> = service
            .backends
            .iter()
            .map(|backend| self.backend(*backend, service.proto))
            .collect();
        for backend in &numbers {
            let key = LbAffinityMatch {
                backend: *backend,
                id: service.id,
                pad: 0,
            };
            self.lb.affinity.put_all(&[(key, 1)]).unwrap();
        }
        let table: Vec<u32> = service.maglev.iter().map(|n| numbers[*n]).collect();
        let chunks: Vec<_> = table
            .chunks(MAGLEV_CHUNK)
            .enumerate()
            .map(|(chunk, places)| {
                let mut backends = [0; MAGLEV_CHUNK];
                backends[..places.len()].copy_from_slice(places);
                let key = LbMaglevKey {
                    id: service.id,
                    chunk: chunk as u16,
                };
                (key, LbMaglevChunk { backends })
            })
            .collect();
        let slots = numbers.iter().map(|backend| LbService {
            backend: *backend,
            ..LbService::default()
        });
        let rows: Vec<(u16, LbService)> = (1..).zip(slots).chain([(0, service.master())]).collect();
        let (port, proto, scope) = (
            service.at.port().to_be_bytes(),
            service.proto,
            service.scope,
        );
        match service.at.ip() {
            IpAddr::V4(ip) => {
                let key = |slot| LbKey4 {
                    addr: ip.octets(),
                    port,
                    proto,
                    scope,
                    slot,
                    pad: 0,
                };
                let rows: Vec<_> = rows.iter().map(|(slot, row)| (key(*slot), *row)).collect();
                self.lb.v4.maglev.put_all(&chunks).unwrap();
                assert_eq!(self.lb.v4.services.put_all(&rows).unwrap(), rows.len());
            }
            IpAddr::V6(ip) => {
                let key = |slot| LbKey6 {
                    addr: ip.octets(),
                    port,
                    proto,
                    scope,
                    slot,
                    pad: 0,
                };
                let rows: Vec<_> = rows.iter().map(|(slot, row)| (key(*slot), *row)).collect();
                self.lb.v6.maglev.put_all(&chunks).unwrap();
                assert_eq!(self.lb.v6.services.put_all(&rows).unwrap(), rows.len());
            }
        }
    }

    /// What this namespace sends to the frontend is to be left alone.
    pub fn skip(&self, netns: u64, frontend: SocketAddr, proto: u8) {
        let port = frontend.port().to_be_bytes();
        match frontend.ip() {
            IpAddr::V4(ip) => {
                let key = LbSkipKey4 {
                    netns,
                    addr: ip.octets(),
                    port,
                    proto,
                    pad: [0; 1],
                };
                self.lb.v4.skips.put_all(&[(key, 1)]).unwrap();
            }
            IpAddr::V6(ip) => {
                let key = LbSkipKey6 {
                    netns,
                    addr: ip.octets(),
                    port,
                    proto,
                    pad: [0; 5],
                };
                self.lb.v6.skips.put_all(&[(key, 1)]).unwrap();
            }
        }
    }

    /// This is an address of this node.
    pub fn own_address(&self, address: &str) {
        let key = match address.parse().unwrap() {
            IpAddr::V4(ip) => EndpointKey::v4(ip.octets()),
            IpAddr::V6(ip) => EndpointKey::v6(ip.octets()),
        };
        let info = EndpointInfo {
            ifindex: 1,
            sec_id: identity::HOST,
            id: 1,
            flags: endpoint_flags::HOST,
            mac: [0; 6],
            node_mac: [0; 6],
            subject: 0,
        };
        let maps = self.datapath.endpoints().unwrap();
        maps.upsert_address(&key, &info).unwrap();
    }

    /// This is an address of whoever has the identity.
    pub fn known_address(&self, address: &str, sec_id: u32) {
        let key = match address.parse().unwrap() {
            IpAddr::V4(ip) => IpcacheKey::v4(ip.octets(), 32),
            IpAddr::V6(ip) => IpcacheKey::v6(ip.octets(), 128),
        };
        let value = IpcacheValue {
            sec_id,
            tunnel: [0; 16],
            flags: 0,
            key: 0,
            pad: 0,
        };
        let maps = self.datapath.ipcache().unwrap();
        maps.upsert(&key, &value).unwrap();
    }

    /// Whether the programs can say why they refuse.
    pub fn refused(&self, error: &io::Error, errno: i32) {
        let reasons = datapath::probes::Feature::RefusalReasons.is_there();
        let wanted = if reasons { errno } else { libc_eperm() };
        assert_eq!(error.raw_os_error(), Some(wanted), "{error}");
    }
}

fn libc_eperm() -> i32 {
    nix::errno::Errno::EPERM as i32
}

/// A TCP server.
pub fn listen_at(place: &str) -> TcpListener {
    let listener = TcpListener::bind(place).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// A UDP socket that gives up at some time.
pub fn udp(place: &str) -> UdpSocket {
    let socket = UdpSocket::bind(place).unwrap();
    let limit = Some(Duration::from_secs(20));
    socket.set_read_timeout(limit).unwrap();
    socket
}

/// Waits until one of the sockets has something: a connection is complete for the client a little before it is for the server.
pub fn wait_readable<'a, S: AsFd + 'a>(sockets: impl IntoIterator<Item = &'a S>) {
    let mut waiting: Vec<PollFd<'_>> = sockets
        .into_iter()
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    let ready = poll(&mut waiting, PollTimeout::from(20_000u16)).unwrap();
    assert!(ready > 0, "nothing came");
}

/// Sends a word both ways over a connection to `listener`, the only one of its.
pub fn talk(mut client: TcpStream, listener: &TcpListener) {
    wait_readable([listener]);
    let (mut server, from) = listener.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    client.write_all(b"ping").unwrap();
    let mut word = [0; 4];
    server.set_nonblocking(false).unwrap();
    server.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ping");
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"pong");
}

/// `::ffff:a.b.c.d`.
pub fn mapped(place: SocketAddr) -> SocketAddr {
    match place {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => place,
    }
}

/// An error of a call on the way to its frontend.
pub const NO_ROUTE: i32 = nix::errno::Errno::ENETUNREACH as i32;
/// There are no backends.
pub const UNREACHABLE: i32 = nix::errno::Errno::EHOSTUNREACH as i32;
/// The port is a service's.
pub const IN_USE: i32 = nix::errno::Errno::EADDRINUSE as i32;
