//! Which backend it is.
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use abi::lb_flags;

use super::scene::{
    SERVERS, Scene, Service, TCP, UDP, UNREACHABLE, at, listen_at, scene, wait_readable,
};
use crate::programs::fuzz::Dice;

const BACKENDS: [&str; 3] = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"];
const FRONTEND: &str = "10.96.0.10:80";

/// Which of the listeners a connection to `frontend` came to. Nobody else connects meanwhile.
fn chosen(frontend: SocketAddr, listeners: &[TcpListener]) -> usize {
    let _client = TcpStream::connect(frontend).unwrap();
    wait_readable(listeners);
    let mut accepted = listeners.iter().map(|listener| listener.accept().is_ok());
    let place = accepted.position(|got| got).expect("a backend");
    assert!(!accepted.any(|got| got));
    place
}

#[test]
fn clients_keep_their_backend_for_a_time() {
    scene("affinity", |scene| {
        let listeners = BACKENDS.map(listen_at);
        let service = Service {
            affinity: 100,
            ..Service::new(1, FRONTEND, TCP, &BACKENDS).flags(lb_flags::AFFINITY)
        };
        scene.serve(&service);
        let first = chosen(service.at, &listeners);
        for _ in 0..32 {
            assert_eq!(chosen(service.at, &listeners), first);
        }
        // Another service knows nothing of it.
        scene.serve(&Service {
            id: 2,
            at: at("10.96.0.11:80"),
            ..service.clone()
        });
        chosen(at("10.96.0.11:80"), &listeners);
        let mut rows = scene.lb.v4.affinity.dump().unwrap();
        assert_eq!(rows.len(), 2);
        // Long ago: the client is as good as new.
        rows.retain(|(key, _)| key.id == 1);
        let (key, mut kept) = rows[0];
        assert_eq!(key.by_cookie, 1);
        assert_eq!(usize::try_from(kept.backend).unwrap(), first + 1);
        kept.used = kept.used.wrapping_sub(101);
        scene.lb.v4.affinity.put_all(&[(key, kept)]).unwrap();
        let next = chosen(service.at, &listeners);
        for _ in 0..8 {
            assert_eq!(chosen(service.at, &listeners), next);
        }
        // A backend that the frontend no longer keeps clients at is left.
        let gone = abi::LbAffinityMatch {
            backend: next as u32 + 1,
            id: 1,
            pad: 0,
        };
        scene.lb.affinity.delete_all(&[gone]).unwrap();
        let rest: Vec<&str> = (0..3).filter(|n| *n != next).map(|n| BACKENDS[n]).collect();
        let mut fewer = Service::new(1, FRONTEND, TCP, &rest);
        (fewer.flags, fewer.affinity) = (service.flags, service.affinity);
        scene.serve(&fewer);
        let last = chosen(service.at, &listeners);
        assert_ne!(last, next);
        assert_eq!(chosen(service.at, &listeners), last);
    });
}

#[test]
fn connections_are_spread_evenly() {
    scene("even", |scene| {
        let listeners = BACKENDS.map(listen_at);
        scene.serve(&Service::new(1, FRONTEND, TCP, &BACKENDS));
        let mut counts = [0usize; 3];
        for _ in 0..1800 {
            counts[chosen(at(FRONTEND), &listeners)] += 1;
        }
        // Six times what chance makes of 600.
        assert!(counts.iter().all(|n| n.abs_diff(600) < 120), "{counts:?}");
    });
}

#[test]
fn a_maglev_table_is_followed_with_its_weights() {
    scene("maglev", |scene| {
        let listeners = BACKENDS.map(listen_at);
        // Of the 251 places of the tests' tables a sixth is the first backend's, a third the second's.
        let maglev = (0..251).map(|n| [0, 1, 1, 2, 2, 2][n % 6]).collect();
        scene.serve(&Service {
            maglev,
            ..Service::new(1, FRONTEND, TCP, &BACKENDS)
        });
        let mut counts = [0usize; 3];
        for _ in 0..1800 {
            counts[chosen(at(FRONTEND), &listeners)] += 1;
        }
        for (count, wanted) in counts.into_iter().zip([300usize, 600, 900]) {
            assert!(count.abs_diff(wanted) < 130, "{counts:?}");
        }
    });
}

/// A datagram server for each backend, and which of them gets the next datagram.
struct Servers(BTreeMap<SocketAddr, UdpSocket>);

