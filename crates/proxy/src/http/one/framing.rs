//! Where a message of HTTP/1 ends, read as strictly as can be: two readers that could disagree about it are two different
//! requests, of which only one would be held against the rules. Whatever leaves room for that is refused. Pure.
use http::Version;
use std::fmt;

/// Longest line between chunks, bytes.
const CHUNK_LINE: usize = 1024;

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A line ends with a line feed alone, or has a carriage return or a zero in it.
    Line,
    /// The first line is no `METHOD TARGET HTTP/1.x`.
    RequestLine,
    /// The first line of an answer is no `HTTP/1.x STATUS`.
    StatusLine,
    /// A header goes on in the next line.
    Fold,
    /// A header's name is none, or is not followed by its colon.
    Name,
    /// A header's value has bytes that none may have.
    Value,
    /// More than one length, or one that is no number.
    Length,
    /// A transfer encoding other than `chunked`, or in HTTP/1.0.
    Encoding,
    /// A length and a transfer encoding.
    Both,
    /// No host, or more than one.
    Host,
    /// The size of a chunk, or what follows it, is malformed.
    Chunk,
    /// A trailer that says where a message ends, or whom it is for.
    Trailer,
    /// The head or the trailers are longer than allowed.
    TooLarge,
    /// The head did not come to its end in time.
    TooSlow,
}

impl Refused {
    /// Status of the answer.
    #[must_use]
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::TooLarge => http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => http::StatusCode::REQUEST_TIMEOUT,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "a line of the head does not end with CR LF",
            Self::RequestLine => "the first line is no method, target and version",
            Self::StatusLine => "the first line is no version and status",
            Self::Fold => "a header goes on in the next line",
            Self::Name => "the name of a header is malformed",
            Self::Value => "the value of a header is malformed",
            Self::Length => "the content length is malformed or there twice",
            Self::Encoding => "the transfer encoding is not chunked",
            Self::Both => "there are a content length and a transfer encoding",
            Self::Host => "there is not exactly one host",
            Self::Chunk => "a chunk is malformed",
            Self::Trailer => "a trailer may not say this",
            Self::TooLarge => "the head is too large",
            Self::TooSlow => "the head took too long",
        })
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing is said about it, so there is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With an empty chunk and trailers.
    Chunked,
    /// With the connection: an answer of which nothing is said.
    Rest,
}

impl Body {
    /// Whether there is one.
    pub(super) fn is_some(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// Length of the head at the start of `bytes` with the empty line at its end, if it is all there. `from`: where to go on looking.
#[must_use]
pub fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    let mut at = start;
    while let Some(found) = memchr::memchr(b'\n', bytes.get(at..)?) {
        let line_end = at + found + 1;
        match bytes.get(line_end..) {
            Some([b'\n', ..]) => return Some(line_end + 1),
            Some([b'\r', b'\n', ..]) => return Some(line_end + 2),
            _ => at = line_end,
        }
    }
    None
}

/// What the lines of a head say about where its message ends.
#[derive(Default)]
pub(super) struct Found {
    length: Option<u64>,
    chunked: bool,
    hosts: u32,
}

impl Found {
    /// Looks at one more header.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Refused::Length);
            }
            self.length = Some(length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refused::Encoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        }
        Ok(())
    }

    /// What follows the head of a request.
    pub(super) fn request(self, version: Version) -> Result<Body, Refused> {
        if self.hosts > 1 || (self.hosts == 0 && version == Version::HTTP_11) {
            return Err(Refused::Host);
        }
        self.body(version)
    }

    /// What follows the head of an answer, if that answer may have a body.
    pub(super) fn answer(self, version: Version) -> Result<Body, Refused> {
        Ok(match self.body(version)? {
            Body::None => Body::Rest,
            body => body,
        })
    }

    fn body(self, version: Version) -> Result<Body, Refused> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refused::Both),
            (None, true) if version == Version::HTTP_10 => Err(Refused::Encoding),
            (None, true) => Ok(Body::Chunked),
            (Some(length), false) => Ok(Body::Length(length)),
            (None, false) => Ok(Body::None),
        }
    }
}

