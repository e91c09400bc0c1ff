use hypha_tables::ChangeKind::{Delete, Upsert};
use hypha_tables::{Db, DuplicateTable, Read, Replaced, Revision, TableDef, UniqueViolation};

use crate::rows::{Item, Items, db_with_items, seen};

fn ids<'r>(rows: impl Iterator<Item = &'r std::sync::Arc<Item>>) -> Vec<u32> {
    rows.map(|row| row.id).collect()
}

#[test]
fn rows_are_found_by_primary_key_and_by_index() {
    let (db, items) = db_with_items();
    let mut txn = db.write();
    items
        .table
        .insert(
            &mut txn,
            Item::new(3, 0).labels(&["red", "big"]).address(30),
        )
        .unwrap();
    items
        .table
        .insert(&mut txn, Item::new(1, 0).labels(&["red"]))
        .unwrap();
    items
        .table
        .insert(&mut txn, Item::new(2, 0).labels(&["blue"]).address(20))
        .unwrap();
    assert_eq!(
        items.by_label.get(&txn, "red").count(),
        2,
        "a transaction sees its own writes"
    );
    txn.commit();

    let now = db.snapshot();
    assert_eq!(ids(items.table.iter(&now)), [1, 2, 3]);
    assert_eq!(ids(items.table.range(&now, 2..)), [2, 3]);
    assert_eq!(ids(items.by_label.get(&now, "red")), [1, 3]);
    assert_eq!(ids(items.by_label.get(&now, "green")), [0; 0]);
    assert_eq!(items.by_address.first(&now, &20).map(|row| row.id), Some(2));
    let by_address: Vec<_> = items
        .by_address
        .range::<_, _, u32>(&now, ..)
        .map(|(key, row)| (*key, row.id))
        .collect();
    assert_eq!(by_address, [(20, 2), (30, 3)]);
    let excluding = (std::ops::Bound::Excluded(20), std::ops::Bound::Excluded(31));
    assert_eq!(
        items
            .by_address
            .range(&now, excluding)
            .map(|(key, _)| *key)
            .collect::<Vec<_>>(),
        [30]
    );
}

#[test]
fn replacing_a_row_moves_it_in_every_index() {
    let (db, items) = db_with_items();
    items.put(&db, Item::new(1, 0).labels(&["red"]).address(10));
    items.put(&db, Item::new(1, 1).labels(&["blue"]).address(11));
    let now = db.snapshot();
    assert_eq!(items.by_label.get(&now, "red").count(), 0);
    assert_eq!(items.by_address.first(&now, &10), None);
    assert_eq!(
        items.by_address.first(&now, &11).map(|row| row.value),
        Some(1)
    );
    items.remove(&db, 1);
    let now = db.snapshot();
    assert!(items.table.is_empty(&now));
    assert_eq!(items.by_label.get(&now, "blue").count(), 0);
}

#[test]
fn snapshots_do_not_change_and_aborts_leave_nothing() {
    let (db, items) = db_with_items();
    let others = Items::register(&db, "others");
    items.put(&db, Item::new(1, 0));
    let before = db.snapshot();

    let mut txn = db.write();
    items.table.insert(&mut txn, Item::new(1, 7)).unwrap();
    others.table.insert(&mut txn, Item::new(2, 7)).unwrap();
    drop(txn);
    let after = db.snapshot();
    assert_eq!(after.revision(), before.revision());
    assert_eq!(items.table.get(&after, &1).unwrap().value, 0);
    assert_eq!(others.table.len(&after), 0);

    let mut txn = db.write();
    items.table.delete(&mut txn, &1);
    others.table.insert(&mut txn, Item::new(2, 7)).unwrap();
    assert_eq!(txn.commit(), Revision::new(3));
    assert_eq!(items.table.len(&before), 1);
    assert_eq!(others.table.len(&before), 0);
    let after = db.snapshot();
    assert_eq!(
        (items.table.revision(&after), others.table.revision(&after)),
        (Revision::new(2), Revision::new(3))
    );
}

