use serde::Serialize;
use serde_json::Value;

use crate::Revision;

/// One line of a table listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// The table's name.
    pub name: &'static str,
    /// How many rows it has.
    pub rows: usize,
    /// The revision of its latest change.
    pub revision: Revision,
    /// Deletions kept because a change tracker has not seen them yet.
    pub graveyard: usize,
    /// Change trackers that follow the table.
    pub trackers: usize,
    /// Initialisers that have not finished; empty when the table is initialised.
    pub pending_initializers: Vec<String>,
}

/// One row of a table dump.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DumpRow {
    /// The revision that wrote the row.
    pub revision: Revision,
    /// The row.
    pub row: Value,
}
