//! The built-in server: what sample pods and the outside host run.
//!
//! | port | |
//! |---|---|
//! | TCP and UDP 7 | echo |
//! | UDP 8080 | answers with the sender's address, as the server sees it |
//! | TCP 80 and 8080 | HTTP: `/` who is asking (text), `/json` the same as JSON, `/bytes/N` N bytes, `POST /echo`, `/healthz` |

mod http;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use clap::Parser;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Ports of the built-in server.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ServeArgs {
    /// Ports of the HTTP server.
    #[arg(long, value_delimiter = ',', default_values_t = [80, 8080])]
    pub http: Vec<u16>,
    /// Ports of TCP and UDP echo.
    #[arg(long, value_delimiter = ',', default_values_t = [7])]
    pub echo: Vec<u16>,
    /// UDP ports that answer with the sender's address.
    #[arg(long, value_delimiter = ',', default_values_t = [8080])]
    pub whoami: Vec<u16>,
}

#[derive(Debug, Parser)]
#[command(name = "hypha/echo", no_binary_name = true, disable_help_flag = true)]
struct Standalone {
    #[command(flatten)]
    args: ServeArgs,
}

/// The address by which a client is called: IPv4 as IPv4, whatever socket it came through.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Any address, both families where the kernel has them.
fn wildcards(port: u16) -> [SocketAddr; 2] {
    [
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    ]
    .map(|ip| SocketAddr::new(ip, port))
}

/// Listens on both families, or on IPv4 alone where IPv6 is off.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let [v6, v4] = wildcards(port);
    let made = match TcpListener::bind(v6).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(v4).await,
        other => other,
    };
    made.with_context(|| format!("cannot listen on TCP port {port}"))
}

async fn start(args: &ServeArgs) -> anyhow::Result<()> {
    for port in &args.http {
        let listener = listen(*port).await?;
        tokio::spawn(http::serve(listener));
    }
    for port in &args.echo {
        let listener = listen(*port).await?;
        tokio::spawn(echo(listener));
        udp::start(*port, udp::Answer::Same)?;
    }
    for port in &args.whoami {
        udp::start(*port, udp::Answer::Sender)?;
    }
    Ok(())
}

async fn echo(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(echo_one(stream))),
            // Out of descriptors, or the client is gone already: give others a chance to finish.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn echo_one(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

fn serve(args: &ServeArgs, ready: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        start(args).await?;
        ready()?;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        Ok(0)
    })
}

/// Serves until SIGTERM, as a process of its own.
pub fn run(args: &ServeArgs) -> anyhow::Result<i32> {
    serve(args, || {
        println!("{}", crate::init::holder::READY);
        Ok(())
    })
}

/// Serves until SIGTERM inside a container, with the arguments of its YAML; `ready` is called once all ports listen.
pub fn run_as_container(
    args: &[String],
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    let parsed = Standalone::try_parse_from(args).map_err(|e| {
        let text = e.to_string();
        anyhow::anyhow!(
            "arguments of image hypha/echo: {}",
            text.lines().next().unwrap_or_default()
        )
    })?;
    serve(&parsed.args, ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let args = |list: &[&str]| Standalone::try_parse_from(list).map(|s| s.args);
        assert_eq!(args(&[]).unwrap().http, [80, 8080]);
        assert_eq!(
            args(&["--http", "1,2", "--echo", "9"]).unwrap().http,
            [1, 2]
        );
        assert!(args(&["--http", "x"]).is_err());
    }
}
