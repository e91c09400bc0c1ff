//! Whether the proxy serves, for whoever starts it: `GET /healthz` in the node's network.
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest request, and how long it may take.
const LONGEST: usize = 4096;
const LIMIT: Duration = Duration::from_secs(5);

/// A place for a listener, made where the socket is to be.
pub struct Health {
    socket: Socket,
}

/// Answers as long as it is there.
pub struct Serving {
    task: JoinHandle<()>,
    socket: Socket,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        // It listens no longer, so that nobody waits here; it has its address still, and may listen again.
        let _ = self.socket.shutdown(Shutdown::Read);
    }
}

impl Health {
    /// Takes the address. A process that is being replaced may have it still: only who serves listens.
    ///
    /// # Errors
    /// The address is somebody else's.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let bind = || {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM.nonblocking(),
                None,
            )?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = bind().with_context(|| format!("health at {address}"))?;
        Ok(Self { socket })
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// There is no listening there.
    pub fn serve(&self) -> Result<Serving> {
        let listen = || {
            self.socket.listen(16)?;
            TcpListener::from_std(self.socket.try_clone()?.into())
        };
        let listener = listen().context("health")?;
        let socket = self.socket.try_clone().context("health")?;
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let answer = tokio::time::timeout(LIMIT, answer(stream));
                        tokio::spawn(async move { drop(answer.await) });
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Ok(Serving { task, socket })
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") && request.len() < LONGEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = if request.starts_with(b"GET /healthz") {
        ("200 OK", "ok\n")
    } else {
        ("404 Not Found", "there is /healthz\n")
    };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_serves_answers() {
        // A port that was asked for by its number stays a socket's when it listens no longer.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let first = Health::bind(address).unwrap();
        let second = Health::bind(address).unwrap();
        let ask = async || {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        assert!(ask().await.is_err(), "nobody serves yet");
        for health in [&first, &second, &first] {
            let serving = health.serve().unwrap();
            for _ in 0..10 {
                assert!(ask().await.unwrap().starts_with("HTTP/1.1 200 OK"));
            }
            drop(serving);
            assert!(ask().await.is_err());
        }
    }
}