/// Whether a header says where a message ends: nobody can have it taken away.
pub(super) fn is_of_framing(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
}

/// The version that a first line names.
pub(super) fn version(word: &[u8]) -> Option<Version> {
    match word {
        b"HTTP/1.1" => Some(Version::HTTP_11),
        b"HTTP/1.0" => Some(Version::HTTP_10),
        _ => None,
    }
}

/// Name and value of a line.
pub(super) fn header(line: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refused::Fold);
    }
    let colon = memchr::memchr(b':', line).ok_or(Refused::Name)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Refused::Name);
    }
    Ok((name, value.trim_ascii()))
}

/// Digits alone: no sign, no list, no space, and not more of them than fit.
fn length(value: &[u8]) -> Result<u64, Refused> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refused::Length);
    }
    let digit = |sum: u64, byte: &u8| sum * 10 + u64::from(byte - b'0');
    Ok(value.iter().fold(0, digit))
}

/// Whether names and methods may have it: a table, since every byte of every name is asked.
pub(super) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        let mut byte = 0;
        while byte < 128 {
            table[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// Lines without their ends.
pub(super) struct Lines<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = (&self.0[..end], &self.0[end + 1..]);
        self.0 = rest;
        Some(whole_line(line))
    }
}

/// A line without its line feed: it ends with a carriage return, has no other, and no zero.
fn whole_line(line: &[u8]) -> Result<&[u8], Refused> {
    match line.split_last() {
        Some((b'\r', line)) if memchr::memchr2(b'\r', 0, line).is_none() => Ok(line),
        _ => Err(Refused::Line),
    }
}

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// So many bytes.
    Length(u64),
    /// Chunks, and how many bytes of its end have been looked at: they pass once all of it is there, for it could be malformed.
    Chunks(Chunked, usize),
    /// All that comes.
    Rest,
}

impl From<Body> for Left {
    fn from(body: Body) -> Self {
        match body {
            Body::None => Self::Length(0),
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunks(Chunked::Size, 0),
            Body::Rest => Self::Rest,
        }
    }
}

impl Left {
    /// True if nothing is.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunks(Chunked::Done, _))
    }

    /// How many bytes at the start of `bytes` are of the body, and may pass. They are not shown again.
    ///
    /// # Errors
    /// It is malformed.
    pub fn take(&mut self, bytes: &[u8], trailers_max: usize) -> Result<usize, Refused> {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= here as u64;
                Ok(here)
            }
            Self::Rest => Ok(bytes.len()),
            Self::Chunks(at, seen) => {
                let mut passed = 0;
                loop {
                    let taken = at.take(
                        bytes.get(passed + *seen..).unwrap_or_default(),
                        trailers_max,
                    )?;
                    *seen += taken;
                    if !matches!(at, Chunked::Trailers(_)) {
                        passed += std::mem::take(seen);
                    }
                    if taken == 0 || *at == Chunked::Done {
                        return Ok(passed);
                    }
                }
            }
        }
    }
}

/// Where a reader of a chunked body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunked {
    /// Before the size of a chunk.
    Size,
    /// So many bytes of the chunk are left.
    Data(u64),
    /// Before the end of the line after a chunk.
    DataEnd,
    /// In the trailers, of which there have been so many bytes.
    Trailers(usize),
    /// Behind all.
    Done,
}

