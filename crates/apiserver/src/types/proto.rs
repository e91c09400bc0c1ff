//! Protobuf bodies: the envelope and the objects in it, as JSON.
//!
//! Newer `kubectl`s create some kinds through a protobuf body whatever the server says it understands. Answers are always JSON,
//! which every client takes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value, json};

use super::{Field, Ty, Type, root};

/// The first bytes of every body.
const MAGIC: &[u8] = b"k8s\0";
/// How deep objects may nest.
const MAX_DEPTH: usize = 64;
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Why a body is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// It does not start as every body does.
    #[error("the protobuf body lacks the prefix of Kubernetes objects")]
    NoMagic,
    /// The bytes make no message.
    #[error("the protobuf body is malformed")]
    Malformed,
    /// The server has no table of the kind.
    #[error(
        "the server understands protobuf bodies of built-in kinds alone, not of {0}; send JSON"
    )]
    UnknownKind(String),
}

/// One field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads a message field by field.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtoError::Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtoError::Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtoError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ProtoError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, ProtoError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtoError::Malformed)?;
        let little_endian =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let wire = match tag & 7 {
            VARINT => Wire::Number(self.varint()?),
            FIXED64 => Wire::Number(little_endian(self.take(8)?)),
            FIXED32 => Wire::Number(little_endian(self.take(4)?)),
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Malformed)?;
                Wire::Bytes(self.take(length)?)
            }
            _ => return Err(ProtoError::Malformed),
        };
        Ok(Some((number, wire)))
    }
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Result<&'a [u8], ProtoError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(ProtoError::Malformed),
        }
    }

    fn number(&self) -> Result<u64, ProtoError> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Bytes(_) => Err(ProtoError::Malformed),
        }
    }

    fn text(&self) -> Result<&'a str, ProtoError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtoError::Malformed)
    }
}

/// An object from a whole body; its `apiVersion` and `kind` are those of the envelope.
pub fn decode(body: &[u8]) -> Result<Value, ProtoError> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = ("", "", &[][..]);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => {
                let mut meta = Reader(wire.bytes()?);
                while let Some((number, wire)) = meta.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            _ => {}
        }
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    // Options of a deletion come under the name of any group.
    let found = root(group, version, kind).or_else(|| root("meta.k8s.io", "v1", kind));
    let ty = found.ok_or_else(|| ProtoError::UnknownKind(format!("{api_version} {kind}")))?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    message(ty, raw, &mut object, &[], MAX_DEPTH)?;
    Ok(Value::Object(object))
}

/// Adds the fields of a message to an object. `path` leads from the type's own message to this one, which is embedded in it.
fn message(
    ty: &Type,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    path: &[u32],
    depth: usize,
) -> Result<(), ProtoError> {
    let depth = depth.checked_sub(1).ok_or(ProtoError::Malformed)?;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let here = [path, &[number]].concat();
        if let Some(field) = ty.fields.values().find(|f| f.number == here) {
            add(field, &wire, into, depth)?;
        } else if ty.fields.values().any(|f| f.number.starts_with(&here)) {
            message(ty, wire.bytes()?, into, &here, depth)?;
        }
    }
    Ok(())
}

/// Adds one field, which for lists and maps is one element. What is empty and may be left out is left out, as in JSON.
fn add(
    field: &Field,
    wire: &Wire<'_>,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    let name = &field.name;
    match &field.ty {
        Ty::List(of) => {
            let list = into.entry(name).or_insert_with(|| json!([]));
            let element = value(of, wire, depth)?;
            list.as_array_mut()
                .ok_or(ProtoError::Malformed)?
                .push(element);
        }
        Ty::Map(of) => {
            let (mut key, mut found) = ("", None);
            let mut entry = Reader(wire.bytes()?);
            while let Some((number, wire)) = entry.next()? {
                match number {
                    1 => key = wire.text()?,
                    2 => found = Some(value(of, &wire, depth)?),
                    _ => {}
                }
            }
            let map = into.entry(name).or_insert_with(|| json!({}));
            let map = map.as_object_mut().ok_or(ProtoError::Malformed)?;
            map.insert(key.to_owned(), found.unwrap_or_else(|| empty(of)));
        }
        plain => {
            let value = value(plain, wire, depth)?;
            let zero = value == false || value == 0;
            let nothing = value.is_null()
                || (!field.required && is_empty_plain(plain, &value))
                || (field.omit_zero && zero);
            if !nothing {
                into.insert(name.clone(), value);
            }
        }
    }
    Ok(())
}

/// Plain texts and structs that may be left out and are empty are not written in JSON.
fn is_empty_plain(ty: &Ty, value: &Value) -> bool {
    match ty {
        Ty::Str | Ty::Bytes => value == "",
        Ty::Object(name) => {
            value.as_object().is_some_and(Map::is_empty) && name.ends_with("Status")
        }
        _ => false,
    }
}

fn empty(ty: &Ty) -> Value {
    match ty {
        Ty::Object(_) | Ty::Map(_) => json!({}),
        Ty::List(_) | Ty::Items => json!([]),
        Ty::Bool => json!(false),
        Ty::Int32 | Ty::Int64 => json!(0),
        _ => json!(""),
    }
}

