//! Services of one family, asked by the other.

use std::net::SocketAddr;

use super::stage::{BACKENDS, CLIENTS, OUTSIDE, PORT, Stage};
use super::{Expected, Protocol, Question, Source};

/// Node ports of the services, in the order of [`all`].
const FIRST_PORT: u16 = 30_120;

/// Backend and family of each service, and its node port.
fn all() -> impl Iterator<Item = (&'static str, bool, u16)> {
    let each = BACKENDS
        .into_iter()
        .flat_map(|(backend, _)| [true, false].map(|is_ipv4| (backend, is_ipv4)));
    each.zip(FIRST_PORT..)
        .map(|((backend, is_ipv4), port)| (backend, is_ipv4, port))
}

pub(super) fn manifests() -> String {
    let one = |(backend, is_ipv4, port)| {
        let family = if is_ipv4 { "IPv4" } else { "IPv6" };
        let name = format!("{backend}-{}", family.to_lowercase());
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  \
             ipFamilyPolicy: SingleStack\n  ipFamilies: [{family}]\n  selector: {{app: {backend}}}\n  ports:\n  \
             - {{name: t, protocol: TCP, port: {PORT}, nodePort: {port}}}\n  - {{name: u, protocol: UDP, port: {PORT}, nodePort: {port}}}\n"
        )
    };
    all().map(one).collect()
}

impl Stage {
    /// What everybody asks services of the other family at the addresses of nodes.
    #[must_use]
    pub fn across(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        let clients = CLIENTS.into_iter().chain([(OUTSIDE, "")]);
        for (client, own_node) in clients {
            for (backend, is_ipv4, port) in all() {
                let frontends = ["node1", "node2"].map(|node| self.node_ips(node)).concat();
                for ip in frontends.into_iter().filter(|ip| ip.is_ipv4() != is_ipv4) {
                    for protocol in Protocol::ALL {
                        // Nodes have their sockets alone: those of IPv6, if connected, reach both families.
                        let by_packet = ip.is_ipv4() || protocol == Protocol::Udp;
                        let expected = if client == own_node && by_packet {
                            Expected::Nothing
                        } else {
                            Expected::Answer(backend, Source::Any)
                        };
                        questions.push(Question {
                            client: client.to_owned(),
                            name: format!("NodePort of {backend}, of the other family"),
                            protocol,
                            frontend: SocketAddr::new(ip, port),
                            expected,
                        });
                    }
                }
            }
        }
        questions
    }
}
