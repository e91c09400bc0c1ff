//! What services say of themselves: status, lists, explanations.
use super::{
    Services,
    core::Core,
    settings::{acceleration, crosses_families},
};
use api::{
    ApiError, ServiceBackend, ServiceCandidate, ServiceInfo, ServiceList, ServiceProblem,
    ServiceWhy, ServicesStatus,
};
use lb::{
    Usage, annotations,
    explain::Why,
    frontend::{Algorithm, Backend, Frontend, FrontendKey, Owner, flags},
    input::Protocol,
};
use model::{LocalNode, Text};
use runtime::{
    health::Component,
    settings::{LbAcceleration, Settings, Value},
};
use std::collections::BTreeMap;

/// Problems that one line tells.
const TOLD: usize = 2;

/// Numbers for metrics.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Services that came, changed, went since the start.
    pub events: super::inputs::Events,
    /// Rows written and removed since the start.
    pub rows: u64,
    /// Frontends by kind.
    pub frontends: BTreeMap<String, u64>,
    /// Rows of each map: how many there are and how many fit.
    pub maps: BTreeMap<String, (u64, u64)>,
    /// Backends.
    pub backends: u64,
    /// What cannot be done as objects ask.
    pub problems: u64,
}

/// One line of how services are, for the health of the agent.
pub fn health(core: &mut Core, enabled: bool, component: &Component) {
    if !enabled {
        return component.ok("not served here (kube-proxy-replacement is false)");
    }
    if let Some(missing) = core.missing() {
        return component.degraded(format!(
            "waiting for {missing}; the kernel serves what it did before"
        ));
    }
    if let Some(refusal) = core.refusal() {
        return component.degraded(format!(
            "rows cannot be written: {}; it is tried again",
            refusal.0
        ));
    }
    let frontends = core.planner.frontends().count();
    let problems = core.problems();
    let full: Vec<&String> = problems
        .iter()
        .filter(|(_, what)| what.contains("map is full"))
        .map(|(_, what)| what)
        .collect();
    core.tell(&problems);
    if let Some(first) = full.first() {
        let more = match full.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        return component.degraded(format!("{first}{more}"));
    }
    let tail = match problems.len() {
        0 => String::new(),
        count => format!(", {count} problems of objects: hypha dbg service list tells them"),
    };
    component.ok(format!("{frontends} frontends{tail}"));
}

impl Core {
    /// Warns of problems that are new.
    fn tell(&mut self, problems: &[(Owner, String)]) {
        let told = &mut self.told;
        let new: Vec<_> = problems
            .iter()
            .filter(|problem| !told.contains(*problem))
            .collect();
        for (owner, what) in new.iter().take(TOLD) {
            tracing::warn!(object = %owner, "{what}");
        }
        if new.len() > TOLD {
            tracing::warn!(more = new.len() - TOLD, "and more problems of services");
        }
        if !new.is_empty() || told.len() != problems.len() {
            *told = problems.iter().cloned().collect();
        }
    }

    fn info(&self, frontend: &Frontend) -> ServiceInfo {
        let row = self.planner.row(&frontend.key);
        let selection = &frontend.selection;
        let backend = |backend: &Backend, used| ServiceBackend {
            id: self.planner.backend_id(&backend.key).unwrap_or_default(),
            address: backend.key.to_string(),
            state: backend.state.text().to_owned(),
            weight: backend.weight,
            used,
            node: backend.node.to_string(),
            zone: backend.zone.to_string(),
        };
        let used = selection.used.iter().map(|one| backend(one, true));
        let kept = selection.kept.iter().map(|one| backend(one, false));
        let algorithm = row.map_or(frontend.algorithm, |row| row.algorithm);
        ServiceInfo {
            id: row.map(|row| row.id).unwrap_or_default(),
            frontend: frontend.key.to_string(),
            kind: frontend.kind.text().to_owned(),
            owner: frontend.owner.to_string(),
            port_name: frontend.port_name.to_string(),
            flags: words(frontend.flags)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            algorithm: match algorithm {
                Algorithm::Random => "random",
                Algorithm::Maglev => "maglev",
            }
            .to_owned(),
            affinity_seconds: frontend.affinity.unwrap_or_default(),
            source_ranges: frontend
                .ranges
                .iter()
                .flat_map(|ranges| &ranges.nets)
                .map(ToString::to_string)
                .collect(),
            backends: used.chain(kept).collect(),
        }
    }

    fn explained(&self, why: &Why) -> ServiceWhy {
        let candidate = |one: &lb::explain::Judged| ServiceCandidate {
            address: one.key.to_string(),
            fate: one.fate.clone(),
            used: one.used,
            place: one.place.clone(),
        };
        ServiceWhy {
            service: self.info(&why.frontend),
            candidates: why.backends.iter().map(candidate).collect(),
            others: why.others.iter().map(ToString::to_string).collect(),
            notes: why.notes.clone(),
        }
    }

