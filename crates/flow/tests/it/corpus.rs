//! The fuzz target's check over the inputs that are kept.

#[path = "../../../../fuzz/checks/flow_event.rs"]
mod check;

#[test]
fn kept_inputs_hold() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/flow_event");
    let files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 10);
    files
        .iter()
        .for_each(|path| check::run(&std::fs::read(path).unwrap()));
}
