//! The generated code is what the definitions give.
use prost::Message as _;
use std::{collections::BTreeMap, fs, path::Path};

const FILES: [&str; 4] = [
    "flow/flow.proto",
    "observer/observer.proto",
    "peer/peer.proto",
    "relay/relay.proto",
];

/// Name → content of everything that is generated.
fn generate() -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let set = protox::compile(FILES, [root.join("proto")]).unwrap();
    let mut bare = set.clone();
    // Places and comments are for code alone.
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds_with_config(set, config)
        .unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.insert("descriptors.bin".to_owned(), bare.encode_to_vec());
    files
}

#[test]
fn the_generated_code_is_up_to_date() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hubble/generated");
    let files = generate();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for (name, content) in &files {
            fs::write(place.join(name), content).unwrap();
        }
    }
    for (name, content) in &files {
        let present = fs::read(place.join(name)).unwrap_or_default();
        assert!(
            present == *content,
            "src/hubble/generated/{name} is not what proto/ gives: UPDATE_GOLDEN=1 writes it anew"
        );
    }
    let present = fs::read_dir(&place).unwrap().count();
    assert_eq!(present, files.len(), "a file there is nobody's any longer");
}
