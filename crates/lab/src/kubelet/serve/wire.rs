//! The channels of exec and attach, over WebSocket and over SPDY alike.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::streams::{self, Gone, Stream};

/// The longest message of a client.
const MAX_MESSAGE: usize = 1 << 20;
const WAITING: usize = 32;
/// How long a client may take to open all its streams.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long the last words may take to get out.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What comes from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Stdin(Bytes),
    StdinEnd,
    Resize(u16, u16),
}

/// What goes to the client, by the numbers that the protocol gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout = 1,
    Stderr = 2,
    Error = 3,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// A connection with a client.
pub(super) struct Wire {
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) out: mpsc::Sender<(Channel, Bytes)>,
    /// Resolves when the client went away.
    pub(super) gone: oneshot::Receiver<()>,
    writer: JoinHandle<()>,
}

impl Wire {
    /// Sends the last word and closes.
    pub(super) async fn finish(self, last: String) {
        let _ = self.out.send((Channel::Error, last.into())).await;
        drop(self.out);
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.writer).await;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A WebSocket over an upgraded connection.
pub(super) async fn socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// Channels over a WebSocket: one byte with the channel's number before each message.
pub(super) async fn websocket(upgraded: Upgraded) -> Wire {
    let (to, from) = socket(upgraded).await.split();
    let (tell, incoming) = mpsc::channel(WAITING);
    let (out, hear) = mpsc::channel(WAITING);
    let (leaving, gone) = oneshot::channel();
    tokio::spawn(read_socket(from, tell, leaving));
    let writer = tokio::spawn(write_socket(to, hear));
    Wire {
        incoming,
        out,
        gone,
        writer,
    }
}

async fn read_socket(
    mut from: SplitStream<Socket>,
    tell: mpsc::Sender<Incoming>,
    leaving: oneshot::Sender<()>,
) {
    while let Some(Ok(message)) = from.next().await {
        let incoming = match message {
            Message::Binary(bytes) => message_of(bytes),
            Message::Text(text) => message_of(Bytes::copy_from_slice(text.as_bytes())),
            Message::Close(_) => break,
            _ => None,
        };
        if let Some(incoming) = incoming {
            // Nobody wants input any more: the socket is still read, to see its end.
            let _ = tell.send(incoming).await;
        }
    }
    drop(leaving);
}

/// A message of a client, if it means something.
fn message_of(mut bytes: Bytes) -> Option<Incoming> {
    if bytes.is_empty() {
        return None;
    }
    let channel = bytes.split_to(1)[0];
    match channel {
        0 if bytes.is_empty() => None,
        0 => Some(Incoming::Stdin(bytes)),
        4 => {
            let size: Size = serde_json::from_slice(&bytes).ok()?;
            Some(Incoming::Resize(size.width, size.height))
        }
        // v5: nothing more comes on the channel that is named.
        255 => (bytes.first() == Some(&0)).then_some(Incoming::StdinEnd),
        _ => None,
    }
}

async fn write_socket(
    mut to: SplitSink<Socket, Message>,
    mut hear: mpsc::Receiver<(Channel, Bytes)>,
) {
    // Tells the client that all is set up.
    if to
        .send(Message::Binary(Bytes::from_static(
            &[Channel::Stdout as u8],
        )))
        .await
        .is_err()
    {
        return;
    }
    while let Some((channel, bytes)) = hear.recv().await {
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.extend_from_slice(&[channel as u8]);
        message.extend_from_slice(&bytes);
        if to.send(Message::Binary(message.freeze())).await.is_err() {
            return;
        }
    }
    close(&mut to).await;
}

/// Says good-bye; clients take an end without this for a failure.
async fn close(to: &mut SplitSink<Socket, Message>) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    let _ = to.send(Message::Close(Some(frame))).await;
    let _ = to.close().await;
}

