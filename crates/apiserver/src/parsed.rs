//! JSON text of writers, read in one walk.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::schema::Path;

/// What a text says.
#[derive(Debug, Default)]
pub struct Parsed {
    /// As a value. Of fields that the text has more than once the last one counts.
    pub value: Value,
    /// Those fields.
    pub repeated: Vec<String>,
}

impl From<Value> for Parsed {
    fn from(value: Value) -> Self {
        Self {
            value,
            repeated: Vec::new(),
        }
    }
}

/// Reads JSON.
///
/// # Errors
/// The text is no JSON, or there is more than one value in it.
pub fn json(text: &[u8]) -> serde_json::Result<Parsed> {
    let mut repeated = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let noting = Noting {
        path: Path::root(),
        repeated: &mut repeated,
    };
    let value = noting.deserialize(&mut reader)?;
    reader.end()?;
    Ok(Parsed { value, repeated })
}

/// Makes a value of JSON and notes repeated fields, in one walk: bodies can be large.
struct Noting<'a> {
    path: Path<'a>,
    repeated: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = self.path.key(&name);
            if fields.contains_key(&name) {
                self.repeated.push(path.to_string());
            }
            let value = map.next_value_seed(Noting {
                path,
                repeated: self.repeated,
            })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(Noting {
            path: self.path.index(elements.len()),
            repeated: self.repeated,
        })? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json as value;

    #[test]
    fn repeated_fields_are_found_where_they_are() {
        let text = br#"{"a": 1, "a": {"b": [{"c": "x", "d": null, "c": true}], "b": -1.5}, "e": {"a": 2}}"#;
        let parsed = json(text).unwrap();
        assert_eq!(parsed.repeated, ["a", "a.b[0].c", "a.b"]);
        assert_eq!(parsed.value, value!({"a": {"b": -1.5}, "e": {"a": 2}}));
        for wrong in [b"{\"a\": 1".as_slice(), b"a: 1\na: 2", b"", b"[1] 1"] {
            assert!(json(wrong).is_err());
        }
    }

    proptest! {
        /// The walk makes the same value of every text as the library does.
        #[test]
        fn values_are_those_of_the_library(text in r#"([\[\]{}:,0-9eE.+-]|"[a-c]?"|null|true|false|"\\u00e4"|18446744073709551615){0,12}"#) {
            let expected = serde_json::from_str::<Value>(&text).ok();
            prop_assert_eq!(json(text.as_bytes()).ok().map(|p| p.value), expected);
        }
    }
}