impl Servers {
    fn new() -> Self {
        let mut all = BTreeMap::new();
        for ip in SERVERS {
            for port in [1001, 1002, 1003] {
                let place = SocketAddr::new(ip.parse().unwrap(), port);
                let socket = UdpSocket::bind(place).unwrap();
                socket.set_nonblocking(true).unwrap();
                all.insert(place, socket);
            }
        }
        Self(all)
    }

    /// Waits for the one datagram that is on its way, which says `word`.
    fn next(&self, word: &[u8]) -> SocketAddr {
        wait_readable(self.0.values());
        let mut seen = [0; 16];
        let mut got = self.0.iter().filter_map(|(place, socket)| {
            let (len, _) = socket.recv_from(&mut seen).ok()?;
            assert_eq!(&seen[..len], word);
            Some(*place)
        });
        let place = got.next().expect("a datagram");
        assert_eq!(got.next(), None);
        place
    }
}

fn random_service(dice: &mut Dice, id: u16) -> Service {
    let is_v6 = dice.one_in(2);
    let ip = if is_v6 { "[fd00:96::" } else { "10.96.0." };
    let end = if is_v6 { "]" } else { "" };
    let frontend = format!("{ip}{}{end}:{}", 10 + dice.below(4), 50 + dice.below(3));
    let mut service = Service::new(id, &frontend, UDP, &[]);
    let mut left: Vec<SocketAddr> = SERVERS[if is_v6 { 3..6 } else { 0..3 }]
        .iter()
        .flat_map(|ip| [1001, 1002, 1003].map(|port| SocketAddr::new(ip.parse().unwrap(), port)))
        .collect();
    for _ in 0..dice.below(6) {
        service
            .backends
            .push(left.swap_remove(dice.below(left.len())));
    }
    if dice.one_in(3) && !service.backends.is_empty() {
        service.maglev = (0..251)
            .map(|_| dice.below(service.backends.len()))
            .collect();
    }
    if dice.one_in(4) {
        service.flags |= lb_flags::AFFINITY;
        service.affinity = 1000;
    }
    service
}

/// What is known of clients by the rows and what they did: a frontend's backends, and who is kept where.
#[derive(Default)]
struct Model {
    services: BTreeMap<SocketAddr, Service>,
    kept: BTreeMap<SocketAddr, SocketAddr>,
}

impl Model {
    fn check(&mut self, to: SocketAddr, got: Option<SocketAddr>) {
        let Some(service) = self.services.get(&to) else {
            panic!("{to} is nobody's, but {got:?} was reached");
        };
        let Some(got) = got else {
            assert!(service.backends.is_empty(), "{service:?} was refused");
            return;
        };
        assert!(service.backends.contains(&got), "{got} of {service:?}");
        if service.flags & lb_flags::AFFINITY != 0 {
            let kept = *self.kept.entry(to).or_insert(got);
            assert_eq!(got, kept, "{service:?}");
        }
    }
}

fn send(scene: &Scene, to: SocketAddr, connected: bool, word: &[u8]) -> Option<UdpSocket> {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let client = UdpSocket::bind(any).unwrap();
    let sent = if connected {
        client.connect(to).and_then(|()| client.send(word))
    } else {
        client.send_to(word, to)
    };
    match sent {
        Ok(_) => Some(client),
        Err(error) => {
            scene.refused(&error, UNREACHABLE);
            None
        }
    }
}

#[test]
fn every_choice_is_one_that_the_model_allows() {
    let cases = std::env::var("SOCK_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    scene("model", |scene| {
        let servers = Servers::new();
        let mut dice = Dice(11);
        let mut model = Model::default();
        for n in 0..12 {
            let service = random_service(&mut dice, n + 1);
            if model.services.contains_key(&service.at) {
                continue;
            }
            scene.serve(&service);
            model.services.insert(service.at, service);
        }
        let frontends: Vec<SocketAddr> = model.services.keys().copied().collect();
        let mut reached = 0;
        for n in 0..cases.unwrap_or(3000u32) {
            let to = dice.pick(&frontends);
            let word = n.to_be_bytes();
            let client = send(scene, to, dice.one_in(2), &word);
            let got = client.as_ref().map(|_| servers.next(&word));
            model.check(to, got);
            reached += usize::from(got.is_some());
        }
        assert!(reached > 500, "{reached}");
    });
}
