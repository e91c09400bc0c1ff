//! The OpenAPI documents: what `kubectl explain`, `apply` and `--validate` know of kinds.
//!
//! They are made when somebody asks and kept until kinds come or go.

mod gnostic;
mod schema;
mod v2;
mod v3;

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::http::{api_path, respond};
use super::kind::Registry;

/// The name of version 2 as protobuf in `Accept` headers.
const PROTOBUF: &str = "com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The documents that have been made.
#[derive(Default)]
pub(super) struct Documents {
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    of: Option<Arc<Registry>>,
    version_2: Option<Bytes>,
    protobuf: Option<Bytes>,
    version_3: BTreeMap<(String, String), Bytes>,
}

impl Documents {
    /// Gives what has been made of these kinds, and makes what is missing.
    fn with<T>(&self, registry: &Arc<Registry>, get: impl FnOnce(&mut Made) -> T) -> T {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let same = made.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, registry));
        if !same {
            *made = Made {
                of: Some(Arc::clone(registry)),
                ..Made::default()
            };
        }
        get(&mut made)
    }

    /// `/openapi/v2`: all kinds in one document, as JSON or as protobuf.
    pub(super) fn version_2(&self, registry: &Arc<Registry>, accept: &str) -> Response {
        let protobuf = accept.split(',').any(|offer| offer.contains(PROTOBUF));
        let (kind, body) = self.with(registry, |made| {
            let json = made
                .version_2
                .get_or_insert_with(|| Bytes::from(v2::document(registry).to_string()));
            if !protobuf {
                return ("application/json", json.clone());
            }
            let bytes = made
                .protobuf
                .get_or_insert_with(|| Bytes::from(gnostic::document(&v2::document(registry))));
            (
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                bytes.clone(),
            )
        });
        respond(200, kind, Body::from(body))
    }

    fn of(&self, registry: &Arc<Registry>, group: &str, version: &str) -> Option<Bytes> {
        self.with(registry, |made| {
            let key = (group.to_owned(), version.to_owned());
            if let Some(found) = made.version_3.get(&key) {
                return Some(found.clone());
            }
            let document = Bytes::from(v3::document(registry, group, version)?.to_string());
            made.version_3.insert(key, document.clone());
            Some(document)
        })
    }

    /// `/openapi/v3`: where the document of each group and version is. The address changes with the content, so that
    /// clients may keep what they have.
    pub(super) fn index(&self, registry: &Arc<Registry>) -> Value {
        let mut paths = Map::new();
        for (group, versions) in registry.groups() {
            for version in versions {
                let Some(document) = self.of(registry, group, version) else {
                    continue;
                };
                let mut hasher = DefaultHasher::new();
                document.hash(&mut hasher);
                let path = api_path(group, version);
                let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
                paths.insert(path, json!({ "serverRelativeURL": url }));
            }
        }
        json!({ "paths": paths })
    }

    /// `/openapi/v3/…`: the document of a group and version.
    pub(super) fn version_3(
        &self,
        registry: &Arc<Registry>,
        group: &str,
        version: &str,
    ) -> Option<Response> {
        let document = self.of(registry, group, version)?;
        Some(respond(200, "application/json", Body::from(document)))
    }
}
