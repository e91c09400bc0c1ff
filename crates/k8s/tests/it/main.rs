//! The fuzz target's check over the inputs that are kept.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../../fuzz/checks/k8s_objects.rs"]
mod check;

#[test]
fn kept_inputs_hold() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/k8s_objects");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() >= 7);
    for file in files {
        check::run(&std::fs::read(file.unwrap().path()).unwrap());
    }
}