fn value(ty: &Ty, wire: &Wire<'_>, depth: usize) -> Result<Value, ProtoError> {
    let deeper = || depth.checked_sub(1).ok_or(ProtoError::Malformed);
    Ok(match ty {
        Ty::Str => json!(wire.text()?),
        Ty::Bytes => json!(STANDARD.encode(wire.bytes()?)),
        Ty::Bool => json!(wire.number()? != 0),
        Ty::Int32 | Ty::Int64 => json!(wire.number()?.cast_signed()),
        Ty::Float => {
            Number::from_f64(f64::from_bits(wire.number()?)).map_or(Value::Null, Value::Number)
        }
        Ty::Time | Ty::MicroTime => time(wire.bytes()?, *ty == Ty::MicroTime)?,
        Ty::Duration => json!(format!("{}ns", numbers(wire.bytes()?)?[1])),
        Ty::Quantity => json!(first_text(wire.bytes()?, 1)?),
        Ty::IntOrString => int_or_string(wire.bytes()?)?,
        Ty::Any => raw(wire.bytes()?)?,
        Ty::Items => items(wire.bytes()?)?,
        Ty::SchemaOrList | Ty::SchemaOrBool | Ty::SchemaOrNames => {
            schema_or(ty, wire.bytes()?, deeper()?)?
        }
        Ty::Object(_) => {
            let of = ty.object().ok_or(ProtoError::Malformed)?;
            let mut map = Map::new();
            message(of, wire.bytes()?, &mut map, &[], depth)?;
            Value::Object(map)
        }
        // A list in a list or map: one element at a time does not occur in the API.
        Ty::List(_) | Ty::Map(_) => return Err(ProtoError::Malformed),
    })
}

/// The first numbers of a message of numbers, by field number.
fn numbers(bytes: &[u8]) -> Result<[i64; 4], ProtoError> {
    let mut found = [0; 4];
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (Some(slot), Wire::Number(n)) = (found.get_mut(number as usize), wire) {
            *slot = n.cast_signed();
        }
    }
    Ok(found)
}

fn first_text(bytes: &[u8], wanted: u32) -> Result<String, ProtoError> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            return Ok(wire.text()?.to_owned());
        }
    }
    Ok(String::new())
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, ProtoError> {
    let [_, seconds, nanos, _] = numbers(bytes)?;
    if bytes.is_empty() || seconds < -62_135_596_800 + 1 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtoError::Malformed)?;
    let at = Timestamp::new(seconds, nanos).map_err(|_| ProtoError::Malformed)?;
    let format = if micro {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(json!(at.strftime(format).to_string()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let [_, is_text, number, _] = numbers(bytes)?;
    if is_text == 0 {
        return Ok(json!(number));
    }
    Ok(json!(first_text(bytes, 3)?))
}

/// JSON inside protobuf.
fn raw(bytes: &[u8]) -> Result<Value, ProtoError> {
    let text = first_text(bytes, 1)?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|_| ProtoError::Malformed)
}

fn items(bytes: &[u8]) -> Result<Value, ProtoError> {
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            list.push(json!(wire.text()?));
        }
    }
    Ok(Value::Array(list))
}

fn schema_or(ty: &Ty, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let schema = Ty::Object(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps".to_owned(),
    );
    let (schema_number, mut list, mut flag) = (
        if *ty == Ty::SchemaOrBool { 2 } else { 1 },
        Vec::new(),
        false,
    );
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (ty, number) {
            (_, n) if n == schema_number => return value(&schema, &wire, depth),
            (Ty::SchemaOrBool, 1) => flag = wire.number()? != 0,
            (Ty::SchemaOrList, 2) => list.push(value(&schema, &wire, depth)?),
            (Ty::SchemaOrNames, 2) => list.push(json!(wire.text()?)),
            _ => {}
        }
    }
    Ok(if *ty == Ty::SchemaOrBool {
        json!(flag)
    } else {
        Value::Array(list)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw)].concat()
    }

    #[test]
    fn an_object_comes_out_as_json() {
        let labels = field(11, &[field(1, b"a"), field(2, b"b")].concat());
        let meta = [field(1, b"cm"), field(3, b"ns"), field(8, b""), labels].concat();
        let data = field(2, &[field(1, b"k"), field(2, b"v")].concat());
        let binary = field(3, &[field(1, b"x"), field(2, &[0, 255])].concat());
        let raw = [field(1, &meta), data, binary].concat();
        assert_eq!(
            decode(&body("v1", "ConfigMap", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "ns", "labels": {"a": "b"}},
                "data": {"k": "v"}, "binaryData": {"x": "AP8="}})
        );
    }

    #[test]
    fn embedded_structs_and_numbers() {
        let source = field(2, &field(1, &field(1, b"/p")));
        let volume = field(1, &[field(1, b"v"), source].concat());
        let container = field(
            2,
            &[
                field(1, b"c"),
                field(
                    10,
                    &field(
                        1,
                        &field(2, &field(2, &[8, 1, 26, 4, b'h', b't', b't', b'p'])),
                    ),
                ),
            ]
            .concat(),
        );
        let grace = vec![4 << 3, 30];
        // What is always on the wire, false or not: hostNetwork, and a deadline that has to be asked for.
        let zeros = vec![11 << 3, 0, 5 << 3, 0];
        let spec = [volume, container, grace, zeros].concat();
        let pod = decode(&body("v1", "Pod", &field(2, &spec))).unwrap();
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "v", "hostPath": {"path": "/p"}}])
        );
        assert_eq!(
            pod["spec"]["containers"][0]["livenessProbe"],
            json!({"httpGet": {"port": "http"}})
        );
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
        assert_eq!(pod["spec"]["activeDeadlineSeconds"], 0);
        assert!(pod["spec"].get("hostNetwork").is_none());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(decode(b"{}"), Err(ProtoError::NoMagic));
        assert!(matches!(
            decode(&body("x/v1", "Y", b"")),
            Err(ProtoError::UnknownKind(_))
        ));
        assert_eq!(
            decode(&body("v1", "Pod", b"\x0a\x7f")),
            Err(ProtoError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(raw in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = decode(&body("v1", "Pod", &raw));
            let _ = decode(&raw);
        }
    }
}
