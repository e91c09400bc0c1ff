//! `unsafe` is for two crates: the eBPF programs, and the one that calls bpf(2).

use super::{Findings, Source};

const ALLOWED: [&str; 2] = ["bpf/", "crates/datapath/"];

/// Looks for the keyword outside comments, strings and the crates that may use it.
pub fn check(source: &Source, findings: &mut Findings) {
    let path = source.path.to_string_lossy();
    if ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
        return;
    }
    for (index, line) in source.text.lines().enumerate() {
        if uses_unsafe(line) {
            findings.error(format!(
                "{path}:{}: unsafe is only for {}",
                index + 1,
                ALLOWED.join(" and ")
            ));
        }
    }
}

fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    // Every other piece is inside a string.
    let mut words = code
        .split('"')
        .step_by(2)
        .flat_map(|piece| piece.split(|next: char| !next.is_alphanumeric() && next != '_'));
    words.any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyword_counts_and_not_the_word() {
        assert!(uses_unsafe("    unsafe { x() }"));
        assert!(uses_unsafe("#[unsafe(no_mangle)]"));
        assert!(!uses_unsafe("#![forbid(unsafe_code)]"));
        assert!(!uses_unsafe("// unsafe here"));
        assert!(!uses_unsafe(
            r"print('unsafe { }')".replace('\'', "\u{22}").as_str()
        ));
    }
}
