//! Heads of answers: where they end is read as strictly as in requests, and what is not for this hop alone passes as it came. Pure.
use super::{
    framing::{self, Body, Found, Refused},
    request,
};
use bytes::{BufMut, BytesMut};
use http::{HeaderValue, Method, StatusCode, Version};

/// Headers that end at each hop; where a body ends is said to the next one as it was said here.
const HOP: [&[u8]; 5] = [
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"upgrade",
    b"http2-settings",
];

/// How lines of ours end.
const END: &[u8] = b"\r\n";

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The version.
    pub version: Version,
    /// What follows.
    pub body: Body,
    /// The server takes more requests on this connection.
    pub keeps: bool,
    /// What the connection becomes, if the status says that it does.
    pub becomes: Option<HeaderValue>,
    /// Nothing of it ends here, and its lines end as they should: it goes on as it came.
    passes: bool,
}

impl Head {
    /// True if another head follows.
    pub(super) fn is_informational(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Reads a whole head of an answer to a request of this method.
///
/// # Errors
/// It is malformed, or leaves room for doubt about its end.
pub fn read(head: &[u8], method: &Method) -> Result<Head, Refused> {
    let mut lines = lines(head);
    let first = lines.next().ok_or(Refused::StatusLine)?;
    let (version, status) = first_line(first)?;
    let (mut found, mut becomes) = (Found::default(), None);
    let (mut says_close, mut says_keep) = (false, false);
    let (mut ends_here, mut length) = (false, first.len() + 2 * END.len());
    for line in lines {
        let (name, value) = framing::header(whole(line)?)?;
        found.note(name, value)?;
        ends_here |= is_of_hop(name);
        length += line.len() + END.len();
        if name.eq_ignore_ascii_case(b"connection") {
            for token in tokens(value) {
                says_close |= token.eq_ignore_ascii_case(b"close");
                says_keep |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            becomes = Some(HeaderValue::from_bytes(value).map_err(|_| Refused::Value)?);
        }
    }
    let body = found.answer(version)?;
    let bare = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || method == Method::HEAD;
    let body = if bare { Body::None } else { body };
    Ok(Head {
        status,
        version,
        body,
        keeps: body != Body::Rest && !says_close && (version == Version::HTTP_11 || says_keep),
        becomes,
        passes: !ends_here && length == head.len(),
    })
}

/// Writes the head that was read for the client, who hears in this version whether the connection goes on.
pub(super) fn write(
    raw: &[u8],
    head: &Head,
    (version, keeps): (Version, bool),
    becomes: Option<&HeaderValue>,
    out: &mut BytesMut,
) {
    out.reserve(raw.len() + 64);
    if head.passes {
        out.put_slice(&raw[..raw.len() - END.len()]);
    } else {
        write_what_stays(raw, out);
    }
    if !head.is_informational() {
        request::connection(version, keeps, becomes, out);
    }
    out.put_slice(END);
}

/// Writes all but what ends here, and but the end.
fn write_what_stays(raw: &[u8], out: &mut BytesMut) {
    let named: Vec<&[u8]> = headers(raw)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"))
        .flat_map(|(_, value)| tokens(value))
        .filter(|token| !framing::is_of_framing(token))
        .collect();
    let is_named = |name: &[u8]| named.iter().any(|one| name.eq_ignore_ascii_case(one));
    let ends_here = |name: &[u8]| is_of_hop(name) || is_named(name);
    out.put_slice(lines(raw).next().unwrap_or_default());
    out.put_slice(END);
    for (name, value) in headers(raw).filter(|(name, _)| !ends_here(name)) {
        out.put_slice(name);
        out.put_slice(b": ");
        out.put_slice(value);
        out.put_slice(END);
    }
}

fn is_of_hop(name: &[u8]) -> bool {
    HOP.iter().any(|ends| name.eq_ignore_ascii_case(ends))
}

/// Lines of a head up to the empty one. Servers are many, and some end lines with a line feed alone: ours go on as they should be.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    })
}

fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines(head)
        .skip(1)
        .filter_map(|line| framing::header(line).ok())
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn whole(line: &[u8]) -> Result<&[u8], Refused> {
    match memchr::memchr2(b'\r', 0, line) {
        None => Ok(line),
        Some(_) => Err(Refused::Line),
    }
}

fn first_line(line: &[u8]) -> Result<(Version, StatusCode), Refused> {
    let mut words = whole(line)?.splitn(3, |byte| *byte == b' ');
    let version = words.next().and_then(framing::version);
    let status = words.next().map(StatusCode::from_bytes);
    match (version, status) {
        (Some(version), Some(Ok(status))) => Ok((version, status)),
        _ => Err(Refused::StatusLine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str) -> Result<Head, Refused> {
        read(head.as_bytes(), &Method::GET)
    }

    #[test]
    fn where_answers_end() {
        for (head, body, keeps) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
                Body::Length(2),
                true,
            ),
            ("HTTP/1.1 200\ncontent-length: 2\n\n", Body::Length(2), true),
            (
                "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n",
                Body::Chunked,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Body::Rest, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", Body::None, true),
            (
                "HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n",
                Body::None,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
                Body::Length(0),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
                Body::Length(2),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n",
                Body::Length(2),
                true,
            ),
        ] {
            let read = of(head).unwrap();
            assert_eq!((read.body, read.keeps), (body, keeps), "{head:?}");
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(
            read(head.as_bytes(), &Method::HEAD).unwrap().body,
            Body::None
        );
    }

    #[test]
    fn answers_that_are_none() {
        for (head, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
                Refused::Both,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
                Refused::Length,
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Refused::Encoding,
            ),
            ("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", Refused::Line),
            ("HTTP/1.1 200 OK\r\nX\r\n\r\n", Refused::Name),
            ("HTTP/1.1 20 OK\r\n\r\n", Refused::StatusLine),
            ("HTTP/2 200 OK\r\n\r\n", Refused::StatusLine),
            ("SSH-2.0-x\r\n\r\n", Refused::StatusLine),
            ("\r\n\r\n", Refused::StatusLine),
        ] {
            assert_eq!(of(head), Err(expected), "{head:?}");
        }
    }

    #[test]
    fn what_the_client_hears() {
        let raw = b"HTTP/1.1 200 Fine\nConnection: keep-alive, X-Hop, content-length\nX-Hop: 1\nX-Stays:2 \ncontent-length: 0\nKeep-Alive: timeout=5\n\n";
        let head = read(raw, &Method::GET).unwrap();
        let text = |keeps| {
            let mut out = BytesMut::new();
            write(raw, &head, (Version::HTTP_11, keeps), None, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let expected = "HTTP/1.1 200 Fine\r\nX-Stays: 2\r\ncontent-length: 0\r\n";
        assert_eq!(text(true), format!("{expected}\r\n"));
        assert_eq!(text(false), format!("{expected}connection: close\r\n\r\n"));
    }

    #[test]
    fn what_has_nothing_to_take_away_goes_on_as_it_came() {
        for raw in [
            "HTTP/1.1 200 Fine\r\nX-Stays:  2 \r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204\r\n\r\n",
        ] {
            let head = of(raw).unwrap();
            let mut out = BytesMut::new();
            write(
                raw.as_bytes(),
                &head,
                (Version::HTTP_11, true),
                None,
                &mut out,
            );
            assert_eq!(out, raw.as_bytes());
        }
    }
}
