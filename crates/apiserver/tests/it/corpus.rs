//! What the fuzz targets check, over the inputs that are kept, and over what comes out when those are torn and mixed.

#[path = "../../../../fuzz/checks/api_patch.rs"]
mod api_patch;
#[path = "../../../../fuzz/checks/api_schema.rs"]
mod api_schema;
#[path = "../../../../fuzz/checks/api_selector.rs"]
mod api_selector;
#[path = "../../../../fuzz/checks/api_server.rs"]
mod api_server;
#[path = "../../../../fuzz/checks/protobuf.rs"]
mod protobuf;

use proptest::prelude::*;
use proptest::sample::{Index, select};

fn kept(target: &str) -> Vec<Vec<u8>> {
    let corpus = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(corpus).unwrap();
    let kept: Vec<_> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(kept.len() >= 5, "{target}");
    kept
}

/// A kept input with a piece of it replaced: by a piece of another, by something that matters somewhere, or by nothing.
fn torn(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let all = kept(target);
    let words = [
        "", "\"", "{", "}", "[", "]", ",", "null", "-1", "1e999", "%", "%2f", "\n", "\u{0}", "é",
        "a", "$patch", "*", "..", "=", "~2",
    ];
    (
        select(all.clone()),
        select(all),
        any::<[Index; 4]>(),
        proptest::option::of(select(words.to_vec())),
    )
        .prop_map(|(into, from, at, word)| {
            let cut = |text: &[u8], a: &Index, b: &Index| {
                let (a, b) = (a.index(text.len() + 1), b.index(text.len() + 1));
                (a.min(b), a.max(b).min(a.min(b) + 12))
            };
            let (begin, end) = cut(&into, &at[0], &at[1]);
            let (first, last) = cut(&from, &at[2], &at[3]);
            let piece = word.map_or(&from[first..last], str::as_bytes);
            [&into[..begin], piece, &into[end..]].concat()
        })
}

macro_rules! targets {
    ($($target:ident: $cases:literal,)*) => {
        $(mod $target {
            use super::*;

            #[test]
            fn kept_inputs_hold() {
                kept(stringify!($target)).iter().for_each(|data| super::super::$target::run(data));
            }

            proptest! {
                #![proptest_config(ProptestConfig::with_cases($cases))]
                #[test]
                fn torn_inputs_hold(data in torn(stringify!($target))) {
                    super::super::$target::run(&data);
                }
            }
        })*
    };
}

mod over {
    use super::*;
    targets! {
        api_server: 200,
        api_patch: 1000,
        api_selector: 1000,
        api_schema: 1000,
        protobuf: 1000,
    }
}
