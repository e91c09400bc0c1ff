//! HTTP/1.1 over one unix stream: write a request, read the head, read the body piece by piece within bounds.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;
const MAX_CHUNK_LINE: usize = 256;
const READ_SIZE: usize = 16 * 1024;

/// What went wrong on the wire.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// The stream failed; `fresh` when not a byte of the answer had come.
    Io {
        op: &'static str,
        source: io::Error,
        fresh: bool,
    },
    /// The answer is not HTTP.
    Malformed(&'static str),
    /// The answer is bigger than the caller reads.
    TooLarge(usize),
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    Inside(u64),
    ToEnd,
    Done,
}

/// Head of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub status: u16,
    pub keep_alive: bool,
}

/// A stream with what was read from it and not used yet.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    buf: Vec<u8>,
    framing: Framing,
    deadline: Option<Instant>,
    pub used: bool,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buf: Vec::new(),
            framing: Framing::Done,
            deadline: None,
            used: false,
        }
    }

    /// Everything from here on has to be done by then; `None` waits for ever.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<(), HttpError> {
        let mut out = Vec::with_capacity(256 + body.map_or(0, <[u8]>::len));
        out.extend_from_slice(
            format!("{method} {path} HTTP/1.1\r\nhost: agent\r\naccept: application/json\r\n")
                .as_bytes(),
        );
        match body {
            Some(body) => {
                let head = format!(
                    "content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(body);
            }
            None if method == "POST" || method == "PUT" => {
                out.extend_from_slice(b"content-length: 0\r\n\r\n")
            }
            None => out.extend_from_slice(b"\r\n"),
        }
        let wait = self.remaining()?;
        let io = |source| HttpError::Io {
            op: "send the request",
            source,
            fresh: true,
        };
        self.stream.set_write_timeout(wait).map_err(io)?;
        self.stream.write_all(&out).map_err(io)
    }

    /// Reads the head of the answer; interim answers (1xx) are skipped.
    pub(crate) fn head(&mut self) -> Result<Head, HttpError> {
        loop {
            while !self.buf.windows(4).any(|w| w == b"\r\n\r\n") {
                if self.buf.len() > MAX_HEAD {
                    return Err(HttpError::Malformed("the head of the answer is too long"));
                }
                let fresh = self.buf.is_empty();
                if self.fill(fresh)? == 0 {
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(HttpError::Io {
                        op: "read the answer",
                        source,
                        fresh,
                    });
                }
            }
            let (used, head, framing) = parse_head(&self.buf)?;
            self.buf.drain(..used);
            if head.status >= 200 {
                self.framing = framing;
                self.used = true;
                return Ok(head);
            }
        }
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) fn piece(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        loop {
            match self.framing {
                Framing::Done => return Ok(None),
                Framing::Length(0) => self.framing = Framing::Done,
                Framing::Inside(0) => {
                    self.line()?;
                    self.framing = Framing::Chunked;
                }
                Framing::Chunked => self.next_chunk()?,
                Framing::Length(left) => {
                    let piece = self.take(left)?;
                    self.framing = Framing::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::Inside(left) => {
                    let piece = self.take(left)?;
                    self.framing = Framing::Inside(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::ToEnd => {
                    if self.buf.is_empty() && self.fill(false)? == 0 {
                        self.framing = Framing::Done;
                    } else {
                        return Ok(Some(std::mem::take(&mut self.buf)));
                    }
                }
            }
        }
    }

    /// The whole body.
    pub(crate) fn body(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        if matches!(self.framing, Framing::Length(n) if n > limit as u64) {
            return Err(HttpError::TooLarge(limit));
        }
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            if body.len() + piece.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn next_chunk(&mut self) -> Result<(), HttpError> {
        let line = self.line()?;
        let size = line
            .split(|b| *b == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        let size = std::str::from_utf8(size)
            .ok()
            .filter(|s| !s.starts_with('+'))
            .and_then(|s| u64::from_str_radix(s, 16).ok());
        match size.ok_or(HttpError::Malformed("a chunk has no size"))? {
            0 => {
                while !self.line()?.is_empty() {}
                self.framing = Framing::Done;
            }
            size => self.framing = Framing::Inside(size),
        }
        Ok(())
    }

    /// One line without its end.
    fn line(&mut self) -> Result<Vec<u8>, HttpError> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let line = self.buf[..end].to_vec();
                self.buf.drain(..end + 2);
                return Ok(line);
            }
            if self.buf.len() > MAX_CHUNK_LINE {
                return Err(HttpError::Malformed("a line between chunks is too long"));
            }
            self.fill_or_end()?;
        }
    }

    fn take(&mut self, at_most: u64) -> Result<Vec<u8>, HttpError> {
        if self.buf.is_empty() {
            self.fill_or_end()?;
        }
        let n = self
            .buf
            .len()
            .min(usize::try_from(at_most).unwrap_or(usize::MAX));
        Ok(self.buf.drain(..n).collect())
    }

    fn fill_or_end(&mut self) -> Result<(), HttpError> {
        if self.fill(false)? == 0 {
            return Err(HttpError::Malformed("the answer ends in the middle"));
        }
        Ok(())
    }

    fn fill(&mut self, fresh: bool) -> Result<usize, HttpError> {
        let wait = self.remaining()?;
        let io = |source| HttpError::Io {
            op: "read the answer",
            source,
            fresh,
        };
        self.stream.set_read_timeout(wait).map_err(io)?;
        let old = self.buf.len();
        self.buf.resize(old + READ_SIZE, 0);
        let result = loop {
            match self.stream.read(&mut self.buf[old..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    break Err(io::ErrorKind::TimedOut.into());
                }
                other => break other,
            }
        };
        self.buf.truncate(old + result.as_ref().map_or(0, |n| *n));
        result.map_err(io)
    }

    fn remaining(&self) -> Result<Option<Duration>, HttpError> {
        let Some(deadline) = self.deadline else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HttpError::Io {
                op: "wait for the answer",
                source: io::ErrorKind::TimedOut.into(),
                fresh: false,
            });
        }
        Ok(Some(left))
    }
}

fn parse_head(buf: &[u8]) -> Result<(usize, Head, Framing), HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let used = match response.parse(buf) {
        Ok(httparse::Status::Complete(used)) => used,
        _ => return Err(HttpError::Malformed("the head of the answer is not HTTP")),
    };
    let status = response.code.unwrap_or(0);
    let mut head = Head {
        status,
        keep_alive: response.version == Some(1),
    };
    let mut framing = Framing::ToEnd;
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("connection") && header.value.eq_ignore_ascii_case(b"close") {
            head.keep_alive = false;
        } else if is("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked") {
            framing = Framing::Chunked;
        } else if is("content-length") && framing != Framing::Chunked {
            let length = std::str::from_utf8(header.value)
                .ok()
                .and_then(|v| v.trim().parse().ok());
            framing = Framing::Length(
                length.ok_or(HttpError::Malformed("content-length is not a number"))?,
            );
        }
    }
    if matches!(status, 100..=199 | 204 | 304) {
        framing = Framing::Done;
    }
    head.keep_alive &= framing != Framing::ToEnd;
    Ok((used, head, framing))
}
