//! Client and server over real namespaces: a "pod", a router that translates nothing, and a far host.
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use super::plan::{Case, NodePlace, Place, Protocol, Scene, Size, Source};
use super::probe::probe;
use super::run::{Options, run};
use super::server::{Sources, start};

const OPTIONS: Options = Options {
    timeout: Duration::from_millis(500),
    retries: 0,
    at_once: 8,
};

/// A network namespace held by a thread that waits; it ends with the value.
struct Namespace {
    path: PathBuf,
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Self {
        let (ready, path) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready
                .send(format!(
                    "/proc/{}/task/{}/ns/net",
                    std::process::id(),
                    nix::unistd::gettid()
                ))
                .unwrap();
            let _ = wait.recv();
        });
        Self {
            path: path.recv().unwrap().into(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn ip(&self, arguments: &str) {
        let file = File::open(&self.path).unwrap();
        let arguments: Vec<String> = arguments.split(' ').map(String::from).collect();
        let run = move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            Command::new("ip").args(&arguments).output().unwrap()
        };
        let output = thread::spawn(run).join().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn place(&self, name: &str, addresses: &[&str]) -> Place {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Place {
            name: name.into(),
            netns: self.path.clone(),
            addresses,
        }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(&self.path).unwrap();
        thread::scope(|scope| {
            let task = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            task.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for network namespaces");
    }
    root
}

/// Two namespaces and a wire of 1400 bytes between them.
fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(), Namespace::new());
    let b_thread = b.path.iter().nth(4).unwrap().to_string_lossy().into_owned();
    a.ip(&format!(
        "link add w0 mtu 1400 type veth peer name w1 mtu 1400 netns {b_thread}"
    ));
    for (namespace, device, host) in [(&a, "w0", 1), (&b, "w1", 2)] {
        // Usable at once, not after the search for duplicates.
        namespace.inside(|| {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0").unwrap()
        });
        namespace.ip("link set lo up");
        namespace.ip(&format!("addr add 192.0.2.{host}/24 dev {device}"));
        namespace.ip(&format!("addr add 2001:db8::{host}/64 dev {device} nodad"));
        namespace.ip(&format!("link set {device} up"));
    }
    wait_for_ipv6(&a);
    (a, b)
}

/// The kernel takes up to a second to see a new link's carrier, and joins no IPv6 group before.
fn wait_for_ipv6(a: &Namespace) {
    let target = SocketAddr::new("2001:db8::2".parse().unwrap(), 0);
    let ping = || {
        probe(
            target,
            Protocol::Icmp,
            Size::Small,
            &[0; 16],
            Duration::from_millis(50),
        )
        .is_ok()
    };
    assert!(a.inside(|| (0..100).any(|_| ping() || (thread::sleep(Duration::from_millis(20)), false).1)), "the wire never came up");
}

fn each_cell(mut check: impl FnMut(&str, Protocol, Size)) {
    for target in ["192.0.2.2", "2001:db8::2"] {
        for protocol in Protocol::ALL {
            for size in Size::ALL {
                check(target, protocol, size);
            }
        }
    }
}

#[test]
fn every_protocol_and_size_arrives_whole() {
    if !root() {
        return;
    }
    let (a, b) = pair();
    let sources = Sources::default();
    let server = start(&b.place("b", &["192.0.2.2", "2001:db8::2"]), &sources).unwrap();
    let mut number = 0u8;
    each_cell(|target, protocol, size| {
        number += 1;
        let ip: IpAddr = target.parse().unwrap();
        let port = if protocol == Protocol::Icmp {
            0
        } else {
            server.ports[&(ip, protocol)]
        };
        let nonce = [number; 16];
        let answer = a.inside(|| {
            probe(
                SocketAddr::new(ip, port),
                protocol,
                size,
                &nonce,
                Duration::from_secs(2),
            )
        });
        let answer =
            answer.unwrap_or_else(|error| panic!("{target} {protocol:?} {size:?}: {error}"));
        let header = if ip.is_ipv4() { 20 } else { 40 };
        if size == Size::Full && protocol != Protocol::Tcp {
            assert_eq!(answer.bytes + header + 8, 1400, "{target} {protocol:?}");
        }
        if size == Size::Full && protocol == Protocol::Tcp {
            // With the time stamp option.
            assert_eq!(answer.bytes + header + 20 + 12, 1400);
        }
        let seen = (0..100).find_map(|_| {
            sources
                .of(&nonce)
                .or_else(|| (thread::sleep(Duration::from_millis(5)), None).1)
        });
        assert_eq!(seen, Some(answer.local), "{target} {protocol:?} {size:?}");
    });
}

fn case(from: &Namespace, target: &str, protocol: Protocol, size: Size, source: Source) -> Case {
    let (path, from_name, to) = ("path".into(), "a".into(), "b".into());
    Case {
        path,
        from: from_name,
        netns: from.path.clone(),
        to,
        target: target.parse().unwrap(),
        protocol,
        size,
        source,
    }
}

fn scene(b: &Namespace) -> Scene {
    let place = b.place("b", &["192.0.2.2", "2001:db8::2"]);
    Scene {
        tunnel: false,
        pods_routed: true,
        masquerade: Vec::new(),
        nodes: vec![NodePlace {
            place,
            segment: 0,
            pods: Vec::new(),
        }],
        router: None,
    }
}

#[test]
fn the_runner_reports_in_order_and_checks_the_source() {
    if !root() {
        return;
    }
    let (a, b) = pair();
    let mut cases = Vec::new();
    each_cell(|target, protocol, size| {
        cases.push(case(&a, target, protocol, size, Source::Untranslated))
    });
    let wrong = Source::Node(vec!["203.0.113.9".parse().unwrap()]);
    cases.push(case(&a, "192.0.2.2", Protocol::Udp, Size::Small, wrong));
    let outcomes = run(&scene(&b), cases.clone(), OPTIONS).unwrap();
    assert_eq!(
        outcomes
            .iter()
            .map(|outcome| outcome.case.clone())
            .collect::<Vec<_>>(),
        cases
    );
    let (last, good) = outcomes.split_last().unwrap();
    for outcome in good {
        assert_eq!(outcome.failure, None, "{:?}", outcome.case);
    }
    assert_eq!(
        last.failure.as_deref(),
        Some("it came from 192.0.2.1, expected 203.0.113.9")
    );
}

#[test]
fn a_narrow_path_fails_full_packets_and_dead_paths_end_in_time() {
    if !root() {
        return;
    }
    let (a, b) = pair();
    // The sender believes in 1400 bytes, the wire's other end drops what is longer than 1300 (veth checks the receiver's MTU).
    b.ip("link set w1 mtu 1280");
    let full = |protocol| case(&a, "192.0.2.2", protocol, Size::Full, Source::Untranslated);
    let cases = vec![
        full(Protocol::Udp),
        full(Protocol::Icmp),
        case(
            &a,
            "192.0.2.2",
            Protocol::Udp,
            Size::Small,
            Source::Untranslated,
        ),
    ];
    let start = Instant::now();
    let outcomes = run(
        &scene(&b),
        cases,
        Options {
            retries: 1,
            ..OPTIONS
        },
    )
    .unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(outcomes[0].failure.as_deref(), Some("no answer"));
    assert_eq!(outcomes[1].failure.as_deref(), Some("no answer"));
    assert_eq!(outcomes[2].failure, None);
    assert_eq!(
        outcomes
            .iter()
            .map(|outcome| outcome.tries)
            .collect::<Vec<_>>(),
        [2, 2, 1]
    );
}
