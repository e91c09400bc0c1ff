//! Any object that an API server may send of a kind that agent and operator watch: read or refused, and turned into a row.

use hypha_k8s::{Namespace, Node, Pod, crd};
use serde::de::DeserializeOwned;

pub fn run(data: &[u8]) {
    row::<Pod, model::Pod>(data);
    row::<Namespace, model::Namespace>(data);
    if let Some(node) = row::<Node, model::Node>(data) {
        assert!(
            node.addresses
                .iter()
                .enumerate()
                .all(|(i, ip)| !node.addresses[..i].contains(ip))
        );
    }
    row::<crd::CiliumNode, model::CiliumNode>(data);
    row::<crd::CiliumEndpointSlice, model::EndpointSlice>(data);
    if let Some(identity) = row::<crd::CiliumIdentity, model::ClusterIdentity>(data) {
        let _ = identity.labels.to_string();
    }
}

fn row<Object: DeserializeOwned, Row: From<Object>>(data: &[u8]) -> Option<Row> {
    serde_json::from_slice::<Object>(data).ok().map(Row::from)
}
