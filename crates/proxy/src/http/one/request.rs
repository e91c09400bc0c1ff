//! Heads of requests: read as strictly as can be, and written for the server. Pure.
use super::{
    super::head,
    framing::{self, Body, Found, Lines, Refused},
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use std::fmt::Write;

/// Most headers.
const HEADERS: usize = 100;

/// A request that is beyond doubt.
#[derive(Debug)]
pub struct Head {
    /// What is asked.
    pub request: Request<()>,
    /// What follows.
    pub body: Body,
    /// The client wants to ask more on this connection.
    pub keeps: bool,
}

/// Reads a whole head.
///
/// # Errors
/// It leaves room for doubt.
pub fn read(head: &Bytes) -> Result<Head, Refused> {
    let mut lines = Lines(head);
    let mut request = first_line(head, lines.next().ok_or(Refused::RequestLine)??)?;
    let version = request.version();
    let headers = request.headers_mut();
    let mut found = Found::default();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            let body = found.request(version)?;
            let keeps = keeps(version, headers);
            return Ok(Head {
                request,
                body,
                keeps,
            });
        }
        if headers.len() == HEADERS {
            return Err(Refused::TooLarge);
        }
        let (name, value) = framing::header(line)?;
        found.note(name, value)?;
        let name = HeaderName::from_bytes(name).map_err(|_| Refused::Name)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value));
        headers.append(name, value.map_err(|_| Refused::Value)?);
    }
    Err(Refused::Line)
}

fn first_line(head: &Bytes, line: &[u8]) -> Result<Request<()>, Refused> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refused::RequestLine);
    };
    let visible = |byte: &u8| *byte > b' ' && *byte != 127;
    if !method.iter().all(|byte| framing::is_token(*byte)) || !target.iter().all(visible) {
        return Err(Refused::RequestLine);
    }
    let mut request = Request::new(());
    let method = Method::from_bytes(method).map_err(|_| Refused::RequestLine)?;
    let target = Uri::from_maybe_shared(head.slice_ref(target));
    *request.method_mut() = method;
    *request.uri_mut() = target.map_err(|_| Refused::RequestLine)?;
    *request.version_mut() = framing::version(version).ok_or(Refused::RequestLine)?;
    Ok(request)
}

/// Whether the one who says this goes on with the connection.
fn keeps(version: Version, headers: &HeaderMap) -> bool {
    let says = |what: &str| {
        head::connection_tokens(headers).any(|token| token.eq_ignore_ascii_case(what.as_bytes()))
    };
    if version == Version::HTTP_10 {
        says("keep-alive")
    } else {
        !says("close")
    }
}

/// What `Connection` says: whether there is more to come, or what it becomes.
pub(super) fn connection(
    version: Version,
    keeps: bool,
    becomes: Option<&HeaderValue>,
    out: &mut BytesMut,
) {
    if let Some(protocol) = becomes {
        out.put_slice(b"connection: upgrade\r\nupgrade: ");
        out.put_slice(protocol.as_bytes());
        out.put_slice(b"\r\n");
    } else if !keeps {
        out.put_slice(b"connection: close\r\n");
    } else if version == Version::HTTP_10 {
        out.put_slice(b"connection: keep-alive\r\n");
    }
}

/// Writes a head for the server; `becomes`: what the client wishes the connection to be.
pub(super) fn write(head: &Head, becomes: Option<&HeaderValue>, out: &mut BytesMut) {
    let request = &head.request;
    out.reserve(512);
    out.put_slice(request.method().as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(head::path(request.uri()).as_bytes());
    out.put_slice(match request.version() {
        Version::HTTP_10 => b" HTTP/1.0\r\n",
        _ => b" HTTP/1.1\r\n",
    });
    // Where the message ends is said by what was read, whatever rules did to headers.
    let ours = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
    ];
    for (name, value) in request.headers() {
        if !ours.contains(name) {
            out.put_slice(name.as_str().as_bytes());
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
    }
    match head.body {
        Body::None | Body::Rest => {}
        // A buffer that grows takes all that is written to it.
        Body::Length(length) => drop(write!(out, "content-length: {length}\r\n")),
        Body::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
    connection(request.version(), head.keeps, becomes, out);
    out.put_slice(b"\r\n");
}
