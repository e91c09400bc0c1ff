//! Port forwarding: connections from inside a pod's network to its own ports.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::streams::{self, Sender, Stream};
use super::wire::Socket;
use crate::kubelet::handle::Net;
use crate::kubelet::node::Node;

/// How long a client may go on when the pod's side has said all.
const REST: Duration = Duration::from_secs(1);
/// Streams whose partner did not come yet.
const MAX_PENDING: usize = 256;

/// Whose ports.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) node: Arc<Node>,
    pub(super) net: Net,
    pub(super) pod: String,
}

impl Target {
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let net = match &self.net {
            Net::Node => None,
            Net::Own(path) => Some(path.clone()),
        };
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match self.node.connect_in(net.clone(), v4).await {
            Ok(stream) => Ok(stream),
            Err(e) => {
                let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                self.node.connect_in(net, v6).await.map_err(|_| e)
            }
        }
    }

    fn refused(&self, port: u16, error: &io::Error) -> String {
        format!(
            "an error occurred forwarding {port} -> {port}: failed to connect to localhost:{port} inside pod {}: {error}",
            self.pod
        )
    }
}

/// Serves pairs of streams, one for errors and one for data, matched by the header `requestid`.
pub(super) async fn spdy<T>(target: Target, transport: T)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (sender, mut opened) = streams::serve(transport);
    let mut errors: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(stream) = opened.recv().await {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        // Old clients send no number: then the port has to do.
        let request = if header("requestid").is_empty() {
            header("port")
        } else {
            header("requestid")
        };
        match header("streamtype").as_str() {
            "error" if errors.len() < MAX_PENDING => drop(errors.insert(request, stream.id)),
            "data" => {
                let error = errors.remove(&request);
                let port = header("port").parse().unwrap_or(0);
                tokio::spawn(pair(target.clone(), sender.clone(), stream, error, port));
            }
            _ => {}
        }
    }
}

async fn pair(target: Target, sender: Sender, mut stream: Stream, error: Option<u32>, port: u16) {
    match target.connect(port).await {
        Ok(connection) => {
            let (mut from, mut to) = connection.into_split();
            let inward = async {
                while let Some(bytes) = stream.incoming.recv().await {
                    if to.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                let _ = to.shutdown().await;
            };
            let outward = async {
                let mut buffer = vec![0; 32 << 10];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    if sender.data(stream.id, &buffer[..n]).await.is_err() {
                        break;
                    }
                }
                sender.finish(stream.id).await;
            };
            let (mut inward, mut outward) = (pin!(inward), pin!(outward));
            tokio::select! {
                () = &mut inward => outward.await,
                // Older clients hang up only when both streams have ended.
                () = &mut outward => drop(timeout(REST, inward).await),
            }
        }
        Err(e) => {
            if let Some(id) = error {
                let _ = sender.data(id, target.refused(port, &e).as_bytes()).await;
            }
            sender.finish(stream.id).await;
        }
    }
    if let Some(id) = error {
        sender.finish(id).await;
    }
}

/// Serves ports over the channels of a WebSocket: two for each port, data and error, that begin with the port's number.
pub(super) async fn websocket(target: Target, ports: Vec<u16>, socket: Socket) {
    let (mut to, mut from) = socket.split();
    let (out, mut hear) = mpsc::channel::<Bytes>(32);
    let mut feeds = Vec::new();
    for (index, port) in ports.into_iter().enumerate().take(120) {
        let channel = 2 * index as u8;
        for channel in [channel, channel + 1] {
            let [low, high] = port.to_le_bytes();
            let _ = out.try_send(Bytes::copy_from_slice(&[channel, low, high]));
        }
        let (feed, incoming) = mpsc::channel(32);
        feeds.push(feed);
        tokio::spawn(channel_pair(
            target.clone(),
            port,
            channel,
            incoming,
            out.clone(),
        ));
    }
    drop(out);
    let write = async {
        while let Some(message) = hear.recv().await {
            if to.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        let _ = to.close().await;
    };
    let read = async {
        while let Some(Ok(message)) = from.next().await {
            let Message::Binary(mut bytes) = message else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            let channel = usize::from(bytes.split_to(1)[0]);
            if let Some(feed) = feeds.get(channel / 2).filter(|_| channel % 2 == 0) {
                let _ = feed.send(bytes).await;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

async fn channel_pair(
    target: Target,
    port: u16,
    channel: u8,
    mut incoming: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Bytes>,
) {
    let message = |channel: u8, bytes: &[u8]| {
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(bytes);
        message.freeze()
    };
    let connection = match target.connect(port).await {
        Ok(connection) => connection,
        Err(e) => {
            let _ = out
                .send(message(channel + 1, target.refused(port, &e).as_bytes()))
                .await;
            return;
        }
    };
    let (mut from, mut to) = connection.into_split();
    let inward = async {
        while let Some(bytes) = incoming.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if out.send(message(channel, &buffer[..n])).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
