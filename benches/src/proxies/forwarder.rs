//! A proxy in processes of its own, and what they take.
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};

use super::{clients::Client, ours};

/// How long a proxy may take to serve.
const LIMIT: Duration = Duration::from_secs(20);

/// Whose.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Ours(ours::Protocol),
    Nginx,
    Haproxy,
    Dnsdist,
    Unbound,
}

/// A proxy that runs. Ends with the value.
pub struct Forwarder {
    kind: Kind,
    child: Child,
    dir: PathBuf,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Forwarder {
    /// Starts one before a server.
    pub fn start(kind: Kind, server: SocketAddr) -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        many_files()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("hypha-bench-proxy-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir)?;
        // A number that is free, for TCP and so far for UDP, too.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let mut command = kind.command(&dir, address, server)?;
        command.process_group(0).stdin(Stdio::null());
        let child = command.spawn().with_context(|| {
            format!("starting {kind:?} ({command:?}); `cargo xtask setup` installs it")
        })?;
        Ok(Self {
            kind,
            child,
            dir,
            address,
        })
    }

    pub fn name(&self) -> String {
        match self.kind {
            Kind::Ours(_) => "ours".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// Waits until it answers; the client that heard it.
    pub fn until_served(
        &self,
        connect: impl Fn() -> Result<Box<dyn Client>>,
    ) -> Result<Box<dyn Client>> {
        let end = Instant::now() + LIMIT;
        loop {
            let heard = connect().and_then(|mut client| client.ask(true).map(|_| client));
            match heard {
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("{:?} does not serve", self.kind)));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
                heard => return heard,
            }
        }
    }

    /// What its processes have taken so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for process in self.processes()? {
            for task in fs::read_dir(process.join("task"))?.flatten() {
                let text = fs::read_to_string(task.path().join("schedstat"))?;
                let first = text.split(' ').next().and_then(|text| text.parse().ok());
                nanoseconds += first.unwrap_or(0);
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Bytes of memory that are its processes' alone, or their part of what is shared.
    pub fn memory(&self) -> Result<u64> {
        let mut kilobytes = 0;
        for process in self.processes()? {
            let text = fs::read_to_string(process.join("smaps_rollup"))?;
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("Pss:"));
            let words = lines.next().unwrap_or_default();
            let size = words.trim().trim_end_matches(" kB").parse::<u64>();
            kilobytes += size.context("reading smaps_rollup")?;
        }
        Ok(kilobytes << 10)
    }

    /// Folders of its processes: all of its process group.
    pub fn processes(&self) -> Result<Vec<PathBuf>> {
        let group = self.child.id().to_string();
        let of_group = |path: &PathBuf| {
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            // The name, which may hold anything, ends with the last bracket.
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            rest.split(' ').nth(2) == Some(&group)
        };
        let all = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        Ok(all.filter(of_group).collect())
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Kind {
    /// How it is started, with the file that says what it does.
    fn command(self, dir: &Path, address: SocketAddr, server: SocketAddr) -> Result<Command> {
        let file = dir.join("config");
        let text = match self {
            Kind::Ours(protocol) => return ours::command(protocol, dir, address, server),
            Kind::Nginx => nginx(dir, address, server),
            Kind::Haproxy => haproxy(address, server),
            Kind::Dnsdist => dnsdist(address, server),
            Kind::Unbound => unbound(dir, address, server),
        };
        fs::write(&file, text)?;
        let words: &[&str] = match self {
            Kind::Nginx => &["nginx", "-e", "stderr", "-c"],
            Kind::Haproxy => &["haproxy", "-q", "-db", "-f"],
            Kind::Unbound => &["unbound", "-d", "-c"],
            _ => &["dnsdist", "--supervised", "--disable-syslog", "-C"],
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(file);
        if matches!(self, Kind::Dnsdist | Kind::Unbound) {
            // It says hello on either stream.
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        Ok(command)
    }
}

fn nginx(dir: &Path, address: SocketAddr, server: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        r#"daemon off; user root; pid {dir}/pid; error_log stderr crit; worker_processes auto;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  upstream server {{ server {server}; keepalive 1000; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location ~ "^/v1/request-landing$" {{
      if ($request_method !~ "^POST$") {{ return 403; }}
      proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location / {{ return 403; }}
  }}
}}
"#
    )
}

fn haproxy(address: SocketAddr, server: SocketAddr) -> String {
    format!(
        "global\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend front\n  bind {address}\n  \
         http-request deny unless {{ method -m reg ^POST$ }} {{ path -m reg ^/v1/request-landing$ }}\n  \
         default_backend back\nbackend back\n  server one {server}\n"
    )
}

fn dnsdist(address: SocketAddr, server: SocketAddr) -> String {
    format!(
        "setLocal('{address}')\nsetSecurityPollSuffix('')\nnewServer('{server}')\ngetServer(0):setUp()\n\
         addAction(NotRule(makeRule('example.')), RCodeAction(DNSRCode.REFUSED))\n"
    )
}

/// Without a cache, so that all is passed on, as by the others.
fn unbound(dir: &Path, address: SocketAddr, server: SocketAddr) -> String {
    let (at, port) = (address.ip(), address.port());
    let (to, by) = (server.ip(), server.port());
    let dir = dir.display();
    format!(
        r#"server:
  interface: {at}@{port}
  directory: "{dir}"
  pidfile: "{dir}/pid"
  chroot: ""
  username: ""
  use-syslog: no
  num-threads: 2
  module-config: "iterator"
  do-not-query-localhost: no
  msg-cache-size: 0
  rrset-cache-size: 0
  cache-max-ttl: 0
  local-zone: "." refuse
  local-zone: "example." transparent
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: {to}@{by}
"#
    )
}

/// Allows this process and those that it starts as many files as it may have.
pub fn many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