#[test]
fn a_unique_violation_changes_nothing() {
    let (db, items) = db_with_items();
    let mut txn = db.write();
    items
        .table
        .insert(&mut txn, Item::new(1, 0).labels(&["red"]).address(10))
        .unwrap();
    items
        .table
        .insert(&mut txn, Item::new(2, 0).labels(&["red"]).address(20))
        .unwrap();
    let error = items
        .table
        .insert(&mut txn, Item::new(2, 5).labels(&["blue"]).address(10))
        .unwrap_err();
    let expected = UniqueViolation {
        table: "items",
        index: "address",
        value: "10".into(),
        key: "2".into(),
        owner: "1".into(),
    };
    assert_eq!(error, expected);
    assert_eq!(txn.revision(), Revision::new(2));
    txn.commit();
    let now = db.snapshot();
    assert_eq!(items.table.get(&now, &2).unwrap().value, 0);
    assert_eq!(ids(items.by_label.get(&now, "red")), [1, 2]);
    assert_eq!(items.by_label.get(&now, "blue").count(), 0);
}

#[test]
fn replace_all_touches_only_what_differs() {
    let (db, items) = db_with_items();
    let mut txn = db.write();
    let first = [
        Item::new(1, 0).address(10),
        Item::new(2, 0).address(20),
        Item::new(3, 0),
    ];
    items.table.replace_all(&mut txn, first).unwrap();
    txn.commit();
    let mut tracker = db.track(&items.table);
    assert_eq!(seen(&mut tracker, &db.snapshot()).len(), 3);

    let mut txn = db.write();
    let swapped = [
        Item::new(1, 0).address(20),
        Item::new(2, 0).address(10),
        Item::new(4, 0),
    ];
    let replaced = items.table.replace_all(&mut txn, swapped.clone()).unwrap();
    assert_eq!(
        replaced,
        Replaced {
            written: 3,
            deleted: 1
        }
    );
    txn.commit();
    let changes = seen(&mut tracker, &db.snapshot());
    assert_eq!(
        changes,
        [
            (Delete, 3, 0),
            (Upsert, 1, 0),
            (Upsert, 2, 0),
            (Upsert, 4, 0)
        ]
    );

    let mut txn = db.write();
    assert_eq!(
        items.table.replace_all(&mut txn, swapped).unwrap(),
        Replaced::default()
    );
    let clashing = [Item::new(7, 0).address(1), Item::new(8, 0).address(1)];
    items.table.replace_all(&mut txn, clashing).unwrap_err();
    assert_eq!(ids(items.table.iter(&txn)), [1, 2, 4]);
    txn.commit();
    assert_eq!(seen(&mut tracker, &db.snapshot()), []);
}

#[test]
fn insert_if_changed_and_clear() {
    let (db, items) = db_with_items();
    let mut txn = db.write();
    assert!(
        items
            .table
            .insert_if_changed(&mut txn, Item::new(1, 0))
            .unwrap()
    );
    assert!(
        !items
            .table
            .insert_if_changed(&mut txn, Item::new(1, 0))
            .unwrap()
    );
    assert!(
        items
            .table
            .insert_if_changed(&mut txn, Item::new(1, 1))
            .unwrap()
    );
    assert_eq!(items.table.revision_of(&txn, &1), Some(Revision::new(2)));
    items.table.clear(&mut txn);
    assert!(items.table.is_empty(&txn));
}

#[test]
fn a_new_tracker_begins_with_what_is_present() {
    let (db, items) = db_with_items();
    items.put(&db, Item::new(1, 0));
    items.put(&db, Item::new(2, 0));
    items.put(&db, Item::new(1, 1));
    let mut early = db.track(&items.table);
    items.remove(&db, 2);
    let mut late = db.track(&items.table);
    let now = db.snapshot();
    assert_eq!(seen(&mut early, &now), [(Upsert, 1, 1), (Delete, 2, 0)]);
    assert_eq!(seen(&mut late, &now), [(Upsert, 1, 1)]);
    assert_eq!(seen(&mut late, &now), []);
}

#[test]
fn a_tracker_stopped_early_goes_on_where_it_was() {
    let (db, items) = db_with_items();
    let mut tracker = db.track(&items.table);
    (0..5).for_each(|id| _ = items.put(&db, Item::new(id, 0)));
    let now = db.snapshot();
    assert_eq!(tracker.changes(&now).take(2).count(), 2);
    assert_eq!(tracker.position(), Revision::new(2));
    items.remove(&db, 0);
    items.put(&db, Item::new(4, 9));
    assert_eq!(
        seen(&mut tracker, &now),
        [(Upsert, 2, 0), (Upsert, 3, 0), (Upsert, 4, 0)]
    );
    assert_eq!(
        seen(&mut tracker, &db.snapshot()),
        [(Delete, 0, 0), (Upsert, 4, 9)]
    );
    assert_eq!(
        seen(&mut tracker, &now),
        [],
        "an older snapshot has nothing new"
    );
    Items::register(&db, "others").put(&db, Item::new(1, 0));
    assert_eq!(seen(&mut tracker, &db.snapshot()), []);
    assert_eq!(
        tracker.position(),
        db.snapshot().revision(),
        "it need not change to be up to date"
    );
}

