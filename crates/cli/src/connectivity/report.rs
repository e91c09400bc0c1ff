//! The matrix as people and programs read it.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::plan::{Family, Protocol, Size, Source};
use super::run::Outcome;

/// One cell in `-o json`.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    path: &'a str,
    from: &'a str,
    to: &'a str,
    target: IpAddr,
    family: Family,
    protocol: Protocol,
    size: Size,
    expected_source: String,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<&'a str>,
    tries: u32,
    milliseconds: f64,
}

/// The cells as rows for a program.
#[must_use]
pub fn rows(outcomes: &[Outcome]) -> Vec<Row<'_>> {
    outcomes
        .iter()
        .map(|outcome| Row {
            path: &outcome.case.path,
            from: &outcome.case.from,
            to: &outcome.case.to,
            target: outcome.case.target,
            family: Family::of(outcome.case.target),
            protocol: outcome.case.protocol,
            size: outcome.case.size,
            expected_source: expected_source(&outcome.case.source),
            passed: outcome.failure.is_none(),
            seen: outcome.failure.as_deref(),
            tries: outcome.tries,
            milliseconds: outcome.took.as_micros() as f64 / 1000.0,
        })
        .collect()
}

fn expected_source(source: &Source) -> String {
    match source {
        Source::Untranslated => "the client's own address".into(),
        Source::Node(addresses) => {
            let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("the node's address {}", names.join(" or "))
        }
    }
}

/// The matrix, the failures, and the sum.
#[must_use]
pub fn text(outcomes: &[Outcome], took: Duration, colour: bool) -> String {
    let mut out = matrix(outcomes, colour);
    let failed: Vec<&Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .collect();
    if !failed.is_empty() {
        out.push('\n');
    }
    for outcome in &failed {
        let case = &outcome.case;
        let seen = outcome.failure.as_deref().unwrap_or_default();
        let _ = writeln!(
            out,
            "{} {}: {} {} {}, {} → {} ({}): expected an answer and {} as source; {seen}",
            paint("✗", Paint::Bad, colour),
            case.path,
            Family::of(case.target).text(),
            case.protocol.text(),
            case.size.text(),
            case.from,
            case.to,
            case.target,
            expected_source(&case.source),
        );
    }
    let seconds = took.as_secs_f64();
    let _ = writeln!(
        out,
        "\n{} cells, {} failed, {seconds:.1} s",
        outcomes.len(),
        failed.len()
    );
    out
}

/// Marks per path, then family and protocol.
type Marks<'a> = BTreeMap<(Family, Protocol, Size), bool>;

fn matrix(outcomes: &[Outcome], colour: bool) -> String {
    let mut paths: Vec<(&str, Marks<'_>)> = Vec::new();
    for outcome in outcomes {
        let case = &outcome.case;
        let index = match paths.iter().position(|(path, _)| *path == case.path) {
            Some(index) => index,
            None => {
                paths.push((&case.path, Marks::new()));
                paths.len() - 1
            }
        };
        let passed = outcome.failure.is_none();
        let mark = paths[index]
            .1
            .entry((Family::of(case.target), case.protocol, case.size))
            .or_insert(true);
        *mark &= passed;
    }
    let width = paths
        .iter()
        .map(|(path, _)| path.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = header(width);
    for (path, marks) in &paths {
        out.push_str(&line(path, marks, width, colour));
    }
    out
}

/// Blanks between two columns.
const GAP: &str = "   ";
/// Width of a column: one mark per size, and at least the longest protocol's name.
const COLUMN: usize = 4;

fn header(width: usize) -> String {
    let family_width = Protocol::ALL.len() * (COLUMN + GAP.len()) - GAP.len();
    let mut first = " ".repeat(width);
    let mut second = " ".repeat(width);
    for family in Family::ALL {
        let name = match family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        let _ = write!(first, "{GAP}{name:<family_width$}");
        for protocol in Protocol::ALL {
            let _ = write!(second, "{GAP}{:<COLUMN$}", protocol.text());
        }
    }
    let sizes: Vec<&str> = Size::ALL.iter().map(|size| size.text()).collect();
    format!(
        "Marks: {}\n\n{}\n{}\n",
        sizes.join(", "),
        first.trim_end(),
        second.trim_end()
    )
}

fn line(path: &str, marks: &Marks<'_>, width: usize, colour: bool) -> String {
    let mut out = format!("{path}{}", " ".repeat(width - path.chars().count()));
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            out.push_str(GAP);
            for size in Size::ALL {
                out.push_str(&match marks.get(&(family, protocol, size)) {
                    Some(true) => paint("✓", Paint::Good, colour),
                    Some(false) => paint("✗", Paint::Bad, colour),
                    None => paint("·", Paint::Faint, colour),
                });
            }
            out.push_str(&" ".repeat(COLUMN - Size::ALL.len()));
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

enum Paint {
    Good,
    Bad,
    Faint,
}

fn paint(text: &str, paint: Paint, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match paint {
        Paint::Good => 32,
        Paint::Bad => 31,
        Paint::Faint => 90,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::connectivity::plan::{self, tests::scene};

    fn outcomes() -> Vec<Outcome> {
        let mut cases = plan::cases(&scene(), 0);
        cases.retain(|case| case.path.contains("same node") || case.path.contains("outside host"));
        let fails = |case: &plan::Case| {
            case.path.contains("outside")
                && case.protocol == Protocol::Udp
                && case.size == Size::Large
        };
        let outcome = |case: plan::Case| Outcome {
            failure: (fails(&case) && case.target.is_ipv4())
                .then(|| "no answer; the request did arrive, from 10.7.1.10".into()),
            case,
            tries: 1,
            took: Duration::from_micros(1250),
        };
        cases.into_iter().map(outcome).collect()
    }

    #[test]
    fn matrix_and_failures() {
        expect![[r"
            Marks: small, full, large

                                   IPv4                 IPv6
                                   tcp    udp    icmp   tcp    udp    icmp
            pod → pod, same node   ✓✓✓    ✓✓✓    ✓✓✓    ···    ···    ···
            pod → outside host     ✓✓✓    ✓✓✗    ✓✓✓    ✓✓✓    ✓✓✓    ✓✓✓

            ✗ pod → outside host: ipv4 udp large, p1-0 → outside (192.0.2.100): expected an answer and the node's address 192.0.2.1 as source; no answer; the request did arrive, from 10.7.1.10

            27 cells, 1 failed, 0.7 s
        "]]
        .assert_eq(&text(&outcomes(), Duration::from_millis(730), false));
    }

    #[test]
    fn colours_only_when_asked() {
        let outcomes = outcomes();
        assert!(text(&outcomes, Duration::ZERO, true).contains("\x1b[31m✗\x1b[0m"));
        assert!(!text(&outcomes, Duration::ZERO, false).contains('\x1b'));
    }

    #[test]
    fn json_row() {
        let outcomes = outcomes();
        let failed: Vec<Row<'_>> = rows(&outcomes)
            .into_iter()
            .filter(|row| !row.passed)
            .collect();
        expect![[r#"
            [
              {
                "path": "pod → outside host",
                "from": "p1-0",
                "to": "outside",
                "target": "192.0.2.100",
                "family": "ipv4",
                "protocol": "udp",
                "size": "large",
                "expected_source": "the node's address 192.0.2.1",
                "passed": false,
                "seen": "no answer; the request did arrive, from 10.7.1.10",
                "tries": 1,
                "milliseconds": 1.25
              }
            ]"#]]
        .assert_eq(&serde_json::to_string_pretty(&failed).unwrap());
    }
}
