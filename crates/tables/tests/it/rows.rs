//! The tables most tests use.

use hypha_tables::{ChangeKind, ChangeTracker, Db, Index, Row, Snapshot, Table, TableDef};
use serde::Serialize;

/// A row with a primary key, a label many rows may share and an address only one may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub id: u32,
    pub labels: Vec<&'static str>,
    pub address: Option<u32>,
    pub value: u64,
}

impl Item {
    pub fn new(id: u32, value: u64) -> Self {
        Self {
            id,
            labels: Vec::new(),
            address: None,
            value,
        }
    }

    pub fn labels(mut self, labels: &[&'static str]) -> Self {
        self.labels = labels.to_vec();
        self
    }

    pub fn address(mut self, address: u32) -> Self {
        self.address = Some(address);
        self
    }
}

impl Row for Item {
    type Key = u32;

    fn key(&self) -> u32 {
        self.id
    }
}

#[derive(Clone)]
pub struct Items {
    pub table: Table<Item>,
    pub by_label: Index<Item, &'static str>,
    pub by_address: Index<Item, u32>,
}

impl Items {
    pub fn register(db: &Db, name: &'static str) -> Self {
        let mut def = TableDef::new(name);
        let by_label = def.index("label", |item: &Item| item.labels.clone());
        let by_address = def.unique_index("address", |item: &Item| item.address);
        let table = db.register(def).unwrap();
        Self {
            table,
            by_label,
            by_address,
        }
    }

    /// Commits one row.
    pub fn put(&self, db: &Db, item: Item) -> hypha_tables::Revision {
        let mut txn = db.write();
        self.table.insert(&mut txn, item).unwrap();
        txn.commit()
    }

    /// Commits one deletion.
    pub fn remove(&self, db: &Db, id: u32) -> hypha_tables::Revision {
        let mut txn = db.write();
        self.table.delete(&mut txn, &id);
        txn.commit()
    }
}

pub fn db_with_items() -> (Db, Items) {
    let db = Db::new();
    let items = Items::register(&db, "items");
    (db, items)
}

/// What a tracker yields, as (kind, id, value).
pub fn seen(tracker: &mut ChangeTracker<Item>, snapshot: &Snapshot) -> Vec<(ChangeKind, u32, u64)> {
    tracker
        .changes(snapshot)
        .map(|change| (change.kind, change.row.id, change.row.value))
        .collect()
}
