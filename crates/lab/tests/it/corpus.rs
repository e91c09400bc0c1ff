//! The fuzz target's check over the inputs that are kept.

#[path = "../../../../fuzz/checks/spdy.rs"]
mod check;

#[test]
fn kept_inputs_hold() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/spdy");
    let files: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 9);
    files
        .iter()
        .for_each(|path| check::run(&std::fs::read(path).unwrap()));
}

proptest::proptest! {
    #[test]
    fn any_bytes_hold(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        check::run(&bytes);
    }

    /// Heads of frames that are almost right reach further than bytes by chance.
    #[test]
    fn almost_frames_hold(frames in proptest::collection::vec((0_u8..12, proptest::prelude::any::<u8>(), proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)), 0..6)) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, body)| {
            [&[0x80, 3, 0, *kind, *flags, 0, 0, body.len() as u8][..], body].concat()
        }).collect();
        check::run(&bytes);
    }
}
