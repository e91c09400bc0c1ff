//! Probes and life cycle hooks. How results add up is pure; asking is not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, HTTPHeader, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::node::Node;
use super::process::{self, Inside};

/// The beginning of an answer that is read.
const HEAD: usize = 4096;

/// Adds results of a probe up.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    good_needed: u32,
    bad_needed: u32,
    good: u32,
    bad: u32,
}

impl Judge {
    /// As the probe says.
    pub fn new(probe: &Probe) -> Judge {
        let number = |n: Option<i32>, default: u32| {
            n.and_then(|n| n.try_into().ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        Judge {
            good_needed: number(probe.success_threshold, 1),
            bad_needed: number(probe.failure_threshold, 3),
            good: 0,
            bad: 0,
        }
    }

    /// Takes a result; says what it amounts to once enough of a kind came in a row.
    pub fn take(&mut self, good: bool) -> Option<bool> {
        (self.good, self.bad) = if good {
            (self.good + 1, 0)
        } else {
            (0, self.bad + 1)
        };
        if good {
            (self.good >= self.good_needed).then_some(true)
        } else {
            (self.bad >= self.bad_needed).then_some(false)
        }
    }
}

fn seconds(n: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(n.and_then(|n| n.try_into().ok()).unwrap_or(default))
}

/// Before the first time.
pub fn initial_delay(probe: &Probe) -> Duration {
    seconds(probe.initial_delay_seconds, 0)
}

/// Between two times.
pub fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds, 10).max(Duration::from_secs(1))
}

fn timeout(probe: &Probe) -> Duration {
    seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1))
}

/// A port by number or by the name that the container gives it.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => name.parse().ok().or_else(|| {
            let ports = container.ports.iter().flatten();
            let mut named = ports.filter(|p| p.name.as_deref() == Some(name));
            named.next().map(|p| p.container_port)
        }),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("there is no port {port:?}"))
}

/// Who is asked, and from where.
pub(crate) struct Asker<'a> {
    pub(crate) node: &'a Node,
    pub(crate) container: &'a Container,
    pub(crate) inside: &'a Inside,
    pub(crate) ip: Option<IpAddr>,
}

impl Asker<'_> {
    /// Asks once. The error says what went wrong.
    pub(crate) async fn probe(&self, probe: &Probe) -> Result<(), String> {
        let limit = timeout(probe);
        let asked = async {
            if let Some(exec) = &probe.exec {
                self.exec(exec).await
            } else if let Some(http) = &probe.http_get {
                self.http(http).await
            } else if let Some(tcp) = &probe.tcp_socket {
                self.tcp(tcp).await
            } else {
                Err("the lab has no probes but exec, httpGet and tcpSocket".to_owned())
            }
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// Runs a hook to its end.
    pub(crate) async fn hook(&self, hook: &LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            self.exec(exec).await
        } else if let Some(http) = &hook.http_get {
            self.http(http).await
        } else if let Some(sleep) = &hook.sleep {
            let time = Duration::from_secs(sleep.seconds.try_into().unwrap_or(0));
            tokio::time::sleep(time).await;
            Ok(())
        } else if let Some(tcp) = &hook.tcp_socket {
            self.tcp(tcp).await
        } else {
            Ok(())
        }
    }

    async fn exec(&self, exec: &ExecAction) -> Result<(), String> {
        let command = exec.command.clone().unwrap_or_default();
        match process::run(self.inside, self.node.lab.as_str(), command).await {
            Ok((0, _)) => Ok(()),
            Ok((code, text)) => Err(format!("command ended with {code}: {}", text.trim_end())),
            Err(e) => Err(format!("{e:#}")),
        }
    }

    fn address(&self, host: Option<&String>, asked: &IntOrString) -> Result<SocketAddr, String> {
        let port = port(self.container, asked)?;
        let ip = match host.filter(|h| !h.is_empty()) {
            Some(host) => host
                .parse()
                .map_err(|_| format!("host {host:?} is no IP address"))?,
            None => self.ip.ok_or("the pod has no address")?,
        };
        Ok(SocketAddr::new(ip, port))
    }

    async fn tcp(&self, tcp: &TCPSocketAction) -> Result<(), String> {
        let to = self.address(tcp.host.as_ref(), &tcp.port)?;
        let connected = self.node.connect(to).await;
        connected
            .map(drop)
            .map_err(|e| format!("dial tcp {to}: {e}"))
    }

    async fn http(&self, http: &HTTPGetAction) -> Result<(), String> {
        let to = self.address(http.host.as_ref(), &http.port)?;
        let path = http.path.as_deref().filter(|p| p.starts_with('/'));
        let path = path.map_or_else(
            || format!("/{}", http.path.as_deref().unwrap_or_default()),
            str::to_owned,
        );
        let tls = http.scheme.as_deref() == Some("HTTPS");
        let url = format!("{}://{to}{path}", if tls { "https" } else { "http" });
        let failed = |e: std::io::Error| format!("Get {url:?}: {e}");
        let request = request(&path, &to, http.http_headers.as_deref().unwrap_or_default());
        let stream = self.node.connect(to).await.map_err(failed)?;
        let status = if tls {
            let stream = super::serve::tls::connect_unverified(stream)
                .await
                .map_err(failed)?;
            ask(stream, &request).await
        } else {
            ask(stream, &request).await
        };
        match status.map_err(failed)? {
            200..400 => Ok(()),
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        }
    }
}

