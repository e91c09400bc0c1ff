//! The files of the page, as `ui/dist` has them; they are part of the program.
use std::sync::LazyLock;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::{Answer, set, typed, whole};

/// A file of the page.
struct File {
    /// Where it is served.
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

static FILES: [File; 4] = [
    File {
        path: "/",
        kind: "text/html; charset=utf-8",
        bytes: include_bytes!("../../../../ui/dist/index.html"),
    },
    File {
        path: "/app.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../../../ui/dist/app.js"),
    },
    File {
        path: "/app.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../../../../ui/dist/app.css"),
    },
    File {
        path: "/icon.svg",
        kind: "image/svg+xml",
        bytes: include_bytes!("../../../../ui/dist/icon.svg"),
    },
];

/// What each file is known by: another content, another tag.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |file: &File| format!("\"{:016x}\"", hash(file.bytes));
    FILES.iter().map(tag).collect()
});

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The file of this path, or that the client has it already; none if there is no such file.
pub(super) fn file(path: &str, headers: &HeaderMap) -> Option<Answer> {
    let path = if path == "/index.html" { "/" } else { path };
    let (file, tag) = FILES
        .iter()
        .zip(TAGS.iter())
        .find(|(file, _)| file.path == path)?;
    let had = headers.get(header::IF_NONE_MATCH);
    let had = had.and_then(|had| had.to_str().ok()).unwrap_or_default();
    let same = |one: &str| one.trim().trim_start_matches("W/") == tag || one.trim() == "*";
    let mut answer = if had.split(',').any(same) {
        let mut answer = Response::new(whole(""));
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        typed(whole(file.bytes), file.kind)
    };
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_str(tag).ok()?);
    set(headers, header::CACHE_CONTROL, "no-cache");
    Some(answer)
}