/// Channels over SPDY: a stream each, by the header `streamtype`. `None` when the client does not open all of them.
pub(super) async fn spdy(upgraded: Upgraded, asked: Asked) -> Option<Wire> {
    let (sender, mut opened) = streams::serve(TokioIo::new(upgraded));
    let wanted = 1 + [
        asked.stdin,
        asked.stdout,
        asked.stderr && !asked.tty,
        asked.tty,
    ]
    .iter()
    .filter(|w| **w)
    .count();
    let collect = async {
        let mut all: Vec<Stream> = Vec::new();
        while all.len() < wanted {
            all.push(opened.recv().await?);
        }
        Some(all)
    };
    let all = tokio::time::timeout(OPEN_LIMIT, collect).await.ok()??;
    let (tell, incoming) = mpsc::channel(WAITING);
    let (out, mut hear) = mpsc::channel::<(Channel, Bytes)>(WAITING);
    let (leaving, gone) = oneshot::channel();
    let mut ids = [None; 4];
    for stream in all {
        match stream.headers.get("streamtype").map(String::as_str) {
            Some("stdin") => drop(tokio::spawn(read_stdin(stream.incoming, tell.clone()))),
            Some("resize") => drop(tokio::spawn(read_resize(stream.incoming, tell.clone()))),
            Some("stdout") => ids[Channel::Stdout as usize] = Some(stream.id),
            Some("stderr") => ids[Channel::Stderr as usize] = Some(stream.id),
            Some("error") => ids[Channel::Error as usize] = Some(stream.id),
            _ => {}
        }
    }
    tokio::spawn(async move {
        // Further streams have no meaning; the end of the channel is the end of the connection.
        while opened.recv().await.is_some() {}
        drop(leaving);
    });
    let writer = tokio::spawn(async move {
        while let Some((channel, bytes)) = hear.recv().await {
            if let Some(id) = ids[channel as usize]
                && sender.data(id, &bytes).await.is_err()
            {
                return;
            }
        }
        for id in ids.into_iter().flatten() {
            sender.finish(id).await;
        }
    });
    Some(Wire {
        incoming,
        out,
        gone,
        writer,
    })
}

async fn read_stdin(mut from: mpsc::Receiver<Bytes>, tell: mpsc::Sender<Incoming>) {
    while let Some(bytes) = from.recv().await {
        if tell.send(Incoming::Stdin(bytes)).await.is_err() {
            return;
        }
    }
    let _ = tell.send(Incoming::StdinEnd).await;
}

/// Sizes come one after the other as JSON objects.
async fn read_resize(mut from: mpsc::Receiver<Bytes>, tell: mpsc::Sender<Incoming>) {
    let mut text = BytesMut::new();
    while let Some(bytes) = from.recv().await {
        text.extend_from_slice(&bytes);
        if text.len() > 4096 {
            return;
        }
        let mut read = 0;
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        let mut found = Vec::new();
        while let Some(Ok(size)) = sizes.next() {
            read = sizes.byte_offset();
            found.push(size);
        }
        drop(text.split_to(read));
        for size in found {
            if tell
                .send(Incoming::Resize(size.width, size.height))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// SPDY inside of a WebSocket: bytes of the one in messages of the other.
pub(super) async fn tunnel(upgraded: Upgraded) -> tokio::io::DuplexStream {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut to, mut from) = socket(upgraded).await.split();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(ours);
    tokio::spawn(async move {
        while let Some(Ok(message)) = from.next().await {
            match message {
                Message::Binary(bytes) if write.write_all(&bytes).await.is_err() => return,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(32 << 10);
        while let Ok(1..) = read.read_buf(&mut buffer).await {
            if to
                .send(Message::Binary(buffer.split().freeze()))
                .await
                .is_err()
            {
                return;
            }
            buffer.reserve(32 << 10);
        }
        close(&mut to).await;
    });
    theirs
}

impl From<Gone> for std::io::Error {
    fn from(_: Gone) -> Self {
        std::io::Error::from(std::io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_clients() {
        let parse = |bytes: &'static [u8]| message_of(Bytes::from_static(bytes));
        assert_eq!(
            parse(b"\0ls\n"),
            Some(Incoming::Stdin(Bytes::from_static(b"ls\n")))
        );
        assert_eq!(
            parse(b"\x04{\"Width\":100,\"Height\":30}"),
            Some(Incoming::Resize(100, 30))
        );
        assert_eq!(parse(b"\xff\0"), Some(Incoming::StdinEnd));
        for nothing in [
            &b""[..],
            b"\0",
            b"\x04{",
            b"\x04{\"Width\":-1,\"Height\":1}",
            b"\xff\x01",
            b"\xff",
            b"\x07x",
        ] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
    }

    #[tokio::test]
    async fn sizes_in_pieces() {
        let (feed, from) = mpsc::channel(8);
        let (tell, mut hear) = mpsc::channel(8);
        for part in [
            "{\"Width\":1,\"Hei",
            "ght\":2}\n{\"Width\":3,\"Height\":4}",
            "\n",
        ] {
            feed.send(Bytes::from_static(part.as_bytes()))
                .await
                .unwrap();
        }
        drop(feed);
        read_resize(from, tell).await;
        assert_eq!(hear.recv().await, Some(Incoming::Resize(1, 2)));
        assert_eq!(hear.recv().await, Some(Incoming::Resize(3, 4)));
    }
}
