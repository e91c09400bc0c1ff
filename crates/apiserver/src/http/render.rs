//! How objects are shown: whole, as a table for people, or their metadata alone.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};

use super::super::kind::Kind;
use super::super::object::{Object, write_json};
use super::super::store::List;
use super::super::table::Table;
use super::query::Query;

/// How much of a list is written at once.
const PIECE: usize = 64 << 10;
/// Group and version of what is shown instead of objects.
const META: &str = "meta.k8s.io/v1";

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
        if self == Self::Whole && kind.is_form_of(object) {
            return object.json();
        }
        let mut out = Vec::new();
        self.write(&mut out, kind, object, true);
        Bytes::from(out)
    }

    /// A list, written as it is read: nobody holds the whole text of a long one.
    pub fn list(self, kind: &Arc<Kind>, list: List, with_remaining: bool) -> Body {
        let mut pieces = Pieces::new(self, Arc::clone(kind), list, with_remaining);
        let first = pieces.next().unwrap_or_default();
        if pieces.is_over() {
            return Body::from(first);
        }
        let all = std::iter::once(first).chain(pieces);
        Body::from_stream(stream::iter(all.map(Ok::<Bytes, Infallible>)))
    }

    /// Writes the object of a watch event. Only the first table of a watch repeats the columns.
    pub fn write(self, out: &mut Vec<u8>, kind: &Kind, object: &Object, with_columns: bool) {
        match self {
            Self::Whole => write_whole(out, kind, object),
            Self::Metadata => write_metadata_only(out, object),
            Self::Table(row) => {
                let table = Table::new(kind, row);
                let revision = &object["metadata"]["resourceVersion"];
                table.head(out, &json!({ "resourceVersion": revision }), with_columns);
                table.row(out, object);
                out.extend_from_slice(Table::TAIL);
            }
        }
    }

    /// The object of a bookmark.
    pub fn bookmark(self, kind: &Kind, metadata: &Value) -> Bytes {
        let (kind, api_version) = match self {
            Self::Whole => (kind.kind.as_str(), kind.api_version()),
            Self::Metadata => ("PartialObjectMetadata", META.to_owned()),
            Self::Table(row) => {
                let mut out = Vec::new();
                Table::new(kind, row).head(&mut out, metadata, false);
                out.extend_from_slice(Table::TAIL);
                return Bytes::from(out);
            }
        };
        let bookmark = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
        Bytes::from(bookmark.to_string())
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

/// Writes a whole object: the text that is kept with it where possible.
pub fn write_whole(out: &mut Vec<u8>, kind: &Kind, object: &Object) {
    if kind.is_form_of(object) {
        out.extend_from_slice(object.text());
    } else {
        write_json(out, kind.shown(&object.whole()).as_ref());
    }
}

/// Writes the metadata of an object as an object of its own.
pub fn write_metadata_only(out: &mut Vec<u8>, object: &Object) {
    out.extend_from_slice(
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
    );
    out.extend_from_slice(object.metadata_json());
    out.push(b'}');
}

/// A list in pieces of about [`PIECE`] bytes.
struct Pieces {
    view: View,
    kind: Arc<Kind>,
    items: std::vec::IntoIter<Arc<Object>>,
    /// What the next piece begins with.
    ready: Vec<u8>,
    /// Whether an item stands before the next one.
    follows: bool,
    over: bool,
}

impl Pieces {
    fn new(view: View, kind: Arc<Kind>, list: List, with_remaining: bool) -> Self {
        let mut meta = json!({ "resourceVersion": list.revision.to_string() });
        if let Some(token) = &list.token {
            meta["continue"] = json!(token);
            if with_remaining {
                meta["remainingItemCount"] = json!(list.remaining);
            }
        }
        let mut ready = Vec::with_capacity(PIECE / 8);
        let (list_kind, api_version) = match view {
            View::Whole => (kind.list_kind(), kind.api_version()),
            _ => ("PartialObjectMetadataList".to_owned(), META.to_owned()),
        };
        match view {
            View::Table(row) => Table::new(&kind, row).head(&mut ready, &meta, true),
            _ => ready.extend_from_slice(
                format!("{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[")
                    .as_bytes(),
            ),
        }
        Self {
            view,
            kind,
            items: list.items.into_iter(),
            ready,
            follows: false,
            over: false,
        }
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut out = std::mem::take(&mut self.ready);
        let table = match self.view {
            View::Table(row) => Some(Table::new(&self.kind, row)),
            _ => None,
        };
        while out.len() < PIECE {
            let Some(object) = self.items.next() else {
                out.extend_from_slice(Table::TAIL);
                self.over = true;
                break;
            };
            if std::mem::replace(&mut self.follows, true) {
                out.push(b',');
            }
            match &table {
                Some(table) => table.row(&mut out, &object),
                None => self.view.write(&mut out, &self.kind, &object, false),
            }
        }
        Some(Bytes::from(out))
    }
}
