//! Version 2 as protobuf, the only form that older clients take.
//!
//! The messages are those that gnostic publishes for OpenAPI 2; field numbers are given beside the names.

use serde_json::Value;

/// Writes one message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) -> &mut Self {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A string, if that is one.
    fn text(&mut self, number: u64, value: &Value) -> &mut Self {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
        self
    }

    fn flag(&mut self, number: u64, value: &Value) -> &mut Self {
        if value == &Value::Bool(true) {
            self.varint(number << 3);
            self.varint(1);
        }
        self
    }

    fn message(&mut self, number: u64, inner: &Message) -> &mut Self {
        self.bytes(number, &inner.0)
    }

    /// A map as pairs of name (1) and value (2), each in a field of its own.
    fn named(&mut self, number: u64, map: &Value, write: impl Fn(&Value) -> Message) -> &mut Self {
        for (name, value) in map.as_object().into_iter().flatten() {
            let mut pair = Message::default();
            pair.bytes(1, name.as_bytes()).message(2, &write(value));
            self.message(number, &pair);
        }
        self
    }

    /// Everything that starts with `x-`.
    fn extensions(&mut self, number: u64, map: &Value) -> &mut Self {
        for (name, value) in map.as_object().into_iter().flatten() {
            if name.starts_with("x-") {
                let mut pair = Message::default();
                pair.bytes(1, name.as_bytes()).message(2, &any(value));
                self.message(number, &pair);
            }
        }
        self
    }
}

/// Any value, as YAML text (2); JSON is YAML.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

/// The whole document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &document["info"]["title"])
        .text(2, &document["info"]["version"]);
    let mut paths = Message::default();
    paths.named(2, &document["paths"], path_item);
    let mut definitions = Message::default();
    definitions.named(1, &document["definitions"], schema);
    let mut out = Message::default();
    out.text(1, &document["swagger"])
        .message(2, &info)
        .message(8, &paths)
        .message(9, &definitions);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (number, verb) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        if item[verb].is_object() {
            out.message(number, &operation(&item[verb]));
        }
    }
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, &operation["operationId"]);
    for option in operation["parameters"].as_array().into_iter().flatten() {
        // Four messages deep: item, parameter (1), not in the body (2), in the query (3).
        let mut query = Message::default();
        query
            .text(2, &option["in"])
            .text(4, &option["name"])
            .text(6, &option["type"])
            .flag(20, &option["uniqueItems"]);
        let mut non_body = Message::default();
        non_body.message(3, &query);
        let mut parameter = Message::default();
        parameter.message(2, &non_body);
        let mut item = Message::default();
        item.message(1, &parameter);
        out.message(8, &item);
    }
    let mut responses = Message::default();
    responses.named(1, &operation["responses"], |response| {
        let mut inner = Message::default();
        inner.text(1, &response["description"]);
        let mut value = Message::default();
        value.message(1, &inner);
        value
    });
    out.message(9, &responses).extensions(13, operation);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &value["$ref"])
        .text(2, &value["format"])
        .text(4, &value["description"]);
    for name in value["required"].as_array().into_iter().flatten() {
        out.text(19, name);
    }
    if value["additionalProperties"].is_object() {
        let mut item = Message::default();
        item.message(1, &schema(&value["additionalProperties"]));
        out.message(21, &item);
    }
    if value["type"].is_string() {
        let mut item = Message::default();
        item.text(1, &value["type"]);
        out.message(22, &item);
    }
    if value["items"].is_object() {
        let mut item = Message::default();
        item.message(1, &schema(&value["items"]));
        out.message(23, &item);
    }
    if value["properties"].is_object() {
        let mut properties = Message::default();
        properties.named(1, &value["properties"], schema);
        out.message(25, &properties);
    }
    out.extensions(31, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_written_field_by_field() {
        let bytes = schema(&json!({"type": "object", "required": ["a"]})).0;
        assert_eq!(
            bytes,
            [&[0x9a, 1, 1, b'a'][..], &[0xb2, 1, 8, 0x0a, 6], b"object"].concat()
        );
        let long = any(&json!("x".repeat(200))).0;
        assert_eq!(long[..3], [0x12, 203, 1]);
    }
}