/// The request, with line breaks in what the pod says taken out.
fn request(path: &str, to: &SocketAddr, headers: &[HTTPHeader]) -> String {
    let clean = |text: &str| text.replace(['\r', '\n', ' '], "");
    let own = |name: &str| headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
    let host = own("host").map_or_else(|| to.to_string(), |h| clean(&h.value));
    let mut text = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n",
        clean(path)
    );
    if own("user-agent").is_none() {
        text.push_str("User-Agent: kube-probe/1.32\r\n");
    }
    if own("accept").is_none() {
        text.push_str("Accept: */*\r\n");
    }
    for header in headers
        .iter()
        .filter(|h| !h.name.eq_ignore_ascii_case("host"))
    {
        let value = header.value.replace(['\r', '\n'], "");
        text.push_str(&format!("{}: {value}\r\n", clean(&header.name)));
    }
    text + "\r\n"
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> std::io::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = vec![0; HEAD];
    let mut got = 0;
    while got < HEAD && !head[..got].contains(&b'\n') {
        match stream.read(&mut head[got..]).await? {
            0 => break,
            n => got += n,
        }
    }
    status_code(&head[..got]).ok_or_else(|| std::io::Error::other("malformed HTTP answer"))
}

fn status_code(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    let code = words.next()?.starts_with("HTTP/").then(|| words.next())??;
    code.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thresholds() {
        let probe =
            serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3})).unwrap();
        let mut judge = Judge::new(&probe);
        let said: Vec<_> = [true, true, false, false, true, false, false, false, true]
            .map(|g| judge.take(g))
            .into();
        assert_eq!(
            said,
            [
                None,
                Some(true),
                None,
                None,
                None,
                None,
                None,
                Some(false),
                None
            ]
        );
        assert_eq!(Judge::new(&Probe::default()).take(true), Some(true));
    }

    #[test]
    fn ports_and_requests() {
        let container: Container = serde_json::from_value(
            json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .unwrap();
        assert_eq!(
            port(&container, &IntOrString::String("web".into())),
            Ok(8080)
        );
        assert_eq!(port(&container, &IntOrString::Int(80)), Ok(80));
        assert!(
            port(&container, &IntOrString::String("x".into())).is_err()
                && port(&container, &IntOrString::Int(70000)).is_err()
        );
        let headers = [
            HTTPHeader {
                name: "Host".into(),
                value: "a.b".into(),
            },
            HTTPHeader {
                name: "X".into(),
                value: "1\r\nY: 2".into(),
            },
        ];
        let text = request("/h z\r\n", &"10.0.0.1:80".parse().unwrap(), &headers);
        assert!(
            text.starts_with("GET /hz HTTP/1.1\r\nHost: a.b\r\n")
                && text.ends_with("X: 1Y: 2\r\n\r\n"),
            "{text}"
        );
        assert_eq!(status_code(b"HTTP/1.1 204 No\r\n"), Some(204));
        assert_eq!(status_code(b"SSH-2.0"), None);
        assert_eq!(status_code(b"HTTP/1.1"), None);
    }
}
