//! Typed in-memory tables, and the one reconciler that carries their rows into the world.
//!
//! A [`Db`] holds tables of immutable rows (`Arc<T>`), each with a primary key and any number of named secondary
//! indexes. One [`WriteTxn`] at a time changes several tables at once; a [`Snapshot`] is a consistent view of all of
//! them that costs one reference count and never blocks a writer. Every row write takes the next [`Revision`] of one
//! counter shared by all tables, so "everything up to revision R" has a meaning across them. A [`ChangeTracker`]
//! follows a table in revision order without a queue and without missing a deletion; a [`Watch`] wakes whoever waits
//! for the next change, on any async runtime or none.
//!
//! [`reconcile::Engine`] compares desired rows with what has been done about them and says what to do next. It does
//! no I/O and reads no clock.
//!
//! ```
//! # extern crate hypha_tables as tables;
//! use serde::Serialize;
//! use tables::{ChangeKind, Db, Row, TableDef};
//!
//! #[derive(Serialize)]
//! struct Pod { name: String, node: String }
//!
//! impl Row for Pod {
//!     type Key = String;
//!     fn key(&self) -> String { self.name.clone() }
//! }
//!
//! let db = Db::new();
//! let mut def = TableDef::<Pod>::new("pods");
//! let by_node = def.index("node", |pod: &Pod| [pod.node.clone()]);
//! let pods = db.register(def)?;
//! let mut tracker = db.track(&pods);
//!
//! let mut txn = db.write();
//! pods.insert(&mut txn, Pod { name: "web".into(), node: "node1".into() })?;
//! let revision = txn.commit();
//!
//! let snapshot = db.snapshot();
//! assert_eq!(pods.get(&snapshot, "web").map(|pod| pod.node.as_str()), Some("node1"));
//! assert_eq!(by_node.get(&snapshot, "node1").count(), 1);
//! for change in tracker.changes(&snapshot) {
//!     assert_eq!((change.kind, change.revision), (ChangeKind::Upsert, revision));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod changes;
mod db;
mod dump;
mod error;
mod index;
pub mod reconcile;
mod revision;
mod state;
mod sync;
mod table;
mod txn;
mod watch;

pub use changes::{Change, ChangeIter, ChangeKind, ChangeTracker};
pub use db::{Db, Read, Snapshot};
pub use dump::{DumpRow, TableInfo};
pub use error::{DumpError, DuplicateTable, UniqueViolation};
pub use revision::Revision;
pub use table::{Index, Key, Replaced, Row, Table, TableDef, TableId};
pub use txn::WriteTxn;
pub use watch::{Changed, Watch, block_on_timeout};
