//! Where messages of HTTP/1 end: what is taken is what another parser takes, too, and pieces make no difference.

use hypha_proxy::http::{Body, Left, head_end, read_answer, read_request};

const TRAILERS: usize = 4096;

pub fn run(data: &[u8]) {
    if let Some(end) = head_end(data, 0) {
        for from in 1..end.min(64) {
            assert_eq!(head_end(data, from.min(end - 1)), Some(end));
        }
        request(&data[..end]);
        answer(&data[..end]);
    }
    assert_eq!(body(data, data.len().max(1)), body(data, 1));
    assert_eq!(body(data, 7), body(data, 1));
}

/// The other parser may refuse more; where it takes a head, it is this one.
fn request(head: &[u8]) {
    let Ok(ours) = read_request(&head.to_vec().into()) else {
        return;
    };
    let mut headers = [httparse::EMPTY_HEADER; 512];
    let mut theirs = httparse::Request::new(&mut headers);
    if let Ok(httparse::Status::Complete(length)) = theirs.parse(head) {
        assert_eq!(length, head.len());
        assert_eq!(theirs.method, Some(ours.request.method().as_str()));
        assert_eq!(theirs.headers.len(), ours.request.headers().len());
        framing(theirs.headers, ours.body);
    }
}

fn answer(head: &[u8]) {
    let Ok(ours) = read_answer(head, &http::Method::GET) else {
        return;
    };
    let mut headers = [httparse::EMPTY_HEADER; 512];
    let mut theirs = httparse::Response::new(&mut headers);
    if let Ok(httparse::Status::Complete(length)) = theirs.parse(head) {
        assert_eq!(length, head.len());
        assert_eq!(theirs.code, Some(ours.status.as_u16()));
        if ours.body != Body::None {
            framing(theirs.headers, ours.body);
        }
    }
}

fn framing(headers: &[httparse::Header<'_>], body: Body) {
    let named = |name: &str| {
        let same = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        headers.iter().filter(same).count()
    };
    let (lengths, encodings) = (named("content-length"), named("transfer-encoding"));
    assert!(lengths + encodings <= 1);
    assert_eq!(body == Body::Chunked, encodings == 1);
    assert_eq!(matches!(body, Body::Length(_)), lengths == 1);
}

/// How much of a chunked body passes if so many bytes come at a time; `None` where it is refused.
fn body(data: &[u8], step: usize) -> Option<(usize, bool)> {
    let (mut left, mut passed, mut there) = (Left::from(Body::Chunked), 0, 0);
    while !left.is_over() && there < data.len() {
        there = (there + step).min(data.len());
        // What passes is taken away, as from a connection.
        let got = left.take(&data[passed..there], TRAILERS).ok()?;
        assert!(got <= there - passed);
        passed += got;
    }
    Some((passed, left.is_over()))
}
