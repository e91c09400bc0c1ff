//! The size budget: a file and a function that a person can hold in mind.

use super::{Findings, Source};

/// A file should not be longer.
const FILE_ADVISED: usize = 600;
/// A file must not be longer.
const FILE_CAP: usize = 900;
/// A function must not be longer.
const FN_CAP: usize = 120;

/// Checks one file; tests and generated code are left out of the count.
pub fn check(source: &Source, findings: &mut Findings) {
    let path = source.path.display();
    if is_apart(&source.path.to_string_lossy()) {
        return;
    }
    let lines = without_tests(&source.text);
    match lines.len() {
        count if count > FILE_CAP => {
            findings.error(format!(
                "{path}: {count} lines without tests (at most {FILE_CAP}); split it"
            ));
        }
        count if count > FILE_ADVISED => {
            findings.advise(format!(
                "{path}: {count} lines without tests (better {FILE_ADVISED})"
            ));
        }
        _ => {}
    }
    for (number, name, length) in functions(&lines) {
        if length > FN_CAP {
            findings.error(format!(
                "{path}:{number}: fn {name} has {length} lines (at most {FN_CAP})"
            ));
        }
    }
}

fn is_apart(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/generated/")
}

/// The lines with their numbers, but for the `#[cfg(test)]` modules. The code is formatted, so a block ends
/// with the brace in the column where its first line starts.
fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .peekable();
    while let Some((number, line)) = lines.next() {
        let opens_tests = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|(_, next)| {
                next.trim_start().starts_with("mod ") && next.ends_with('{')
            });
        if !opens_tests {
            kept.push((number, line));
            continue;
        }
        let end = format!("{}}}", indent(line));
        lines.by_ref().find(|(_, line)| *line == end);
    }
    kept
}

/// First line, name and number of lines of every function.
fn functions<'a>(lines: &[(usize, &'a str)]) -> Vec<(usize, &'a str, usize)> {
    let mut found = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let (end, head_end) = (format!("{}}}", indent(line)), format!("{};", indent(line)));
        let length = lines[index..]
            .iter()
            .position(|(_, line)| *line == end || *line == head_end);
        // A function of one line, or a trait's without a body, has no such end before the next one starts.
        let one_line = line.ends_with('}') || line.ends_with(';');
        found.push((
            *number,
            name,
            if one_line {
                1
            } else {
                length.map_or(1, |length| length + 1)
            },
        ));
    }
    found
}

fn indent(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// The name after `fn`, if the line starts a function.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let head = |word: &str| {
        matches!(
            word,
            "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\""
        ) || word.starts_with("pub(")
    };
    if !before.split_whitespace().all(head) {
        return None;
    }
    let end = after.find(|next: char| !next.is_alphanumeric() && next != '_')?;
    Some(&after[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source {
            path: "crates/x/src/lib.rs".into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_long_function_is_found_where_it_starts() {
        let body = "    let a = 1;\n".repeat(FN_CAP);
        let text = format!(
            "//! x\n\npub(crate) async fn long(\n    a: u8,\n) {{\n{body}}}\n\nfn short() {{}}\n"
        );
        let mut findings = Findings::default();
        check(&source(&text), &mut findings);
        assert_eq!(findings.errors.len(), 1);
        assert!(findings.errors[0].starts_with("crates/x/src/lib.rs:3: fn long has 124 lines"));
    }

    #[test]
    fn tests_do_not_count() {
        let tests = "    fn a() {}\n".repeat(FILE_CAP);
        let text = format!("fn x() {{}}\n\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
        let mut findings = Findings::default();
        check(&source(&text), &mut findings);
        assert!(findings.errors.is_empty() && findings.advice.is_empty());
    }

    #[test]
    fn a_long_file_is_refused_and_a_longish_one_noted() {
        let mut findings = Findings::default();
        check(&source(&"\n".repeat(FILE_CAP + 1)), &mut findings);
        check(&source(&"\n".repeat(FILE_ADVISED + 1)), &mut findings);
        assert_eq!((findings.errors.len(), findings.advice.len()), (1, 1));
    }
}
