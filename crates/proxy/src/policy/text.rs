//! Many regular expressions of one text at once, each of them matching the whole of it.
use regex_automata::{Input, PatternSet, meta, util::syntax};
use regex_syntax::hir::{Hir, HirKind, Look};
use std::collections::HashMap;

/// Expressions in one automaton; more of them begin another one.
const CHUNK: usize = 64;
/// Largest automaton of one chunk, bytes.
const SIZE: usize = 8 << 20;

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Anything.
    Any,
    /// Nothing will do: what the rule says cannot be understood.
    Never,
    /// This very text.
    Exact(Box<[u8]>),
    /// What this expression of the set matches.
    Pattern(usize),
}

/// Expressions while they are gathered; equal ones stand once.
#[derive(Default)]
pub(super) struct Builder {
    known: HashMap<String, Test>,
    hirs: Vec<Hir>,
}

impl Builder {
    /// The test for an expression, or why there is none.
    pub(super) fn add(&mut self, pattern: Option<&str>) -> Result<Test, String> {
        let Some(pattern) = pattern else {
            return Ok(Test::Any);
        };
        if let Some(test) = self.known.get(pattern) {
            return Ok(test.clone());
        }
        // Parsed by itself, so that nothing in it can reach beyond it when it becomes part of more.
        let hir = syntax::parse_with(pattern, &syntax::Config::new())
            .map_err(|_| format!("{pattern:?} is no regular expression"))?;
        let test = match hir.kind() {
            HirKind::Empty => Test::Exact(Box::default()),
            HirKind::Literal(literal) => Test::Exact(literal.0.clone()),
            _ => {
                let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
                if build(std::slice::from_ref(&whole)).is_none() {
                    return Err(format!("{pattern:?} is too large a regular expression"));
                }
                self.hirs.push(whole);
                Test::Pattern(self.hirs.len() - 1)
            }
        };
        self.known.insert(pattern.to_owned(), test.clone());
        Ok(test)
    }

    /// All of them, compiled.
    pub(super) fn finish(self) -> Patterns {
        let mut chunks = Vec::new();
        let mut first = 0;
        for part in self.hirs.chunks(CHUNK) {
            compile(part, first, &mut chunks);
            first += part.len();
        }
        Patterns { chunks }
    }
}

fn build(hirs: &[Hir]) -> Option<meta::Regex> {
    let config = meta::Config::new()
        .match_kind(regex_automata::MatchKind::All)
        .utf8_empty(false)
        .nfa_size_limit(Some(SIZE));
    meta::Builder::new()
        .configure(config)
        .build_many_from_hir(hirs)
        .ok()
}

/// Expressions that fit alone may be too large together: then in halves.
fn compile(hirs: &[Hir], first: usize, chunks: &mut Vec<Chunk>) {
    if let Some(regex) = build(hirs) {
        chunks.push(Chunk { first, regex });
    } else if hirs.len() > 1 {
        let (left, right) = hirs.split_at(hirs.len() / 2);
        compile(left, first, chunks);
        compile(right, first + left.len(), chunks);
    }
}

/// Compiled expressions.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    first: usize,
    regex: meta::Regex,
}

/// A text that is held against the expressions when the first rule asks.
pub(super) struct Subject<'a> {
    patterns: &'a Patterns,
    text: &'a [u8],
    found: Vec<Option<PatternSet>>,
}

impl Patterns {
    pub(super) fn subject<'a>(&'a self, text: &'a [u8]) -> Subject<'a> {
        Subject {
            patterns: self,
            text,
            found: Vec::new(),
        }
    }
}

impl Subject<'_> {
    pub(super) fn meets(&mut self, test: &Test) -> bool {
        match test {
            Test::Any => true,
            Test::Never => false,
            Test::Exact(text) => **text == *self.text,
            Test::Pattern(id) => self.matches(*id),
        }
    }

    fn matches(&mut self, id: usize) -> bool {
        let chunks = &self.patterns.chunks;
        let Some(at) = chunks.iter().rposition(|chunk| chunk.first <= id) else {
            return false;
        };
        let chunk = &chunks[at];
        if chunk.regex.pattern_len() == 1 {
            return id == chunk.first && chunk.regex.is_match(Input::new(self.text));
        }
        if self.found.is_empty() {
            self.found.resize_with(chunks.len(), || None);
        }
        let text = self.text;
        let set = self.found[at].get_or_insert_with(|| {
            let mut set = PatternSet::new(chunk.regex.pattern_len());
            chunk
                .regex
                .which_overlapping_matches(&Input::new(text), &mut set);
            set
        });
        regex_automata::PatternID::new(id - chunk.first).is_ok_and(|id| set.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meets(patterns: &[&str], text: &str) -> Vec<bool> {
        let mut builder = Builder::default();
        let tests: Vec<_> = patterns
            .iter()
            .map(|p| builder.add(Some(p)).unwrap())
            .collect();
        let patterns = builder.finish();
        let mut subject = patterns.subject(text.as_bytes());
        tests.iter().map(|test| subject.meets(test)).collect()
    }

    #[test]
    fn the_whole_text_is_meant() {
        let patterns = ["/a", "/a.*", "a|/a|/ab", ".*b", "/a$", "(?i)/AB", "/ab|x"];
        assert_eq!(
            meets(&patterns, "/ab"),
            [false, true, true, true, false, true, true]
        );
        assert_eq!(
            meets(&patterns, "/a"),
            [true, true, true, false, true, false, false]
        );
        assert_eq!(meets(&["", "x*"], ""), [true, true]);
    }

    #[test]
    fn an_expression_stays_within_itself() {
        let mut builder = Builder::default();
        for broken in ["a)|(?:b", "(", "a{2", "[z-a]"] {
            let _ = builder.add(Some(broken)).is_err_and(|text| {
                assert!(text.contains(broken), "{text}");
                true
            });
        }
        assert!(builder.add(Some("a)|(?:b")).is_err());
        // A comment to the end of the line, and alternatives at the top, end where the expression does.
        assert_eq!(meets(&["(?x) /a # b", "/a|/b"], "/a"), [true, true]);
        assert_eq!(meets(&["(?x) /a # b", "/a|/b"], "/ab"), [false, false]);
        assert_eq!(meets(&["(?m)/a$"], "/a\n"), [false]);
    }

    #[test]
    fn hundreds_at_once() {
        let all: Vec<String> = (0..300).map(|n| format!("/item/{n}/.*")).collect();
        let refs: Vec<&str> = all.iter().map(String::as_str).collect();
        let found = meets(&refs, "/item/257/x");
        assert_eq!(
            found
                .iter()
                .enumerate()
                .filter(|(_, hit)| **hit)
                .map(|(n, _)| n)
                .collect::<Vec<_>>(),
            [257]
        );
    }

    #[test]
    fn what_is_too_large_is_refused_alone() {
        let mut builder = Builder::default();
        assert!(builder.add(Some("(?:\\w{200}){200}")).is_err());
        assert!(builder.add(Some("/ok.*")).is_ok());
    }
}
