//! The part of SPDY/3.1 that Kubernetes' older clients speak, as a codec without I/O: frames, and header blocks compressed
//! with the dictionary that the protocol prescribes. Nothing that comes in can make it panic or grow without bound.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

const VERSION: u16 = 3;
/// The longest frame that is taken.
const MAX_FRAME: usize = 1 << 20;
/// The most bytes of headers in one frame, decompressed.
const MAX_HEADERS: usize = 64 << 10;
const FIN: u8 = 1;

/// Words that the dictionary begins with, each after its length in four bytes. `_` stands for a space.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location \
    content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer \
    retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status \
    200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
/// What follows them, as it stands.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
    Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal \
    Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, \
    Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut all = Vec::with_capacity(1423);
    for word in WORDS.split(' ').filter(|w| !w.is_empty()) {
        let word = word.replace('_', " ");
        all.put_u32(word.len() as u32);
        all.put_slice(word.as_bytes());
    }
    all.put_slice(REST.as_bytes());
    all
}

/// Headers: names in lower case.
pub type Headers = BTreeMap<String, String>;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins; `fin` when the other side will send nothing on it.
    Open {
        /// Its number.
        id: u32,
        /// What it is for.
        headers: Headers,
        /// Nothing follows.
        fin: bool,
    },
    /// Bytes of a stream.
    Data {
        /// Which.
        id: u32,
        /// What.
        bytes: Bytes,
        /// Nothing follows.
        fin: bool,
    },
    /// A stream is given up.
    Reset {
        /// Which.
        id: u32,
    },
    /// To be sent back.
    Ping {
        /// Its number.
        id: u32,
    },
    /// No more streams will come.
    GoAway,
    /// Something of no importance here.
    Other,
}

/// What is wrong with the bytes that came in; the connection is of no use then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// A frame of another version.
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    /// Too long.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// Its content contradicts itself.
    #[error("a malformed frame")]
    Malformed,
    /// Its headers cannot be decompressed, or are too many.
    #[error("malformed headers")]
    Headers,
}

/// Reads frames out of a stream of bytes.
pub struct Decoder {
    inflate: Decompress,
    dictionary: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            inflate: Decompress::new(true),
            dictionary: dictionary(),
        }
    }
}

impl Decoder {
    /// Takes one frame from the front of the buffer; `None` when it is not all there yet.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        let Some(head) = buffer.first_chunk::<8>() else {
            return Ok(None);
        };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > MAX_FRAME {
            return Err(SpdyError::TooLong(length));
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let body = buffer.split_to(length).freeze();
        if first & 0x8000_0000 == 0 {
            let fin = flags & FIN != 0;
            return Ok(Some(Frame::Data {
                id: first,
                bytes: body,
                fin,
            }));
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        self.control(first as u16, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
        let mut number = |skip: usize| -> Result<u32, SpdyError> {
            if body.len() < 4 + skip {
                return Err(SpdyError::Malformed);
            }
            let number = body.get_u32();
            body.advance(skip);
            Ok(number)
        };
        Ok(match kind {
            1 => {
                // After the number: the associated stream, priority, slot.
                let id = number(6)? & 0x7fff_ffff;
                let headers = self.headers(&body)?;
                Frame::Open {
                    id,
                    headers,
                    fin: flags & FIN != 0,
                }
            }
            // Answers and further headers: read, because all headers are one compressed stream.
            2 | 8 => {
                number(0)?;
                self.headers(&body)?;
                Frame::Other
            }
            3 => Frame::Reset {
                id: number(4)? & 0x7fff_ffff,
            },
            6 => Frame::Ping { id: number(0)? },
            7 => Frame::GoAway,
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, mut compressed: &[u8]) -> Result<Headers, SpdyError> {
        let mut plain = Vec::with_capacity(4096);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_HEADERS {
                    return Err(SpdyError::Headers);
                }
                plain.reserve(plain.len());
            }
            let (read, had) = (self.inflate.total_in(), plain.len());
            let status = self
                .inflate
                .decompress_vec(compressed, &mut plain, FlushDecompress::Sync);
            let read = (self.inflate.total_in() - read) as usize;
            compressed = compressed.get(read..).ok_or(SpdyError::Headers)?;
            match status {
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers),
                Ok(_) if compressed.is_empty() && plain.len() < plain.capacity() => break,
                Ok(_) if read == 0 && plain.len() == had && had < plain.capacity() => {
                    return Err(SpdyError::Headers);
                }
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    let set = self.inflate.set_dictionary(&self.dictionary);
                    set.map_err(|_| SpdyError::Headers)?;
                }
                Err(_) => return Err(SpdyError::Headers),
            }
        }
        parse_headers(&plain)
    }
}

fn parse_headers(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    fn number(from: &mut &[u8]) -> Result<usize, SpdyError> {
        if from.len() < 4 {
            return Err(SpdyError::Headers);
        }
        Ok(from.get_u32() as usize)
    }
    fn text(from: &mut &[u8]) -> Result<String, SpdyError> {
        let length = number(from)?;
        let (text, rest) = from.split_at_checked(length).ok_or(SpdyError::Headers)?;
        *from = rest;
        String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers)
    }
    let mut headers = Headers::new();
    for _ in 0..number(&mut plain)? {
        let name = text(&mut plain)?.to_ascii_lowercase();
        headers.insert(name, text(&mut plain)?);
    }
    Ok(headers)
}

/// Writes frames.
#[derive(Debug, Default)]
pub struct Encoder {
    begun: bool,
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | body.len() as u32);
    frame.put_slice(body);
    frame
}

