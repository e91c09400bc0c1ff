//! What the datapath noted of connections, as the proxy asks for it.
use std::io;
use std::net::SocketAddr;

use ::proxy::config::Transport;
use ::proxy::transparent::{self, Noted};
use datapath::ProxySessions;

/// The map of sessions.
pub struct Sessions(pub ProxySessions);

impl transparent::Sessions for Sessions {
    fn lookup(
        &self,
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Option<Noted>> {
        let protocol = match transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        let found = self
            .0
            .lookup(protocol, source, destination)
            .map_err(io::Error::other)?;
        let endpoint = |id: u16| (id != 0).then(|| u32::from(id));
        Ok(found.map(|session| Noted {
            client: session.src_id,
            server: session.dst_id,
            egress: endpoint(session.egress_endpoint),
            ingress: endpoint(session.ingress_endpoint),
        }))
    }
}
