//! What `dbg status` says of services.
use std::fmt::Write as _;

use api::ServicesStatus;

use crate::table::align;

/// Whether services are served, and at which devices.
#[must_use]
pub fn line(services: &ServicesStatus) -> String {
    if !services.enabled {
        return "False".into();
    }
    let devices = devices(services);
    let waits = match services.missing.as_str() {
        "" => String::new(),
        missing => format!("   waiting for {missing}"),
    };
    format!("True   [{devices}]{waits}")
}

fn devices(services: &ServicesStatus) -> String {
    let shown = |(name, addresses): (&String, &Vec<String>)| {
        let direct = match *name == services.direct_device {
            true => " (Direct Routing)",
            false => "",
        };
        format!("{name}   {}{direct}", addresses.join(" "))
    };
    let all: Vec<String> = services.devices.iter().map(shown).collect();
    all.join(", ")
}

/// `KubeProxyReplacement Details`; nothing where services are not served.
#[must_use]
pub fn details(services: &ServicesStatus) -> String {
    let word = |on: bool| if on { "Enabled" } else { "Disabled" };
    if !services.enabled {
        return String::new();
    }
    let capital = |text: &str| match text {
        "snat" | "dsr" => text.to_uppercase(),
        "" => String::new(),
        text => text[..1].to_uppercase() + &text[1..],
    };
    let dispatch = match (services.mode.as_str(), services.dsr_dispatch.as_str()) {
        ("snat", _) => "",
        (_, "geneve") => "   (DSR Dispatch Mode: Geneve)",
        _ => "   (DSR Dispatch Mode: IP Option/Extension)",
    };
    let selection = match services.algorithm.as_str() {
        "maglev" => format!("Maglev (Table Size: {})", services.maglev_size),
        other => capital(other),
    };
    let coverage = match services.host_sockets_only {
        true => "Hostns-only",
        false => "Full",
    };
    let (first, last) = services.node_ports;
    let kinds: u64 = services.frontends.values().sum();
    let rows = [
        ("Status:", "True".to_owned()),
        ("Socket LB:", word(services.sockets).to_owned()),
        ("Socket LB Coverage:", coverage.to_owned()),
        ("Devices:", devices(services)),
        ("Mode:", format!("{}{dispatch}", capital(&services.mode))),
        ("Backend Selection:", selection),
        ("Session Affinity:", word(services.affinity).to_owned()),
        (
            "Graceful Termination:",
            word(services.graceful_termination).to_owned(),
        ),
        ("NAT46/64 Support:", word(services.nat46x64).to_owned()),
        ("XDP Acceleration:", capital(&services.acceleration)),
        (
            "Frontends:",
            format!("{kinds}, with {} backends", services.backends),
        ),
    ];
    let lines: String = rows
        .iter()
        .map(|(label, value)| format!("  {label}\t{value}\n"))
        .collect();
    let mut text = format!("KubeProxyReplacement Details:\n{}", align(&lines));
    let _ = write!(
        text,
        "  Services:\n  - ClusterIP:      Enabled\n  - NodePort:       Enabled (Range: {first}-{last})\n  - LoadBalancer:   Enabled\n  \
         - externalIPs:    Enabled\n  - HostPort:       Enabled\n  Annotations:\n"
    );
    for name in &services.annotations {
        let _ = writeln!(text, "  - {name}");
    }
    text.push_str("  Maps:\n");
    let maps: String = services
        .maps
        .iter()
        .map(|(name, (used, most))| format!("  - {name}:\t{used} of {most}\n"))
        .collect();
    text.push_str(&align(&maps));
    if services.problems > 0 {
        let _ = writeln!(
            text,
            "  Problems of objects: {}, see `hypha dbg service list`",
            services.problems
        );
    }
    for limit in &services.limits {
        let _ = writeln!(text, "  Not here: {limit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn in_one_line_and_in_detail() {
        let mut status: ServicesStatus = serde_json::from_value(json!({
            "enabled": true, "sockets": true, "devices": {"ens9": ["192.0.2.11", "fe80::1"], "ens10": ["198.51.100.1"]},
            "directDevice": "ens9", "mode": "hybrid", "dsrDispatch": "opt", "algorithm": "maglev", "maglevSize": 16381,
            "affinity": true, "gracefulTermination": true, "acceleration": "disabled", "nodePorts": [30000, 32767],
            "annotations": ["service.cilium.io/type"], "frontends": {"ClusterIP": 2, "NodePort": 3}, "backends": 4,
            "maps": {"cilium_lb4_services_v2": [12, 65536]}, "problems": 1, "limits": ["sockets of pods stay"],
        }))
        .unwrap();
        assert_eq!(
            line(&status),
            "True   [ens10   198.51.100.1, ens9   192.0.2.11 fe80::1 (Direct Routing)]"
        );
        expect![[r"
            KubeProxyReplacement Details:
              Status:                 True
              Socket LB:              Enabled
              Socket LB Coverage:     Full
              Devices:                ens10   198.51.100.1, ens9   192.0.2.11 fe80::1 (Direct Routing)
              Mode:                   Hybrid   (DSR Dispatch Mode: IP Option/Extension)
              Backend Selection:      Maglev (Table Size: 16381)
              Session Affinity:       Enabled
              Graceful Termination:   Enabled
              NAT46/64 Support:       Disabled
              XDP Acceleration:       Disabled
              Frontends:              5, with 4 backends
              Services:
              - ClusterIP:      Enabled
              - NodePort:       Enabled (Range: 30000-32767)
              - LoadBalancer:   Enabled
              - externalIPs:    Enabled
              - HostPort:       Enabled
              Annotations:
              - service.cilium.io/type
              Maps:
              - cilium_lb4_services_v2:   12 of 65536
              Problems of objects: 1, see `hypha dbg service list`
              Not here: sockets of pods stay
        "]]
        .assert_eq(&details(&status));
        status.missing = "EndpointSlices".to_owned();
        assert!(line(&status).ends_with("waiting for EndpointSlices"));
        status.enabled = false;
        assert_eq!(
            (line(&status).as_str(), details(&status).as_str()),
            ("False", "")
        );
    }
}
