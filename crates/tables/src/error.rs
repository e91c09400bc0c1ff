use thiserror::Error;

use crate::Revision;

/// An insert that would give two rows the same key in a unique index. Nothing was changed by it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "table {table}: cannot insert row {key}: {index} {value} already belongs to row {owner}; \
     delete or change that row first, or use another {index}"
)]
pub struct UniqueViolation {
    /// The table.
    pub table: &'static str,
    /// Name of the unique index.
    pub index: &'static str,
    /// The index key both rows claim.
    pub value: String,
    /// Primary key of the row that was refused.
    pub key: String,
    /// Primary key of the row that holds the index key.
    pub owner: String,
}

/// A second table of the same name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "cannot register table {name}: the database already has a table of that name; register each table once"
)]
pub struct DuplicateTable {
    /// The name both tables want.
    pub name: &'static str,
}

/// A table that could not be listed.
#[derive(Debug, Error)]
pub enum DumpError {
    /// No such table.
    #[error("cannot dump table {name}: there is no such table; known tables: {}", known.join(", "))]
    UnknownTable {
        /// The name that was asked for.
        name: String,
        /// The tables there are.
        known: Vec<&'static str>,
    },
    /// A row whose `Serialize` implementation fails.
    #[error(
        "cannot dump table {table}: the row of revision {revision} has no JSON form; check its Serialize impl"
    )]
    Row {
        /// The table.
        table: &'static str,
        /// Revision of the row.
        revision: Revision,
        /// What serde says.
        source: serde_json::Error,
    },
}