impl Encoder {
    /// Header blocks as uncompressed parts of a compressed stream, which every reader takes.
    fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(k, v)| [k, v]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 16);
        if !self.begun {
            out.put_slice(&[0x78, 0x01]);
            self.begun = true;
        }
        for part in plain.chunks(0xffff) {
            out.put_u8(0);
            out.put_u16_le(part.len() as u16);
            out.put_u16_le(!(part.len() as u16));
            out.put_slice(part);
        }
        // An empty part: readers hand on what they have only then.
        out.put_slice(&[0, 0, 0, 0xff, 0xff]);
        out
    }

    /// Accepts a stream.
    pub fn reply(&mut self, id: u32) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend(self.headers(&Headers::new()));
        control(2, 0, &body)
    }

    /// Begins a stream, as a client does.
    pub fn open(&mut self, id: u32, headers: &Headers) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(self.headers(headers));
        control(1, 0, &body)
    }

    /// Bytes of a stream.
    pub fn data(&self, id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
        let mut frame = Vec::with_capacity(8 + bytes.len());
        frame.put_u32(id & 0x7fff_ffff);
        frame.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
        frame.put_slice(bytes);
        frame
    }

    /// Answers a ping.
    pub fn ping(&self, id: u32) -> Vec<u8> {
        control(6, 0, &id.to_be_bytes())
    }

    /// Gives a stream up.
    pub fn reset(&self, id: u32) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        // Cancelled.
        body.put_u32(5);
        control(3, 0, &body)
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// As real clients do it: compressed, with the dictionary, one stream for all frames.
    fn compressed(deflate: &mut Compress, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(k, v)| [k, v]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 100);
        deflate
            .compress_vec(&plain, &mut out, FlushCompress::Sync)
            .unwrap();
        out
    }

    fn syn(id: u32, block: &[u8]) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(block);
        control(1, 0, &body)
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        let all = dictionary();
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &all {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((all.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn streams_of_a_real_client() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&dictionary()).unwrap();
        let first = headers(&[("streamtype", "error")]);
        let second = headers(&[("streamtype", "stdin"), ("port", "80")]);
        let mut bytes = BytesMut::new();
        bytes.extend(syn(1, &compressed(&mut deflate, &first)));
        bytes.extend(syn(3, &compressed(&mut deflate, &second)));
        bytes.extend(Encoder::default().data(3, b"hello", true));
        let mut decoder = Decoder::default();
        // Byte by byte: a frame comes when it is all there, not before.
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.put_u8(byte);
            frames.extend(decoder.next(&mut buffer).unwrap());
        }
        assert_eq!(
            frames,
            [
                Frame::Open {
                    id: 1,
                    headers: first,
                    fin: false
                },
                Frame::Open {
                    id: 3,
                    headers: second,
                    fin: false
                },
                Frame::Data {
                    id: 3,
                    bytes: Bytes::from_static(b"hello"),
                    fin: true
                },
            ]
        );
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::default();
        let wanted = headers(&[("a", "b")]);
        let mut buffer = BytesMut::new();
        buffer.extend(encoder.open(5, &wanted));
        buffer.extend(encoder.reply(5));
        buffer.extend(encoder.open(7, &wanted));
        buffer.extend(encoder.ping(9));
        buffer.extend(encoder.reset(7));
        let mut next = || decoder.next(&mut buffer).unwrap();
        assert_eq!(
            next(),
            Some(Frame::Open {
                id: 5,
                headers: wanted.clone(),
                fin: false
            })
        );
        assert_eq!(next(), Some(Frame::Other));
        assert_eq!(
            next(),
            Some(Frame::Open {
                id: 7,
                headers: wanted,
                fin: false
            })
        );
        assert_eq!(
            (next(), next(), next()),
            (
                Some(Frame::Ping { id: 9 }),
                Some(Frame::Reset { id: 7 }),
                None
            )
        );
    }

    #[test]
    fn bombs_and_lies_are_refused() {
        let mut deflate = Compress::new(Compression::best(), true);
        let zeros = vec![0; 10 << 20];
        let mut block = Vec::with_capacity(1 << 20);
        deflate
            .compress_vec(&zeros, &mut block, FlushCompress::Sync)
            .unwrap();
        let refuse =
            |frame: Vec<u8>| Decoder::default().next(&mut BytesMut::from(frame.as_slice()));
        assert_eq!(refuse(syn(1, &block)), Err(SpdyError::Headers));
        assert_eq!(
            refuse(vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
            Err(SpdyError::TooLong(0xff_ffff))
        );
        assert_eq!(
            refuse(vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
            Err(SpdyError::Version(2))
        );
        assert_eq!(refuse(control(1, 0, &[0; 5])), Err(SpdyError::Malformed));
        assert_eq!(refuse(syn(1, b"garbage")), Err(SpdyError::Headers));
        assert_eq!(
            parse_headers(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            Err(SpdyError::Headers)
        );
        assert_eq!(
            parse_headers(&[0xff, 0xff, 0xff, 0xff]),
            Err(SpdyError::Headers)
        );
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_u16..12, id in any::<u32>()) {
            let mut decoder = Decoder::default();
            let mut buffer = BytesMut::from(control(kind, 0, &bytes).as_slice());
            buffer.extend_from_slice(&bytes);
            for _ in 0..10 {
                if !matches!(decoder.next(&mut buffer), Ok(Some(_))) {
                    break;
                }
            }
            let _ = Decoder::default().next(&mut BytesMut::from(syn(id, &bytes).as_slice()));
            let _ = Decoder::default().next(&mut BytesMut::from(bytes.as_slice()));
            let _ = parse_headers(&bytes);
        }
    }
}
