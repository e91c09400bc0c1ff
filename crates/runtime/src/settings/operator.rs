//! Every key of the operator. It shares its ConfigMap with the agent.
use super::{IdentityManagement, IpamMode, SettingsError, define::settings, shape, value::words};
use ipnet::IpNet;
use std::{collections::BTreeMap, time::Duration};

words! {
    /// Which endpoints share a slice.
    SliceMode, "identity or fcfs" {
        /// Those of one identity.
        Identity = "identity",
        /// Those that come one after the other.
        Fcfs = "fcfs",
    }
}

words! {
    /// Who gives addresses to services of the type LoadBalancer that name no class.
    LbServiceIpam, "lbipam, nodeipam or none" {
        /// Pools.
        Pools = "lbipam",
        /// Nodes: their own.
        Nodes = "nodeipam",
        /// Somebody else.
        Nobody = "none",
    }
}

settings! {
    /// Every setting of the operator with its value.
    OperatorSettings of "operator", checked by check;

    /// Directory with one file per key, as Kubernetes mounts a ConfigMap.
    "config-dir" config_dir: String = String::new();
    /// ConfigMap that is read from the API server at start; nothing: none is read.
    "config-map" config_map: String [shape::OBJECT] = String::new();
    /// Namespace of the ConfigMap and of the leader's lease.
    "k8s-namespace" k8s_namespace: String [shape::OBJECT] = "kube-system".to_owned();
    /// YAML file of keys and values; stands above config-dir and config-map, below environment and flags.
    "config" config: String = String::new();

    /// Kubeconfig file with the API server's address and credentials; nothing: the pod's service account.
    "k8s-kubeconfig-path" k8s_kubeconfig_path: String = String::new();
    /// URL of the API server, as http://192.0.2.1:6443, without credentials; stands above k8s-kubeconfig-path.
    "k8s-api-server" k8s_api_server: String [shape::URL] = String::new();
    /// Requests per second to the API server; 0: no limit.
    "operator-k8s-client-qps" operator_k8s_client_qps: u32 = 100;
    /// Requests to the API server that may follow each other at once after a pause.
    "operator-k8s-client-burst" operator_k8s_client_burst: u32 = 200;
    /// Leave the custom resource definitions alone.
    "skip-crd-creation" skip_crd_creation: bool = false;

    /// Give pods IPv4 addresses.
    "enable-ipv4" enable_ipv4: bool = true;
    /// Give pods IPv6 addresses.
    "enable-ipv6" enable_ipv6: bool = true;
    /// Where pod addresses come from; the operator gives nodes their ranges in the modes cluster-pool and multi-pool.
    "ipam" ipam: IpamMode = IpamMode::ClusterPool;
    /// IPv4 ranges that nodes get their pod CIDRs from, in the cluster-pool mode; nothing: no IPv4 ranges are given.
    "cluster-pool-ipv4-cidr" cluster_pool_ipv4_cidr: Vec<IpNet> = Vec::new();
    /// Size of a node's IPv4 pod CIDR, as a prefix length.
    "cluster-pool-ipv4-mask-size" cluster_pool_ipv4_mask_size: u8 [shape::MASK4] = 24;
    /// IPv6 ranges that nodes get their pod CIDRs from, in the cluster-pool mode; nothing: no IPv6 ranges are given.
    "cluster-pool-ipv6-cidr" cluster_pool_ipv6_cidr: Vec<IpNet> = Vec::new();
    /// Size of a node's IPv6 pod CIDR, as a prefix length.
    "cluster-pool-ipv6-mask-size" cluster_pool_ipv6_mask_size: u8 [shape::MASK6] = 112;
    /// CiliumPodIPPools that are made at start in the multi-pool mode if they are not there, as {"default": "ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:27"}.
    "auto-create-cilium-pod-ip-pools" auto_create_cilium_pod_ip_pools: String = String::new();
    /// How many nodes are written to at the same time.
    "parallel-alloc-workers" parallel_alloc_workers: u32 [shape::SOME] = 50;

    /// Time between two looks for CiliumEndpoints without a pod; 0: never.
    "cilium-endpoint-gc-interval" cilium_endpoint_gc_interval: Duration = Duration::from_secs(300);
    /// Time between two looks for CiliumNodes without a node, which are removed when found twice; 0: never.
    "nodes-gc-interval" nodes_gc_interval: Duration = Duration::from_secs(300);
    /// Time between two looks for CiliumIdentities that nobody uses; 0: never.
    "identity-gc-interval" identity_gc_interval: Duration = Duration::from_secs(900);
    /// How long nobody must have used a CiliumIdentity before it is removed.
    "identity-heartbeat-timeout" identity_heartbeat_timeout: Duration = Duration::from_secs(1800);
    /// Time for which identity-gc-rate-limit holds.
    "identity-gc-rate-interval" identity_gc_rate_interval: Duration = Duration::from_secs(60);
    /// The most CiliumIdentities to remove per identity-gc-rate-interval.
    "identity-gc-rate-limit" identity_gc_rate_limit: u32 = 2500;

    /// Who makes CiliumIdentities: the agents, the operator, or both while one takes over from the other.
    "identity-management-mode" identity_management_mode: IdentityManagement = IdentityManagement::Agent;
    /// Which labels make a pod's identity, as for the agents.
    "labels" labels: String = String::new();
    /// Rules may select nodes by their labels, as for the agents.
    "enable-node-selector-labels" enable_node_selector_labels: bool = false;
    /// Agents enforce what policies say of requests, as for the agents.
    "enable-l7-proxy" enable_l7_proxy: bool = true;
    /// The only namespace that agents read Secrets of, as for the agents.
    "policy-secrets-namespace" policy_secrets_namespace: String [shape::OBJECT] = "cilium-secrets".to_owned();
    /// Copy Secrets that policies name from other namespaces there.
    "enable-policy-secrets-sync" enable_policy_secrets_sync: bool = true;
    /// Numbers from 128 to 255 for pods with the label io.cilium.fixed-identity, as for the agents.
    "fixed-identity-mapping" fixed_identity_mapping: String = String::new();
    /// Name of this cluster, part of every pod's identity.
    "cluster-name" cluster_name: String = "default".to_owned();
    /// Write CiliumEndpointSlices, from which agents read the endpoints of other nodes.
    "enable-cilium-endpoint-slice" enable_cilium_endpoint_slice: bool = false;
    /// Which endpoints share a slice: those of one identity, or those that come one after the other.
    "ces-slice-mode" ces_slice_mode: SliceMode = SliceMode::Identity;
    /// The most endpoints of a slice.
    "ces-max-ciliumendpoints-per-ces" ces_max_ciliumendpoints_per_ces: u32 = 100;
    /// Writes of slices per second; 0: by the number of nodes, 10, or 50 from 100 nodes on.
    "ces-write-qps-limit" ces_write_qps_limit: u32 = 0;
    /// Writes of slices that may follow each other at once after a pause; 0: by the number of nodes, 20, or 100 from 100 nodes on.
    "ces-write-qps-burst" ces_write_qps_burst: u32 = 0;

    /// Give services of the type LoadBalancer addresses out of CiliumLoadBalancerIPPools, once there is one.
    "enable-lb-ipam" enable_lb_ipam: bool = true;
    /// Give services of the class io.cilium/node the addresses of nodes.
    "enable-node-ipam" enable_node_ipam: bool = false;
    /// Who gives addresses to services of the type LoadBalancer that name no class.
    "default-lb-service-ipam" default_lb_service_ipam: LbServiceIpam = LbServiceIpam::Pools;

    /// Namespace of the agents' pods; nothing: that of k8s-namespace.
    "cilium-pod-namespace" cilium_pod_namespace: String [shape::OBJECT] = String::new();
    /// Labels of the agents' pods, as a selector.
    "cilium-pod-labels" cilium_pod_labels: String [shape::SELECTOR] = "k8s-app=cilium".to_owned();
    /// Key of the taint that keeps pods away from a node until its agent is ready.
    "agent-not-ready-taint-key" agent_not_ready_taint_key: String [shape::LABEL_KEY] = "node.cilium.io/agent-not-ready".to_owned();
    /// Take the taint agent-not-ready-taint-key off nodes of which the agent is ready.
    "remove-cilium-node-taints" remove_cilium_node_taints: bool = true;
    /// Set the condition NetworkUnavailable of nodes to False when their agent is ready.
    "set-cilium-is-up-condition" set_cilium_is_up_condition: bool = true;
    /// Seconds between two looks for pods that an agent should have connected and has not, which are restarted; 0: never.
    "unmanaged-pod-watcher-interval" unmanaged_pod_watcher_interval: u32 = 15;
    /// Labels of the pods that are restarted if no agent has connected them, as a selector.
    "pod-restart-selector" pod_restart_selector: String [shape::SELECTOR] = "k8s-app=kube-dns".to_owned();
    /// Renew the certificates of the flow API that the chart made, when two thirds of their time are over.
    "hubble-tls-auto-renew" hubble_tls_auto_renew: bool = false;
    /// Agents make no CiliumEndpoints: nobody can tell which pods are connected.
    "disable-endpoint-crd" disable_endpoint_crd: bool = false;

    /// How long other operators wait after the leader's last sign of life.
    "leader-election-lease-duration" leader_election_lease_duration: Duration = Duration::from_secs(15);
    /// How long the leader tries to renew its lease before it gives up.
    "leader-election-renew-deadline" leader_election_renew_deadline: Duration = Duration::from_secs(10);
    /// Time between two tries to get or renew the lease.
    "leader-election-retry-period" leader_election_retry_period: Duration = Duration::from_secs(2);

    /// Address of GET /healthz; nothing: not served.
    "operator-api-serve-addr" operator_api_serve_addr: String [shape::LISTEN] = "localhost:9234".to_owned();
    /// Address for Prometheus; nothing: metrics are not served.
    "operator-prometheus-serve-addr" operator_prometheus_serve_addr: String [shape::LISTEN] = ":9963".to_owned();
    /// Log more.
    "debug" debug: bool = false;
    /// How to log: level=error|warn|info|debug|trace and format=text|json.
    "log-opt" log_opt: BTreeMap<String, String> [shape::LOG] = BTreeMap::new();
}