    fn frontends_by_kind(&self) -> BTreeMap<String, u64> {
        let mut kinds = BTreeMap::new();
        for frontend in self.planner.frontends() {
            *kinds.entry(frontend.kind.text().to_owned()).or_default() += 1;
        }
        kinds
    }
}

/// What is particular of a frontend, in the words that users know.
#[must_use]
pub fn words(bits: u16) -> Vec<&'static str> {
    let has = |flag: u16| bits & flag != 0;
    [
        (has(flags::EXTERNAL_LOCAL), "Local"),
        (has(flags::INTERNAL_LOCAL), "InternalLocal"),
        (has(flags::TWO_SCOPES), "two-scopes"),
        (has(flags::AFFINITY), "sessionAffinity"),
        (!has(flags::ROUTABLE), "non-routable"),
        (
            has(flags::SOURCE_RANGES) && !has(flags::SOURCE_RANGES_DENY),
            "check source-range",
        ),
        (
            has(flags::SOURCE_RANGES) && has(flags::SOURCE_RANGES_DENY),
            "check source-range deny",
        ),
        (has(flags::NAT46X64), "46x64"),
        (has(flags::LOCAL_REDIRECT), "LocalRedirect"),
        (has(flags::LOOPBACK), "loopback"),
        (has(flags::DSR), "dsr"),
    ]
    .into_iter()
    .filter_map(|(set, word)| set.then_some(word))
    .collect()
}

/// Kind of a frontend, by its row alone.
#[must_use]
pub fn kind(bits: u16) -> &'static str {
    [
        (flags::LOCAL_REDIRECT, "LocalRedirect"),
        (flags::EXTERNAL_IP, "ExternalIPs"),
        (flags::NODE_PORT, "NodePort"),
        (flags::HOST_PORT, "HostPort"),
        (flags::LOAD_BALANCER, "LoadBalancer"),
    ]
    .into_iter()
    .find_map(|(flag, word)| (bits & flag != 0).then_some(word))
    .unwrap_or("ClusterIP")
}

fn maps(usage: &Usage, limits: &lb::Limits) -> BTreeMap<String, (u64, u64)> {
    use abi::names;
    let row = |name: &str, used: usize, most: usize| (name.to_owned(), (used as u64, most as u64));
    BTreeMap::from([
        row(names::LB4_SERVICES, usage.services[0], limits.services),
        row(names::LB6_SERVICES, usage.services[1], limits.services),
        row(names::LB4_BACKENDS, usage.backends[0], limits.backends),
        row(names::LB6_BACKENDS, usage.backends[1], limits.backends),
        row(names::LB_AFFINITY_MATCH, usage.affinity, limits.affinity),
        row(names::LB4_SOURCE_RANGES, usage.sources[0], limits.sources),
        row(names::LB6_SOURCE_RANGES, usage.sources[1], limits.sources),
        // In tables, not in the rows that they are made of.
        row(names::LB4_MAGLEV, usage.tables[0], limits.tables),
        row(names::LB6_MAGLEV, usage.tables[1], limits.tables),
    ])
}

/// Which processes reach no backend of the other family.
const OF_NODES: &str =
    "processes of nodes reach backends of the other family by connected IPv6 sockets alone";

impl Services {
    /// Every frontend, and what is wrong.
    #[must_use]
    pub fn list(&self) -> ServiceList {
        let core = self.core();
        let mut services: Vec<_> = core
            .planner
            .frontends()
            .map(|frontend| core.info(frontend))
            .collect();
        services.sort_by_key(|info| (info.id == 0, info.id));
        let problems = core.problems().into_iter();
        let problems = problems.map(|(owner, what)| ServiceProblem {
            object: owner.to_string(),
            what,
        });
        ServiceList {
            services,
            problems: problems.collect(),
        }
    }

    /// One frontend, by its number.
    ///
    /// # Errors
    /// There is none.
    pub fn one(&self, id: u16) -> Result<ServiceInfo, ApiError> {
        let core = self.core();
        let has = |frontend: &&Frontend| {
            core.planner
                .row(&frontend.key)
                .is_some_and(|row| row.id == id)
        };
        let found = core.planner.frontends().find(has);
        found
            .map(|frontend| core.info(frontend))
            .ok_or_else(|| ApiError::not_found(format!("service {id}")))
    }

