//! Names that are not the cluster's: asked of other servers, one after the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use hickory_proto::op::{Message, ResponseCode};
use tokio::net::UdpSocket;

/// How long a server may take.
const LIMIT: Duration = Duration::from_secs(2);
const PORT: u16 = 53;

/// Servers that know other names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Upstream(Vec<SocketAddr>);

impl Upstream {
    /// The servers that are given, `none`, or those of the text of /etc/resolv.conf.
    pub(super) fn parse(given: Option<&str>, resolv: &str) -> anyhow::Result<Upstream> {
        let words: Vec<&str> = match given {
            Some("none") => Vec::new(),
            Some(list) => list.split(',').collect(),
            None => {
                let lines = resolv
                    .lines()
                    .filter_map(|l| l.trim().strip_prefix("nameserver"));
                let servers = lines.map(str::trim).filter(|s| s.parse::<IpAddr>().is_ok());
                servers.collect()
            }
        };
        let address = |word: &&str| {
            let ip = word.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT));
            ip.or_else(|_| word.parse())
                .with_context(|| format!("--forward: {word:?} is no address"))
        };
        // The host's own resolver on the loopback is not there in a pod.
        let reachable = |a: &SocketAddr| !a.ip().is_loopback();
        let all = words
            .iter()
            .map(address)
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Upstream(all.into_iter().filter(reachable).collect()))
    }

    /// Their answer, or one that says that there is none.
    pub(super) async fn ask(&self, message: &Message, request: &[u8]) -> Message {
        for server in &self.0 {
            if let Ok(Ok(answer)) = tokio::time::timeout(LIMIT, ask_one(*server, request)).await
                && answer.metadata.id == message.metadata.id
            {
                return answer;
            }
        }
        // Without servers nothing outside has a name; with servers that do not answer nobody knows.
        let code = if self.0.is_empty() {
            ResponseCode::NXDomain
        } else {
            ResponseCode::ServFail
        };
        super::zone::empty(message, code)
    }
}

async fn ask_one(server: SocketAddr, request: &[u8]) -> anyhow::Result<Message> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await?;
    Ok(Message::from_vec(&buffer[..length])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let parse = |given: Option<&str>| {
            Upstream::parse(
                given,
                "# c\nnameserver 127.0.0.53\nnameserver 8.8.8.8\nnameserver x\n",
            )
            .map(|u| u.0)
        };
        assert_eq!(parse(None).unwrap(), ["8.8.8.8:53".parse().unwrap()]);
        assert!(parse(Some("none")).unwrap().is_empty());
        assert_eq!(parse(Some("1.1.1.1,[2001:db8::1]:5353")).unwrap().len(), 2);
        assert!(
            parse(Some("dns.example"))
                .unwrap_err()
                .to_string()
                .contains("dns.example")
        );
    }
}