#[test]
fn deletions_are_kept_until_every_tracker_has_passed() {
    let graveyard = |db: &Db| db.snapshot().tables()[0].graveyard;
    let (db, items) = db_with_items();
    (0..4).for_each(|id| _ = items.put(&db, Item::new(id, 0)));
    items.remove(&db, 0);
    assert_eq!(graveyard(&db), 0, "nobody follows the table");

    let (mut fast, slow) = (db.track(&items.table), db.track(&items.table));
    items.remove(&db, 1);
    items.remove(&db, 2);
    assert_eq!(fast.changes(&db.snapshot()).count(), 3);
    items.put(&db, Item::new(3, 1));
    assert_eq!(graveyard(&db), 2, "the slow one has not passed");
    items.put(&db, Item::new(2, 1));
    assert_eq!(graveyard(&db), 1, "a key that is back has no grave");
    drop(slow);
    db.write().commit();
    assert_eq!(graveyard(&db), 0);
    assert_eq!(
        seen(&mut fast, &db.snapshot()),
        [(Upsert, 3, 1), (Upsert, 2, 1)]
    );
}

#[test]
fn a_table_is_initialised_when_all_its_initialisers_are_done() {
    let db = Db::new();
    let mut def = TableDef::<Item>::new("items");
    def.initializer("kubernetes").initializer("file");
    let items = db.register(def).unwrap();
    let mut txn = db.write();
    items.finish_initializer(&mut txn, "file");
    items.add_initializer(&mut txn, "peer");
    txn.commit();
    let half = db.snapshot();
    assert!(!items.initialized(&half));
    assert_eq!(
        items.pending_initializers(&half).collect::<Vec<_>>(),
        ["kubernetes", "peer"]
    );
    let mut txn = db.write();
    items.finish_initializer(&mut txn, "kubernetes");
    items.finish_initializer(&mut txn, "peer");
    items.finish_initializer(&mut txn, "nobody");
    txn.commit();
    assert!(items.initialized(&db.snapshot()));
    assert!(
        items.watch().is_changed(half.revision()),
        "it wakes those who wait for it"
    );
}

#[test]
fn tables_are_listed_and_dumped_by_name() {
    let (db, items) = db_with_items();
    Items::register(&db, "a-first-one");
    let _tracker = db.track(&items.table);
    items.put(&db, Item::new(2, 5).labels(&["red"]));
    items.put(&db, Item::new(1, 6).address(10));
    items.put(&db, Item::new(3, 6));
    items.remove(&db, 3);
    let now = db.snapshot();
    let dump = (now.tables(), now.dump("items").unwrap());
    expect_test::expect![[r#"
        [
          [
            {
              "name": "a-first-one",
              "rows": 0,
              "revision": 0,
              "graveyard": 0,
              "trackers": 0,
              "pending_initializers": []
            },
            {
              "name": "items",
              "rows": 2,
              "revision": 4,
              "graveyard": 1,
              "trackers": 1,
              "pending_initializers": []
            }
          ],
          [
            {
              "revision": 2,
              "row": {
                "address": 10,
                "id": 1,
                "labels": [],
                "value": 6
              }
            },
            {
              "revision": 1,
              "row": {
                "address": null,
                "id": 2,
                "labels": [
                  "red"
                ],
                "value": 5
              }
            }
          ]
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&dump).unwrap());
    let error = now.dump("item").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot dump table item: there is no such table; known tables: a-first-one, items"
    );
}

#[test]
fn a_table_name_is_taken_once() {
    let (db, _items) = db_with_items();
    assert_eq!(
        db.register(TableDef::<Item>::new("items")).unwrap_err(),
        DuplicateTable { name: "items" }
    );
}

#[test]
#[should_panic(expected = "table items used with a database")]
fn a_table_of_another_database_is_refused() {
    let (_db, items) = db_with_items();
    items.table.len(&Db::new().snapshot());
}
