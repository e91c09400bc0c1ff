//! Any bytes that a client of `kubectl exec` may send: read as frames or refused, the same however they are cut into pieces,
//! never a panic and never more headers than are allowed; frames that are read can be written and read again.

use bytes::BytesMut;
use hypha_lab::kubelet::serve::spdy::{Decoder, Encoder, Frame, Headers, SpdyError};

/// What all names and values of one frame may take together.
const MOST: usize = 64 << 10;

pub fn run(data: &[u8]) {
    both(data);
    // The same bytes as what comes out of the decompression, which chance does not get through.
    both(&opening(data));
}

fn both(data: &[u8]) {
    let whole = decode(data.chunks(data.len().max(1)));
    let size = usize::from(data.first().copied().unwrap_or(1) % 7) + 1;
    assert_eq!(whole, decode(data.chunks(size)), "pieces of {size} bytes");
    for frame in &whole.0 {
        if let Frame::Open { id, headers, .. } = frame {
            let length = |h: &Headers| h.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
            assert!(length(headers) <= MOST, "too many headers are taken");
            let written = Encoder::default().open(*id, headers);
            let again = decode(std::iter::once(written.as_slice()));
            let same = Frame::Open {
                id: *id,
                headers: headers.clone(),
                fin: false,
            };
            assert_eq!(again, (vec![same], None), "written and read again");
        }
    }
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<SpdyError>) {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let had = buffer.len();
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(e) => return (frames, Some(e)),
            }
            assert!(buffer.len() + 8 <= had, "a frame takes at least its head");
        }
    }
    (frames, None)
}

/// A frame that opens a stream with these bytes as its headers, which stand in it uncompressed.
fn opening(plain: &[u8]) -> Vec<u8> {
    let plain = &plain[..plain.len().min(0xffff)];
    let length = (plain.len() as u16).to_le_bytes();
    let inverse = (!(plain.len() as u16)).to_le_bytes();
    let body = [
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0x01, 0][..],
        &length,
        &inverse,
        plain,
        &[0, 0, 0, 0xff, 0xff],
    ]
    .concat();
    let length = (body.len() as u32).to_be_bytes();
    let head = [&[0x80, 3, 0, 1, 0][..], &length[1..]].concat();
    [head, body].concat()
}
