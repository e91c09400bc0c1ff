//! Settings of services in the words of the planner, the programs and the maps.
use abi::{DatapathConfig, DsrDispatch};
use anyhow::{Result, anyhow};
use datapath::{Acceleration, MapSizes};
use lb::{Forwarding, Limits, frontend::Algorithm, maglev};
use model::Text;
use runtime::settings::{self, LbAcceleration, LbAlgorithm, LbMode, NoBackend, Settings};

/// Generations for which a number rests before it is given again: conntrack may still name it.
const REST: u64 = 5;
/// Maglev tables that there is room for at least, per family.
const TABLES: u32 = 64;

/// What the planner plans by.
///
/// # Errors
/// Values that mean nothing; which ones are accepted.
pub fn planner(settings: &Settings) -> Result<lb::Settings> {
    let seed = seed(&settings.bpf_lb_maglev_hash_seed);
    let seed = seed.ok_or_else(|| anyhow!("bpf-lb-maglev-hash-seed is not base64 of 12 bytes"))?;
    let shape = maglev::Shape::new(settings.bpf_lb_maglev_table_size, &seed)
        .map_err(|why| anyhow!("bpf-lb-maglev-table-size: {why}"))?;
    let range = settings.node_port_range;
    Ok(lb::Settings {
        ipv4: settings.enable_ipv4,
        ipv6: settings.enable_ipv6,
        algorithm: match settings.bpf_lb_algorithm {
            LbAlgorithm::Random => Algorithm::Random,
            LbAlgorithm::Maglev => Algorithm::Maglev,
        },
        algorithm_annotation: settings.bpf_lb_algorithm_annotation,
        maglev: shape,
        forwarding: match settings.bpf_lb_mode {
            LbMode::Snat => Forwarding::Snat,
            LbMode::Dsr => Forwarding::Dsr,
            LbMode::Hybrid => Forwarding::Hybrid,
        },
        forwarding_annotation: settings.bpf_lb_mode_annotation,
        topology: settings.enable_service_topology,
        affinity: settings.enable_session_affinity,
        internal_policy: settings.enable_internal_traffic_policy,
        terminating: settings.enable_k8s_terminating_endpoint,
        node_ports: true,
        node_port_range: range.first..=range.last,
        external_ips: true,
        host_ports: true,
        local_redirects: settings.enable_local_redirect_policy,
        external_cluster_ip: settings.bpf_lb_external_clusterip,
        source_ranges: settings.enable_svc_source_range_check,
        source_ranges_all: settings.bpf_lb_source_range_all_types,
        nat46x64: crosses_families(settings),
        proxy_name: Text::from(settings.k8s_service_proxy_name.as_str()),
        limits: limits(settings),
        rest: REST,
    })
}

fn limits(settings: &Settings) -> Limits {
    let sizes = sizes(settings, MapSizes::default());
    let rows = sizes.services as usize;
    let chunks = settings
        .bpf_lb_maglev_table_size
        .div_ceil(abi::MAGLEV_CHUNK as u32);
    Limits {
        services: rows,
        backends: rows,
        affinity: rows,
        // Longest-prefix maps of kernels before 6.13 overwrite no row while they are full.
        sources: rows - 1,
        tables: (sizes.maglev / chunks.max(1)) as usize,
    }
}

/// How big the maps of services are, beside what `sizes` says of the others.
#[must_use]
pub fn sizes(settings: &Settings, sizes: MapSizes) -> MapSizes {
    let rows = settings.bpf_lb_map_max;
    let chunks = settings
        .bpf_lb_maglev_table_size
        .div_ceil(abi::MAGLEV_CHUNK as u32);
    MapSizes {
        services: rows,
        // Rows take memory only once they are written.
        maglev: rows.saturating_mul(4).max(chunks.saturating_mul(TABLES)),
        ..sizes
    }
}

/// What the programs are told of services.
#[must_use]
pub fn config(settings: &Settings, host_netns: u64, config: DatapathConfig) -> DatapathConfig {
    DatapathConfig {
        host_netns,
        services: settings.kube_proxy_replacement.into(),
        sock_host_only: settings.bpf_lb_sock_hostns_only.into(),
        trace_sock: settings.trace_sock.into(),
        no_backend_drops: u8::from(settings.service_no_backend_response == NoBackend::Drop),
        dsr_dispatch: dispatch(settings) as u8,
        node_port_min: settings.node_port_range.first,
        node_port_max: settings.node_port_range.last,
        maglev_size: settings.bpf_lb_maglev_table_size,
        xdp: acceleration(settings).is_some().into(),
        nat46x64: u8::from(crosses_families(settings)),
        ..config
    }
}

/// Whether frontends of one family may have backends of the other.
#[must_use]
pub fn crosses_families(settings: &Settings) -> bool {
    settings.kube_proxy_replacement && settings.enable_nat46x64_gateway
}

