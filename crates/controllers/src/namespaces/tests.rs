use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use serde_json::json;

use crate::{Key, Kind, Settings, sim::Sim};

#[test]
fn every_namespace_has_an_account_and_the_authority() {
    let settings = Settings {
        root_ca: Some("PEM".into()),
        ..Settings::default()
    };
    let mut sim = Sim::with(&settings);
    sim.apply(
        Kind::Namespace,
        json!({"metadata": {"name": "default"}, "status": {"phase": "Active"}}),
    );
    sim.apply(
        Kind::Namespace,
        json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}}),
    );
    sim.settle();
    assert_eq!(
        (
            sim.all::<ServiceAccount>().len(),
            sim.all::<ConfigMap>().len()
        ),
        (1, 1)
    );
    let data = |sim: &Sim| {
        sim.get::<ConfigMap>("kube-root-ca.crt")
            .unwrap()
            .data
            .unwrap()
    };
    assert_eq!(data(&sim)["ca.crt"], "PEM");
    sim.edit(Kind::ConfigMap, "kube-root-ca.crt", |map| {
        map["data"]["ca.crt"] = json!("forged")
    });
    sim.remove(Kind::ServiceAccount, &Key::new("default", "default"));
    sim.settle();
    assert_eq!(data(&sim)["ca.crt"], "PEM");
    assert!(sim.get::<ServiceAccount>("default").is_some());
}
