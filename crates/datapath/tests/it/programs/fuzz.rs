//! Any packet through any program: valid ones of all kinds, mutilated ones, and plain noise.
use abi::{DatapathConfig, lb_flags, mark, names};
use datapath::test_run::SkbContext;

use super::{
    direct::options,
    frontends::{Frontends, Service},
    packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP, wrong_checksums},
    scene::{
        BACK, Ip, PASS, POD1, REDIRECT, SHOT, Scene, UP, is_labelled, is_unreachable, lxc_mac,
        native, pod_mac, tunnel,
    },
};
use crate::support::place;

/// Runs per program and configuration, of which there are three; `HYPHA_FUZZ_RUNS` gives another number, and `HYPHA_FUZZ_SEED` other
/// packets.
const RUNS: u64 = 25_000;
const XDP_DROP: i32 = 1;

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Random numbers that are the same in every run (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A packet that a sender could send.
fn valid(dice: &mut Dice) -> Vec<u8> {
    let packet = valid_packet(dice, 2);
    let packet = packet.ttl(dice.pick(&[0, 1, 2, 64, 64, 64, 255]));
    match dice.below(8) {
        0 => {
            let [first, later] = packet.split(dice.below(3) as u32, 1);
            if dice.one_in(2) { first } else { later }
        }
        _ => packet.bytes(),
    }
}

fn valid_packet(dice: &mut Dice, depth: u8) -> Packet {
    let ip = dice.pick(&Ip::BOTH);
    let addresses = [
        ip.pod1(),
        ip.pod2(),
        ip.node(),
        ip.gateway(),
        ip.nobody(),
        ip.remote_node(),
        ip.remote_pod(),
        ip.outside(),
        ip.stranger(),
        ip.unreachable(),
        ip.multicast(),
    ];
    // Mostly from the pod or from outside to the node, which lead deepest.
    let src = if dice.one_in(2) {
        ip.pod1()
    } else {
        dice.pick(&addresses)
    };
    let dst = if dice.one_in(4) {
        ip.node()
    } else {
        dice.pick(&addresses)
    };
    let mut port = || dice.pick(&[0, 53, 80, 1000, 32_768, 40_000, 40_001, 65_535]);
    let (from, to) = ((src, port()), (dst, port()));
    match dice.below(9) {
        0..3 => Packet::tcp(
            from,
            to,
            dice.pick(&[0, SYN, SYN | ACK, ACK, FIN | ACK, RST, 0x3F]),
        ),
        3..5 => {
            let len = 8 + dice.below(40);
            Packet::udp(from, to, &vec![0xA5; len])
        }
        5 => Packet::ping(src, dst, from.1),
        6 => Packet::pong(src, dst, from.1),
        7 if depth > 0 => quoting(dice, ip, depth),
        _ => {
            let rest = (dice.next() as u32).to_be_bytes();
            Packet::icmp(
                src,
                dst,
                dice.next() as u8,
                dice.next() as u8,
                rest,
                &[7; 24],
            )
        }
    }
}

/// An ICMP error about another packet, of which it quotes all or the beginning.
fn quoting(dice: &mut Dice, ip: Ip, depth: u8) -> Packet {
    let inner = loop {
        let inner = valid_packet(dice, depth - 1).bytes();
        if (inner[12] == 8) == (ip == Ip::V4) {
            break inner;
        }
    };
    let headers = ip.l4() + 8;
    let len = headers + dice.below(inner.len().saturating_sub(headers) + 1);
    let (src, dst) = (
        dice.pick(&[ip.pod1(), ip.outside()]),
        dice.pick(&[ip.node(), ip.pod1(), ip.outside()]),
    );
    Packet::unreachable(src, dst, &inner[..len.min(inner.len())])
}

/// What a sender should not send: a valid packet with some bytes changed, cut or grown; or noise.
fn invalid(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = valid(dice);
    if dice.one_in(8) {
        let len = 14 + dice.below(243);
        bytes = (0..len).map(|_| dice.next() as u8).collect();
        let kind = dice.pick(&[0x0800u16, 0x86DD, 0x0806, 0x8100]);
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        return bytes;
    }
    for _ in 0..1 + dice.below(4) {
        // The headers are where it matters.
        let at = 14 + dice.below((bytes.len() - 14).min(80));
        match dice.below(3) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => {
                bytes[at] = dice.pick(&[
                    0, 1, 4, 5, 6, 17, 44, 51, 58, 60, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xFF,
                ])
            }
            _ => bytes[at] = dice.next() as u8,
        }
    }
    match dice.below(4) {
        0 => bytes.truncate(14 + dice.below(bytes.len() - 13)),
        1 => bytes.resize((bytes.len() + dice.below(60)).min(256), 0xEE),
        _ => {}
    }
    bytes
}

