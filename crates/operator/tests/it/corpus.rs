//! The fuzz target's check over the inputs that are kept.

#[path = "../../../../fuzz/checks/services.rs"]
mod check;

#[test]
fn kept_services_hold() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/services");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() >= 11);
    for file in files {
        check::run(&std::fs::read(file.unwrap().path()).unwrap());
    }
}