impl Chunked {
    /// Takes what is whole at the start of `bytes`: how many bytes that is, zero where more must come.
    ///
    /// # Errors
    /// It is malformed, or longer than any such line may be.
    pub fn take(&mut self, bytes: &[u8], trailers_max: usize) -> Result<usize, Refused> {
        if let Self::Data(left) = self {
            let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            *left -= here as u64;
            if *left == 0 {
                *self = Self::DataEnd;
            }
            return Ok(here);
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            let max = match self {
                Self::Trailers(_) => trailers_max,
                _ => CHUNK_LINE,
            };
            return if bytes.len() > max {
                Err(Refused::TooLarge)
            } else {
                Ok(0)
            };
        };
        let line = whole_line(&bytes[..end]).map_err(|_| Refused::Chunk)?;
        *self = match *self {
            Self::Size if line.len() > CHUNK_LINE => return Err(Refused::TooLarge),
            Self::Size => match chunk_size(line)? {
                0 => Self::Trailers(0),
                size => Self::Data(size),
            },
            Self::DataEnd if line.is_empty() => Self::Size,
            Self::DataEnd => return Err(Refused::Chunk),
            Self::Trailers(_) if line.is_empty() => Self::Done,
            Self::Trailers(before) => {
                let (name, _) = header(line)?;
                let forbidden: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
                if forbidden.iter().any(|no| name.eq_ignore_ascii_case(no)) {
                    return Err(Refused::Trailer);
                }
                if before + end > trailers_max {
                    return Err(Refused::TooLarge);
                }
                Self::Trailers(before + end)
            }
            Self::Data(_) | Self::Done => return Ok(0),
        };
        Ok(end + 1)
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Refused> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let after = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 15 || !(after.is_empty() || after[0] == b';') {
        return Err(Refused::Chunk);
    }
    // What an extension may hold: anything that can be seen, and blanks.
    if after.iter().any(|byte| *byte < b' ' && *byte != b'\t') {
        return Err(Refused::Chunk);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| Refused::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Refused::Chunk)
}

#[cfg(test)]
mod tests {
    use super::{super::request, *};

    fn check(head: &str) -> Result<Body, Refused> {
        assert_eq!(head_end(head.as_bytes(), 0), Some(head.len()), "{head:?}");
        request::read(&head.as_bytes().to_vec().into()).map(|head| head.body)
    }

    #[test]
    fn what_leaves_room_for_doubt() {
        for (rest, expected) in [
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                Refused::Both,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
                Refused::Both,
            ),
            (
                "Content-Length: 1\r\nContent-Length: 1\r\n",
                Refused::Length,
            ),
            ("Content-Length: 1, 1\r\n", Refused::Length),
            ("Content-Length: +1\r\n", Refused::Length),
            ("Content-Length: 0x1\r\n", Refused::Length),
            ("Content-Length: \r\n", Refused::Length),
            ("Content-Length: 9999999999999999999\r\n", Refused::Length),
            ("Transfer-Encoding: xchunked\r\n", Refused::Encoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Refused::Encoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Refused::Encoding,
            ),
            ("Transfer-Encoding:\x0bchunked\r\n", Refused::Encoding),
            ("Transfer-Encoding : chunked\r\n", Refused::Name),
            ("X: a\r\n b\r\n", Refused::Fold),
            (" X: a\r\n", Refused::Fold),
            ("X\r\n", Refused::Name),
            (": a\r\n", Refused::Name),
            ("X y: a\r\n", Refused::Name),
            ("X: a\nY: b\r\n", Refused::Line),
            ("X: a\rY: b\r\n", Refused::Line),
            ("X: a\0\r\n", Refused::Line),
            ("Host: other\r\n", Refused::Host),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{rest}\r\n");
            assert_eq!(check(&head), Err(expected), "{rest:?}");
        }
        for (line, expected) in [
            ("GET / HTTP/1.1", Refused::Host),
            ("GET  / HTTP/1.1", Refused::RequestLine),
            ("GET / HTTP/1.1 ", Refused::RequestLine),
            ("GET / x HTTP/1.1", Refused::RequestLine),
            ("GET\t/\tHTTP/1.1", Refused::RequestLine),
            ("GET / HTTP/2.0", Refused::RequestLine),
            ("GET /", Refused::RequestLine),
            ("G(T / HTTP/1.1", Refused::RequestLine),
            ("GET / http/1.1", Refused::RequestLine),
        ] {
            assert_eq!(check(&format!("{line}\r\n\r\n")), Err(expected), "{line}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(check(old), Err(Refused::Encoding));
        assert_eq!(check("GET / HTTP/1.1\r\nHost: h\n\n"), Err(Refused::Line));
    }

    #[test]
    fn what_follows() {
        assert_eq!(check("GET / HTTP/1.0\r\n\r\n"), Ok(Body::None));
        let sized = check("PUT /x?y HTTP/1.1\r\nhost:h\r\ncontent-length:\t007 \r\n\r\n");
        assert_eq!(sized, Ok(Body::Length(7)));
        let chunked = "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(check(chunked), Ok(Body::Chunked));
    }

    #[test]
    fn a_head_that_comes_byte_by_byte() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nrest";
        for end in 0..head.len() {
            let found = head_end(&head[..end], end.saturating_sub(1));
            assert_eq!(found, (end >= 27).then_some(27), "{end}");
            if found.is_some() {
                break;
            }
        }
    }

