//! Connection tracking as events and map contents show it.
use std::{thread::sleep, time::Duration};

use abi::{Aggregation, ct_flags};

use super::{
    packet::{ACK, FIN, Packet, RST, SYN},
    scene::{Ip, Scene, native},
};
use crate::support::place;

/// The packets of a short connection: from the one who opens it or not, flags, and the status it gets.
const LIFE: [(bool, u8, &str); 8] = [
    (true, SYN, "new"),
    (false, SYN | ACK, "reply"),
    (true, ACK, "established"),
    (false, ACK, "reply"),
    (true, FIN | ACK, "established"),
    (false, FIN | ACK, "reply"),
    (true, ACK, "established"),
    (true, SYN, "reopened"),
];

/// Sends a life's packet; what was reported of it.
fn live(scene: &Scene, ip: Ip, (opener, flags, _): (bool, u8, &str)) -> Vec<String> {
    let (a, b) = ((ip.pod1(), 1000), (ip.pod2(), 80));
    if opener {
        scene.from_pod1(&Packet::tcp(a, b, flags).bytes()).events
    } else {
        scene.from_pod2(&Packet::tcp(b, a, flags).bytes()).events
    }
}

#[test]
fn a_connection_lives_and_is_opened_again() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            for (n, step) in LIFE.into_iter().enumerate() {
                let events = live(&scene, ip, step);
                assert_eq!(events.len(), 2, "packet {n}");
                assert!(
                    events[0].starts_with("from-endpoint: ") && events[0].contains(", unknown, ")
                );
                let status = format!(", {}{}, id ", step.2, if step.0 { " forward" } else { "" });
                assert!(events[1].contains(&status), "packet {n}: {}", events[1]);
            }
        }
        for c in scene.connections() {
            assert_eq!(
                (
                    c.entry.packets,
                    c.entry.orig_tcp,
                    c.entry.flags & !ct_flags::FROM_B
                ),
                ([1, 0], SYN, 0)
            );
        }
    });
}

#[test]
fn a_reset_lets_the_next_one_begin() {
    place(|here| {
        let scene = Scene::new(here, native);
        for step in [(true, SYN, ""), (false, RST | ACK, "")] {
            live(&scene, Ip::V4, step);
        }
        let entry = scene.connections()[0].entry;
        assert_ne!(entry.flags & ct_flags::RESET, 0);
        assert!(entry.expires - entry.created <= 11, "{entry:?}");
        assert!(live(&scene, Ip::V4, (true, ACK, ""))[1].contains(", established forward, "));
        assert!(live(&scene, Ip::V4, (true, SYN, ""))[1].contains(", reopened forward, "));
    });
}

#[test]
fn lifetimes_are_those_of_the_settings() {
    place(|here| {
        let scene = Scene::new(here, native);
        let left = || {
            let entry = scene.connections()[0].entry;
            entry.expires - entry.last_report
        };
        let mut seen = Vec::new();
        for step in &LIFE[..6] {
            live(&scene, Ip::V4, *step);
            seen.push(left());
        }
        let near = |a: u32, b: u32| a.abs_diff(b) <= 2;
        for (got, wanted) in seen.iter().zip([60, 60, 8000, 8000, 8000, 10]) {
            assert!(near(*got, wanted), "{seen:?}");
        }
    });
}

#[test]
fn a_connection_that_nobody_uses_is_over() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            config.ct_any = 0;
        });
        let sent = Packet::udp((Ip::V6.pod1(), 1), (Ip::V6.pod2(), 2), b"x").bytes();
        assert!(scene.from_pod1(&sent).events[1].contains(", new forward, "));
        sleep(Duration::from_millis(1100));
        assert!(scene.from_pod1(&sent).events[1].contains(", reopened forward, "));
        assert_eq!(scene.connections().len(), 1);
    });
}

