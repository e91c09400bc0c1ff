//! The syntax of `--set`: `a.b=c,d[1].e=f,g={h,i}`, with `\` before what is meant as it stands.
use serde_json::{Map, Value};

/// How values are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true`, `false`, `null` and whole numbers are what they look like.
    Typed,
    /// Everything is a text.
    Text,
    /// Everything is the path of a file with the text.
    File,
}

/// The longest list that an index may ask for.
const LONGEST: usize = 1024;

/// A step from a value into it.
#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// Puts every `path=value` of `text` into `values`.
pub(super) fn apply(values: &mut Value, text: &str, kind: Kind) -> Result<(), String> {
    let mut reader = Reader {
        chars: text.chars().peekable(),
    };
    loop {
        let path = reader.path()?;
        let value = reader.value(kind)?;
        put(values, &path, value)?;
        match reader.chars.next() {
            None => return Ok(()),
            Some(',') if reader.chars.peek().is_none() => return Ok(()),
            Some(',') => {}
            Some(other) => return Err(format!("{other:?} was not expected after a value")),
        }
    }
}

struct Reader<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Reader<'_> {
    /// Everything up to one of `ends`, which stays.
    fn until(&mut self, ends: &[char]) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.chars.next_if(|c| !ends.contains(c)) {
            let taken = if c == '\\' {
                self.chars.next()
            } else {
                Some(c)
            };
            out.push(taken.ok_or("\\ stands at the end")?);
        }
        Ok(out)
    }

    fn path(&mut self) -> Result<Vec<Step>, String> {
        let mut path = Vec::new();
        loop {
            let name = self.until(&['.', '[', '=', ','])?;
            if !name.is_empty() {
                path.push(Step::Key(name));
            } else if !matches!(path.last(), Some(Step::Index(_))) {
                return Err(
                    "a name is missing; accepted: name=value or outer.inner=value".to_owned(),
                );
            }
            match self.chars.next() {
                Some('=') => return Ok(path),
                Some('.') => {}
                Some('[') => {
                    let number = self.until(&[']'])?;
                    self.chars.next();
                    let index = number.parse().ok().filter(|index| *index < LONGEST);
                    path.push(Step::Index(index.ok_or_else(|| {
                        format!(
                            "[{number}] is no place in a list; accepted: 0 to {}",
                            LONGEST - 1
                        )
                    })?));
                    if self.chars.peek() == Some(&'.') {
                        self.chars.next();
                    }
                }
                _ => return Err("a value is missing; accepted: name=value".to_owned()),
            }
        }
    }

    fn value(&mut self, kind: Kind) -> Result<Value, String> {
        if kind == Kind::File {
            let path = self.until(&[','])?;
            return std::fs::read_to_string(&path)
                .map(Value::from)
                .map_err(|error| format!("{path}: {error}"));
        }
        if self.chars.peek() != Some(&'{') {
            return Ok(typed(self.until(&[','])?, kind));
        }
        self.chars.next();
        let mut items = Vec::new();
        loop {
            let item = self.until(&[',', '}'])?;
            match self.chars.next() {
                Some('}') if item.is_empty() && items.is_empty() => return Ok(items.into()),
                Some(end) => {
                    items.push(typed(item, kind));
                    if end == '}' {
                        return Ok(items.into());
                    }
                }
                None => return Err("a list has no end }".to_owned()),
            }
        }
    }
}

fn typed(text: String, kind: Kind) -> Value {
    if kind == Kind::Text {
        return text.into();
    }
    match text.as_str() {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        "0" => 0.into(),
        // What begins with a zero or a sign of its own is no number to people.
        other if other.starts_with('0') || other.starts_with('+') => text.into(),
        other => other
            .parse::<i64>()
            .map_or_else(|_| text.clone().into(), Value::from),
    }
}

fn put(values: &mut Value, path: &[Step], value: Value) -> Result<(), String> {
    let mut here = values;
    for step in path {
        here = match step {
            Step::Key(key) => {
                if !here.is_object() {
                    *here = Value::Object(Map::new());
                }
                let map = here.as_object_mut().ok_or("no map")?;
                map.entry(key.clone()).or_insert(Value::Null)
            }
            Step::Index(index) => {
                if !here.is_array() {
                    *here = Value::Array(Vec::new());
                }
                let items = here.as_array_mut().ok_or("no list")?;
                if items.len() <= *index {
                    items.resize(index + 1, Value::Null);
                }
                &mut items[*index]
            }
        };
    }
    *here = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(text: &str, kind: Kind) -> Result<Value, String> {
        let mut values = json!({});
        apply(&mut values, text, kind).map(|()| values)
    }

    #[test]
    fn values_as_people_write_them() {
        for (text, wanted) in [
            ("a=b", json!({"a": "b"})),
            ("a.b.c=1,a.d=true", json!({"a": {"b": {"c": 1}, "d": true}})),
            ("a={x,y,1}", json!({"a": ["x", "y", 1]})),
            ("a={}", json!({"a": []})),
            ("a={10.0.0.0/8},b=c", json!({"a": ["10.0.0.0/8"], "b": "c"})),
            ("a[1].b=c", json!({"a": [null, {"b": "c"}]})),
            ("a[0]=x,a[1]=y", json!({"a": ["x", "y"]})),
            ("a=null", json!({"a": null})),
            ("a=", json!({"a": ""})),
            ("a=b=c", json!({"a": "b=c"})),
            (r"a=30000\,32767", json!({"a": "30000,32767"})),
            (
                r"a.kubernetes\.io/x=y",
                json!({"a": {"kubernetes.io/x": "y"}}),
            ),
            (
                "a=0,b=007,c=1.5,d=-3",
                json!({"a": 0, "b": "007", "c": "1.5", "d": -3}),
            ),
            ("a=b,", json!({"a": "b"})),
        ] {
            assert_eq!(set(text, Kind::Typed).unwrap(), wanted, "{text}");
        }
        assert_eq!(
            set("a=1,b={true}", Kind::Text).unwrap(),
            json!({"a": "1", "b": ["true"]})
        );
    }

    #[test]
    fn mistakes_are_said() {
        for (text, said) in [
            ("a", "a value is missing"),
            ("", "a name is missing"),
            ("=b", "a name is missing"),
            ("a..b=c", "a name is missing"),
            ("a={b", "no end }"),
            ("a[x]=b", "[x] is no place"),
            ("a[99999]=b", "no place in a list"),
            ("a={b}c", "'c' was not expected"),
            ("a=b,c", "a value is missing"),
            ("a=b\\", "at the end"),
        ] {
            let error = set(text, Kind::Typed).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(
            set("a=/nowhere", Kind::File)
                .unwrap_err()
                .contains("No such file")
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_fall(text in "[a-c.=,{}\\[\\]0-2\\\\]{0,24}") {
            let _ = set(&text, Kind::Typed);
        }
    }
}
