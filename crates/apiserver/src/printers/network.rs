//! Services, endpoints, ingresses, network policies.

use serde_json::Value;

use super::Column;
use super::cells::{
    AGE, NAME, NONE, int, labels, list, or_none, or_unset, selector, some_text, str_of, text, three,
};

pub(super) const SERVICE: &[Column] = &[
    NAME,
    Column::new("Type", |o| text(&o["spec"]["type"])),
    Column::new("Cluster-IP", |o| {
        let first = &o["spec"]["clusterIPs"][0];
        or_none(if first.is_string() {
            first
        } else {
            &o["spec"]["clusterIP"]
        })
    }),
    Column::new("External-IP", external_ip),
    Column::new("Port(s)", service_ports),
    AGE,
    Column::wide("Selector", |o| labels(&o["spec"]["selector"])),
];

pub(super) const ENDPOINTS: &[Column] = &[NAME, Column::new("Endpoints", endpoints), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    Column::new("AddressType", |o| text(&o["addressType"])),
    Column::new("Ports", slice_ports),
    Column::new("Endpoints", slice_addresses),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    Column::new("Class", |o| or_none(&o["spec"]["ingressClassName"])),
    Column::new("Hosts", hosts),
    Column::new("Address", |o| Value::from(load_balancer(o))),
    Column::new("Ports", |o| {
        let tls = list(&o["spec"]["tls"]).len() > 0;
        Value::from(if tls { "80, 443" } else { "80" })
    }),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    Column::new("Controller", |o| text(&o["spec"]["controller"])),
    Column::new("Parameters", parameters),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] = &[
    NAME,
    Column::new("Pod-Selector", |o| selector(&o["spec"]["podSelector"])),
    AGE,
];

/// Addresses and names that a load balancer gave, with commas between.
fn load_balancer(object: &Value) -> String {
    let points = list(&object["status"]["loadBalancer"]["ingress"]);
    let shown: Vec<&str> = points
        .map(|p| {
            p["ip"]
                .as_str()
                .filter(|ip| !ip.is_empty())
                .unwrap_or(str_of(&p["hostname"]))
        })
        .filter(|p| !p.is_empty())
        .collect();
    shown.join(",")
}

fn external_ip(service: &Value) -> Value {
    let spec = &service["spec"];
    let ips: Vec<&str> = list(&spec["externalIPs"]).map(str_of).collect();
    match str_of(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]),
        "LoadBalancer" => {
            let given = load_balancer(service);
            let all: Vec<&str> = [given.as_str()]
                .into_iter()
                .chain(ips)
                .filter(|ip| !ip.is_empty())
                .collect();
            let shown = all.join(",");
            Value::from(if shown.is_empty() {
                "<pending>".to_owned()
            } else {
                shown
            })
        }
        _ => some_text(ips.join(",")),
    }
}

fn service_ports(service: &Value) -> Value {
    let port = |p: &Value| {
        let protocol = p["protocol"].as_str().unwrap_or("TCP");
        match int(&p["nodePort"]) {
            0 => format!("{}/{protocol}", int(&p["port"])),
            node_port => format!("{}:{node_port}/{protocol}", int(&p["port"])),
        }
    };
    let shown: Vec<String> = list(&service["spec"]["ports"]).map(port).collect();
    some_text(shown.join(","))
}

/// An address with a port, brackets around one with colons.
fn with_port(address: &str, port: i64) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(&object["subsets"]) {
        let addresses = || list(&subset["addresses"]).map(|a| str_of(&a["ip"]));
        if list(&subset["ports"]).len() == 0 {
            all.extend(addresses().map(str::to_owned));
        }
        for port in list(&subset["ports"]) {
            all.extend(addresses().map(|a| with_port(a, int(&port["port"]))));
        }
    }
    some_text(three(&all))
}

fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> = list(&slice["ports"])
        .map(|p| {
            p["port"]
                .as_i64()
                .map_or("*".to_owned(), |port| port.to_string())
        })
        .collect();
    or_unset(&Value::from(three(&ports)))
}

fn slice_addresses(slice: &Value) -> Value {
    let addresses: Vec<String> = list(&slice["endpoints"])
        .flat_map(|e| list(&e["addresses"]))
        .map(|a| str_of(a).to_owned())
        .collect();
    or_unset(&Value::from(three(&addresses)))
}

fn hosts(ingress: &Value) -> Value {
    let all: Vec<String> = list(&ingress["spec"]["rules"])
        .map(|r| str_of(&r["host"]).to_owned())
        .filter(|h| !h.is_empty())
        .collect();
    Value::from(if all.is_empty() {
        "*".to_owned()
    } else {
        three(&all)
    })
}

fn parameters(class: &Value) -> Value {
    let reference = &class["spec"]["parameters"];
    if !reference.is_object() {
        return Value::from(NONE);
    }
    let kind = str_of(&reference["kind"]);
    let group = str_of(&reference["apiGroup"]);
    let dot = if group.is_empty() { "" } else { "." };
    Value::from(format!("{kind}{dot}{group}/{}", str_of(&reference["name"])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services() {
        let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(service_ports(&service), "80:30080/TCP,53/UDP");
        assert_eq!(external_ip(&service), NONE);
        service["spec"]["type"] = json!("LoadBalancer");
        assert_eq!(external_ip(&service), "<pending>");
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        service["spec"]["externalIPs"] = json!(["192.0.2.9"]);
        assert_eq!(external_ip(&service), "192.0.2.1,192.0.2.9");
    }

    #[test]
    fn endpoints_of_both_kinds() {
        let addresses: Vec<Value> = (1..=5)
            .map(|i| json!({"ip": format!("10.0.0.{i}")}))
            .collect();
        let object = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        assert_eq!(
            endpoints(&object),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
        );
        assert_eq!(endpoints(&json!({})), NONE);
        let slice = json!({"ports": [{"port": 80}, {}], "endpoints": [{"addresses": ["fd00::1"]}]});
        assert_eq!(
            (slice_ports(&slice), slice_addresses(&slice)),
            (json!("80,*"), json!("fd00::1"))
        );
        assert_eq!(slice_addresses(&json!({})), "<unset>");
    }
}
