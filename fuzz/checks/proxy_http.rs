//! Where messages of HTTP/1 end: what is taken is what another parser takes, too, and pieces make no difference.

use hypha_proxy::http::{Body, Chunked, check_head, head_end};

const TRAILERS: usize = 4096;

pub fn run(data: &[u8]) {
    if let Some(end) = head_end(data, 0) {
        for from in 1..end.min(64) {
            assert_eq!(head_end(data, from.min(end - 1)), Some(end));
        }
        if let Ok(framing) = check_head(&data[..end]) {
            let mut headers = [httparse::EMPTY_HEADER; 512];
            let mut request = httparse::Request::new(&mut headers);
            // The other one may refuse more; where it takes a head, it is this one.
            if let Ok(httparse::Status::Complete(length)) = request.parse(&data[..end]) {
                assert_eq!(length, end);
                let named = |name: &str| {
                    request
                        .headers
                        .iter()
                        .filter(|h| h.name.eq_ignore_ascii_case(name))
                        .count()
                };
                let (lengths, encodings) = (named("content-length"), named("transfer-encoding"));
                assert!(lengths + encodings <= 1);
                assert_eq!(framing.body == Body::Chunked, encodings == 1);
                assert_eq!(
                    framing.upgrade,
                    named("upgrade") > 0 && request.version == Some(1)
                );
            }
        }
    }
    assert_eq!(body(data, data.len().max(1)), body(data, 1));
    assert_eq!(body(data, 7), body(data, 1));
}

/// How far a chunked body gets if so many bytes come at a time; `None` where it is refused.
fn body(data: &[u8], step: usize) -> Option<(usize, Chunked)> {
    let (mut state, mut taken, mut there) = (Chunked::Size, 0, 0);
    while state != Chunked::Done {
        let got = state.take(&data[taken..there], TRAILERS).ok()?;
        assert!(got <= there - taken);
        taken += got;
        if got == 0 {
            if there == data.len() {
                break;
            }
            there = (there + step).min(data.len());
        }
    }
    Some((taken, state))
}
