use super::*;
use crate::tables::KUBERNETES;

fn endpoint(name: &str, identity: u32) -> EndpointRow {
    EndpointRow {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        owner: String::new(),
        identity,
        entry: SliceEndpoint {
            name: name.to_owned(),
            id: identity,
            ..SliceEndpoint::default()
        },
    }
}

/// What the packer's slices hold, by group.
fn shape(packer: &Packer) -> BTreeMap<u32, Vec<usize>> {
    let mut out: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for slice in packer.slices.values() {
        out.entry(slice.group.1)
            .or_default()
            .push(slice.members.len());
    }
    out
}

fn named() -> impl FnMut() -> String {
    let mut count = 0;
    move || {
        count += 1;
        format!("ces-{count:04}")
    }
}

#[test]
fn endpoints_of_one_identity_share_slices_up_to_their_size() {
    let mut packer = Packer::new(SliceMode::Identity, 3);
    let mut name = named();
    for n in 0..7 {
        packer.put(&endpoint(&format!("a{n}"), 300), &mut name);
    }
    packer.put(&endpoint("b", 301), &mut name);
    assert_eq!(
        shape(&packer),
        BTreeMap::from([(300, vec![3, 3, 1]), (301, vec![1])])
    );
    assert_eq!(packer.due().len(), 4);
    assert!(packer.due().is_empty());
    // A free place is used again before a slice is made.
    packer.remove("shop/a1", "a1");
    packer.put(&endpoint("a9", 300), &mut name);
    assert_eq!(shape(&packer)[&300].iter().sum::<usize>(), 7);
    assert_eq!(shape(&packer)[&300].len(), 3);
    let mut any = Packer::new(SliceMode::Fcfs, 100);
    any.put(&endpoint("a", 300), &mut name);
    any.put(&endpoint("b", 301), &mut name);
    assert_eq!(shape(&any), BTreeMap::from([(0, vec![2])]));
}

#[test]
fn what_moves_is_written_where_it_comes_before_where_it_goes() {
    let mut packer = Packer::new(SliceMode::Identity, 100);
    let mut name = named();
    packer.put(&endpoint("a", 300), &mut name);
    packer.put(&endpoint("b", 300), &mut name);
    packer.due();
    packer.put(&endpoint("a", 301), &mut name);
    let due = packer.due();
    let wanted = [("ces-0002", Due::Gain), ("ces-0001", Due::Loss)];
    assert_eq!(due, wanted.map(|(name, due)| (name.to_owned(), due)));
    // Writes that failed come in the same order again.
    packer.again(due.clone());
    packer.put(&endpoint("c", 302), &mut name);
    let again: Vec<_> = packer.due().into_iter().map(|(name, _)| name).collect();
    assert_eq!(again, ["ces-0002", "ces-0003", "ces-0001"]);
}

#[test]
fn a_restart_moves_nothing_and_finds_what_is_wrong() {
    let tables = Tables::new().unwrap();
    let slice = |name: &str, endpoints: &[(&str, u32)]| SliceRow {
        name: name.to_owned(),
        uid: name.to_owned(),
        namespace: "shop".to_owned(),
        endpoints: endpoints
            .iter()
            .map(|(name, id)| endpoint(name, *id).entry)
            .collect(),
    };
    let mut txn = tables.db.write();
    for row in [
        slice("ces-1", &[("a", 300), ("b", 300)]),
        slice("ces-2", &[("b", 300), ("gone", 300)]),
        slice("ces-3", &[]),
    ] {
        tables.slices.insert(&mut txn, row).unwrap();
    }
    for row in [endpoint("a", 300), endpoint("b", 300), endpoint("new", 300)] {
        tables.endpoints.insert(&mut txn, row).unwrap();
    }
    tables.slices.finish_initializer(&mut txn, KUBERNETES);
    txn.commit();
    let snapshot = tables.db.snapshot();
    let mut packer = Packer::new(SliceMode::Identity, 100);
    for row in tables.slices.iter(&snapshot) {
        packer.adopt(row);
    }
    packer.remove("shop/gone", "gone");
    let mut name = named();
    for row in tables.endpoints.iter(&snapshot) {
        packer.put(row, &mut name);
    }
    let writes: Vec<_> = packer
        .due()
        .into_iter()
        .filter_map(|(name, _)| Some((name.clone(), wanted(&packer, &tables, &snapshot, &name)?)))
        .collect();
    let names = |write: &Write| match write {
        Write::Put(_, all) => all.iter().map(|one| one.name.clone()).collect(),
        Write::Delete => Vec::new(),
    };
    let found: Vec<(&str, Vec<String>)> = writes
        .iter()
        .map(|(name, write)| (name.as_str(), names(write)))
        .collect();
    let all = ["a", "b", "new"].map(str::to_owned).to_vec();
    assert_eq!(
        found,
        [("ces-1", all), ("ces-2", vec![]), ("ces-3", vec![])]
    );
    assert!(packer.room.values().all(|names| names.contains("ces-1")));
}

#[test]
fn writes_are_spread_over_time() {
    let mut pace = Pace::new();
    pace.rate = (10, 20);
    let waits: Vec<Duration> = (0..25).map(|_| pace.next()).collect();
    assert!(waits[..20].iter().all(Duration::is_zero));
    assert!(waits[24] > Duration::from_millis(300), "{:?}", waits[24]);
}
