//! Names with parts left open.
use regex::{Regex, RegexBuilder};

/// `namespace/beginning of a name`.
#[derive(Debug, PartialEq, Eq)]
pub struct Prefixed {
    /// Empty: any.
    namespace: String,
    prefix: String,
}

impl Prefixed {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (namespace, prefix) = text.split_once('/').unwrap_or(("default", text));
        if prefix.contains('/') {
            return Err(format!(
                "{text:?} has more than one slash; accepted are namespace/name, namespace/, /name and name"
            ));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        // Who has neither is no pod and no service, whatever is asked.
        (self.namespace.is_empty() || self.namespace == namespace)
            && name.starts_with(&self.prefix)
            && !(namespace.is_empty() && name.is_empty())
    }
}

/// A name in which `*` stands for any of its characters.
#[derive(Debug)]
pub struct Glob(Regex);

/// What `*` stands for in names.
const ANY: &str = "[-.0-9a-z]*";

impl Glob {
    /// A DNS name.
    pub fn fqdn(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('.');
        if text.is_empty() {
            return Err(
                "an empty name; accepted are names as www.example.com or *.example.com".to_owned(),
            );
        }
        let pattern = pattern(text, "-._*")?;
        Self::new(&pattern)
    }

    /// A node: `cluster/node`, `node` of the cluster `default`, `cluster/` or `/node`.
    pub fn node(text: &str) -> Result<Self, String> {
        let (cluster, node) = text.split_once('/').unwrap_or(("default", text));
        let part = |text: &str| match text {
            "" => Ok("[^/]*".to_owned()),
            text => pattern(text, "-._*"),
        };
        if text.is_empty() {
            return Err(
                "an empty name; accepted are node and cluster/node, with * for any part".to_owned(),
            );
        }
        Self::new(&format!("{}/{}", part(cluster)?, part(node)?))
    }

    fn new(pattern: &str) -> Result<Self, String> {
        RegexBuilder::new(&format!("^(?:{pattern})$"))
            .case_insensitive(true)
            .size_limit(1 << 20)
            .build()
            .map(Self)
            .map_err(|_| "the name is too long".to_owned())
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

fn pattern(text: &str, beside: &str) -> Result<String, String> {
    let wrong = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !beside.contains(*c));
    if let Some(wrong) = wrong {
        return Err(format!(
            "{text:?} has the character {wrong:?}; accepted are letters, digits, '-', '.', '_' and '*'"
        ));
    }
    let parts: Vec<String> = text.split('*').map(regex::escape).collect();
    Ok(parts.join(ANY))
}

/// A status code, or those that begin with it.
#[derive(Debug, PartialEq, Eq)]
pub struct StatusCode {
    digits: String,
    open: bool,
}

impl StatusCode {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no status code; accepted are codes as 404 and their beginnings as 4+ or 40+"
            )
        };
        let open = text.strip_suffix('+');
        let digits = open.unwrap_or(text);
        let lengths = if open.is_some() { 1..=2 } else { 3..=3 };
        let fits = lengths.contains(&digits.len())
            && digits.starts_with(['1', '2', '3', '4', '5'])
            && digits.bytes().all(|digit| digit.is_ascii_digit());
        if !fits {
            return Err(wrong());
        }
        Ok(Self {
            digits: digits.to_owned(),
            open: open.is_some(),
        })
    }

    pub fn matches(&self, code: u32) -> bool {
        let code = code.to_string();
        if self.open {
            code.len() == 3 && code.starts_with(&self.digits)
        } else {
            code == self.digits
        }
    }
}

/// The path in a URL, without what follows a question mark.
pub fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| {
        rest.find('/').map_or("/", |at| &rest[at..])
    });
    rest.split(['?', '#']).next().unwrap_or_default()
}
