//! Which labels make an identity: the setting `labels`.
use regex::Regex;
use std::fmt;

/// What is kept and left out unless the user says otherwise; the longest match decides, so that
/// `io.kubernetes.pod.namespace` stays although `io.kubernetes` goes.
const DEFAULT: [&str; 19] = [
    r"reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    r"!pod-template-generation",
    r"!pod-template-hash",
    r"!controller-revision-hash",
    r"!controller-uid",
    r"!annotation.*",
    r"!etcd_node",
];

/// One pattern of the filter.
#[derive(Clone)]
struct Pattern {
    /// The label's source; none for any.
    source: Option<String>,
    /// Anchored at the start of the key.
    key: Regex,
    keep: bool,
}

/// Decides label by label what is security relevant.
#[derive(Clone)]
pub struct LabelFilter {
    patterns: Vec<Pattern>,
    /// What happens to a label that no pattern matches.
    keep_others: bool,
}

/// A pattern of the setting `labels` that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "labels: pattern {pattern:?} is no regular expression: {reason}; accepted: [!][source:]regular-expression, separated by spaces"
)]
pub struct FilterError {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl LabelFilter {
    /// The default patterns and those of `text`: `[!][source:]expression` separated by spaces, each matching keys that
    /// begin so. One pattern without `!` makes the filter keep only what a pattern names.
    ///
    /// # Errors
    /// The first pattern that is no regular expression.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let own: Vec<Pattern> = text
            .split_whitespace()
            .map(Pattern::parse)
            .collect::<Result<_, _>>()?;
        let keep_others = !own.iter().any(|pattern| pattern.keep);
        let mut patterns: Vec<Pattern> = DEFAULT
            .iter()
            .map(|text| Pattern::parse(text))
            .collect::<Result<_, _>>()?;
        patterns.extend(own);
        Ok(Self {
            patterns,
            keep_others,
        })
    }

    /// True if the label belongs to an identity. The longest match decides; of two equally long ones the later.
    #[must_use]
    pub fn keeps(&self, source: &str, key: &str) -> bool {
        self.patterns
            .iter()
            .filter_map(|pattern| Some((pattern.matched(source, key)?, pattern.keep)))
            .max_by_key(|(length, _)| *length)
            .map_or(self.keep_others, |(_, keep)| keep)
    }
}

impl Default for LabelFilter {
    fn default() -> Self {
        // The built-in patterns are expressions, which a test holds.
        Self::parse("").unwrap_or(Self {
            patterns: Vec::new(),
            keep_others: true,
        })
    }
}

impl fmt::Debug for LabelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LabelFilter({} patterns)", self.patterns.len())
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let (keep, rest) = match text.strip_prefix('!') {
            Some(rest) => (false, rest),
            None => (true, text),
        };
        let (source, key) = super::split_source(rest);
        let key = key.strip_prefix('^').unwrap_or(key);
        let key = Regex::new(&format!("^(?:{key})")).map_err(|error| FilterError {
            pattern: text.to_owned(),
            reason: error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned(),
        })?;
        Ok(Self {
            source: source
                .filter(|source| *source != super::ANY)
                .map(str::to_owned),
            key,
            keep,
        })
    }

    /// How much of the key matches.
    fn matched(&self, source: &str, key: &str) -> Option<usize> {
        if self.source.as_deref().is_some_and(|want| want != source) {
            return None;
        }
        self.key.find(key).map(|found| found.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept<'a>(filter: &LabelFilter, keys: &[&'a str]) -> Vec<&'a str> {
        keys.iter()
            .copied()
            .filter(|key| filter.keeps("k8s", key))
            .collect()
    }

    #[test]
    fn defaults_leave_out_what_controllers_set() {
        let filter = LabelFilter::parse("").unwrap();
        assert_eq!(filter.patterns.len(), DEFAULT.len());
        let keys = [
            "app",
            "app.kubernetes.io/name",
            "io.kubernetes.pod.namespace",
            "io.kubernetes.pod.uid",
            "io.cilium.k8s.policy.serviceaccount",
            "statefulset.kubernetes.io/pod-name",
            "pod-template-hash",
            "failure-domain.beta.kubernetes.io/zone",
            "kubernetes.io/os",
        ];
        assert_eq!(
            kept(&filter, &keys),
            [
                "app",
                "app.kubernetes.io/name",
                "io.kubernetes.pod.namespace",
                "io.cilium.k8s.policy.serviceaccount",
            ]
        );
        assert!(filter.keeps("reserved", "host"));
    }

    #[test]
    fn a_pattern_that_keeps_makes_a_list_of_what_is_kept() {
        let filter = LabelFilter::parse("k8s:app !tier$").unwrap();
        assert_eq!(
            kept(
                &filter,
                &[
                    "app",
                    "apple",
                    "tier",
                    "other",
                    "io.kubernetes.pod.namespace"
                ]
            ),
            ["app", "apple", "io.kubernetes.pod.namespace"]
        );
        let filter = LabelFilter::parse("!tier$ !k8s:noise").unwrap();
        assert_eq!(
            kept(&filter, &["app", "tier", "tiered", "noise/x"]),
            ["app", "tiered"]
        );
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let error = LabelFilter::parse("app k8s:(").unwrap_err();
        assert_eq!(error.pattern, "k8s:(");
        assert!(error.to_string().contains("accepted: [!][source:]"));
    }
}