    /// How far a body gets: what is taken in all, or why not.
    fn chunked(body: &str, step: usize) -> Result<(usize, Chunked), Refused> {
        let (mut state, mut taken, mut there) = (Chunked::Size, 0, 0);
        while state != Chunked::Done {
            let got = state.take(&body.as_bytes()[taken..there], 64)?;
            taken += got;
            if got == 0 {
                if there == body.len() {
                    break;
                }
                there = (there + step).min(body.len());
            }
        }
        Ok((taken, state))
    }

    #[test]
    fn chunks() {
        for step in [1, 2, 3, 7, 100] {
            let good = "5\r\nhello\r\n0a;ext=\"1\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
            assert_eq!(
                chunked(&format!("{good}GET"), step),
                Ok((good.len(), Chunked::Done))
            );
            assert_eq!(chunked("0\r\n\r\n", step), Ok((5, Chunked::Done)));
            assert_eq!(chunked("5\r\nhel", step).unwrap().1, Chunked::Data(2));
            for (bad, expected) in [
                ("5\nhello\r\n", Refused::Chunk),
                ("5\r\nhelloX\r\n", Refused::Chunk),
                ("5\r\nhello\n", Refused::Chunk),
                ("-5\r\nhello\r\n", Refused::Chunk),
                ("0x5\r\nhello\r\n", Refused::Chunk),
                ("5 5\r\nhello\r\n", Refused::Chunk),
                ("\r\nhello\r\n", Refused::Chunk),
                ("ffffffffffffffff\r\n", Refused::Chunk),
                ("5;a\rb\r\nhello\r\n", Refused::Chunk),
                ("0\r\nContent-Length: 5\r\n\r\n", Refused::Trailer),
                ("0\r\nTransfer-Encoding: x\r\n\r\n", Refused::Trailer),
                ("0\r\n folded\r\n\r\n", Refused::Fold),
                ("0\r\nX: a\n\r\n", Refused::Chunk),
            ] {
                assert_eq!(chunked(bad, step), Err(expected), "{bad:?} by {step}");
            }
        }
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(40));
        assert_eq!(chunked(&many, 10), Err(Refused::TooLarge));
        assert_eq!(chunked(&"1".repeat(3000), 100), Err(Refused::TooLarge));
    }
    #[test]
    fn the_end_of_chunks_passes_as_a_whole() {
        let body = b"5\r\nhello\r\n0\r\nX: 1\r\n\r\nGET";
        for step in 1..body.len() {
            let (mut left, mut passed, mut there) = (Left::from(Body::Chunked), 0, 0);
            while !left.is_over() {
                there = (there + step).min(body.len());
                passed += left.take(&body[passed..there], 64).unwrap();
                assert!(passed <= 10 || left.is_over(), "{step}: {passed}");
            }
            assert_eq!(passed, body.len() - 3, "{step}");
        }
    }
}
