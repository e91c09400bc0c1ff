//! The part of JSONPath that column definitions use: `.a.b`, `['a.b']`, `[0]`, `[*]`, `[?(@.x=="y")]`, `a\.b`.

use serde_json::Value;

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Where(Path, Compare, Value),
    Has(Path),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    Unequal,
    Less,
    LessEqual,
    More,
    MoreEqual,
}

const OPERATORS: [(&str, Compare); 6] = [
    ("==", Compare::Equal),
    ("!=", Compare::Unequal),
    ("<=", Compare::LessEqual),
    (">=", Compare::MoreEqual),
    ("<", Compare::Less),
    (">", Compare::More),
];

impl Path {
    /// A path, if that is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = match rest.strip_prefix('[') {
                Some(inside) => bracket(inside)?,
                None => field(rest.strip_prefix('.')?)?,
            };
            steps.push(step);
            rest = after;
        }
        (!steps.is_empty()).then_some(Self(steps))
    }

    /// Whether it is that of the time when an object was made.
    pub(super) fn is_creation_time(&self) -> bool {
        let field = |name: &str| Step::Field(name.to_owned());
        self.0 == [field("metadata"), field("creationTimestamp")]
    }

    /// The values that the path leads to.
    pub(super) fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.from(value))
                .collect();
        }
        found.retain(|value| !value.is_null());
        found
    }
}

impl Step {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let elements = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let length = i64::try_from(elements().len()).unwrap_or(i64::MAX);
                let index = if *index < 0 { index + length } else { *index };
                let index = usize::try_from(index).ok();
                index.and_then(|i| elements().get(i)).into_iter().collect()
            }
            Self::All => match value {
                Value::Object(map) => map.values().collect(),
                _ => elements().iter().collect(),
            },
            Self::Has(path) => {
                let has = |e: &&Value| !path.find(e).is_empty();
                elements().iter().filter(has).collect()
            }
            Self::Where(path, compare, with) => {
                let fits =
                    |e: &&Value| path.find(e).first().is_some_and(|v| compare.holds(v, with));
                elements().iter().filter(fits).collect()
            }
        }
    }
}

impl Compare {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => left.as_str().zip(right.as_str()).map(|(l, r)| l.cmp(r)),
        };
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::More => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::MoreEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

/// A name up to the next dot or bracket; a backslash takes the meaning from the character after it.
fn field(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let end = loop {
        match chars.next() {
            None => break text.len(),
            Some((i, '.' | '[')) => break i,
            Some((_, '\\')) => name.push(chars.next()?.1),
            Some((_, c)) => name.push(c),
        }
    };
    let step = match name.as_str() {
        "" => return None,
        "*" => Step::All,
        _ => Step::Field(name),
    };
    Some((step, &text[end..]))
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(") {
        let (inside, after) = filter.split_once(")]")?;
        return Some((condition(inside)?, after));
    }
    for quote in ['\'', '"'] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let (name, after) = quoted.split_once(&format!("{quote}]"))?;
            return Some((Step::Field(name.replace("\\.", ".")), after));
        }
    }
    let (inside, after) = text.split_once(']')?;
    let step = match inside.trim() {
        "*" => Step::All,
        number => Step::Index(number.parse().ok()?),
    };
    Some((step, after))
}

fn condition(text: &str) -> Option<Step> {
    let text = text.trim().strip_prefix('@')?;
    let operator = OPERATORS
        .iter()
        .filter_map(|(sign, compare)| Some((text.find(sign)?, sign, *compare)))
        .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let Some((at, sign, compare)) = operator else {
        return Some(Step::Has(Path::parse(text)?));
    };
    let value = text[at + sign.len()..].trim();
    let unquoted = ['\'', '"']
        .iter()
        .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
    let value = match unquoted {
        Some(text) => Value::from(text),
        None => serde_json::from_str(value).ok()?,
    };
    Some(Step::Where(Path::parse(text[..at].trim())?, compare, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn find(path: &str) -> Vec<Value> {
        let object = json!({"a": {"b.c": 1, "d": [{"x": "p", "n": 1}, {"x": "q", "n": 2}]}});
        let path = Path::parse(path).unwrap();
        path.find(&object).into_iter().cloned().collect()
    }

    #[test]
    fn paths_lead_somewhere() {
        assert_eq!(find(r".a.b\.c"), [json!(1)]);
        assert_eq!(find(".a['b.c']"), [json!(1)]);
        assert_eq!(find(".a.d[0].x"), [json!("p")]);
        assert_eq!(find(".a.d[-1].x"), [json!("q")]);
        assert_eq!(find(".a.d[*].x"), [json!("p"), json!("q")]);
        assert_eq!(find(".a.d[?(@.x==\"q\")].n"), [json!(2)]);
        assert_eq!(find(".a.d[?(@.n > 1)].x"), [json!("q")]);
        assert_eq!(find(".a.d[?(@.n)].n"), [json!(1), json!(2)]);
        assert!(find(".a.nothing.more").is_empty());
        for bad in ["", "a", ".a[", ".a[x]", ".."] {
            assert_eq!(Path::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_fine(text in "[.a\\[\\]?(@='\"*0-9<>!\\\\]{0,24}") {
            if let Some(path) = Path::parse(&text) {
                let _ = path.find(&json!({"a": [{"a": 1}, "x"]}));
            }
        }
    }
}
