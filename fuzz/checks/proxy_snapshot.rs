//! What the agent tells the proxy: refused with a reason, or compiled, asked and written again as it was.

use hypha_proxy::config::{Direction, Snapshot, Transport};
use hypha_proxy::policy::{HttpRequest, Policy, Scope};

pub fn run(data: &[u8]) {
    let snapshot = match Snapshot::decode(data) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let again = Snapshot::decode(&snapshot.encode()).expect("what was read is written and read");
    assert_eq!(again, snapshot);
    let policy = Policy::compile(&snapshot, None);
    let reused = Policy::compile(&snapshot, Some(&policy));
    assert_eq!(reused.problems(), policy.problems());
    for endpoint in &snapshot.endpoints {
        for port in &endpoint.ports {
            let scope = Scope {
                endpoint: endpoint.id,
                direction: port.direction,
                transport: port.transport,
                port: port.first,
                peer: port
                    .peers
                    .as_ref()
                    .and_then(|peers| peers.first().copied())
                    .unwrap_or(1),
            };
            let headers = http::HeaderMap::new();
            let request = HttpRequest {
                method: "GET",
                path: "/",
                host: b"h",
                headers: &headers,
            };
            let (first, second) = (policy.select(&scope), reused.select(&scope));
            assert_eq!(first.http(&request), second.http(&request));
            assert_eq!(first.dns("a.org"), second.dns("a.org"));
        }
    }
    let nobody = Scope {
        endpoint: u32::MAX,
        direction: Direction::Ingress,
        transport: Transport::Tcp,
        port: 0,
        peer: 0,
    };
    let known = snapshot
        .endpoints
        .iter()
        .any(|endpoint| endpoint.id == u32::MAX);
    assert!(known || !policy.select(&nobody).dns("a.org").passes());
}
