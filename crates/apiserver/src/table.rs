//! Tables for people: what `kubectl get` prints. Which columns a kind has stands in [`super::printers`].

use serde_json::{Value, json};

use super::http::{RowObject, metadata_only};
use super::kind::Kind;
use super::printers::{self, Columns};

/// A `Table` of objects.
pub(super) fn table<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = &'a Value>,
    metadata: Value,
    row_object: RowObject,
    with_columns: bool,
) -> Value {
    let columns = printers::columns(kind);
    let rows: Vec<Value> = objects
        .map(|object| row(kind, &columns, object, row_object))
        .collect();
    let definitions = if with_columns {
        columns.definitions()
    } else {
        Vec::new()
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn row(kind: &Kind, columns: &Columns, object: &Value, row_object: RowObject) -> Value {
    let cells = columns.cells(object);
    match row_object {
        RowObject::None => json!({ "cells": cells }),
        RowObject::Metadata => json!({ "cells": cells, "object": metadata_only(object) }),
        RowObject::Object => json!({ "cells": cells, "object": kind.shown(object) }),
    }
}
