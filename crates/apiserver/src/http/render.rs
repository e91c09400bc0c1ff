//! How objects are shown: whole, as a table for people, or their metadata alone.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use bytes::Bytes;
use serde_json::{Value, json};

use super::super::kind::Kind;
use super::super::object::Object;
use super::super::store::{List, WatchEvent};
use super::super::table;
use super::query::Query;

/// A representation that the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Whole objects.
    Whole,
    /// Metadata alone.
    Metadata,
    /// Columns for people, with what goes along with each row.
    Table(RowObject),
}

/// What goes along with a table's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowObject {
    /// Nothing.
    None,
    /// The object's metadata.
    Metadata,
    /// The whole object.
    Object,
}

impl View {
    /// Picks the first representation of the `Accept` header that the server has. Everything else gets plain JSON.
    pub fn choose(headers: &HeaderMap, query: &Query) -> Self {
        let accept = headers
            .get(ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        accept
            .split(',')
            .find_map(|offer| Self::from_offer(offer, query))
            .unwrap_or(Self::Whole)
    }

    fn from_offer(offer: &str, query: &Query) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if !matches!(
            parts.next(),
            Some("application/json" | "application/*" | "*/*")
        ) {
            return None;
        }
        let (mut shown_as, mut group, mut version) = ("", "", "");
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            match name {
                "as" => shown_as = value,
                "g" => group = value,
                "v" => version = value,
                _ => {}
            }
        }
        match (shown_as, group, version) {
            ("", ..) => Some(Self::Whole),
            ("Table", "meta.k8s.io", "v1") => Some(Self::Table(RowObject::choose(query))),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Some(Self::Metadata)
            }
            _ => None,
        }
    }

    /// One object.
    pub fn object(self, kind: &Kind, object: &Object) -> Bytes {
        match self {
            Self::Whole => whole(kind, object),
            Self::Metadata => Bytes::from(metadata_only(object).to_string()),
            Self::Table(row) => {
                let revision = object["metadata"]["resourceVersion"].clone();
                let rows = std::iter::once(object.value());
                Bytes::from(
                    table::table(
                        kind,
                        rows,
                        json!({ "resourceVersion": revision }),
                        row,
                        true,
                    )
                    .to_string(),
                )
            }
        }
    }

    /// A list.
    pub fn list(self, kind: &Kind, list: &List, with_remaining: bool) -> Bytes {
        let mut meta = json!({ "resourceVersion": list.revision.to_string() });
        if let Some(token) = &list.token {
            meta["continue"] = json!(token);
            if with_remaining {
                meta["remainingItemCount"] = json!(list.remaining);
            }
        }
        match self {
            Self::Whole => items(
                &kind.list_kind(),
                &kind.api_version(),
                &meta,
                list.items.iter(),
                |o| whole(kind, o),
            ),
            Self::Metadata => items(
                "PartialObjectMetadataList",
                "meta.k8s.io/v1",
                &meta,
                list.items.iter(),
                |o| Bytes::from(metadata_only(o).to_string()),
            ),
            Self::Table(row) => Bytes::from(
                table::table(kind, list.items.iter().map(|o| o.value()), meta, row, true)
                    .to_string(),
            ),
        }
    }

    /// The object of a watch event. Only the first table of a watch repeats the columns.
    pub fn event(self, kind: &Kind, event: &WatchEvent, first: bool) -> Bytes {
        match self {
            Self::Whole | Self::Metadata => self.object(kind, &event.object),
            Self::Table(row) => {
                let revision = event.object["metadata"]["resourceVersion"].clone();
                let rows = std::iter::once(event.object.value());
                Bytes::from(
                    table::table(
                        kind,
                        rows,
                        json!({ "resourceVersion": revision }),
                        row,
                        first,
                    )
                    .to_string(),
                )
            }
        }
    }

    /// The object of a bookmark.
    pub fn bookmark(self, kind: &Kind, metadata: Value) -> Value {
        match self {
            Self::Whole => {
                json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
            }
            Self::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Self::Table(row) => table::table(kind, std::iter::empty(), metadata, row, false),
        }
    }
}

impl RowObject {
    fn choose(query: &Query) -> Self {
        match query.get("includeObject") {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A whole object as text; the text that is kept with it where possible.
fn whole(kind: &Kind, object: &Object) -> Bytes {
    match kind.shown(object) {
        Cow::Borrowed(_) => object.json(),
        Cow::Owned(shown) => Bytes::from(shown.to_string()),
    }
}

/// The metadata of an object as an object of its own.
pub fn metadata_only(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// Writes a list without making one big value of it first.
fn items<'a>(
    kind: &str,
    api_version: &str,
    meta: &Value,
    items: impl Iterator<Item = &'a Arc<Object>>,
    show: impl Fn(&Object) -> Bytes,
) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":["
    );
    let mut out = head.into_bytes();
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&show(item));
    }
    out.extend_from_slice(b"]}\n");
    Bytes::from(out)
}
