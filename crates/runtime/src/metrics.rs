//! Metrics: one registry, and the name of every metric in one place.
use prometheus_client::{
    encoding::text::encode,
    registry::{Registry, Unit},
};

/// Content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names, without the prefix `cilium_`; counters get `_total` when they are written out.
pub mod names {
    /// `services_events{action}`: services that came (`add`), changed (`update`), went (`delete`).
    pub const SERVICE_EVENTS: &str = "services_events";
    /// `service_implementation_delay{action}`: seconds from a change that was heard to the kernel.
    pub const SERVICE_DELAY: &str = "service_implementation_delay";
    /// `services_frontends{type}`: frontends in the kernel.
    pub const SERVICE_FRONTENDS: &str = "services_frontends";
    /// `services_backends`: backends in the kernel.
    pub const SERVICE_BACKENDS: &str = "services_backends";
    /// `services_rows_written`: rows of services written and removed.
    pub const SERVICE_ROWS: &str = "services_rows_written";
    /// `services_problems`: what cannot be done as objects ask.
    pub const SERVICE_PROBLEMS: &str = "services_problems";
    /// `services_map_pressure{map_name}`: share of a map of services that is used.
    pub const SERVICE_PRESSURE: &str = "services_map_pressure";
    /// `version{version,revision,arch}`: 1.
    pub const VERSION: &str = "version";
    /// `endpoint`: endpoints.
    pub const ENDPOINT: &str = "endpoint";
    /// `endpoint_state{endpoint_state}`: endpoints in a state.
    pub const ENDPOINT_STATE: &str = "endpoint_state";
    /// `drop_count_total{reason,direction}`: packets dropped.
    pub const DROP_COUNT: &str = "drop_count";
    /// `drop_bytes_total{reason,direction}`: their bytes.
    pub const DROP_BYTES: &str = "drop_bytes";
    /// `forward_count_total{direction}`: packets forwarded.
    pub const FORWARD_COUNT: &str = "forward_count";
    /// `forward_bytes_total{direction}`: their bytes.
    pub const FORWARD_BYTES: &str = "forward_bytes";
    /// `ipam_capacity{family}`: addresses that can be given out.
    pub const IPAM_CAPACITY: &str = "ipam_capacity";
    /// `ipam_events_total{action,family}`: allocations and releases.
    pub const IPAM_EVENTS: &str = "ipam_events";
    /// `ip_addresses{family}`: addresses given out.
    pub const IP_ADDRESSES: &str = "ip_addresses";
    /// `policy`: policies in force.
    pub const POLICY: &str = "policy";
    /// `policy_max_revision`: revision of the policies.
    pub const POLICY_REVISION: &str = "policy_max_revision";
    /// `policy_change_total`: policy objects taken or refused.
    pub const POLICY_CHANGES: &str = "policy_change";
    /// `policy_endpoint_enforcement_status`: endpoints by what is enforced for them.
    pub const POLICY_ENFORCEMENT: &str = "policy_endpoint_enforcement_status";
    /// `policy_implementation_delay`: seconds from a changed policy to its enforcement.
    pub const POLICY_DELAY: &str = "policy_implementation_delay";
    /// `policy_incremental_update_duration`: seconds that a change of rows took.
    pub const POLICY_UPDATE: &str = "policy_incremental_update_duration";
    /// `policy_selector_match_count_max`: most identities that one selector selects.
    pub const POLICY_WIDEST: &str = "policy_selector_match_count_max";
    /// `policy_regeneration_total`: how often rows were changed.
    pub const POLICY_STEPS: &str = "policy_regeneration";
    /// `policy_endpoints_behind`: endpoints whose rows are not those that their policies ask for.
    pub const POLICY_BEHIND: &str = "policy_endpoints_behind";
    /// `identity`: identities by kind.
    pub const IDENTITY: &str = "identity";
    /// `cidrgroups_referenced`: groups of address ranges that are known.
    pub const CIDR_GROUPS: &str = "cidrgroups_referenced";
    /// `fqdn_gc_deletions_total`: addresses of names whose time is over.
    pub const FQDN_DELETIONS: &str = "fqdn_gc_deletions";
    /// `fqdn_selectors`: names and patterns that rules speak of.
    pub const FQDN_SELECTORS: &str = "fqdn_selectors";
    /// `fqdn_active_names{endpoint}`: names that an endpoint was told of.
    pub const FQDN_NAMES: &str = "fqdn_active_names";
    /// `fqdn_active_ips{endpoint}`: addresses of these.
    pub const FQDN_IPS: &str = "fqdn_active_ips";
    /// `fqdn_alive_zombie_connections{endpoint}`: addresses that count beyond their time, since there are connections.
    pub const FQDN_ZOMBIES: &str = "fqdn_alive_zombie_connections";
    /// `proxy_datapath_update_timeout_total`: answers that went out before connections to their addresses were let through.
    pub const FQDN_LATE: &str = "proxy_datapath_update_timeout";
    /// `fqdn_refused_answers_total`: answers that were not learned, since their endpoint knows too many names.
    pub const FQDN_REFUSED: &str = "fqdn_refused_answers";
    /// `proxy_redirects{protocol_l7}`: ports of endpoints whose connections go to the proxy.
    pub const PROXY_REDIRECTS: &str = "proxy_redirects";
    /// `policy_l7_total{rule,proxy_type}`: requests that the proxy saw.
    pub const POLICY_L7: &str = "policy_l7";
    /// `bpf_map_pressure{map_name}`: share of a map that is in use.
    pub const MAP_PRESSURE: &str = "bpf_map_pressure";
    /// `bpf_map_capacity{map_group}`: most entries of a map.
    pub const MAP_CAPACITY: &str = "bpf_map_capacity";
    /// `datapath_conntrack_gc_runs_total{family,protocol,status}`: sweeps of the connection table.
    pub const CT_GC_RUNS: &str = "datapath_conntrack_gc_runs";
    /// `datapath_conntrack_gc_entries{family,protocol,status}`: entries alive and deleted in the last sweep.
    pub const CT_GC_ENTRIES: &str = "datapath_conntrack_gc_entries";
    /// `datapath_conntrack_gc_duration_seconds{family,protocol,status}`: time of a sweep.
    pub const CT_GC_DURATION: &str = "datapath_conntrack_gc_duration_seconds";
    /// `agent_api_process_time_seconds{path,method,return_code}`: time of an API request.
    pub const API_TIME: &str = "agent_api_process_time";
    /// `agent_bootstrap_seconds{scope,outcome}`: time from start until a part is ready.
    pub const BOOTSTRAP: &str = "agent_bootstrap_seconds";
    /// `reconciler_count_total{module_id,op,status}`: operations of the reconcilers.
    pub const RECONCILER_COUNT: &str = "reconciler_count";
    /// `reconciler_duration_seconds_total{module_id,op}`: time they took.
    pub const RECONCILER_DURATION: &str = "reconciler_duration_seconds";
    /// `reconciler_errors_current{module_id}`: rows not applied because of an error.
    pub const RECONCILER_ERRORS: &str = "reconciler_errors_current";
    /// `statedb_table_objects{table}`: rows of a table.
    pub const TABLE_OBJECTS: &str = "statedb_table_objects";
    /// `statedb_table_revision{table}`: latest revision of a table.
    pub const TABLE_REVISION: &str = "statedb_table_revision";
    /// `monitor_events_total{outcome}`: records read from the event ring.
    pub const MONITOR_EVENTS: &str = "monitor_events";
    /// `hive_degraded_status{module}`: 1 while a component is not well.
    pub const DEGRADED: &str = "hive_degraded_status";
    /// `process_resident_memory_bytes`: memory of the agent.
    pub const MEMORY: &str = "process_resident_memory_bytes";
}

/// A registry whose metrics get the prefix `cilium_`.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("cilium")
}

/// The unit of times.
#[must_use]
pub fn seconds() -> Unit {
    Unit::Seconds
}

/// Everything in the registry, as Prometheus reads it.
///
/// # Errors
/// A collector failed to write.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    encode(&mut out, registry)?;
    Ok(out)
}
