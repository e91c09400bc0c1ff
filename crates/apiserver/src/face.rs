//! Kinds that are another kind under other names: stored once, shown in the form of the path that was asked.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::kind::Kind;

/// How a kind maps onto the kind that is stored.
#[derive(Debug)]
pub struct Face {
    /// The stored kind, by its qualified plural.
    pub of: &'static str,
    /// `apiVersion` of the stored kind.
    pub api_version: &'static str,
    /// Top-level fields: name in this kind, name in the stored kind.
    pub fields: &'static [(&'static str, &'static str)],
}

impl Face {
    /// The stored form of an object that came in this kind's form. What is in the stored form already stays as it is.
    pub fn to_stored(&self, mut object: Value) -> Value {
        if object["apiVersion"] != self.api_version {
            let Some(map) = object.as_object_mut() else {
                return object;
            };
            for (here, there) in self.fields {
                if let Some(value) = map.remove(*here) {
                    map.insert((*there).to_owned(), value);
                }
            }
            map.insert("apiVersion".to_owned(), json!(self.api_version));
        }
        object
    }

    fn restored(&self, kind: &Kind, object: &Value) -> Value {
        let mut object = object.clone();
        let Some(map) = object.as_object_mut() else {
            return object;
        };
        for (here, there) in self.fields {
            if let Some(value) = map.remove(*there) {
                map.insert((*here).to_owned(), value);
            }
        }
        map.insert("apiVersion".to_owned(), json!(kind.api_version()));
        object
    }

    /// A field selector in the stored kind's names.
    pub fn selector(&self, text: &str) -> String {
        let rename = |term: &str| {
            let renamed = self.fields.iter().find_map(|(here, there)| {
                let rest = term.strip_prefix(here)?;
                rest.starts_with(['.', '=', '!'])
                    .then(|| format!("{there}{rest}"))
            });
            renamed.unwrap_or_else(|| term.to_owned())
        };
        text.split(',').map(rename).collect::<Vec<_>>().join(",")
    }
}

impl Kind {
    /// A stored object in the form of this kind.
    pub fn shown<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        match self.face {
            Some(face) => Cow::Owned(face.restored(self, object)),
            // The versions of a custom kind differ in their name alone.
            None if !self.is_form_of(object) => {
                let mut object = object.clone();
                object["apiVersion"] = json!(self.api_version());
                Cow::Owned(object)
            }
            None => Cow::Borrowed(object),
        }
    }

    /// Whether a stored object has the form of this kind as it is.
    pub fn is_form_of(&self, object: &Value) -> bool {
        self.face.is_none() && (self.built_in || object["apiVersion"] == self.api_version())
    }

    /// The stored form of an object of this kind.
    pub fn stored(&self, object: Value) -> Value {
        match self.face {
            Some(face) => face.to_stored(object),
            None => object,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;

    #[test]
    fn there_and_back() {
        let kind = kinds::named("events.k8s.io", "Event");
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "n",
            "regarding": {"kind": "Pod"}, "reportingController": "c", "deprecatedCount": 2, "reason": "r"});
        let stored = kind.stored(event.clone());
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(
            (&stored["message"], &stored["count"], &stored["apiVersion"]),
            (&json!("n"), &json!(2), &json!("v1"))
        );
        assert_eq!(*kind.shown(&stored), event);
        assert_eq!(kind.stored(stored.clone()), stored);
        let selector = kind
            .face
            .unwrap()
            .selector("regarding.kind=Pod,reason!=note,note=x");
        assert_eq!(selector, "involvedObject.kind=Pod,reason!=note,message=x");
    }
}
