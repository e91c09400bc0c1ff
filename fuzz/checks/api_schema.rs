//! Any definition of a custom kind with any object of it: the schema is refused, or the object is filled, checked and shown; defaults are
//! filled in once. The text: a schema, a line with JSON paths of columns (by `;`), the object.

use hypha_apiserver::{kind::Kind, printers, schema, types::proto, validate::FieldErrors};
use serde_json::{Value, json};

pub fn run(data: &[u8]) {
    let _ = proto::decode(data);
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (Some(open_api), Some(paths), Some(object)) = (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let Ok(mut object) = serde_json::from_slice::<Value>(object) else {
        return;
    };
    let mut kind = Kind::new("example.org", "v1", "Foo", "foos");
    let types = ["string", "integer", "number", "boolean", "date"];
    kind.columns = String::from_utf8_lossy(paths)
        .split(';')
        .zip(types.into_iter().cycle())
        .map(|(path, of)| json!({ "name": "C", "type": of, "jsonPath": path }))
        .collect();
    assert_eq!(printers::row(&kind, &object).len(), kind.columns.len() + 1);
    let Ok(open_api) = serde_json::from_slice::<Value>(open_api) else {
        return;
    };
    let Ok(compiled) = schema::compile(&open_api) else {
        return;
    };
    schema::fill_defaults(&mut object, &compiled);
    let once = object.clone();
    schema::fill_defaults(&mut object, &compiled);
    assert_eq!(object, once);
    kind.custom_schema = Some(compiled.into());
    if schema::admit(&kind, &mut object, schema::UnknownFields::Drop, &[]).is_ok() {
        schema::validate(&kind, &object, &mut FieldErrors::default());
    }
}
