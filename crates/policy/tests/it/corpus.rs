//! The fuzz targets' checks over the inputs that are kept.

#[path = "../../../../fuzz/checks/labels.rs"]
mod labels;
#[path = "../../../../fuzz/checks/policy.rs"]
mod policy;

fn kept(target: &str, check: fn(&[u8])) {
    let corpus = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() >= 8);
    for file in files {
        check(&std::fs::read(file.unwrap().path()).unwrap());
    }
}

#[test]
fn kept_policies_hold() {
    kept("policy", policy::run);
}

#[test]
fn kept_labels_hold() {
    kept("labels", labels::run);
}
