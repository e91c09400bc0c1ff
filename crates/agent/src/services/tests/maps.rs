//! The same with the real maps.
use super::*;

/// Runs `test` with a datapath of its own whose maps of services hold `max` rows.
fn with_maps(max: u32, test: impl FnOnce(&Datapath, Maps) + Send) {
    use nix::{
        mount::{MntFlags, MsFlags, mount, umount2},
        sched::{CloneFlags, unshare},
    };
    if !nix::unistd::Uid::effective().is_root() || Object::embedded().is_empty() {
        eprintln!("skipped: needs root and the programs");
        return;
    }
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        datapath::ensure_bpffs(dir.path()).unwrap();
        let mut settings = Settings::default();
        settings
            .set("bpf-lb-map-max", &max.to_string(), "test")
            .unwrap();
        settings
            .set("bpf-lb-maglev-table-size", "509", "test")
            .unwrap();
        let plan = crate::plan::routing_plan(&settings);
        let (local, pair) = (LocalNode::default(), routing::HostPair::default());
        let options = OpenOptions {
            bpffs: dir.path().to_path_buf(),
            config: settings::config(&settings, 0, routing::datapath_config(&plan, &local, &pair)),
            sizes: crate::plan::map_sizes(&settings, 1 << 30),
            attach: AttachMode::Auto,
            object: Object::embedded(),
        };
        let (datapath, _) = Datapath::open(&options).unwrap();
        let maps = Maps::new(datapath.services().unwrap(), 509);
        test(&datapath, maps);
        // Or the temporary directory could not be removed.
        let _ = umount2(dir.path(), MntFlags::MNT_DETACH);
    };
    let outcome = std::thread::scope(|scope| scope.spawn(work).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn sorted(rows: Vec<Row>) -> Vec<String> {
    let shown = |row| match row {
        Row::Maglev(id, ipv6, _) => format!("table {id} {ipv6}"),
        row => format!("{row:?}"),
    };
    let mut all: Vec<String> = rows.into_iter().map(shown).collect();
    all.sort();
    all
}

/// One row of each sort, of a family.
fn every_row(ipv6: bool, id: u16) -> Vec<Row> {
    let ip = |last: u8| match ipv6 {
        false => std::net::IpAddr::from([10, 96, 0, last]),
        true => std::net::IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
    };
    let key = FrontendKey {
        address: ip(1),
        port: 80,
        protocol: Protocol::Sctp,
        scope: Scope::Internal,
    };
    let backend = BackendKey {
        address: ip(9),
        port: 8080,
        protocol: Protocol::Sctp,
    };
    let number = u32::from(id) * 100;
    let bits = if ipv6 { 64 } else { 24 };
    let net = ipnet::IpNet::new(ip(0), bits).unwrap().trunc();
    vec![
        Row::Backend(number, backend, State::Terminating),
        Row::Address(ip(1)),
        Row::Reverse(id, ip(1), 80),
        Row::Source(id, net, false),
        Row::Affinity(id, number),
        Row::Maglev(id, ipv6, (0..509).map(|place| number + place % 2).collect()),
        Row::Slot(key, 1, number),
        Row::Frontend(
            key,
            Master {
                id,
                count: 1,
                serving: State::Terminating,
                flags: flags::DSR | flags::SOURCE_RANGES_DENY | flags::LOAD_BALANCER,
                affinity: 86_400,
                algorithm: Algorithm::Maglev,
            },
        ),
    ]
}

#[test]
fn every_row_is_read_from_the_maps_as_it_was_written() {
    with_maps(256, |datapath, mut maps| {
        let rows: Vec<Row> = [every_row(false, 3), every_row(true, 4)].concat();
        let ops: Vec<Op> = rows.iter().cloned().map(Op::Put).collect();
        maps.write(&ops).unwrap();
        assert_eq!(sorted(maps.rows().unwrap()), sorted(rows.clone()));
        let tables = datapath.services().unwrap().v6.maglev;
        let last = tables
            .get(&abi::LbMaglevKey { id: 4, chunk: 1 })
            .unwrap()
            .unwrap();
        assert_eq!(tables.len().unwrap(), 2);
        assert_eq!((last.backends[252], last.backends[253]), (400, 0));
        let skip = Skip {
            netns: 4711,
            frontend: "10.96.0.1:53/UDP".parse().unwrap(),
        };
        maps.set_skips(&[skip], &[]).unwrap();
        assert_eq!(maps.skips().unwrap(), [skip]);
        maps.set_skips(&[], &[skip]).unwrap();
        assert!(maps.skips().unwrap().is_empty());
        let ops: Vec<Op> = rows.iter().rev().map(key_of).map(Op::Delete).collect();
        maps.write(&ops).unwrap();
        // What is gone may be removed once more.
        maps.write(&ops).unwrap();
        assert!(maps.rows().unwrap().is_empty());
        assert_eq!(tables.len().unwrap(), 0);
    });
}

#[test]
fn a_full_map_says_so() {
    with_maps(256, |_, mut maps| {
        let row = |last: u16| {
            let [a, b] = last.to_be_bytes();
            Op::Put(Row::Address(std::net::IpAddr::from([10, 0, a, b])))
        };
        let ops: Vec<Op> = (0..257).map(row).collect();
        let (_, why) = maps.write(&ops).unwrap_err();
        assert!(
            why.0.contains("full") && why.0.contains("bpf-lb-map-max"),
            "{why:?}"
        );
        maps.write(&ops[..256]).unwrap();
    });
}

#[test]
fn a_service_goes_to_the_maps_and_a_full_map_harms_no_other() {
    with_maps(256, |datapath, maps| {
        let tables = Tables::new().unwrap();
        let mut settings = Settings::default();
        settings.set("bpf-lb-map-max", "256", "test").unwrap();
        let inputs = Inputs::new(&tables, Vec::new());
        let mut core = Core::new(
            Box::new(maps),
            settings::planner(&settings).unwrap(),
            inputs,
            Namespaces::default(),
            true,
            Instant::now(),
        )
        .unwrap();
        know(&tables);
        know_services(&tables);
        // Three rows each: address, frontend, slot.
        let all: Vec<_> = (0..100_u8)
            .map(|n| {
                (
                    service(&format!("s{n:03}"), &format!("10.96.0.{n}")),
                    slice(&format!("s{n:03}"), &[&format!("10.0.0.{n}")]),
                )
            })
            .collect();
        let (services, slices): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        put(&tables, &services, &slices);
        settle(&mut core, &tables);
        let rows = datapath.services().unwrap().v4.services;
        assert_eq!(
            rows.len().unwrap(),
            255,
            "85 services, and room for half of one"
        );
        assert!(core.refusal().is_none());
        let problems = core.problems();
        assert!(!problems.is_empty() && problems.iter().all(|(_, what)| what.contains("full")));
        assert_eq!(core.compare().unwrap().1, Vec::<String>::new());
        // Who has room goes on being changed.
        put(&tables, &[], &[slice("s000", &[])]);
        settle(&mut core, &tables);
        let mut txn = tables.db.write();
        for service in &services[..40] {
            tables.services.services.delete(&mut txn, &*service.key);
        }
        txn.commit();
        settle(&mut core, &tables);
        assert!(core.problems().is_empty(), "{:?}", core.problems());
        assert_eq!(rows.len().unwrap(), 180);
    });
}
