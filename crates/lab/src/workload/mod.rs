//! The built-in server: what sample pods and the outside host run.
//!
//! | port | |
//! |---|---|
//! | TCP and UDP 7 | echo |
//! | UDP 8080 | answers with the sender's address, as the server sees it |
//! | TCP 80 and 8080 | HTTP: `/` who is asking (text), `/json` the same as JSON, `/bytes/N` N bytes, `POST /echo`, `/healthz` |

mod demos;
pub mod dns;
mod http;
pub mod tools;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use clap::Parser;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// A built-in server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// Echo and whoami, as in the table above.
    Echo,
    /// Says who asks, as `traefik/whoami` does.
    Whoami,
    /// A web server with a welcome page.
    Nginx,
    /// Does nothing.
    Pause,
    /// The commands of `agnhost` that tests use.
    Agnhost,
    /// The Star Wars demo's.
    Deathstar,
    /// Answers with JSON.
    JsonMock,
    /// The cluster's name server.
    Dns,
}

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

/// Runs `start`, says that it is ready, and waits for the signal to end.
fn serve(
    start: impl Future<Output = anyhow::Result<()>>,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let mut child = signal(SignalKind::child()).context("cannot watch for SIGCHLD")?;
        start.await?;
        ready()?;
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(0),
                _ = int.recv() => return Ok(0),
                // As the first process of a container it inherits what commands leave behind.
                _ = child.recv() => collect_orphans(),
            }
        }
    })
}

fn collect_orphans() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Serves until SIGTERM, as a process of its own.
pub fn run(args: &ServeArgs) -> anyhow::Result<i32> {
    serve(start(args), || {
        println!("{}", crate::init::holder::READY);
        Ok(())
    })
}

/// Serves until SIGTERM inside a container, with the arguments and the environment of its YAML; `ready` is called once all
/// ports listen.
pub fn run_as_container(
    server: Server,
    args: &[String],
    env: &[(String, String)],
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    let env: BTreeMap<String, String> = env.iter().cloned().collect();
    serve(start_server(server, args, env), ready)
}

async fn start_server(
    server: Server,
    args: &[String],
    env: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    match server {
        Server::Echo => {
            let parsed = Standalone::try_parse_from(args).map_err(|e| {
                let text = e.to_string();
                let line = text.lines().next().unwrap_or_default();
                anyhow::anyhow!("arguments of image hypha/echo: {line}")
            })?;
            start(&parsed.args).await
        }
        Server::Whoami => {
            let port = flag(args, &["port"]).or_else(|| env.get("WHOAMI_PORT_NUMBER").cloned());
            let name = flag(args, &["name"]).or_else(|| env.get("WHOAMI_NAME").cloned());
            let name: std::sync::Arc<str> = name.unwrap_or_default().into();
            let listener = listen(port_number(port, 80)?).await?;
            let answer = move |from, request| demos::whoami(name.clone(), from, request);
            tokio::spawn(demos::serve(listener, answer));
            Ok(())
        }
        Server::Nginx => {
            tokio::spawn(demos::serve(listen(80).await?, demos::nginx));
            Ok(())
        }
        Server::Deathstar => {
            let port = port_number(env.get("PORT").cloned(), 80)?;
            tokio::spawn(demos::serve(listen(port).await?, demos::deathstar));
            Ok(())
        }
        Server::JsonMock => {
            let port = port_number(env.get("PORT").cloned(), 3000)?;
            tokio::spawn(demos::serve(listen(port).await?, demos::json_mock));
            Ok(())
        }
        Server::Pause => Ok(()),
        Server::Agnhost => start_agnhost(args).await,
        Server::Dns => dns::start(args, env).await,
    }
}

/// The value of `--name value`, `--name=value` or `-name …`.
fn flag(args: &[String], names: &[&str]) -> Option<String> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let plain = arg.trim_start_matches('-');
        let (name, value) = plain
            .split_once('=')
            .map_or((plain, None), |(n, v)| (n, Some(v)));
        if arg.starts_with('-') && names.contains(&name) {
            return value.map(str::to_owned).or_else(|| args.next().cloned());
        }
    }
    None
}

fn port_number(text: Option<String>, default: u16) -> anyhow::Result<u16> {
    match text {
        None => Ok(default),
        Some(text) => text.parse().with_context(|| format!("{text:?} is no port")),
    }
}

async fn start_agnhost(args: &[String]) -> anyhow::Result<()> {
    let port = |name: &str, default: u16| port_number(flag(args, &[name]), default);
    match args.first().map_or("pause", String::as_str) {
        "pause" => Ok(()),
        "netexec" => {
            tokio::spawn(demos::serve(
                listen(port("http-port", 8080)?).await?,
                demos::netexec,
            ));
            udp::start(port("udp-port", 8081)?, udp::Answer::Netexec)
        }
        "serve-hostname" => {
            tokio::spawn(demos::serve(
                listen(port("port", 9376)?).await?,
                demos::serve_hostname,
            ));
            Ok(())
        }
        "test-webserver" => {
            tokio::spawn(demos::serve(listen(port("port", 80)?).await?, demos::nginx));
            Ok(())
        }
        other => anyhow::bail!(
            "the lab's agnhost has no {other:?}: it has netexec, pause, serve-hostname, test-webserver"
        ),
    }
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

    #[test]
    fn flags() {
        let find = |list: &[&str]| {
            let args: Vec<String> = list.iter().map(|a| (*a).to_owned()).collect();
            flag(&args, &["port"])
        };
        assert_eq!(find(&["-port", "81"]).as_deref(), Some("81"));
        assert_eq!(find(&["x", "--port=82"]).as_deref(), Some("82"));
        assert_eq!(find(&["port", "83"]), None);
        assert_eq!(find(&["--port"]), None);
        assert!(port_number(Some("x".into()), 1).is_err());
    }
}
