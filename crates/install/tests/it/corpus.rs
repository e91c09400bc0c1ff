//! The fuzz target's check over the inputs that are kept.

#[path = "../../../../fuzz/checks/chart_values.rs"]
mod check;

#[test]
fn kept_inputs_hold() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus/chart_values"
    );
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() >= 6);
    for file in files {
        check::run(&std::fs::read(file.unwrap().path()).unwrap());
    }
}
