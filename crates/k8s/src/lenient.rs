//! Values that may be of another kind than they should be: what is odd is told and left out, the rest of the object is read.
//!
//! An error while parsing would cost the whole list that the object stands in. These types take anything.
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use std::{
    fmt::{self, Arguments},
    marker::PhantomData,
    str::FromStr,
};

/// A text, a whole number, or a truth value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scalar {
    /// Not there, or null.
    #[default]
    Absent,
    /// A text.
    Text(Box<str>),
    /// A whole number.
    Number(i64),
    /// A truth value.
    Flag(bool),
    /// Something else.
    Odd,
}

/// An object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Record<T> {
    /// Not there, or null.
    #[default]
    Absent,
    /// It is there.
    Given(T),
    /// Something else.
    Odd,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List<T> {
    /// Its items; none where it is not there, or null.
    Items(Vec<T>),
    /// Something else.
    Odd,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::Items(Vec::new())
    }
}

impl<T: Default> Record<T> {
    /// What is there, or what is as good as nothing.
    pub fn unwrap_or_default(self) -> T {
        match self {
            Self::Given(value) => value,
            Self::Absent | Self::Odd => T::default(),
        }
    }
}

impl<T> List<T> {
    /// The items.
    #[must_use]
    pub fn items(&self) -> &[T] {
        match self {
            Self::Items(items) => items,
            Self::Odd => &[],
        }
    }
}

macro_rules! always {
    ($($name:ident $type:ty => $value:expr;)+) => {
        $(fn $name<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok($value)
        })+
    };
}

macro_rules! nothing {
    ($value:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }
    };
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

struct Any<T>(PhantomData<T>);

impl<'de> Visitor<'de> for Any<Scalar> {
    type Value = Scalar;

    nothing!(Scalar::Absent);
    always!(visit_f64 f64 => Scalar::Odd;);

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(value).map_or(Scalar::Odd, Scalar::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar, A::Error> {
        skip_map(map).map(|()| Scalar::Odd)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Scalar, A::Error> {
        skip_list(list).map(|()| Scalar::Odd)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<Record<T>> {
    type Value = Record<T>;

    nothing!(Record::Absent);
    always! {
        visit_bool bool => Record::Odd;
        visit_i64 i64 => Record::Odd;
        visit_u64 u64 => Record::Odd;
        visit_f64 f64 => Record::Odd;
        visit_str &str => Record::Odd;
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Record<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Record::Given)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Record<T>, A::Error> {
        skip_list(list).map(|()| Record::Odd)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<List<T>> {
    type Value = List<T>;

    nothing!(List::default());
    always! {
        visit_bool bool => List::Odd;
        visit_i64 i64 => List::Odd;
        visit_u64 u64 => List::Odd;
        visit_f64 f64 => List::Odd;
        visit_str &str => List::Odd;
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        skip_map(map).map(|()| List::Odd)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(List::Items(items))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData::<Self>))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Record<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData::<Self>))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData::<Self>))
    }
}

/// Reads lenient values, and notes what is odd about them.
#[derive(Debug, Default)]
pub struct Reader {
    /// A line for each thing that was left out.
    pub problems: Vec<String>,
}

impl Reader {
    /// Notes that something is left out.
    pub fn odd(&mut self, at: Arguments<'_>, what: impl fmt::Display, accepted: &str) {
        self.problems
            .push(format!("{at}: {what}; accepted: {accepted}"));
    }

    /// A text, empty where there is none.
    pub fn text<'a>(&mut self, value: &'a Scalar, at: Arguments<'_>) -> &'a str {
        match value {
            Scalar::Text(text) => text,
            Scalar::Absent => "",
            other => {
                self.odd(at, format_args!("{other} is no text"), "a text");
                ""
            }
        }
    }

    /// A truth value.
    pub fn flag(&mut self, value: &Scalar, at: Arguments<'_>) -> Option<bool> {
        match value {
            Scalar::Flag(flag) => Some(*flag),
            Scalar::Absent => None,
            other => {
                self.odd(at, format_args!("{other} is not understood"), "true, false");
                None
            }
        }
    }

    /// A number in a range.
    pub fn number<T: TryFrom<i64>>(
        &mut self,
        value: &Scalar,
        at: Arguments<'_>,
        accepted: &str,
    ) -> Option<T> {
        let number = match value {
            Scalar::Number(number) => T::try_from(*number).ok(),
            Scalar::Absent => return None,
            _ => None,
        };
        if number.is_none() {
            self.odd(at, format_args!("{value} is not understood"), accepted);
        }
        number
    }

    /// A text that says something: what `read` makes of it; none where there is no text, or an empty one.
    pub fn said<T>(
        &mut self,
        value: &Scalar,
        at: Arguments<'_>,
        accepted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = match value {
            Scalar::Text(text) if !text.is_empty() => text,
            Scalar::Text(_) | Scalar::Absent => return None,
            _ => "",
        };
        let read = read(text).filter(|_| !text.is_empty());
        if read.is_none() {
            self.odd(at, format_args!("{value} is not understood"), accepted);
        }
        read
    }

    /// As [`said`](Self::said), for what is parsed.
    pub fn parsed<T: FromStr>(
        &mut self,
        value: &Scalar,
        at: Arguments<'_>,
        accepted: &str,
    ) -> Option<T> {
        self.said(value, at, accepted, |text| text.parse().ok())
    }

    /// An object, or what is as good as an empty one.
    pub fn record<T: Default>(&mut self, value: Record<T>, at: Arguments<'_>) -> T {
        if matches!(value, Record::Odd) {
            self.odd(at, "is no object", "an object");
        }
        value.unwrap_or_default()
    }

    /// The items of a list.
    pub fn list<T>(&mut self, value: List<T>, at: Arguments<'_>) -> Vec<T> {
        match value {
            List::Items(items) => items,
            List::Odd => {
                self.odd(at, "is no list", "a list");
                Vec::new()
            }
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Odd => f.write_str("what stands there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        port: Scalar,
        names: List<Scalar>,
        inner: Record<Box<Sample>>,
        last: Scalar,
    }

    fn read(json: &str) -> Sample {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn anything_is_taken_anywhere() {
        let values = [
            "null",
            "true",
            "-3",
            "7.5",
            "1e300",
            "\"a\"",
            "[1,{}]",
            "{\"x\":[]}",
        ];
        for value in values {
            for field in ["port", "names", "inner"] {
                // What stands beside it is read.
                let sample = read(&format!(
                    r#"{{"{field}":{value},"other":{value},"last":1}}"#
                ));
                assert_eq!(sample.last, Scalar::Number(1), "{field} {value}");
            }
        }
    }

    #[test]
    fn what_is_odd_is_told_with_its_place() {
        let sample =
            read(r#"{"port": 70000, "names": {"a": 1}, "inner": {"port": "x", "inner": 4}}"#);
        let mut reader = Reader::default();
        let port: Option<u16> = reader.number(&sample.port, format_args!("port"), "1 to 65535");
        assert_eq!(port, None);
        assert!(reader.list(sample.names, format_args!("names")).is_empty());
        let inner = reader.record(sample.inner, format_args!("inner"));
        assert_eq!(reader.text(&inner.port, format_args!("inner.port")), "x");
        reader.record(inner.inner, format_args!("inner.inner"));
        assert_eq!(
            reader.problems,
            [
                "port: 70000 is not understood; accepted: 1 to 65535",
                "names: is no list; accepted: a list",
                "inner.inner: is no object; accepted: an object",
            ]
        );
    }
}
