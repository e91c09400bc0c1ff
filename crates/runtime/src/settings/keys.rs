//! Every key of the agent: name, type, default and the text that `--help` and the docs show.
use super::{
    check::check,
    define::settings,
    shape,
    value::{PortRange, Ratio, words},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{collections::BTreeMap, time::Duration};

words! {
    /// How packets reach pods on other nodes.
    RoutingMode, "tunnel or native" {
        /// Encapsulated between nodes.
        Tunnel = "tunnel",
        /// Routed by the network.
        Native = "native",
    }
}

words! {
    /// Encapsulation between nodes.
    TunnelProtocol, "vxlan or geneve" {
        /// VXLAN, UDP 8472.
        Vxlan = "vxlan",
        /// Geneve, UDP 6081.
        Geneve = "geneve",
    }
}

words! {
    /// How many packets the datapath reports.
    MonitorAggregation, "none, lowest, low, medium or maximum" {
        /// Every packet at every point.
        None = "none" | "disabled",
        /// Every packet, but not where it is received.
        Lowest = "lowest",
        /// As `lowest`.
        Low = "low",
        /// Per connection: first packet, new TCP flags, once per interval.
        Medium = "medium",
        /// As `medium`.
        Maximum = "maximum" | "max",
    }
}

words! {
    /// Kind of device between pod and node.
    DatapathMode, "veth or netkit-l2 (netkit is not built yet)" {
        /// A pair of virtual Ethernet devices.
        Veth = "veth",
        /// A netkit pair without link-layer addresses.
        Netkit = "netkit",
        /// A netkit pair with link-layer addresses.
        NetkitL2 = "netkit-l2",
    }
}

words! {
    /// Where pod addresses come from.
    IpamMode, "kubernetes, cluster-pool, multi-pool or crd" {
        /// The node object's pod CIDRs.
        Kubernetes = "kubernetes",
        /// One range per family from the operator.
        ClusterPool = "cluster-pool" | "cluster-pool-v2beta",
        /// Ranges of several pools from the operator, as pods need them.
        MultiPool = "multi-pool",
        /// Single addresses that somebody lists in the CiliumNode.
        Crd = "crd",
    }
}

words! {
    /// Who makes the objects that give labels their numbers.
    IdentityManagement, "agent, operator or both" {
        /// The agents, as they meet labels.
        Agent = "agent",
        /// The operator, from pods and namespaces.
        Operator = "operator",
        /// Whoever is first, while one takes over from the other.
        Both = "both",
    }
}

words! {
    /// Where identities are kept.
    IdentityAllocation, "crd (key-value stores are not built yet)" {
        /// In CiliumIdentity objects.
        Crd = "crd",
    }
}

words! {
    /// When policy is enforced.
    PolicyMode, "default, always or never" {
        /// For whom a policy selects.
        Default = "default",
        /// For every endpoint.
        Always = "always",
        /// For nobody.
        Never = "never",
    }
}

words! {
    /// Whether the host reaches its pods whatever policies say.
    AllowLocalhost, "auto, always or policy" {
        /// It does.
        Auto = "auto",
        /// It does.
        Always = "always",
        /// Policies say.
        Policy = "policy",
    }
}

words! {
    /// What rules on addresses match beside what is outside the cluster.
    CidrMatchMode, "nothing, or nodes" {
        /// Nothing.
        World = "",
        /// Nodes.
        Nodes = "nodes",
    }
}

words! {
    /// The answer to DNS questions that no rule allows.
    DnsRefusal, "refused or nameError" {
        /// REFUSED.
        Refused = "refused",
        /// NXDOMAIN.
        NameError = "nameError",
    }
}

words! {
    /// How a backend is chosen.
    LbAlgorithm, "random or maglev" {
        /// Any of them.
        Random = "random",
        /// By consistent hashing, alike on all nodes.
        Maglev = "maglev",
    }
}

words! {
    /// How packets from outside get to a backend on another node.
    LbMode, "snat, dsr or hybrid" {
        /// With this node's address as source.
        Snat = "snat",
        /// With the client's address: the backend's node answers by itself.
        Dsr = "dsr",
        /// `dsr` for TCP, `snat` for the rest.
        Hybrid = "hybrid",
    }
}

words! {
    /// How the other node learns the frontend's address where it answers by itself.
    DsrDispatch, "opt or geneve (ipip is not built)" {
        /// From an IPv4 option or an IPv6 extension header.
        Opt = "opt",
        /// From an option of a Geneve tunnel.
        Geneve = "geneve",
    }
}

words! {
    /// Whether services are balanced in XDP.
    LbAcceleration, "disabled, native, best-effort or testing-only" {
        /// They are not.
        Disabled = "disabled",
        /// In the devices' drivers.
        Native = "native",
        /// In the drivers that can.
        BestEffort = "best-effort",
        /// In the network stack.
        Generic = "testing-only" | "generic",
    }
}

words! {
    /// What clients of a service without backends get.
    NoBackend, "reject or drop" {
        /// An answer at once.
        Reject = "reject",
        /// No answer.
        Drop = "drop",
    }
}

settings! {
    /// Every setting of the agent with its value.
    Settings of "agent", checked by check;

    /// Directory with one file per key, as Kubernetes mounts a ConfigMap.
    "config-dir" config_dir: String = String::new();
    /// ConfigMap that is read from the API server at start, and the CiliumNodeConfigs that select this node, which stand above it; nothing: none is read.
    "config-map" config_map: String [shape::OBJECT] = String::new();
    /// Namespace of the ConfigMap and the CiliumNodeConfigs.
    "k8s-namespace" k8s_namespace: String [shape::OBJECT] = "kube-system".to_owned();
    /// YAML file of keys and values; stands above config-dir, below environment and flags.
    "config" config: String = String::new();
    /// Name of this node's object in Kubernetes; the environment's K8S_NODE_NAME stands in, then the host name.
    "node-name" node_name: String = String::new();
    /// Name of this cluster, part of every pod's identity.
    "cluster-name" cluster_name: String [shape::NAME] = "default".to_owned();
    /// Number of this cluster; 0 where there is only one.
    "cluster-id" cluster_id: u16 [shape::CLUSTER_ID] = 0;

    /// Which labels make a pod's identity, beside those built in: [!][source:]expression, separated by spaces; the longest match counts, ! leaves out. One without ! keeps only what some expression names.
    "labels" labels: String = String::new();
    /// Numbers from 128 to 255 for pods with the label io.cilium.fixed-identity, as 128=store,129=dns.
    "fixed-identity-mapping" fixed_identity_mapping: String = String::new();
    /// Where identities are kept.
    "identity-allocation-mode" identity_allocation_mode: IdentityAllocation = IdentityAllocation::Crd;
    /// Who makes CiliumIdentities: the agents, the operator, or both while one takes over from the other.
    "identity-management-mode" identity_management_mode: IdentityManagement = IdentityManagement::Agent;
    /// How long a pod whose labels changed keeps its old identity if the new one was just made: other nodes hear of it meanwhile.
    "identity-change-grace-period" identity_change_grace_period: Duration = Duration::from_secs(5);
    /// How long identities of address ranges from before a restart are kept for whoever needs them again.
    "identity-restore-grace-period" identity_restore_grace_period: Duration = Duration::from_secs(30);
    /// Read the endpoints of other nodes from CiliumEndpointSlices, which the operator writes, not from CiliumEndpoints.
    "enable-cilium-endpoint-slice" enable_cilium_endpoint_slice: bool = false;
    /// Give nodes identities by their labels, so that rules can select them.
    "enable-node-selector-labels" enable_node_selector_labels: bool = false;
    /// Which labels of nodes make their identities, as for labels; nothing: those of pods, built in.
    "node-labels" node_labels: String = String::new();

    /// Kubeconfig file with the API server's address and credentials; nothing: the pod's service account.
    "k8s-kubeconfig-path" k8s_kubeconfig_path: String = String::new();
    /// URL of the API server, as http://192.0.2.1:6443, without credentials; stands above k8s-kubeconfig-path.
    "k8s-api-server" k8s_api_server: String [shape::URL] = String::new();
    /// Requests per second to the API server; 0: no limit.
    "k8s-client-qps" k8s_client_qps: u32 = 10;
    /// Requests to the API server that may follow each other at once after a pause.
    "k8s-client-burst" k8s_client_burst: u32 = 20;
    /// Wait at start until the node object has an IPv4 pod CIDR. When off, the agent waits for a CIDR of any enabled family.
    "k8s-require-ipv4-pod-cidr" k8s_require_ipv4_pod_cidr: bool = false;
    /// Wait at start until the node object has an IPv6 pod CIDR. When off, the agent waits for a CIDR of any enabled family.
    "k8s-require-ipv6-pod-cidr" k8s_require_ipv6_pod_cidr: bool = false;

    /// Give pods IPv4 addresses.
    "enable-ipv4" enable_ipv4: bool = true;
    /// Give pods IPv6 addresses.
    "enable-ipv6" enable_ipv6: bool = true;
    /// Where pod addresses come from: the pod CIDRs of the node object (kubernetes), one range per family from the operator (cluster-pool), ranges of several pools as pods need them (multi-pool), or addresses listed in the CiliumNode (crd).
    "ipam" ipam: IpamMode = IpamMode::Kubernetes;
    /// Addresses to keep in reserve, by pool, in the multi-pool mode.
    "ipam-multi-pool-pre-allocation" ipam_multi_pool_pre_allocation: BTreeMap<String, String> [shape::COUNTS] = BTreeMap::from([("default".to_owned(), "8".to_owned())]);
    /// Pool of pods that ask for none, in the multi-pool mode.
    "ipam-default-ip-pool" ipam_default_ip_pool: String [shape::NAME] = "default".to_owned();
    /// Least time between two reports of the addresses in use to the CiliumNode, in the crd mode.
    "ipam-cilium-node-update-rate" ipam_cilium_node_update_rate: Duration = Duration::from_secs(15);
    /// Make the CiliumNode of this node, and keep it up to date.
    "auto-create-cilium-node-resource" auto_create_cilium_node_resource: bool = true;
    /// Make no CiliumEndpoint objects.
    "disable-endpoint-crd" disable_endpoint_crd: bool = false;

    /// When policy is enforced: for whom a policy selects (default), for every endpoint (always), for nobody (never).
    "enable-policy" enable_policy: PolicyMode = PolicyMode::Default;
    /// Forward what policies deny, and report it.
    "policy-audit-mode" policy_audit_mode: bool = false;
    /// Let the host reach its pods whatever policies say (auto, always), or as they say (policy).
    "allow-localhost" allow_localhost: AllowLocalhost = AllowLocalhost::Auto;
    /// Enforce the policies that are about nodes on this node.
    "enable-host-firewall" enable_host_firewall: bool = false;
    /// Enforce what policies say of requests: connections that such rules are about go by way of the proxy.
    "enable-l7-proxy" enable_l7_proxy: bool = true;
    /// The only namespace that the agent reads Secrets of, for what policies say of certificates and headers; nothing: none.
    "policy-secrets-namespace" policy_secrets_namespace: String [shape::OBJECT] = "cilium-secrets".to_owned();
    /// The answer of the proxy to DNS questions that no rule allows.
    "tofqdns-dns-reject-response-code" tofqdns_dns_reject_response_code: DnsRefusal = DnsRefusal::Refused;
    /// Seconds for which the addresses of names count at least (toFQDNs), whatever their answers say.
    "tofqdns-min-ttl" tofqdns_min_ttl: u32 = 0;
    /// Addresses of one name that count for an endpoint (toFQDNs); of more, those that have most time left.
    "tofqdns-endpoint-max-ip-per-hostname" tofqdns_endpoint_max_ip_per_hostname: u32 = 1000;
    /// Addresses of an endpoint that count beyond their time since it has connections to them (toFQDNs).
    "tofqdns-max-deferred-connection-deletes" tofqdns_max_deferred_connection_deletes: u32 = 10_000;
    /// How long an address counts beyond its time after its last connection (toFQDNs).
    "tofqdns-idle-connection-grace-period" tofqdns_idle_connection_grace_period: Duration = Duration::ZERO;
    /// How long a DNS answer waits at most until connections to its addresses are let through (toFQDNs).
    "tofqdns-proxy-response-max-delay" tofqdns_proxy_response_max_delay: Duration = Duration::from_millis(100);
    /// What rules on addresses match beside what is outside the cluster: nodes, or nothing.
    "policy-cidr-match-mode" policy_cidr_match_mode: CidrMatchMode = CidrMatchMode::World;
    /// Take what rules say of enableDefaultDeny. When off, a rule with entries in a direction denies there what no rule allows.
    "enable-non-default-deny-policies" enable_non_default_deny_policies: bool = true;
    /// Enforce the NetworkPolicies of Kubernetes.
    "enable-k8s-networkpolicy" enable_k8s_networkpolicy: bool = true;
    /// Directory with files of policies for this node alone; nothing: there are none.
    "static-cnp-path" static_cnp_path: String [shape::PATH_OR_NOTHING] = String::new();
    /// Cut off endpoints whose policies do not fit the policy map. When off, they keep the last ones that did.
    "enable-endpoint-lockdown-on-policy-overflow" enable_endpoint_lockdown_on_policy_overflow: bool = false;
    /// Rows of the policy map, which all endpoints of the node share.
    "bpf-policy-map-max" bpf_policy_map_max: u32 = 262_144;

    /// How packets reach pods on other nodes: encapsulated (tunnel), or routed by the network (native).
    "routing-mode" routing_mode: RoutingMode = RoutingMode::Tunnel;
    /// Encapsulation of the tunnel routing mode.
    "tunnel-protocol" tunnel_protocol: TunnelProtocol = TunnelProtocol::Vxlan;
    /// UDP port of the tunnel; 0: 8472 for VXLAN, 6081 for Geneve.
    "tunnel-port" tunnel_port: u16 = 0;
    /// Native routing: install routes to the pod CIDRs of nodes on the same L2 network. Other nodes are skipped with a warning.
    "auto-direct-node-routes" auto_direct_node_routes: bool = false;
    /// Do not warn of nodes that auto-direct-node-routes cannot reach.
    "direct-routing-skip-unreachable" direct_routing_skip_unreachable: bool = false;
    /// IPv4 destinations that are reached without masquerading in native routing mode; nothing: this node's pod CIDR.
    "ipv4-native-routing-cidr" ipv4_native_routing_cidr: Option<Ipv4Net> = None;
    /// IPv6 destinations that are reached without masquerading in native routing mode; nothing: this node's pod CIDR.
    "ipv6-native-routing-cidr" ipv6_native_routing_cidr: Option<Ipv6Net> = None;
    /// Give packets from pods to destinations outside the cluster the node's IPv4 address.
    "enable-ipv4-masquerade" enable_ipv4_masquerade: bool = true;
    /// Give packets from pods to destinations outside the cluster the node's IPv6 address.
    "enable-ipv6-masquerade" enable_ipv6_masquerade: bool = true;
    /// Masquerade in eBPF. There is no other way yet: false switches masquerading off.
    "enable-bpf-masquerade" enable_bpf_masquerade: bool = true;
    /// First and last port of services on nodes; masquerading uses the ports above.
    "node-port-range" node_port_range: PortRange = PortRange { first: 30000, last: 32767 };

    /// Serve all services: the node needs no kube-proxy. When off, none is served.
    "kube-proxy-replacement" kube_proxy_replacement: bool = false;
    /// Address and port of GET /healthz for what asks kube-proxy for it, as 0.0.0.0:10256; nothing: not served.
    "kube-proxy-replacement-healthz-bind-address" kube_proxy_replacement_healthz_bind_address: String [shape::LISTEN] = String::new();
    /// Serve services whose label service.kubernetes.io/service-proxy-name has this value; nothing: those without that label.
    "k8s-service-proxy-name" k8s_service_proxy_name: String [shape::LABEL_VALUE] = String::new();
    /// Translate the sockets of the host alone. The packets of pods are translated one by one: for those that redirect their own connections.
    "bpf-lb-sock-hostns-only" bpf_lb_sock_hostns_only: bool = false;
    /// Root of the control groups (cgroup v2) of all processes of the node: services are translated at their sockets.
    "cgroup-root" cgroup_root: String [shape::PATH] = "/run/cilium/cgroupv2".to_owned();
    /// Processes of the node cannot bind a port at which a service is served there.
    "node-port-bind-protection" node_port_bind_protection: bool = true;
    /// How a backend is chosen for what comes from outside.
    "bpf-lb-algorithm" bpf_lb_algorithm: LbAlgorithm = LbAlgorithm::Random;
    /// Services may choose their algorithm by the annotation service.cilium.io/lb-algorithm.
    "bpf-lb-algorithm-annotation" bpf_lb_algorithm_annotation: bool = false;
    /// How packets from outside get to a backend on another node: with this node's address (snat), with the client's (dsr), or with the client's for TCP alone (hybrid).
    "bpf-lb-mode" bpf_lb_mode: LbMode = LbMode::Snat;
    /// Services may choose their mode by the annotation service.cilium.io/forwarding-mode.
    "bpf-lb-mode-annotation" bpf_lb_mode_annotation: bool = false;
    /// How the node of the backend learns the frontend's address in the mode dsr: by an IP option (opt), or from the tunnel (geneve).
    "bpf-lb-dsr-dispatch" bpf_lb_dsr_dispatch: DsrDispatch = DsrDispatch::Opt;
    /// Balance what comes from outside in XDP.
    "bpf-lb-acceleration" bpf_lb_acceleration: LbAcceleration = LbAcceleration::Disabled;
    /// Places of a Maglev table: about 100 for each backend of the largest service, the same on all nodes.
    "bpf-lb-maglev-table-size" bpf_lb_maglev_table_size: u32 [shape::MAGLEV] = 16_381;
    /// Seed of Maglev tables, the same on all nodes.
    "bpf-lb-maglev-hash-seed" bpf_lb_maglev_hash_seed: String [shape::SEED] = "JLfvgnHc2kaSUFaI".to_owned();
    /// Rows of each map of services: one for each address, frontend and slot of a frontend, per family.
    "bpf-lb-map-max" bpf_lb_map_max: u32 [shape::SOME] = 65_536;
    /// Serve addresses in the cluster to what comes from outside, too.
    "bpf-lb-external-clusterip" bpf_lb_external_clusterip: bool = false;
    /// Check source ranges of services at all that is served to the outside, not at addresses of load balancers alone.
    "bpf-lb-source-range-all-types" bpf_lb_source_range_all_types: bool = false;
    /// Ranges of the node's addresses at which node ports are served; nothing: the first of each device and family.
    "nodeport-addresses" nodeport_addresses: Vec<IpNet> = Vec::new();
    /// Clients keep their backend where a service says so.
    "enable-session-affinity" enable_session_affinity: bool = true;
    /// Refuse clients outside the source ranges of a service.
    "enable-svc-source-range-check" enable_svc_source_range_check: bool = true;
    /// Prefer the backends that EndpointSlices hint at.
    "enable-service-topology" enable_service_topology: bool = false;
    /// Follow internalTrafficPolicy of services.
    "enable-internal-traffic-policy" enable_internal_traffic_policy: bool = true;
    /// Backends that are about to end serve where nothing else does.
    "enable-k8s-terminating-endpoint" enable_k8s_terminating_endpoint: bool = true;
    /// Answer health checks of load balancers at the healthCheckNodePort of services.
    "enable-health-check-nodeport" enable_health_check_nodeport: bool = true;
    /// Follow CiliumLocalRedirectPolicies.
    "enable-local-redirect-policy" enable_local_redirect_policy: bool = false;
    /// Answer neighbours that ask for addresses of services, as CiliumL2AnnouncementPolicies say.
    "enable-l2-announcements" enable_l2_announcements: bool = false;
    /// How long other nodes wait after the last sign of life of the node that answers.
    "l2-announcements-lease-duration" l2_announcements_lease_duration: Duration = Duration::from_secs(15);
    /// How long the node that answers tries to renew its lease before it stops answering.
    "l2-announcements-renew-deadline" l2_announcements_renew_deadline: Duration = Duration::from_secs(5);
    /// Time between two tries to get or renew a lease of announcements.
    "l2-announcements-retry-period" l2_announcements_retry_period: Duration = Duration::from_secs(2);
    /// Services of one family may have backends of the other.
    "enable-nat46x64-gateway" enable_nat46x64_gateway: bool = false;
    /// What clients of a service without backends get: an answer at once (reject), or none (drop).
    "service-no-backend-response" service_no_backend_response: NoBackend = NoBackend::Reject;

    /// Devices that join the node to its network; eth+ means all whose names begin with eth. Nothing: those of the default routes.
    "devices" devices: Vec<String> [shape::DEVICES] = Vec::new();
    /// MTU of pods; 0: the smallest of the devices'.
    "mtu" mtu: u32 [shape::MTU] = 0;
    /// Kind of device between pod and node.
    "datapath-mode" datapath_mode: DatapathMode [shape::DEVICE_KIND] = DatapathMode::Veth;
    /// Packets of pods take the node's network stack, not the eBPF fast path.
    "enable-host-legacy-routing" enable_host_legacy_routing: bool = false;
    /// Attach by tcx where the kernel has it; off: always by a clsact filter.
    "enable-tcx" enable_tcx: bool = true;

    /// How many packets are reported.
    "monitor-aggregation" monitor_aggregation: MonitorAggregation = MonitorAggregation::Medium;
    /// Time between two reports of one busy connection.
    "monitor-aggregation-interval" monitor_aggregation_interval: Duration = Duration::from_secs(5);
    /// Report how services are translated at sockets.
    "trace-sock" trace_sock: bool = true;

    /// Keep the node's flows, and serve them to Hubble clients.
    "enable-hubble" enable_hubble: bool = false;
    /// Socket at which flows are served on the node; nothing: hubble.sock in the state directory.
    "hubble-socket-path" hubble_socket_path: String [shape::PATH_OR_NOTHING] = String::new();
    /// Address at which flows are served to relays, as :4244; nothing: at the socket alone.
    "hubble-listen-address" hubble_listen_address: String [shape::LISTEN] = String::new();
    /// Serve flows to relays in the clear, to anybody.
    "hubble-disable-tls" hubble_disable_tls: bool = false;
    /// Certificate of the flow server, in PEM; read again when it changes.
    "hubble-tls-cert-file" hubble_tls_cert_file: String [shape::PATH_OR_NOTHING] = String::new();
    /// Key of that certificate.
    "hubble-tls-key-file" hubble_tls_key_file: String [shape::PATH_OR_NOTHING] = String::new();
    /// Authorities whose certificates relays have to show; nothing: anybody may read flows.
    "hubble-tls-client-ca-files" hubble_tls_client_ca_files: Vec<String> [shape::PATHS] = Vec::new();
    /// How many flows are kept: a power of two less one.
    "hubble-event-buffer-capacity" hubble_event_buffer_capacity: u32 [shape::RING] = 4095;
    /// Which kinds of events become flows: drop, trace, policy-verdict, trace-sock, l7, agent; nothing: all.
    "hubble-monitor-events" hubble_monitor_events: Vec<String> [shape::MONITOR_EVENTS] = Vec::new();
    /// What is counted of flows, with blanks between items as drop or dns:query;ignoreAAAA; nothing: nothing is.
    "hubble-metrics" hubble_metrics: String [shape::METRICS] = String::new();
    /// Address at which those counts are served, as :9965; nothing: they are not.
    "hubble-metrics-server" hubble_metrics_server: String [shape::LISTEN] = String::new();
    /// File to which flows are exported as lines of JSON, or stdout; nothing: they are not.
    "hubble-export-file-path" hubble_export_file_path: String [shape::EXPORT] = String::new();
    /// Collector of OpenTelemetry to which flows are exported as log records, as http://192.0.2.1:4318/v1/logs; nothing: they are not.
    "hubble-export-otlp-endpoint" hubble_export_otlp_endpoint: String [shape::COLLECTOR] = String::new();
    /// Size in MB at which another file is begun.
    "hubble-export-file-max-size-mb" hubble_export_file_max_size_mb: u32 [shape::SOME] = 10;
    /// Older files that are kept.
    "hubble-export-file-max-backups" hubble_export_file_max_backups: u32 = 5;
    /// Flows that are exported: filters as JSON objects with blanks between them; nothing: all.
    "hubble-export-allowlist" hubble_export_allowlist: String [shape::FILTERS] = String::new();
    /// Flows of those that are left out, as the allowlist.
    "hubble-export-denylist" hubble_export_denylist: String [shape::FILTERS] = String::new();
    /// Fields of flows that are exported, as source.pod_name; nothing: all.
    "hubble-export-fieldmask" hubble_export_fieldmask: Vec<String> [shape::FIELDS] = Vec::new();
    /// File that says which flows are exported where; looked at again and again; nothing: none is.
    "hubble-flowlogs-config-path" hubble_flowlogs_config_path: String [shape::PATH_OR_NOTHING] = String::new();
    /// File that says what is counted of flows, in place of hubble-metrics; looked at again and again.
    "hubble-dynamic-metrics-config-path" hubble_dynamic_metrics_config_path: String [shape::PATH_OR_NOTHING] = String::new();
    /// Name the traces of requests beside their counts.
    "enable-hubble-open-metrics" enable_hubble_open_metrics: bool = false;
    /// Take out of requests what nobody is to read.
    "hubble-redact-enabled" hubble_redact_enabled: bool = false;
    /// What follows the question mark of URLs is taken out.
    "hubble-redact-http-urlquery" hubble_redact_http_urlquery: bool = false;
    /// Passwords in URLs are taken out.
    "hubble-redact-http-userinfo" hubble_redact_http_userinfo: bool = true;
    /// Headers that keep their values; nothing, nor in the other list: none does.
    "hubble-redact-http-headers-allow" hubble_redact_http_headers_allow: Vec<String> [shape::HEADERS] = Vec::new();
    /// Headers whose values are taken out, others keep theirs.
    "hubble-redact-http-headers-deny" hubble_redact_http_headers_deny: Vec<String> [shape::HEADERS] = Vec::new();
    /// API keys of Kafka are taken out.
    "hubble-redact-kafka-apikey" hubble_redact_kafka_apikey: bool = false;
    /// Let whoever may use the agent's own API capture packets.
    "enable-hubble-capture" enable_hubble_capture: bool = false;
    /// Tell relays the IPv6 addresses of nodes where they have both.
    "hubble-prefer-ipv6" hubble_prefer_ipv6: bool = false;

    /// Time between two sweeps of the connection table; 0: adapts to what the last sweep found.
    "conntrack-gc-interval" conntrack_gc_interval: Duration = Duration::ZERO;
    /// Life of an idle established TCP connection.
    "bpf-ct-timeout-regular-tcp" bpf_ct_timeout_regular_tcp: Duration = Duration::from_secs(8000);
    /// Life of a TCP connection of which only the first packet was seen.
    "bpf-ct-timeout-regular-tcp-syn" bpf_ct_timeout_regular_tcp_syn: Duration = Duration::from_secs(60);
    /// Life of a TCP connection that is closing.
    "bpf-ct-timeout-regular-tcp-fin" bpf_ct_timeout_regular_tcp_fin: Duration = Duration::from_secs(10);
    /// Life of an idle connection of other protocols.
    "bpf-ct-timeout-regular-any" bpf_ct_timeout_regular_any: Duration = Duration::from_secs(60);
    /// Count packets and bytes per connection.
    "bpf-conntrack-accounting" bpf_conntrack_accounting: bool = false;
    /// Share of the machine's memory for the big maps where their size is not given; 0: fixed sizes.
    "bpf-map-dynamic-size-ratio" bpf_map_dynamic_size_ratio: Ratio = Ratio(0.0025);
    /// Connections per family (all protocols share one map here); 0: by bpf-map-dynamic-size-ratio.
    "bpf-ct-global-tcp-max" bpf_ct_global_tcp_max: u32 = 0;
    /// Masquerade mappings per family; 0: by bpf-map-dynamic-size-ratio.
    "bpf-nat-global-max" bpf_nat_global_max: u32 = 0;
    /// Fragmented datagrams remembered per family.
    "bpf-fragments-map-max" bpf_fragments_map_max: u32 [shape::SOME] = 8192;
    /// Where the bpf file system is mounted; it is mounted there if it is not.
    "bpf-root" bpf_root: String [shape::PATH] = "/sys/fs/bpf".to_owned();
    /// Load the programs from this file, not those built in: for development. Nothing: those built in.
    "bpf-object" bpf_object: String = String::new();

    /// Directory of the agent's socket and state.
    "state-dir" state_dir: String [shape::PATH] = "/var/run/cilium".to_owned();
    /// Path of the API socket; nothing: cilium.sock in the state directory.
    "socket-path" socket_path: String = String::new();
    /// Take endpoints over from before a restart. Off: they are cleaned away.
    "restore" restore: bool = true;
    /// CNI configuration that is written once pods can be served; nothing: none is written.
    "write-cni-conf-when-ready" write_cni_conf_when_ready: String [shape::PATH_OR_NOTHING] = "/etc/cni/net.d/05-cilium.conflist".to_owned();
    /// Rename CNI configurations of others, so that ours is the only one.
    "cni-exclusive" cni_exclusive: bool = true;
    /// Log file of the CNI plugin; nothing: cilium-cni.log in the state directory.
    "cni-log-file" cni_log_file: String [shape::PATH_OR_NOTHING] = String::new();

    /// Address for Prometheus, as :9962; nothing: metrics are not served.
    "prometheus-serve-addr" prometheus_serve_addr: String [shape::LISTEN] = String::new();
    /// Port of GET /healthz on 127.0.0.1; 0: not served.
    "agent-health-port" agent_health_port: u16 = 9879;
    /// Log more.
    "debug" debug: bool = false;
    /// How to log: level=error|warn|info|debug|trace and format=text|json.
    "log-opt" log_opt: BTreeMap<String, String> [shape::LOG] = BTreeMap::new();
}

impl Settings {
    /// Whether the nodes of backends may have to answer clients of other nodes themselves.
    #[must_use]
    pub fn answers_directly(&self) -> bool {
        let asked = self.bpf_lb_mode != LbMode::Snat || self.bpf_lb_mode_annotation;
        self.kube_proxy_replacement && asked
    }
}
