//! Any values of the chart, as a map or as the text of `--set`: refused with a reason, or objects come out that have a kind and a name.

use hypha_install::{Request, notes, values::Given};
use serde_json::{Value, json};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let values = match serde_json::from_str(&text) {
        Ok(map @ Value::Object(_)) => map,
        _ => {
            let given = Given {
                set: vec![text.to_string()],
                ..Given::default()
            };
            let texts = Given {
                set_string: vec![text.into_owned()],
                ..Given::default()
            };
            let _ = texts.merged(json!({}));
            match given.merged(json!({})) {
                Ok(values) => values,
                Err(refused) => return assert!(!refused.to_string().is_empty()),
            }
        }
    };
    let request = Request {
        values,
        ..Request::default()
    };
    match notes(&request) {
        Ok(rendered) => {
            let named = |object: &Value| {
                object["kind"].is_string() && object["metadata"]["name"].is_string()
            };
            assert!(!rendered.objects.is_empty() && rendered.objects.iter().all(named));
        }
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
}
