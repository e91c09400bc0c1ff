//! Structural schemas in few words.
use serde_json::{Map, Value, json};

/// A text.
pub fn text() -> Value {
    json!({"type": "string"})
}

/// A text that is one of `words`.
pub fn word(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

/// An address range, as `10.0.0.0/8`.
pub fn cidr() -> Value {
    json!({"type": "string", "format": "cidr"})
}

/// A whole number.
pub fn integer() -> Value {
    json!({"type": "integer"})
}

/// A whole number within bounds, both included.
pub fn integer_between(least: i64, most: i64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

/// True or false.
pub fn boolean() -> Value {
    json!({"type": "boolean"})
}

/// Items of one kind, in order.
pub fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// Items of one kind, at least one.
pub fn list_of_some(items: Value) -> Value {
    json!({"type": "array", "items": items, "minItems": 1})
}

/// Values of one kind by name.
pub fn map(values: Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

/// A selector of labels.
pub fn label_selector() -> Value {
    let requirement = Object::new("One condition.")
        .required("key", text(), "Label that the condition is about.")
        .required(
            "operator",
            word(&["In", "NotIn", "Exists", "DoesNotExist"]),
            "How the label relates to the values.",
        )
        .optional(
            "values",
            list(text()),
            "Values for In and NotIn; none for the others.",
        );
    Object::new("Selects by labels; an empty one selects everything.")
        .optional(
            "matchLabels",
            map(text()),
            "Labels that must have exactly these values.",
        )
        .optional(
            "matchExpressions",
            list(requirement.build()),
            "Conditions that must all hold.",
        )
        .build()
}

/// The conditions of a status, one of each type.
pub fn conditions() -> Value {
    let condition = Object::new("A condition.")
        .required("type", text(), "What is said.")
        .required("status", text(), "True, False or Unknown.")
        .optional(
            "lastTransitionTime",
            json!({"type": "string", "format": "date-time"}),
            "Since when.",
        )
        .optional("reason", text(), "Why, in a word.")
        .optional("message", text(), "Why, for people.");
    let mut all = list(condition.build());
    all["x-kubernetes-list-type"] = "map".into();
    all["x-kubernetes-list-map-keys"] = json!(["type"]);
    all
}

/// An object with named fields.
#[derive(Debug)]
pub struct Object {
    description: &'static str,
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl Object {
    /// One without fields.
    pub fn new(description: &'static str) -> Self {
        Self {
            description,
            properties: Map::new(),
            required: Vec::new(),
        }
    }

    /// Adds a field that may be left out.
    pub fn optional(mut self, name: &str, mut schema: Value, description: &str) -> Self {
        if let Some(schema) = schema.as_object_mut()
            && !description.is_empty()
        {
            schema.insert("description".to_owned(), description.into());
        }
        self.properties.insert(name.to_owned(), schema);
        self
    }

    /// Adds a field that must be there.
    pub fn required(mut self, name: &'static str, schema: Value, description: &str) -> Self {
        self.required.push(name);
        self.optional(name, schema, description)
    }

    /// The schema.
    pub fn build(self) -> Value {
        let mut schema = Map::new();
        schema.insert("type".to_owned(), "object".into());
        schema.insert("description".to_owned(), self.description.into());
        if !self.properties.is_empty() {
            schema.insert("properties".to_owned(), self.properties.into());
        }
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), self.required.into());
        }
        schema.into()
    }

    /// The schema of a whole object: with the fields that every object has.
    pub fn root(self) -> Value {
        self.optional(
            "apiVersion",
            text(),
            "Group and version of the object's schema.",
        )
        .optional("kind", text(), "Kind of the object.")
        .required("metadata", json!({"type": "object"}), "")
        .build()
    }
}
