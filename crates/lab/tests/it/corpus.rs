//! The fuzz targets' checks over the inputs that are kept.

#[path = "../../../../fuzz/checks/dns.rs"]
mod dns;
#[path = "../../../../fuzz/checks/spdy.rs"]
mod spdy;

fn kept(target: &str, check: fn(&[u8])) {
    let corpus = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() >= 9);
    for file in files {
        check(&std::fs::read(file.unwrap().path()).unwrap());
    }
}

#[test]
fn kept_streams_hold() {
    kept("spdy", spdy::run);
}

#[test]
fn kept_questions_hold() {
    kept("dns", dns::run);
}

proptest::proptest! {
    #[test]
    fn any_bytes_hold(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        spdy::run(&bytes);
    }

    /// Heads of frames that are almost right reach further than bytes by chance.
    #[test]
    fn almost_frames_hold(frames in proptest::collection::vec((0_u8..12, proptest::prelude::any::<u8>(), proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)), 0..6)) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, body)| {
            [&[0x80, 3, 0, *kind, *flags, 0, 0, body.len() as u8][..], body].concat()
        }).collect();
        spdy::run(&bytes);
    }
}
