//! Which pairs of identities may talk after a change of policy and could not before, or the other way round.
use crate::kernel::{ANYBODY, L4, Question, Verdict, protocol_name};
use crate::resolve::Engine;
use crate::rule::{Direction, L7Kind, L7Rules};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Protocols and ports from the first to the last, in the order of the kernel's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    first: u32,
    last: u32,
}

impl Span {
    /// True if the protocol (upper 8 of 24 bits) and port (lower 16) are within.
    #[must_use]
    pub const fn contains(self, at: u32) -> bool {
        self.first <= at && at <= self.last
    }

    /// What is in none of these spans, which are sorted and do not overlap.
    #[must_use]
    pub fn outside(spans: &[Self]) -> Vec<Self> {
        let mut gaps = Vec::new();
        let mut next = 0;
        for span in spans {
            if next < span.first {
                gaps.push(Self {
                    first: next,
                    last: span.first - 1,
                });
            }
            next = span.last + 1;
        }
        if next <= END {
            gaps.push(Self {
                first: next,
                last: END,
            });
        }
        gaps
    }

    /// Spans as people say it: most traffic as all but the rest.
    #[must_use]
    pub fn words(spans: &[Self]) -> Vec<String> {
        let texts = |spans: &[Self]| -> Vec<String> { spans.iter().map(Self::to_string).collect() };
        let protocols = |span: &Self| (span.last >> 16) - (span.first >> 16);
        if spans.iter().all(|span| protocols(span) == 0)
            || spans.len() == 1 && Self::outside(spans).is_empty()
        {
            return texts(spans);
        }
        vec![format!(
            "all traffic but {}",
            texts(&Self::outside(spans)).join(", ")
        )]
    }
}

/// Greatest protocol and port.
const END: u32 = 0x00ff_ffff;

/// Traffic of a pair whose verdict changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairChange {
    /// Identity that sends.
    pub source: u32,
    /// Identity that receives.
    pub destination: u32,
    /// Which traffic.
    pub traffic: Vec<Span>,
    /// What becomes of it.
    pub turn: Turn,
}

/// What becomes of traffic whose verdict changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// It passes now and did not before.
    Opened,
    /// It passed before and does not now.
    Closed,
    /// It passes before and after, but what may be asked for on it is decided otherwise.
    Requests,
}

impl Turn {
    /// The sign by which lists tell it: `+`, `-` or `~`.
    #[must_use]
    pub const fn sign(self) -> char {
        match self {
            Self::Opened => '+',
            Self::Closed => '-',
            Self::Requests => '~',
        }
    }
}

/// Compares two engines that know the same identities, each under its own number as a subject, too, if policy is about
/// it. What passes at both ends passes; an end that is no subject lets everything pass.
#[must_use]
pub fn pair_changes(before: &Engine, after: &Engine) -> Vec<PairChange> {
    let subjects: BTreeSet<u32> = after.subjects().map(|(number, _)| number).collect();
    let everybody: BTreeSet<u32> = after.identities().chain(subjects.iter().copied()).collect();
    let mut found = Vec::new();
    for source in &everybody {
        for destination in &everybody {
            if subjects.contains(source) || subjects.contains(destination) {
                found.extend(pair_change(before, after, *source, *destination));
            }
        }
    }
    found
}

/// As [`pair_changes`], of one pair: what opens, what closes, and of what passes by other rules above the transport.
#[must_use]
pub fn pair_change(
    before: &Engine,
    after: &Engine,
    source: u32,
    destination: u32,
) -> Vec<PairChange> {
    let sides = [
        (source, Direction::Egress, destination),
        (destination, Direction::Ingress, source),
    ];
    let same = sides.iter().all(|(subject, direction, remote)| {
        [*remote, ANYBODY].iter().all(|remote| {
            before
                .rows_about(*subject, *direction, *remote)
                .map(|(l4, value)| (l4, value.verdict, value.l7, value.precedence))
                .eq(after
                    .rows_about(*subject, *direction, *remote)
                    .map(|(l4, value)| (l4, value.verdict, value.l7, value.precedence)))
        }) && before.proxy_rules_of(*subject, *direction)
            == after.proxy_rules_of(*subject, *direction)
    });
    if same {
        return Vec::new();
    }
    let (mut opened, mut closed, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for span in spans([before, after], &sides) {
        match (
            passes(before, &sides, span.first),
            passes(after, &sides, span.first),
        ) {
            (None, Some(_)) => push(&mut opened, span),
            (Some(_), None) => push(&mut closed, span),
            (before, after) if before != after => push(&mut requests, span),
            _ => {}
        }
    }
    [
        (opened, Turn::Opened),
        (closed, Turn::Closed),
        (requests, Turn::Requests),
    ]
    .into_iter()
    .filter(|(traffic, _)| !traffic.is_empty())
    .map(|(traffic, turn)| PairChange {
        source,
        destination,
        traffic,
        turn,
    })
    .collect()
}

/// Adds a span, joined with the one before where they touch.
fn push(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(before) if before.last + 1 == span.first => before.last = span.last,
        _ => spans.push(span),
    }
}

