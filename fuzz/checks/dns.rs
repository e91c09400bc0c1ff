//! Any message to the lab's name server: answered with a message that can be written and read, or passed over.

use hickory_proto::op::Message;
use hypha_lab::workload::dns::zone::{Answered, Zone};
use serde_json::json;
use std::sync::LazyLock;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut zone = Zone::new("cluster.local").expect("a domain");
    let services = json!([
        {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIPs": ["10.96.0.5", "fd00:96::5"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}},
        {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}},
        {"metadata": {"name": "far", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "example.org"}},
    ]);
    let slices = json!([
        {"metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.0.1.7"], "hostname": "db-0", "conditions": {"ready": true}}]},
    ]);
    zone.set_services(serde_json::from_value(services).expect("services"));
    zone.set_slices(serde_json::from_value(slices).expect("slices"));
    zone
});

pub fn run(data: &[u8]) {
    let Ok(request) = Message::from_vec(data) else {
        return;
    };
    let Answered::Here(answer) = ZONE.answer(&request) else {
        return;
    };
    let bytes = answer.to_vec().expect("an answer can be written");
    let again = Message::from_vec(&bytes).expect("and read");
    assert_eq!(again.metadata.id, request.metadata.id);
    assert_eq!(again.answers.len(), answer.answers.len());
}