fn check(settings: &OperatorSettings) -> Result<(), SettingsError> {
    let conflict = |text: String| Err(SettingsError::Conflict(text));
    let (lease, renew, retry) = (
        settings.leader_election_lease_duration,
        settings.leader_election_renew_deadline,
        settings.leader_election_retry_period,
    );
    if lease <= renew || renew <= retry || retry.is_zero() {
        return conflict(format!(
            "leader-election-lease-duration ({lease:?}) must be greater than leader-election-renew-deadline ({renew:?}), and that greater than leader-election-retry-period ({retry:?})"
        ));
    }
    for (key, nets, ipv6) in [
        (
            "cluster-pool-ipv4-cidr",
            &settings.cluster_pool_ipv4_cidr,
            false,
        ),
        (
            "cluster-pool-ipv6-cidr",
            &settings.cluster_pool_ipv6_cidr,
            true,
        ),
    ] {
        if let Some(net) = nets.iter().find(|net| net.addr().is_ipv6() != ipv6) {
            return conflict(format!("{key}: {net} is of the other family"));
        }
    }
    if settings.ces_max_ciliumendpoints_per_ces == 0 {
        return conflict(
            "ces-max-ciliumendpoints-per-ces is 0; a slice holds at least one endpoint".to_owned(),
        );
    }
    Ok(())
}