    /// Why a frontend has its backends; or every one of a service, by `namespace/name`.
    ///
    /// # Errors
    /// The text names none.
    pub fn why(&self, text: &str) -> Result<Vec<ServiceWhy>, ApiError> {
        let core = self.core();
        let keys: Vec<FrontendKey> = match text.parse::<FrontendKey>() {
            Ok(key) => vec![key],
            Err(why) if !is_name(text) => {
                return Err(ApiError::bad_request(why)
                    .detail("or a service, as default/web, for all of its frontends"));
            }
            Err(_) => core
                .planner
                .frontends()
                .filter(|frontend| frontend.owner.key() == &Text::from(text))
                .map(|frontend| frontend.key)
                .collect(),
        };
        let found: Vec<ServiceWhy> = keys
            .iter()
            .filter_map(|key| core.planner.why(key))
            .map(|why| core.explained(&why))
            .collect();
        if found.is_empty() {
            return Err(core.unknown(text, &keys));
        }
        Ok(found)
    }

    /// How services are.
    #[must_use]
    pub fn status(&self, settings: &Settings, local: Option<&LocalNode>) -> ServicesStatus {
        let core = self.core();
        let world = core.planner.settings();
        let mut all = vec![
            annotations::NODE,
            annotations::SOURCE_RANGES_POLICY,
            annotations::TYPE,
        ];
        for (on, name) in [
            (world.algorithm_annotation, annotations::ALGORITHM),
            (world.forwarding_annotation, annotations::FORWARDING),
        ] {
            all.extend(on.then_some(name));
        }
        all.sort_unstable();
        let devices = local.map(|local| &local.devices).into_iter().flatten();
        let shown = |device: &model::Device| {
            let addresses = device.addresses.iter().map(|net| net.addr().to_string());
            (device.name.clone(), addresses.collect())
        };
        let direct = local.and_then(|local| {
            let primary = local.primary(!settings.enable_ipv4)?;
            let has =
                |device: &&model::Device| device.addresses.iter().any(|net| net.addr() == primary);
            local.devices.iter().find(has)
        });
        let mut limits = self.limits();
        if crosses_families(settings) {
            limits.push(OF_NODES.to_owned());
        }
        ServicesStatus {
            enabled: self.0.enabled,
            missing: core.missing().unwrap_or_default().to_owned(),
            sockets: self.0.enabled && self.without_sockets().is_none(),
            host_sockets_only: settings.bpf_lb_sock_hostns_only,
            devices: devices.map(shown).collect(),
            direct_device: direct.map(|device| device.name.clone()).unwrap_or_default(),
            mode: settings.bpf_lb_mode.show(),
            dsr_dispatch: settings.bpf_lb_dsr_dispatch.show(),
            algorithm: settings.bpf_lb_algorithm.show(),
            maglev_size: settings.bpf_lb_maglev_table_size,
            affinity: settings.enable_session_affinity,
            graceful_termination: settings.enable_k8s_terminating_endpoint,
            nat46x64: crosses_families(settings),
            acceleration: acceleration(settings)
                .map_or(LbAcceleration::Disabled, |_| settings.bpf_lb_acceleration)
                .show(),
            node_ports: (
                settings.node_port_range.first,
                settings.node_port_range.last,
            ),
            annotations: all.into_iter().map(str::to_owned).collect(),
            frontends: core.frontends_by_kind(),
            backends: core.planner.usage().backends.iter().sum::<usize>() as u64,
            maps: maps(&core.planner.usage(), &world.limits),
            problems: core.problems().len() as u64,
            limits,
        }
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let core = self.core();
        Totals {
            events: core.counts.events,
            rows: core.counts.rows,
            frontends: core.frontends_by_kind(),
            maps: maps(&core.planner.usage(), &core.planner.settings().limits),
            backends: core.planner.usage().backends.iter().sum::<usize>() as u64,
            problems: core.problems().len() as u64,
        }
    }

    /// Compares the kernel's rows with the plan: how many there should be, and what is odd.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn differences(&self) -> Result<(usize, Vec<String>), String> {
        self.core().compare().map_err(|why| why.0)
    }
}

impl Core {
    /// What to say where nobody serves what was asked for.
    fn unknown(&self, text: &str, keys: &[FrontendKey]) -> ApiError {
        let near: Vec<String> = self
            .planner
            .frontends()
            .filter(|frontend| {
                let same = |key: &FrontendKey| {
                    key.address == frontend.key.address
                        || key.port == frontend.key.port && key.protocol != Protocol::Sctp
                };
                keys.iter().any(same)
            })
            .take(5)
            .map(|frontend| frontend.key.to_string())
            .collect();
        let error = ApiError::not_found(format!("frontend {text}"));
        match near.is_empty() {
            true => error.detail("nobody serves it; `hypha dbg service list` shows who is served"),
            false => error.detail(format!("nearby are {}", near.join(", "))),
        }
    }
}

/// Whether a text may be `namespace/name`.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        !part.is_empty() && part.chars().all(letter)
    };
    text.split_once('/')
        .is_some_and(|(namespace, name)| part(namespace) && part(name))
}
