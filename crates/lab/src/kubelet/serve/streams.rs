//! SPDY connections: streams over any transport.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::spdy::{Decoder, Encoder, Frame, Headers};

/// Parts of a stream that wait for their reader.
const WAITING: usize = 64;
/// Streams that one connection may have open.
const MAX_STREAMS: usize = 1000;
/// The most bytes in a frame that is sent.
const PART: usize = 32 << 10;

/// A stream that the other side opened.
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) headers: Headers,
    /// What comes in; ends when the other side has no more to say.
    pub(super) incoming: mpsc::Receiver<Bytes>,
}

/// Sends on a connection. The connection ends when all of these are gone.
#[derive(Clone)]
pub(super) struct Sender {
    frames: mpsc::Sender<Vec<u8>>,
    encoder: Arc<Mutex<Encoder>>,
}

impl Sender {
    fn encode(&self, with: impl FnOnce(&mut Encoder) -> Vec<u8>) -> Vec<u8> {
        with(&mut self.encoder.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends bytes on a stream; an error when the connection is gone.
    pub(super) async fn data(&self, id: u32, bytes: &[u8]) -> Result<(), Gone> {
        for part in bytes.chunks(PART) {
            let frame = self.encode(|e| e.data(id, part, false));
            self.frames.send(frame).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Nothing more comes on a stream.
    pub(super) async fn finish(&self, id: u32) {
        let frame = self.encode(|e| e.data(id, b"", true));
        let _ = self.frames.send(frame).await;
    }

    async fn send(&self, with: impl FnOnce(&mut Encoder) -> Vec<u8>) -> Result<(), Gone> {
        let frame = self.encode(with);
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

/// The other side went away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

/// Serves a connection in the background: how to send, and the streams that come. The channel of streams ends with the connection.
pub(super) fn serve<T>(transport: T) -> (Sender, mpsc::Receiver<Stream>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(transport);
    let (frames, out) = mpsc::channel(WAITING);
    let sender = Sender {
        frames,
        encoder: Arc::default(),
    };
    let (tell, streams) = mpsc::channel(WAITING);
    tokio::spawn(write_frames(write, out));
    // The reader answers, too, but does not keep the connection open.
    let answers = sender.frames.downgrade();
    let encoder = sender.encoder.clone();
    tokio::spawn(read_frames(read, tell, answers, encoder));
    (sender, streams)
}

async fn write_frames(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if to.write_all(&frame).await.is_err() {
            return;
        }
        if frames.is_empty() && to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn read_frames(
    mut from: impl AsyncRead + Unpin,
    tell: mpsc::Sender<Stream>,
    answers: mpsc::WeakSender<Vec<u8>>,
    encoder: Arc<Mutex<Encoder>>,
) {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(64 << 10));
    let mut open: BTreeMap<u32, mpsc::Sender<Bytes>> = BTreeMap::new();
    loop {
        let frame = match decoder.next(&mut buffer) {
            Ok(Some(frame)) => frame,
            Ok(None) => match from.read_buf(&mut buffer).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(e) => {
                tracing::debug!("a SPDY connection ends: {e}");
                return;
            }
        };
        let Some(frames) = answers.upgrade() else {
            return;
        };
        let sender = Sender {
            frames,
            encoder: encoder.clone(),
        };
        match frame {
            Frame::Open { id, headers, fin } => {
                open.retain(|_, s| !s.is_closed());
                if open.len() >= MAX_STREAMS {
                    if sender.send(|e| e.reset(id)).await.is_err() {
                        return;
                    }
                    continue;
                }
                let (feed, incoming) = mpsc::channel(WAITING);
                if !fin {
                    open.insert(id, feed);
                }
                let answered = sender.send(|e| e.reply(id)).await;
                if answered.is_err()
                    || tell
                        .send(Stream {
                            id,
                            headers,
                            incoming,
                        })
                        .await
                        .is_err()
                {
                    return;
                }
            }
            Frame::Data { id, bytes, fin } => {
                if let Some(feed) = open.get(&id).filter(|_| !bytes.is_empty()) {
                    // Nobody reads it any more: thrown away.
                    let _ = feed.send(bytes).await;
                }
                if fin {
                    open.remove(&id);
                }
            }
            Frame::Reset { id } => drop(open.remove(&id)),
            Frame::Ping { id } => {
                if sender.send(|e| e.ping(id)).await.is_err() {
                    return;
                }
            }
            Frame::GoAway | Frame::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_come_and_go() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (sender, mut streams) = serve(theirs);
        let (mut read, mut write) = tokio::io::split(ours);
        let mut encoder = Encoder::default();
        let headers: Headers = [("streamtype".to_owned(), "stdin".to_owned())].into();
        write.write_all(&encoder.open(1, &headers)).await.unwrap();
        write
            .write_all(&encoder.data(1, b"in", true))
            .await
            .unwrap();
        let mut stream = streams.recv().await.unwrap();
        assert_eq!((stream.id, &stream.headers), (1, &headers));
        assert_eq!(stream.incoming.recv().await.as_deref(), Some(&b"in"[..]));
        assert_eq!(stream.incoming.recv().await, None);
        sender.data(1, &vec![b'x'; 2 * PART]).await.unwrap();
        sender.finish(1).await;
        let (mut decoder, mut buffer, mut got) = (Decoder::default(), BytesMut::new(), 0);
        loop {
            match decoder.next(&mut buffer).unwrap() {
                Some(Frame::Data { bytes, fin, .. }) => {
                    got += bytes.len();
                    if fin {
                        break;
                    }
                }
                Some(_) => {}
                None => assert!(read.read_buf(&mut buffer).await.unwrap() > 0),
            }
        }
        assert_eq!(got, 2 * PART);
        drop((read, write));
        assert!(
            streams.recv().await.is_none(),
            "the end of the connection is the end of its streams"
        );
    }
}