/// Where else than in the stack services are balanced.
#[must_use]
pub fn acceleration(settings: &Settings) -> Option<Acceleration> {
    match settings.bpf_lb_acceleration {
        _ if !settings.kube_proxy_replacement => None,
        LbAcceleration::Disabled => None,
        LbAcceleration::Native => Some(Acceleration::Native),
        LbAcceleration::BestEffort => Some(Acceleration::BestEffort),
        LbAcceleration::Generic => Some(Acceleration::Generic),
    }
}

/// How packets carry their frontends to the nodes of backends, if they do.
#[must_use]
pub fn dispatch(settings: &Settings) -> DsrDispatch {
    match settings.bpf_lb_dsr_dispatch {
        _ if !settings.answers_directly() => DsrDispatch::None,
        settings::DsrDispatch::Opt => DsrDispatch::Option,
        settings::DsrDispatch::Geneve => DsrDispatch::Geneve,
    }
}

/// The bytes behind 16 letters of base64.
fn seed(text: &str) -> Option<[u8; 12]> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = [0; 12];
    if text.len() != 16 {
        return None;
    }
    for (quad, out) in text.as_bytes().chunks(4).zip(bytes.chunks_mut(3)) {
        let mut bits = 0_u32;
        for letter in quad {
            let value = LETTERS.iter().position(|known| known == letter)?;
            bits = bits << 6 | value as u32;
        }
        out.copy_from_slice(&bits.to_be_bytes()[1..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_seed_is_the_planners() {
        let settings = Settings::default();
        let text = settings.bpf_lb_maglev_hash_seed.as_str();
        assert_eq!(seed(text), Some(maglev::SEED));
        assert_eq!(planner(&settings).unwrap().maglev, maglev::Shape::default());
        assert_eq!(seed("JLfvgnHc2kaSUFa="), None);
    }

    /// Programs for drivers cost time where they are loaded: only where they are asked for, and there are services.
    #[test]
    fn drivers_get_programs_where_they_are_asked_for() {
        let mut settings = Settings::default();
        for (key, value, expected) in [
            ("bpf-lb-acceleration", "native", None),
            ("kube-proxy-replacement", "true", Some(Acceleration::Native)),
            (
                "bpf-lb-acceleration",
                "best-effort",
                Some(Acceleration::BestEffort),
            ),
            (
                "bpf-lb-acceleration",
                "testing-only",
                Some(Acceleration::Generic),
            ),
            ("bpf-lb-acceleration", "disabled", None),
        ] {
            settings.set(key, value, "test").unwrap();
            assert_eq!(acceleration(&settings), expected, "{key}={value}");
            let told = config(&settings, 0, zerocopy::FromZeros::new_zeroed());
            assert_eq!(told.xdp, u8::from(expected.is_some()));
        }
    }

    /// Programs are told of options only where somebody may be answered directly.
    #[test]
    fn frontends_travel_where_answers_are_direct() {
        let mut settings = Settings::default();
        assert_eq!(dispatch(&settings), DsrDispatch::None);
        settings.set("bpf-lb-mode", "hybrid", "test").unwrap();
        assert_eq!(dispatch(&settings), DsrDispatch::None);
        let on = "kube-proxy-replacement";
        settings.set(on, "true", "test").unwrap();
        assert_eq!(dispatch(&settings), DsrDispatch::Option);
        settings
            .set("bpf-lb-dsr-dispatch", "geneve", "test")
            .unwrap();
        assert_eq!(dispatch(&settings), DsrDispatch::Geneve);
        settings.set("bpf-lb-mode", "snat", "test").unwrap();
        assert_eq!(dispatch(&settings), DsrDispatch::None);
        let noted = "bpf-lb-mode-annotation";
        settings.set(noted, "true", "test").unwrap();
        assert_eq!(dispatch(&settings), DsrDispatch::Geneve);
    }

    #[test]
    fn no_plan_is_larger_than_the_maps() {
        let mut settings = Settings::default();
        for (max, table) in [("256", "131071"), ("65536", "16381"), ("1000000", "251")] {
            settings.set("bpf-lb-map-max", max, "test").unwrap();
            settings
                .set("bpf-lb-maglev-table-size", table, "test")
                .unwrap();
            let limits = planner(&settings).unwrap().limits;
            let sizes = sizes(&settings, MapSizes::default());
            assert_eq!(limits.services, sizes.services as usize);
            let chunks = table.parse::<usize>().unwrap().div_ceil(abi::MAGLEV_CHUNK);
            assert!(limits.tables * chunks <= sizes.maglev as usize);
            assert!(limits.tables >= 64, "{max} {table}: {}", limits.tables);
        }
    }
}
