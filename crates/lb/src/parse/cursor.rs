//! A place in an object, which knows its path.
use super::{Result, Wrong};
use serde_json::Value;
use std::str::FromStr;

/// Most items of a list.
const MAX_ITEMS: usize = 30_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value, path: &str) -> Self {
        let path = path.to_owned();
        Self { value, path }
    }

    /// The error that names this place.
    pub(super) fn wrong(&self, what: impl Into<String>, accepted: impl Into<String>) -> Wrong {
        Wrong {
            path: self.path.clone(),
            what: what.into(),
            accepted: accepted.into(),
        }
    }

    /// The member `name`; a null is as good as absent.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        let path = format!("{}.{name}", self.path);
        Some(Self { value, path })
    }

    pub(super) fn need(&self, name: &str, accepted: &str) -> Result<Self> {
        self.get(name)
            .ok_or_else(|| self.wrong(format!("{name} is missing"), accepted))
    }

    /// Checks that this is an object with no other members than these.
    pub(super) fn fields(&self, accepted: &[&str]) -> Result<()> {
        let members = self.members()?;
        match members.iter().find(|(key, _)| !accepted.contains(key)) {
            None => Ok(()),
            Some((key, _)) => {
                Err(self.wrong(format!("unknown field {key:?}"), accepted.join(", ")))
            }
        }
    }

    pub(super) fn members(&self) -> Result<Vec<(&'a str, Self)>> {
        let Some(members) = self.value.as_object() else {
            return Err(self.wrong("is no object", "an object"));
        };
        let member = |(key, value): (&'a String, &'a Value)| {
            let path = format!("{}.{key}", self.path);
            (key.as_str(), Self { value, path })
        };
        Ok(members.iter().map(member).collect())
    }

    /// The items of the list `name`; none where it is absent.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Self>> {
        let Some(at) = self.get(name) else {
            return Ok(Vec::new());
        };
        let Some(items) = at.value.as_array() else {
            return Err(at.wrong("is no list", "a list"));
        };
        if items.len() > MAX_ITEMS {
            return Err(at.wrong(
                format!("{} items", items.len()),
                format!("at most {MAX_ITEMS} items"),
            ));
        }
        let item = |(index, value)| Self {
            value,
            path: format!("{}[{index}]", at.path),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        self.value
            .as_str()
            .ok_or_else(|| self.wrong("is no string", "a string"))
    }

    /// The member `name`, false where it is absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        self.get(name).map_or(Ok(false), |at| {
            at.value
                .as_bool()
                .ok_or_else(|| at.wrong("is neither true nor false", "true, false"))
        })
    }

    /// A string out of a few.
    pub(super) fn one_of(&self, accepted: &[&str]) -> Result<&'a str> {
        let text = self.text()?;
        if accepted.contains(&text) {
            return Ok(text);
        }
        Err(self.wrong(format!("{text:?} is not known"), accepted.join(", ")))
    }

    /// A string that is to be read further.
    pub(super) fn parsed<T: FromStr>(&self, accepted: &str) -> Result<T> {
        let text = self.text()?;
        text.parse()
            .map_err(|_| self.wrong(format!("{text:?} is not understood"), accepted))
    }
}
