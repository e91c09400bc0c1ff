//! Connections against a plain model of them.
use abi::{CtEntry, CtStatus};
use proptest::{collection::vec, prelude::*};
use wire::conntrack::{ACK, FIN, RST, SYN, Segment, Timeouts, account, advance, is_over, open};

const TCP: u8 = 6;
const UDP: u8 = 17;
const TIMEOUTS: Timeouts = Timeouts {
    tcp: 800,
    syn: 60,
    fin: 10,
    any: 30,
    report: 5,
};

/// What is remembered of a connection, in the words of its description: no bits, no tricks.
#[derive(Debug)]
struct Model {
    tcp: bool,
    opened_by_b: bool,
    fin_from_opener: bool,
    fin_from_other: bool,
    reset: bool,
    /// The opener sent something else than a SYN.
    under_way: bool,
    answered: bool,
    /// TCP flags seen from the opener, from the other side.
    flags: [Vec<u8>; 2],
    last_seen: u32,
    last_report: u32,
    packets: [u32; 2],
}

impl Model {
    fn open(s: &Segment) -> Self {
        let mut model = Self {
            tcp: s.proto == TCP,
            opened_by_b: s.from_b,
            fin_from_opener: false,
            fin_from_other: false,
            reset: false,
            under_way: false,
            answered: false,
            flags: [Vec::new(), Vec::new()],
            last_seen: s.now,
            last_report: s.now,
            packets: [0; 2],
        };
        model.note(s, true);
        model
    }

    /// Takes the packet's flags; true if one of those that matter is new in its direction.
    fn note(&mut self, s: &Segment, by_opener: bool) -> bool {
        self.last_seen = s.now;
        self.packets[usize::from(!by_opener)] += 1;
        if !self.tcp {
            return false;
        }
        self.reset |= s.tcp_flags & RST != 0;
        if s.tcp_flags & FIN != 0 {
            *(if by_opener {
                &mut self.fin_from_opener
            } else {
                &mut self.fin_from_other
            }) = true;
        }
        self.under_way |= by_opener && s.tcp_flags & SYN == 0;
        let seen = &mut self.flags[usize::from(!by_opener)];
        let mut news = false;
        for flag in (0..8)
            .map(|bit| 1 << bit)
            .filter(|flag| s.tcp_flags & flag != 0)
        {
            if !seen.contains(&flag) {
                seen.push(flag);
                news |= [SYN, FIN, RST].contains(&flag);
            }
        }
        news
    }

    fn ends(&self) -> u32 {
        let life = match self {
            Self { tcp: false, .. } => TIMEOUTS.any,
            Self { reset: true, .. } => TIMEOUTS.fin,
            Self {
                fin_from_opener: true,
                fin_from_other: true,
                ..
            } => TIMEOUTS.fin,
            Self {
                under_way: true, ..
            } => TIMEOUTS.tcp,
            _ => TIMEOUTS.syn,
        };
        self.last_seen + life
    }

    fn is_over(&self, s: &Segment) -> bool {
        let closing = self.reset || self.fin_from_opener || self.fin_from_other;
        let first_syn = s.tcp_flags & SYN != 0 && s.tcp_flags & ACK == 0;
        s.now > self.ends() || (self.tcp && closing && first_syn)
    }

    fn advance(&mut self, s: &Segment) -> (CtStatus, bool) {
        let by_opener = s.from_b == self.opened_by_b;
        let mut report = self.note(s, by_opener);
        if !by_opener && !self.answered {
            self.answered = true;
            report = true;
        }
        if s.now >= self.last_report + TIMEOUTS.report {
            report = true;
        }
        if report {
            self.last_report = s.now;
        }
        let status = if by_opener {
            CtStatus::Established
        } else {
            CtStatus::Reply
        };
        (status, report)
    }
}

/// One packet: seconds since the last one, TCP flags, direction, length.
type Step = (u32, u8, bool, u32);

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![6 => Just(0u32), 6 => 1u32..8, 2 => 9u32..70, 1 => 790u32..820];
    let flags = prop_oneof![
        2 => Just(SYN), 2 => Just(SYN | ACK), 4 => Just(ACK), 2 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(RST | ACK), 1 => any::<u8>()
    ];
    (pause, flags, any::<bool>(), 40u32..1500)
}

/// Runs the code and the model side by side.
fn follow(proto: u8, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut now = 1000;
    let mut both: Option<(CtEntry, Model)> = None;
    for (n, &(pause, flags, from_b, len)) in steps.iter().enumerate() {
        now += pause;
        let tcp_flags = if proto == TCP { flags } else { 0 };
        let s = Segment {
            proto,
            tcp_flags,
            from_b,
            len,
            now,
        };
        if let Some((entry, model)) = &mut both {
            prop_assert_eq!(
                is_over(entry, &s),
                model.is_over(&s),
                "packet {}: {:?} {:?}",
                n,
                entry,
                model
            );
            if !model.is_over(&s) {
                let seen = advance(entry, &s, &TIMEOUTS);
                prop_assert_eq!(
                    (seen.status, seen.report),
                    model.advance(&s),
                    "packet {}: {:?} {:?}",
                    n,
                    entry,
                    model
                );
                prop_assert_eq!(seen.tcp_flags, tcp_flags);
                account(entry, &s);
                agree(entry, model)?;
                continue;
            }
        }
        let mut entry = open(&s, &TIMEOUTS, 7, 8);
        account(&mut entry, &s);
        let model = Model::open(&s);
        agree(&entry, &model)?;
        prop_assert_eq!((entry.created, entry.src_id, entry.dst_id), (now, 7, 8));
        both = Some((entry, model));
    }
    Ok(())
}

