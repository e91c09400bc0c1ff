//! Request bodies: size, encoding, JSON.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokio::time::timeout;

use super::super::error::{ApiError, Reason};
use super::super::store::WriteOptions;
use super::super::types::proto;
use super::MAX_BODY;

/// How long a body may take to come.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// The media type of the body, in lower case and without parameters.
pub fn content_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

/// The whole body, if it is not too big.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let read = timeout(READ_LIMIT, to_bytes(body, MAX_BODY)).await;
    let read = read.map_err(|_| {
        let why = format!(
            "the request body did not come within {} s",
            READ_LIMIT.as_secs()
        );
        ApiError::new(Reason::RequestTimeout, why)
    })?;
    read.map_err(|error| {
        let too_big = std::error::Error::source(&error)
            .is_some_and(|e| e.to_string().contains("length limit"));
        if too_big {
            let why = format!("the request body is larger than the limit of {MAX_BODY} bytes");
            return ApiError::new(Reason::RequestEntityTooLarge, why);
        }
        ApiError::bad_request(format!(
            "the request body could not be read to its end: {error}"
        ))
    })
}

/// The body as a JSON value; an empty one is null.
pub async fn read_json(request: Request) -> Result<Value, ApiError> {
    let content_type = content_type(request.headers());
    let body = read(request.into_body()).await?;
    if body.is_empty() {
        return Ok(Value::Null);
    }
    parse(&content_type, &body)
}

/// An object to be written; what is told of its text goes into the options.
pub async fn read_object(request: Request, options: &mut WriteOptions) -> Result<Value, ApiError> {
    let content_type = content_type(request.headers());
    let body = read(request.into_body()).await?;
    if body.is_empty() {
        return Ok(Value::Null);
    }
    options.repeated = repeated(&body);
    parse(&content_type, &body)
}

/// The fields that a JSON text has more than once in the same object; none if it is no JSON.
pub fn repeated(body: &[u8]) -> Vec<String> {
    let (mut path, mut found) = (String::new(), Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(body);
    let look = Repeated {
        path: &mut path,
        found: &mut found,
    };
    match look.deserialize(&mut reader) {
        Ok(()) => found,
        Err(_) => Vec::new(),
    }
}

/// Walks through JSON and notes repeated fields.
struct Repeated<'a> {
    path: &'a mut String,
    found: &'a mut Vec<String>,
}

impl Repeated<'_> {
    /// The same for what is inside, one step further.
    fn inside(&mut self) -> Repeated<'_> {
        Repeated {
            path: self.path,
            found: self.found,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Repeated<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Repeated<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let (mut seen, length) = (BTreeSet::new(), self.path.len());
        while let Some(name) = map.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&name);
            if !seen.insert(name) {
                self.found.push(self.path.clone());
            }
            map.next_value_seed(self.inside())?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for index in 0.. {
            self.path.push_str(&format!("[{index}]"));
            let more = list.next_element_seed(self.inside())?;
            self.path.truncate(length);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a body by its media type.
pub fn parse(content_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    match content_type {
        "" | "application/json" => serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the request body is not valid JSON: {e}"))),
        "application/yaml" | "application/apply-patch+yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => proto::decode(body)
            .map_err(|e| ApiError::new(Reason::UnsupportedMediaType, e.to_string())),
        other => Err(ApiError::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format ({other}); this server understands \
                 application/json, application/yaml and application/vnd.kubernetes.protobuf"
            ),
        )),
    }
}

/// YAML, of which JSON is a part.
fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::bad_request("the request body is not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|e| ApiError::bad_request(format!("the request body is not valid YAML: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_are_found_where_they_are() {
        let text = br#"{"a": 1, "a": {"b": [{"c": "x", "d": null, "c": true}], "b": -1.5}, "e": {"a": 2}}"#;
        assert_eq!(repeated(text), ["a", "a.b[0].c", "a.b"]);
        for none in [b"{\"a\": 1".as_slice(), b"a: 1\na: 2", b"", b"[1, 1]"] {
            assert!(repeated(none).is_empty());
        }
    }
}
