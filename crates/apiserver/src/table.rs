//! Tables for people: what `kubectl get` prints. Which columns a kind has stands in [`super::printers`].

use serde_json::Value;

use super::http::{RowObject, write_metadata_only, write_whole};
use super::kind::Kind;
use super::object::{Object, write_json};
use super::printers::{self, Columns};

/// Writes `Table`s of a kind: a head, rows with commas between, a tail.
pub(super) struct Table<'a> {
    kind: &'a Kind,
    columns: Columns,
    row_object: RowObject,
}

impl<'a> Table<'a> {
    /// What stands after the rows.
    pub(super) const TAIL: &'static [u8] = b"]}\n";

    pub(super) fn new(kind: &'a Kind, row_object: RowObject) -> Self {
        Self {
            kind,
            columns: printers::columns(kind),
            row_object,
        }
    }

    /// Everything before the first row.
    pub(super) fn head(&self, out: &mut Vec<u8>, metadata: &Value, with_columns: bool) {
        out.extend_from_slice(
            b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
        );
        write_json(out, metadata);
        out.extend_from_slice(b",\"columnDefinitions\":");
        let definitions = if with_columns {
            self.columns.definitions()
        } else {
            Vec::new()
        };
        write_json(out, &definitions);
        out.extend_from_slice(b",\"rows\":[");
    }

    /// The row of an object.
    pub(super) fn row(&self, out: &mut Vec<u8>, object: &Object) {
        out.extend_from_slice(b"{\"cells\":");
        write_json(out, &self.columns.cells(object));
        if self.row_object != RowObject::None {
            out.extend_from_slice(b",\"object\":");
        }
        match self.row_object {
            RowObject::None => {}
            RowObject::Metadata => write_metadata_only(out, object),
            RowObject::Object => write_whole(out, self.kind, object),
        }
        out.push(b'}');
    }
}
