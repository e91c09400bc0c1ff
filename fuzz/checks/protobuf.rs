//! Protobuf bodies of requests to the lab's API server: refused, or an object that says what it is, and that JSON can hold.

use hypha_apiserver::types::proto::{ProtoError, decode};
use serde_json::Value;

pub fn run(data: &[u8]) {
    match decode(data) {
        Ok(object) => {
            assert!(object["apiVersion"].is_string() && object["kind"].is_string());
            // The limit of the parser that reads it again is 128.
            let text = object.to_string();
            let again: Value = serde_json::from_str(&text).expect("what is read can be written");
            assert_eq!(again["kind"], object["kind"]);
        }
        Err(ProtoError::NoMagic) => assert!(!data.starts_with(b"k8s\0")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
