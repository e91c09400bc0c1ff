//! A place in an object, which knows its path.
use super::{Problem, Result};
use ipnet::IpNet;
use serde_json::Value;
use std::{fmt::Write, net::IpAddr, rc::Rc};

/// Most items of a list: places of rules and entries are kept in 16 bits.
const MAX_ITEMS: usize = 30_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    /// None at the root. Written out only for an error: an object may have thousands of places, and seldom a wrong one.
    place: Option<Rc<Place<'a>>>,
}

/// A step from the place above.
#[derive(Debug)]
struct Place<'a> {
    above: Option<Rc<Self>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Member(&'a str),
    Key(&'a str),
    Item(usize),
}

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, place: None }
    }

    /// The path: names and numbers from the root on; empty there.
    pub(super) fn path(&self) -> String {
        let places = std::iter::successors(self.place.as_deref(), |place| place.above.as_deref());
        let mut steps: Vec<Step<'_>> = places.map(|place| place.step).collect();
        steps.reverse();
        let mut path = String::new();
        for step in steps {
            // Writing to a string cannot fail.
            let _ = match step {
                Step::Member(name) if path.is_empty() => write!(path, "{name}"),
                Step::Member(name) => write!(path, ".{name}"),
                Step::Key(key) => write!(path, "[{key:?}]"),
                Step::Item(index) => write!(path, "[{index}]"),
            };
        }
        path
    }

    /// The error that names this place.
    pub(super) fn wrong(&self, what: impl Into<String>, accepted: impl Into<String>) -> Problem {
        let path = self.path();
        Problem {
            path: if path.is_empty() {
                "object".to_owned()
            } else {
                path
            },
            what: what.into(),
            accepted: accepted.into(),
        }
    }

    fn wrong_type(&self, accepted: &str) -> Problem {
        self.wrong(format!("is {}", type_of(self.value)), accepted)
    }

    fn below(&self, step: Step<'a>, value: &'a Value) -> Self {
        let above = self.place.clone();
        Self {
            value,
            place: Some(Rc::new(Place { above, step })),
        }
    }

    /// The member `name`; a null is as good as absent.
    pub(super) fn get(&self, name: &'a str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(self.below(Step::Member(name), value))
    }

    pub(super) fn need(&self, name: &'a str, accepted: &str) -> Result<Self> {
        self.get(name)
            .ok_or_else(|| self.wrong(format!("{name} is missing"), accepted))
    }

    /// Checks that this is an object with no other members than these.
    pub(super) fn fields(&self, accepted: &[&str]) -> Result<()> {
        let Some(members) = self.value.as_object() else {
            return Err(self.wrong_type("an object"));
        };
        match members.keys().find(|key| !accepted.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(self.wrong(format!("unknown field {key:?}"), accepted.join(", "))),
        }
    }

    /// The members of an object, whatever their names.
    pub(super) fn members(&self) -> Result<Vec<(&'a str, Self)>> {
        let Some(members) = self.value.as_object() else {
            return Err(self.wrong_type("an object"));
        };
        Ok(members
            .iter()
            .map(|(key, value)| (key.as_str(), self.below(Step::Key(key), value)))
            .collect())
    }

    pub(super) fn items(&self) -> Result<Vec<Self>> {
        let Some(items) = self.value.as_array() else {
            return Err(self.wrong_type("a list"));
        };
        if items.len() > MAX_ITEMS {
            return Err(self.wrong(
                format!("{} items", items.len()),
                format!("at most {MAX_ITEMS} items"),
            ));
        }
        Ok(items
            .iter()
            .enumerate()
            .map(|(index, value)| self.below(Step::Item(index), value))
            .collect())
    }

    /// The items of the list `name`; none where it is absent, which can differ from an empty list.
    pub(super) fn list(&self, name: &'a str) -> Result<Option<Vec<Self>>> {
        self.get(name).map(|at| at.items()).transpose()
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        self.value
            .as_str()
            .ok_or_else(|| self.wrong_type("a string"))
    }

    /// A string that is not empty.
    pub(super) fn filled(&self) -> Result<&'a str> {
        match self.text()? {
            "" => Err(self.wrong("is empty", "a string that is not empty")),
            text => Ok(text),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong_type("true or false"))
    }

    /// A whole number from `low` to `high`.
    pub(super) fn number(&self, low: u16, high: u16) -> Result<u16> {
        let accepted = || format!("a whole number from {low} to {high}");
        let Some(number) = self.value.as_i64() else {
            return Err(self.wrong_type(&accepted()));
        };
        u16::try_from(number)
            .ok()
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| self.wrong(format!("{number} is out of range"), accepted()))
    }

    /// A string out of a few.
    pub(super) fn one_of(&self, accepted: &[&str]) -> Result<&'a str> {
        let text = self.text()?;
        if accepted.contains(&text) {
            return Ok(text);
        }
        Err(self.wrong(format!("{text:?} is not known"), accepted.join(", ")))
    }

    /// A range of addresses, or one address. Bits beyond the prefix are dropped.
    pub(super) fn cidr(&self) -> Result<IpNet> {
        let text = self.text()?;
        let net = match text.parse::<IpNet>() {
            Ok(net) => Some(net),
            Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
        };
        net.map(|net| net.trunc()).ok_or_else(|| {
            self.wrong(
                format!("{text:?} is no range of addresses"),
                "an address or a range such as 10.0.0.0/8 or fd00::/64",
            )
        })
    }

    /// Checks that of these members one and no more is there, and gives its name.
    pub(super) fn exactly_one(&self, names: &[&'static str]) -> Result<&'static str> {
        let accepted = || format!("exactly one of {}", names.join(", "));
        let mut given = names
            .iter()
            .copied()
            .filter(|name| self.get(name).is_some());
        match (given.next(), given.next()) {
            (Some(name), None) => Ok(name),
            (None, _) => Err(self.wrong("nothing is chosen", accepted())),
            (Some(first), Some(second)) => Err(self.wrong(
                format!("{first} and {second} exclude each other"),
                accepted(),
            )),
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