/// The points at which each packet of a life is reported, one letter each; `.` is none.
fn reports(level: Aggregation) -> [String; 2] {
    let mut out = [String::new(), String::new()];
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            (config.aggregation, config.report_interval) = (level as u8, 1000);
        });
        for (ip, out) in Ip::BOTH.into_iter().zip(&mut out) {
            for step in LIFE {
                let events = live(&scene, ip, step);
                let letters: String = events
                    .iter()
                    .map(|e| if e.starts_with("from-") { 'f' } else { 't' })
                    .collect();
                out.push_str(if letters.is_empty() { "." } else { &letters });
                out.push(' ');
            }
            let out_again = live(&scene, ip, (true, RST, ""));
            assert!(!out_again.is_empty());
        }
    });
    out
}

#[test]
fn what_is_reported_at_which_level() {
    let all = [
        "ft ft ft ft ft ft ft ft ".to_owned(),
        "ft ft ft ft ft ft ft ft ".to_owned(),
    ];
    let sent = ["t t t t t t t t ".to_owned(), "t t t t t t t t ".to_owned()];
    // The first packet of each direction, and each end of it.
    let news = ["t t . . t t . t ".to_owned(), "t t . . t t . t ".to_owned()];
    for (level, expected) in [
        (Aggregation::None, &all),
        (Aggregation::Lowest, &sent),
        (Aggregation::Low, &sent),
        (Aggregation::Medium, &news),
        (Aggregation::Maximum, &news),
    ] {
        let got = reports(level);
        // Without root there is nothing to look at.
        if got.iter().any(|text| !text.is_empty()) {
            assert_eq!(&got, expected, "{level:?}");
        }
    }
}

#[test]
fn a_busy_connection_is_reported_once_per_interval() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            (config.aggregation, config.report_interval) = (Aggregation::Medium as u8, 1);
        });
        let sent = Packet::udp((Ip::V4.pod1(), 1), (Ip::V4.pod2(), 2), b"x").bytes();
        let mut reported = 0;
        for _ in 0..8 {
            reported += scene.from_pod1(&sent).events.len();
            sleep(Duration::from_millis(300));
        }
        assert!((2..=4).contains(&reported), "{reported}");
    });
}

#[test]
fn packets_and_bytes_are_counted_where_that_is_wanted() {
    for accounting in [0, 1] {
        place(|here| {
            let scene = Scene::new(here, |config| {
                native(config);
                config.accounting = accounting;
            });
            for ip in Ip::BOTH {
                for step in &LIFE[..7] {
                    live(&scene, ip, *step);
                }
            }
            for c in scene.connections() {
                let len = if c.source.is_ipv4() { 70 } else { 90 };
                let n = u64::from(accounting);
                assert_eq!(
                    c.entry.packets,
                    [4 * u32::from(accounting), 3 * u32::from(accounting)]
                );
                assert_eq!(c.entry.bytes, [4 * n * len, 3 * n * len]);
            }
        });
    }
}

#[test]
fn an_error_belongs_to_the_connection_it_is_about() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (a, b) = ((ip.pod1(), 1000), (ip.pod2(), 53));
            let sent = Packet::udp(a, b, b"x").bytes();
            let error = |quoted: &[u8]| Packet::unreachable(b.0, a.0, quoted).bytes();
            assert!(scene.from_pod2(&error(&sent)).events[1].contains(", new forward, "));
            scene.from_pod1(&sent);
            let before = scene.connections();
            let came = scene.from_pod2(&error(&sent));
            let (kind, code) = if ip == Ip::V4 { (3, 3) } else { (1, 4) };
            let proto = super::packet::icmp_of(a.0);
            let tuple = format!("{} 0 > {} {code} proto {proto} flags {kind:#x}", b.0, a.0);
            came.told(&format!(
                "to-endpoint: {tuple}, related forward, id 1002 > 1001, ep 8"
            ));
            assert_eq!(scene.connections(), before);
        }
    });
}