/// Spans within which no row begins or ends, so that each has one verdict.
fn spans(engines: [&Engine; 2], sides: &[(u32, Direction, u32)]) -> Vec<Span> {
    let mut starts = BTreeSet::from([0]);
    for engine in engines {
        for (subject, direction, remote) in sides {
            for remote in [*remote, ANYBODY] {
                for (l4, _) in engine.rows_about(*subject, *direction, remote) {
                    starts.insert(l4.first());
                    starts.insert(l4.last() + 1);
                }
            }
            for rules in engine.proxy_rules_of(*subject, *direction) {
                let start = u32::from(rules.transport.number()) << 16;
                starts.insert(start | u32::from(rules.first));
                starts.insert((start | u32::from(rules.last)) + 1);
            }
        }
    }
    starts.insert(END + 1);
    let starts: Vec<u32> = starts.into_iter().collect();
    starts
        .windows(2)
        .map(|pair| Span {
            first: pair[0],
            last: pair[1] - 1,
        })
        .collect()
}

/// The rules above the transport of which one must be met, of an end that has such.
type Limit = (L7Kind, Vec<Arc<L7Rules>>);

/// What limits requests at each end, if the traffic passes.
fn passes(engine: &Engine, sides: &[(u32, Direction, u32)], at: u32) -> Option<Vec<Option<Limit>>> {
    let (protocol, port) = split(at);
    let ends = sides.iter().map(|(subject, direction, remote)| {
        let question = Question {
            subject: *subject,
            direction: *direction,
            remote: *remote,
            protocol,
            port: Some(port),
        };
        match engine.ask(&question) {
            Some(outcome) if outcome.verdict != Verdict::Allow => None,
            Some(outcome) => Some(outcome.l7.and_then(|kind| limit(engine, &question, kind))),
            None => Some(None),
        }
    });
    ends.collect()
}

/// None where everything may be asked for.
fn limit(engine: &Engine, question: &Question, kind: L7Kind) -> Option<Limit> {
    let all = engine.proxy_rules_of(question.subject, question.direction);
    let port = question.port.unwrap_or_default();
    let mut rules: Vec<Arc<L7Rules>> = Vec::new();
    for one in all {
        if one.covers(question.direction, question.protocol, port, question.remote) {
            let own = one.rules.as_ref()?;
            if own.kind() == kind && !rules.contains(own) {
                rules.push(own.clone());
            }
        }
    }
    // In the order of their words: that of the policies does not count.
    rules.sort_by_cached_key(|rules| format!("{rules:?}"));
    Some((kind, rules))
}

fn split(at: u32) -> (u8, u16) {
    let [_, protocol, high, low] = at.to_be_bytes();
    (protocol, u16::from_be_bytes([high, low]))
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (self.first, self.last) == (0, END) {
            return f.write_str("all traffic");
        }
        let ((protocol, first), (last_protocol, last)) = (split(self.first), split(self.last));
        if protocol == last_protocol {
            let name = protocol_name(protocol);
            return match (first, last) {
                (0, u16::MAX) => f.write_str(&name),
                (first, last) if first == last => write!(f, "{}", L4::port(protocol, first)),
                (first, last) => write!(f, "{first}-{last}/{name}"),
            };
        }
        // Whole protocols in between; rows cut at protocols, so that the ends are whole, too, but for their ports.
        let from = match first {
            0 => protocol_name(protocol),
            first => format!("{first}-65535/{}", protocol_name(protocol)),
        };
        let to = match last {
            u16::MAX => protocol_name(last_protocol),
            last => format!("0-{last}/{}", protocol_name(last_protocol)),
        };
        write!(f, "{from} to {to}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_people_write_ports() {
        let text = |first, last| Span { first, last }.to_string();
        assert_eq!(text(0, END), "all traffic");
        assert_eq!(text(6 << 16 | 80, 6 << 16 | 80), "80/TCP");
        assert_eq!(text(6 << 16 | 80, 6 << 16 | 90), "80-90/TCP");
        assert_eq!(text(17 << 16, 17 << 16 | 0xffff), "UDP");
        assert_eq!(text(7 << 16, 17 << 16 | 52), "7 to 0-52/UDP");
        let web = Span {
            first: 6 << 16 | 80,
            last: 6 << 16 | 80,
        };
        let all = Span {
            first: 0,
            last: END,
        };
        assert_eq!(Span::words(&[web]), ["80/TCP"]);
        assert_eq!(Span::words(&[all]), ["all traffic"]);
        assert_eq!(
            Span::words(&Span::outside(&[web])),
            ["all traffic but 80/TCP"]
        );
        assert_eq!(Span::outside(&Span::outside(&[web])), [web]);
        assert!(Span::outside(&[all]).is_empty() && Span::outside(&[]) == [all]);
    }
}