fn agree(entry: &CtEntry, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(entry.expires, model.ends(), "{:?} {:?}", entry, model);
    prop_assert_eq!(entry.packets, model.packets);
    let flags = |seen: &[u8]| seen.iter().fold(0, |all, flag| all | flag);
    prop_assert_eq!(
        [entry.orig_tcp, entry.reply_tcp],
        [flags(&model.flags[0]), flags(&model.flags[1])]
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tcp_lives_as_the_model_says(steps in vec(step(), 1..40)) {
        follow(TCP, &steps)?;
    }

    #[test]
    fn others_live_as_the_model_says(steps in vec(step(), 1..40)) {
        follow(UDP, &steps)?;
    }

    #[test]
    fn a_closed_connection_is_soon_over(steps in vec(step(), 0..20), from_b: bool) {
        let mut entry = open(&segment(SYN, false, 0), &TIMEOUTS, 0, 0);
        let mut now = 0;
        for (pause, flags, from_b, _) in steps {
            now += pause;
            advance(&mut entry, &segment(flags, from_b, now), &TIMEOUTS);
        }
        advance(&mut entry, &segment(RST, from_b, now), &TIMEOUTS);
        prop_assert_eq!(entry.expires, now + TIMEOUTS.fin);
        // Stragglers do not bring it back to life.
        advance(&mut entry, &segment(ACK, !from_b, now), &TIMEOUTS);
        prop_assert_eq!(entry.expires, now + TIMEOUTS.fin);
        prop_assert!(is_over(&entry, &segment(SYN, from_b, now)));
        prop_assert!(!is_over(&entry, &segment(SYN | ACK, from_b, now)));
    }
}

fn segment(tcp_flags: u8, from_b: bool, now: u32) -> Segment {
    Segment {
        proto: TCP,
        tcp_flags,
        from_b,
        len: 60,
        now,
    }
}

#[test]
fn a_life_as_it_should_be() {
    let mut entry = open(&segment(SYN, false, 0), &TIMEOUTS, 1, 2);
    let mut step = |flags, from_b, now| {
        let s = segment(flags, from_b, now);
        assert!(!is_over(&entry, &s));
        let seen = advance(&mut entry, &s, &TIMEOUTS);
        (seen.status, seen.report, entry.expires - now)
    };
    use CtStatus::{Established, Reply};
    assert_eq!(step(SYN | ACK, true, 1), (Reply, true, TIMEOUTS.syn));
    assert_eq!(step(ACK, false, 1), (Established, false, TIMEOUTS.tcp));
    assert_eq!(step(ACK, true, 2), (Reply, false, TIMEOUTS.tcp));
    assert_eq!(step(ACK, true, 6), (Reply, true, TIMEOUTS.tcp));
    assert_eq!(step(FIN | ACK, false, 7), (Established, true, TIMEOUTS.tcp));
    assert_eq!(step(FIN | ACK, true, 7), (Reply, true, TIMEOUTS.fin));
    assert_eq!(step(ACK, false, 8), (Established, false, TIMEOUTS.fin));
    assert!(!is_over(&entry, &segment(ACK, false, 18)));
    assert!(is_over(&entry, &segment(ACK, false, 19)));
}

/// The clock may stand near its end: nothing overflows, nothing lives less than it should.
#[test]
fn the_end_of_the_clock_is_survived() {
    let entry = open(&segment(ACK, false, u32::MAX - 3), &TIMEOUTS, 0, 0);
    assert_eq!(entry.expires, u32::MAX);
    assert!(!is_over(&entry, &segment(ACK, false, u32::MAX)));
}

/// Where the other side is not seen, the opener's last word ends a connection soon; what it says after that keeps it a while.
#[test]
fn a_connection_of_which_one_side_is_seen() {
    let segment = |tcp_flags, now| Segment {
        proto: TCP,
        tcp_flags,
        from_b: false,
        len: 60,
        now,
    };
    for (flags, lives) in [(abi::ct_flags::DSR, 60), (0, 800)] {
        let mut entry = open(&segment(SYN, 100), &TIMEOUTS, 1, 2);
        entry.flags |= flags;
        advance(&mut entry, &segment(ACK, 101), &TIMEOUTS);
        assert_eq!(entry.expires, 101 + 800);
        for now in [102, 150] {
            advance(&mut entry, &segment(FIN | ACK, now), &TIMEOUTS);
            assert_eq!(entry.expires, now + lives);
        }
        advance(&mut entry, &segment(RST, 151), &TIMEOUTS);
        assert_eq!(entry.expires, 151 + 10);
    }
}