/// True if this kernel's test runs refuse the packet: not even the fixed L3 header is there.
fn is_refused(packet: &[u8]) -> bool {
    match packet[12..14] {
        [8, 0] => packet.len() < 34,
        [0x86, 0xDD] => packet.len() < 54,
        _ => packet.len() == 14,
    }
}

/// Verdicts that a program has: it hands over only where packets come in, out of the tunnel only what has its key.
fn verdicts(program: &str) -> &'static [i32] {
    match program {
        names::TO_NETDEV | names::TO_CONTAINER | names::FROM_OVERLAY => &[PASS, SHOT],
        names::XDP_ENTRY => &[UP, BACK],
        // There is no proxy.
        names::FROM_PROXY | names::TO_PROXY => &[SHOT],
        _ => &[PASS, SHOT, REDIRECT],
    }
}

/// What goes on from a pod has the pod's address, but for what the program itself answers to a neighbour's question and ARP.
fn source_is_checked(before: &[u8], after: &[u8]) -> bool {
    let octets = |ip: Ip| match ip.pod1() {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    let answered =
        after[..12] == [pod_mac(POD1), lxc_mac(POD1)].concat() && after.get(54) == Some(&136);
    match before[12..14] {
        [8, 0] => before[26..30] == octets(Ip::V4),
        [0x86, 0xDD] => answered || before[22..38] == octets(Ip::V6),
        _ => before[12..14] == [8, 6],
    }
}

fn check(program: &str, before: &[u8], verdict: i32, after: &[u8]) -> Result<(), String> {
    if program == names::XDP_ENTRY && verdict == UP {
        return match before == after {
            true => Ok(()),
            false => Err("what goes up was changed".to_owned()),
        };
    }
    if verdict == SHOT {
        return Ok(());
    }
    // Some hear why they are not served, some go on with the frontend.
    let goes_on = matches!(verdict, REDIRECT | BACK);
    let least = if after[12] == 8 { 42 } else { 62 };
    let may_differ =
        goes_on && after.len() >= least && (is_unreachable(after) || is_labelled(after));
    if after.len() != before.len() && !may_differ {
        return Err(format!("{} bytes became {}", before.len(), after.len()));
    }
    if program == names::FROM_CONTAINER && !source_is_checked(before, after) {
        return Err(format!(
            "verdict {verdict} for a source that is not the pod's"
        ));
    }
    match wrong_checksums(after) {
        wrong if !wrong.is_empty() && wrong_checksums(before).is_empty() => {
            Err(format!("checksums of {wrong:?}"))
        }
        _ => Ok(()),
    }
}

/// A verdict that hardly a packet gets: an answer to what was masqueraded for no service ends before the stack.
fn is_rare(program: &str, verdict: i32) -> bool {
    program == names::XDP_ENTRY && verdict == XDP_DROP
}

/// Frontends of every kind, at ports that packets often have.
fn serve_some(scene: &Scene) {
    let lb = Frontends::of(scene);
    for (n, ip) in (1..).step_by(20).zip(Ip::BOTH) {
        let backends = [
            ip.pod1(),
            ip.remote_pod(),
            ip.outside(),
            ip.node(),
            ip.stranger(),
        ];
        for (id, addr) in (n..).zip(backends) {
            lb.backend(id, (addr, 80));
        }
        let all: Vec<u32> = (n..n + 5).collect();
        let elsewhere = &all[1..3];
        let service = |k: u32, at, proto, slots| Service::new((n + k) as u16, at, proto, slots);
        let ranges = lb_flags::SOURCE_RANGES;
        for served in [
            service(0, (ip.node(), 80), TCP, elsewhere),
            service(1, (ip.node(), 80), UDP, elsewhere).flags(lb_flags::DSR),
            service(2, (ip.node(), 1000), TCP, elsewhere).flags(lb_flags::DSR),
            service(3, (ip.node(), 1000), UDP, &[]),
            service(4, (ip.node(), 53), TCP, elsewhere).flags(ranges),
            service(5, (ip.nobody(), 53), UDP, &all),
            service(6, (ip.nobody(), 80), TCP, &all[..1]),
            service(7, (ip.nobody(), 1000), TCP, &[]),
            service(8, (ip.nobody(), 1000), UDP, &all).inside(),
        ] {
            lb.serve(&served);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn fuzz(change: fn(&mut DatapathConfig), by_stack: bool, seed: u64) {
    let runs = setting("HYPHA_FUZZ_RUNS", RUNS);
    let seed = seed + setting("HYPHA_FUZZ_SEED", 0) * 10;
    place(|here| {
        let scene = Scene::new(here, |config| {
            change(config);
            config.host_legacy = u8::from(by_stack);
            // Most of what is reported would find the ring full.
            config.aggregation = abi::Aggregation::Medium as u8;
            config.xdp = 1;
        });
        serve_some(&scene);
        // What is newer comes last: the numbers are seeds.
        let newer = [names::FROM_PROXY, names::TO_PROXY];
        let older = names::DEVICE_PROGRAMS.into_iter();
        let programs = older
            .filter(|program| !newer.contains(program))
            .chain([names::XDP_ENTRY])
            .chain(newer);
        for (n, program) in programs.enumerate() {
            let ifindex = match program {
                names::FROM_CONTAINER | names::TO_CONTAINER => scene.lxc1,
                _ => scene.eth0,
            };
            let mut dice = Dice(seed * 100 + n as u64);
            let mut seen = [0u32; 9];
            for run in 0..runs {
                let packet = if dice.one_in(2) {
                    valid(&mut dice)
                } else {
                    invalid(&mut dice)
                };
                let mark =
                    dice.pick(&[0, 0, mark::HOST, mark::SNAT_DONE, mark::with_identity(1234)]);
                let context = SkbContext {
                    ifindex,
                    mark,
                    ..SkbContext::default()
                };
                let place = || {
                    format!(
                        "{program}, seed {seed}, run {run}, mark {mark:#x}: {}",
                        hex(&packet)
                    )
                };
                match scene.datapath.test_run(program, &packet, context) {
                    Ok(came) => {
                        seen[usize::try_from(came.verdict).unwrap().min(8)] += 1;
                        check(program, &packet, came.verdict, &came.packet).unwrap_or_else(
                            |what| panic!("{what}\n{}\n became {}", place(), hex(&came.packet)),
                        );
                    }
                    Err(e) => assert!(is_refused(&packet), "{e}: {}", place()),
                }
            }
            // No other verdict, and of enough packets every one of these, or they would say nothing of the program.
            let expected = verdicts(program);
            let found = (0..9).filter(|v| seen[*v as usize] > 0 && !is_rare(program, *v));
            let found: Vec<i32> = found.collect();
            assert!(
                found.iter().all(|v| expected.contains(v)),
                "{program}: {seen:?}"
            );
            assert!(runs < RUNS || found == expected, "{program}: {seen:?}");
        }
    });
}

#[test]
fn by_the_network() {
    fuzz(options, false, 1);
}

#[test]
fn by_the_tunnel() {
    fuzz(tunnel, false, 2);
}

#[test]
fn by_the_host_stack() {
    fuzz(native, true, 3);
}
