//! Settings in the words of the crates that plan and carry out.
use abi::DsrDispatch;
use anyhow::{Result, bail};
use datapath::{AttachMode, MapSizes};
use routing::{Encapsulation, Events, Plan, Timeouts};
use runtime::settings::{DatapathMode, MonitorAggregation, RoutingMode, Settings, TunnelProtocol};
use std::time::Duration;

/// What routing is planned by.
#[must_use]
pub fn routing_plan(settings: &Settings) -> Plan {
    let encapsulation = match settings.tunnel_protocol {
        TunnelProtocol::Vxlan => Encapsulation::Vxlan,
        TunnelProtocol::Geneve => Encapsulation::Geneve,
    };
    let port = if settings.tunnel_port == 0 {
        encapsulation.default_port()
    } else {
        settings.tunnel_port
    };
    let native = settings.routing_mode == RoutingMode::Native;
    let by_tunnel = crate::services::settings::dispatch(settings) == DsrDispatch::Geneve;
    Plan {
        ipv4: settings.enable_ipv4,
        ipv6: settings.enable_ipv6,
        tunnel: (!native || by_tunnel).then_some((encapsulation, port)),
        tunnel_for_services: native,
        tunnel_options: by_tunnel,
        direct_node_routes: settings.auto_direct_node_routes && native,
        skip_unreachable: settings.direct_routing_skip_unreachable,
        native4: settings.ipv4_native_routing_cidr,
        native6: settings.ipv6_native_routing_cidr,
        masquerade4: settings.enable_ipv4_masquerade && settings.enable_bpf_masquerade,
        masquerade6: settings.enable_ipv6_masquerade && settings.enable_bpf_masquerade,
        snat_min: settings.node_port_range.last.saturating_add(1),
        host_legacy: settings.enable_host_legacy_routing,
        accounting: settings.bpf_conntrack_accounting,
        timeouts: Timeouts {
            tcp: seconds(settings.bpf_ct_timeout_regular_tcp),
            tcp_syn: seconds(settings.bpf_ct_timeout_regular_tcp_syn),
            tcp_fin: seconds(settings.bpf_ct_timeout_regular_tcp_fin),
            any: seconds(settings.bpf_ct_timeout_regular_any),
        },
        events: Events {
            aggregation: aggregation(settings.monitor_aggregation),
            interval: seconds(settings.monitor_aggregation_interval),
        },
        mtu: (settings.mtu > 0).then_some(settings.mtu),
    }
}

/// How big the maps are.
#[must_use]
pub fn map_sizes(settings: &Settings, memory: u64) -> MapSizes {
    let ratio = settings.bpf_map_dynamic_size_ratio.0;
    let mut sizes = if ratio > 0.0 {
        MapSizes::for_memory(memory, ratio)
    } else {
        MapSizes::default()
    };
    if settings.bpf_ct_global_tcp_max > 0 {
        sizes.conntrack = settings.bpf_ct_global_tcp_max;
    }
    if settings.bpf_nat_global_max > 0 {
        sizes.nat = settings.bpf_nat_global_max;
    }
    sizes.fragments = settings.bpf_fragments_map_max;
    sizes.policy = settings.bpf_policy_map_max;
    crate::services::settings::sizes(settings, sizes)
}

/// How programs are attached.
#[must_use]
pub fn attach_mode(settings: &Settings) -> AttachMode {
    if settings.enable_tcx {
        AttachMode::Auto
    } else {
        AttachMode::Clsact
    }
}

/// Whether pods can have devices of this kind on a kernel that has netkit or not.
///
/// # Errors
/// They cannot: why, and what is accepted.
pub fn check_device_kind(mode: DatapathMode, has_netkit: impl FnOnce() -> bool) -> Result<()> {
    match mode {
        DatapathMode::Netkit => bail!(
            "datapath-mode=netkit is refused: these devices have no Ethernet header, which the programs read and write; \
             accepted: netkit-l2 (has one), veth"
        ),
        DatapathMode::NetkitL2 if !has_netkit() => bail!(
            "datapath-mode=netkit-l2 is refused: this kernel has no netkit devices (Linux 6.8, CONFIG_NETKIT); \
             accepted here: veth"
        ),
        DatapathMode::Veth | DatapathMode::NetkitL2 => Ok(()),
    }
}

/// What is odd about settings that are each fine.
#[must_use]
pub fn advice(settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    let native = settings.routing_mode == RoutingMode::Native;
    let families = [
        (
            settings.enable_ipv4 && settings.enable_ipv4_masquerade,
            settings.ipv4_native_routing_cidr.is_some(),
            "ipv4",
        ),
        (
            settings.enable_ipv6 && settings.enable_ipv6_masquerade,
            settings.ipv6_native_routing_cidr.is_some(),
            "ipv6",
        ),
    ];
    for (_, _, family) in families
        .iter()
        .filter(|(on, given, _)| native && *on && !given)
    {
        lines.push(format!(
            "routing-mode is native and {family} is masqueraded, but {family}-native-routing-cidr is not given: \
             packets to pods whose objects are not known yet are masqueraded"
        ));
    }
    let masquerade = settings.enable_ipv4_masquerade || settings.enable_ipv6_masquerade;
    if masquerade && !settings.enable_bpf_masquerade {
        lines.push(
            "enable-bpf-masquerade is false and there is no other way yet: nothing is masqueraded"
                .to_owned(),
        );
    }
    lines
}

fn aggregation(level: MonitorAggregation) -> abi::Aggregation {
    match level {
        MonitorAggregation::None => abi::Aggregation::None,
        MonitorAggregation::Lowest => abi::Aggregation::Lowest,
        MonitorAggregation::Low => abi::Aggregation::Low,
        MonitorAggregation::Medium => abi::Aggregation::Medium,
        MonitorAggregation::Maximum => abi::Aggregation::Maximum,
    }
}

/// Whole seconds, at least one.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_kinds_that_cannot_be_had_are_refused_in_one_line() {
        let refusal = |mode, has| {
            let refused = check_device_kind(mode, || has).err()?;
            Some(refused.to_string())
        };
        assert_eq!(refusal(DatapathMode::Veth, false), None);
        assert_eq!(refusal(DatapathMode::NetkitL2, true), None);
        for (mode, has) in [
            (DatapathMode::Netkit, true),
            (DatapathMode::NetkitL2, false),
        ] {
            let line = refusal(mode, has).unwrap();
            assert!(line.contains("accepted") && !line.contains('\n'), "{line}");
        }
    }
}
