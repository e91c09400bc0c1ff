//! Opening: adoption, replacement, recovery.
use std::fs;

use abi::names;
use datapath::{Datapath, Error, MapFate, MapSizes, Object, RECORD_MAP};

use crate::support::place;

fn program_ids(datapath: &Datapath) -> Vec<u32> {
    datapath.programs().unwrap().iter().map(|p| p.id).collect()
}

fn map_ids(datapath: &Datapath) -> Vec<u32> {
    datapath.maps().unwrap().iter().map(|m| m.id).collect()
}

#[test]
fn the_first_open_loads_and_the_second_adopts() {
    place(|here| {
        let (first, report) = here.open();
        assert!(!report.adopted);
        assert!(
            report
                .maps
                .iter()
                .all(|(_, fate)| *fate == MapFate::Created),
            "{:?}",
            report.maps
        );
        let (programs, maps) = (program_ids(&first), map_ids(&first));
        eprintln!("cold open {:?}", report.elapsed);
        drop(first);
        let (second, report) = here.open();
        eprintln!("adoption {:?}", report.elapsed);
        assert!(report.adopted);
        assert!(report.maps.iter().all(|(_, fate)| *fate == MapFate::Reused));
        assert_eq!(program_ids(&second), programs);
        assert_eq!(map_ids(&second), maps);
    });
}

#[test]
fn another_config_loads_again_but_keeps_the_maps() {
    place(|here| {
        let (first, _) = here.open();
        let (programs, maps) = (program_ids(&first), map_ids(&first));
        let mut options = here.options();
        options.config.ct_tcp = 100;
        let (second, report) = Datapath::open(&options).unwrap();
        assert!(!report.adopted);
        assert!(program_ids(&second).iter().all(|id| !programs.contains(id)));
        assert_eq!(map_ids(&second), maps);
        let (_, report) = Datapath::open(&options).unwrap();
        assert!(report.adopted);
    });
}

#[test]
fn a_map_of_another_size_is_replaced_and_its_entries_copied() {
    place(|here| {
        let (first, _) = here.open();
        let key = abi::IpcacheKey::v4([10, 0, 0, 0], 8);
        let value = abi::IpcacheValue {
            sec_id: 7,
            tunnel: [0; 16],
            flags: 0,
            key: 0,
            pad: 0,
        };
        first.ipcache().unwrap().upsert(&key, &value).unwrap();
        let mut options = here.options();
        options.sizes = MapSizes {
            ipcache: 2048,
            ..options.sizes
        };
        let (second, report) = Datapath::open(&options).unwrap();
        assert!(!report.adopted);
        for (name, fate) in &report.maps {
            match fate {
                MapFate::Replaced { copied, .. } if *name == names::IPCACHE => {
                    assert_eq!(*copied, Some(1))
                }
                other => assert_eq!((*name, other), (*name, &MapFate::Reused)),
            }
        }
        assert_eq!(
            second.ipcache().unwrap().dump().unwrap(),
            vec![(key, value)]
        );
        assert_eq!(report.emptied().count(), 0);
    });
}

#[test]
fn a_map_does_not_become_too_small_for_what_is_in_it() {
    place(|here| {
        let (first, _) = here.open();
        let row = |n: u8| {
            let value = abi::IpcacheValue {
                sec_id: 7,
                tunnel: [0; 16],
                flags: 0,
                key: 0,
                pad: 0,
            };
            (abi::IpcacheKey::v4([10, 0, 0, n], 32), value)
        };
        let ipcache = first.ipcache().unwrap();
        let rows: Vec<_> = (0..20).map(row).collect();
        for (key, value) in &rows {
            ipcache.upsert(key, value).unwrap();
        }
        let sized = |ipcache: u32| {
            let mut options = here.options();
            options.sizes = MapSizes {
                ipcache,
                ..options.sizes
            };
            Datapath::open(&options).unwrap()
        };
        for _ in 0..2 {
            let (kept, report) = sized(19);
            assert!(report.adopted, "nothing is other than before");
            assert_eq!(kept.ipcache().unwrap().dump().unwrap().len(), 20);
        }
        ipcache.remove(&rows[0].0).unwrap();
        let (smaller, report) = sized(19);
        assert!(!report.adopted);
        assert_eq!(smaller.ipcache().unwrap().dump().unwrap().len(), 19);
    });
}

#[test]
fn maps_of_unknown_layout_are_made_anew() {
    place(|here| {
        let (first, _) = here.open();
        let maps = map_ids(&first);
        fs::remove_file(here.bpffs().join("tc/globals").join(RECORD_MAP)).unwrap();
        let (second, report) = here.open();
        assert!(!report.adopted);
        assert_eq!(report.emptied().count(), names::MAPS.len());
        assert!(map_ids(&second).iter().all(|id| !maps.contains(id)));
    });
}

#[test]
fn a_missing_pin_is_made_good() {
    place(|here| {
        here.open();
        fs::remove_file(here.bpffs().join("cilium/programs").join(names::FROM_HOST)).unwrap();
        let (_, report) = here.open();
        assert!(!report.adopted);
        fs::remove_file(here.bpffs().join("tc/globals").join(names::CT4)).unwrap();
        let (_, report) = here.open();
        assert!(!report.adopted);
        let created: Vec<_> = report
            .maps
            .iter()
            .filter(|(_, fate)| *fate == MapFate::Created)
            .collect();
        assert_eq!(created.len(), 1);
        assert!(here.open().1.adopted);
    });
}

#[test]
fn an_opening_that_stopped_half_way_is_done_again() {
    place(|here| {
        let (first, _) = here.open();
        let programs = program_ids(&first);
        let mut options = here.options();
        options.config.ct_any = 1;
        // Loaded, but never put in place: as if the process had been killed.
        let (half, _) = Datapath::prepare(&options).unwrap();
        let loaded = program_ids(&half);
        drop(half);
        let (third, report) = here.open();
        assert!(
            !report.adopted,
            "the old programs may not be taken for current ones"
        );
        let now = program_ids(&third);
        assert!(
            now.iter()
                .all(|id| !programs.contains(id) && !loaded.contains(id))
        );
    });
}

#[test]
fn an_object_that_does_not_load_changes_nothing() {
    place(|here| {
        let (first, _) = here.open();
        let programs = program_ids(&first);
        drop(first);
        let mut options = here.options();
        options.object = Object::from_bytes(b"not an object".to_vec());
        assert!(matches!(
            Datapath::open(&options),
            Err(Error::Object { .. })
        ));
        options.object = Object::from_bytes(Vec::new());
        assert!(matches!(Datapath::open(&options), Err(Error::NoObject)));
        let (again, report) = here.open();
        assert!(report.adopted);
        assert_eq!(program_ids(&again), programs);
    });
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused() {
    place(|here| {
        let mut options = here.options();
        let dir = tempfile::tempdir().unwrap();
        options.bpffs = dir.path().to_path_buf();
        let error = Datapath::open(&options).unwrap_err();
        assert!(matches!(error, Error::NotBpffs { .. }), "{error}");
    });
}
