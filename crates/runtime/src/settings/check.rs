//! What values of the agent's settings do not go together.
use super::{DsrDispatch, IpamMode, RoutingMode, Settings, SettingsError, TunnelProtocol};

/// Whether the frontends of services get to the nodes of backends where those answer.
fn check_dispatch(settings: &Settings) -> Result<(), SettingsError> {
    if !settings.answers_directly() {
        return Ok(());
    }
    let by_tunnel = settings.routing_mode == RoutingMode::Tunnel;
    let why = match (settings.bpf_lb_dsr_dispatch, settings.tunnel_protocol) {
        (DsrDispatch::Opt, _) if by_tunnel => {
            "bpf-lb-mode or bpf-lb-mode-annotation asks for direct answers, but bpf-lb-dsr-dispatch=opt does not go with \
             routing-mode=tunnel; accepted: bpf-lb-dsr-dispatch=geneve with tunnel-protocol=geneve, or routing-mode=native"
        }
        (DsrDispatch::Geneve, TunnelProtocol::Vxlan) => {
            "bpf-lb-dsr-dispatch is geneve, but tunnel-protocol is vxlan; accepted with it: geneve"
        }
        _ => return Ok(()),
    };
    Err(SettingsError::Conflict(why.to_owned()))
}

/// Values that exclude each other, or leave no room.
pub(super) fn check(settings: &Settings) -> Result<(), SettingsError> {
    let conflict = |text: &str| Err(SettingsError::Conflict(text.to_owned()));
    if !settings.enable_ipv4 && !settings.enable_ipv6 {
        return conflict(
            "enable-ipv4 and enable-ipv6 are both false; pods need at least one family",
        );
    }
    let (lease, renew, retry) = (
        settings.l2_announcements_lease_duration,
        settings.l2_announcements_renew_deadline,
        settings.l2_announcements_retry_period,
    );
    if lease <= renew || renew <= retry || retry.is_zero() {
        return conflict(&format!(
            "l2-announcements-lease-duration ({lease:?}) must be greater than l2-announcements-renew-deadline ({renew:?}), and that greater than l2-announcements-retry-period ({retry:?})"
        ));
    }
    let port = !settings.hubble_listen_address.is_empty() && !settings.hubble_disable_tls;
    let files = [
        &settings.hubble_tls_cert_file,
        &settings.hubble_tls_key_file,
    ];
    if settings.enable_hubble && port && files.iter().any(|file| file.is_empty()) {
        return conflict(
            "hubble-listen-address is given without hubble-tls-cert-file and hubble-tls-key-file; accepted: both files, or hubble-disable-tls=true",
        );
    }
    if !settings.hubble_redact_http_headers_allow.is_empty()
        && !settings.hubble_redact_http_headers_deny.is_empty()
    {
        return conflict(
            "hubble-redact-http-headers-allow and hubble-redact-http-headers-deny are both given; accepted: one of them",
        );
    }
    if settings.node_port_range.last == u16::MAX {
        return conflict("node-port-range leaves no ports for masquerading; end it below 65535");
    }
    if settings.enable_nat46x64_gateway && !(settings.enable_ipv4 && settings.enable_ipv6) {
        return conflict("enable-nat46x64-gateway needs enable-ipv4 and enable-ipv6 to be true");
    }
    if settings.k8s_require_ipv4_pod_cidr && !settings.enable_ipv4 {
        return conflict("k8s-require-ipv4-pod-cidr is true, but enable-ipv4 is false");
    }
    if settings.k8s_require_ipv6_pod_cidr && !settings.enable_ipv6 {
        return conflict("k8s-require-ipv6-pod-cidr is true, but enable-ipv6 is false");
    }
    if settings.ipam != IpamMode::Kubernetes
        && !settings.auto_create_cilium_node_resource
        && settings.ipam != IpamMode::Crd
    {
        return conflict(
            "auto-create-cilium-node-resource is false, but ipam needs the CiliumNode; accepted with it: kubernetes, crd",
        );
    }
    if settings.bpf_lb_map_max < 256 {
        return conflict("bpf-lb-map-max is below 256, which leaves no room for services");
    }
    check_dispatch(settings)?;
    if settings.bpf_policy_map_max < 256 {
        return conflict("bpf-policy-map-max is below 256, which leaves no room for policies");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of the mode `dsr` with these further settings: nothing, or the line that refuses them.
    fn refused(further: &[(&str, &str)]) -> Option<String> {
        let mut settings = Settings::default();
        let all = [("kube-proxy-replacement", "true"), ("bpf-lb-mode", "dsr")];
        for (key, value) in all.iter().chain(further) {
            settings.set(key, value, "test").unwrap();
        }
        check(&settings).err().map(|error| error.to_string())
    }

    #[test]
    fn direct_answers_need_a_way_to_tell_the_frontend() {
        let native = ("routing-mode", "native");
        let geneve = ("bpf-lb-dsr-dispatch", "geneve");
        let by_geneve = ("tunnel-protocol", "geneve");
        for fine in [
            &[native][..],
            &[geneve, by_geneve],
            &[geneve, by_geneve, native],
            &[("bpf-lb-mode", "snat")],
            &[("kube-proxy-replacement", "false")],
        ] {
            assert_eq!(refused(fine), None, "{fine:?}");
        }
        for wrong in [
            &[][..],
            &[("bpf-lb-mode", "hybrid")],
            &[by_geneve],
            &[("bpf-lb-mode", "snat"), ("bpf-lb-mode-annotation", "true")],
            &[geneve],
            &[geneve, native],
        ] {
            let line = refused(wrong).unwrap_or_else(|| panic!("{wrong:?} is accepted"));
            let says = line.contains("bpf-lb-dsr-dispatch") && line.contains("accepted");
            assert!(says && !line.contains('\n'), "{line}");
        }
    }
}
