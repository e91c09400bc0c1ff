//! Prometheus metrics: most are read from their source when they are asked for.
use crate::{agent::Agent, machine};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use model::EndpointState;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use runtime::{
    health::Level,
    metrics::{CONTENT_TYPE, names, registry, text},
    stop::Stop,
};
use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::net::TcpListener;

/// Labels of an API request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: String,
    method: String,
    return_code: String,
}

/// Times of API requests.
#[derive(Clone, Debug)]
pub struct Requests(Family<RequestLabels, Histogram>);

impl Default for Requests {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| {
            Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
            ])
        }))
    }
}

impl Requests {
    /// Counts a request. `path` is the route's pattern, never what the client sent: that would be endless labels.
    pub fn observe(&self, path: String, method: String, status: u16, time: Duration) {
        let labels = RequestLabels {
            path,
            method,
            return_code: status.to_string(),
        };
        self.0.get_or_create(&labels).observe(time.as_secs_f64());
    }
}

/// Serves `GET /metrics` until `stop`.
pub async fn serve(agent: Arc<Agent>, listener: TcpListener, stop: Stop) {
    let mut all = registry();
    all.register_with_unit(
        names::API_TIME,
        "Time of an API request",
        Unit::Seconds,
        agent.requests.0.clone(),
    );
    policy::register(&mut all, agent.policy.times());
    services::register(&mut all, agent.services.delay());
    all.register_collector(Box::new(Source(agent)));
    let router = Router::new()
        .route("/metrics", get(answer))
        .with_state(Arc::new(all));
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.stopped().await })
        .await
    {
        tracing::warn!(%error, "the metrics server ended");
    }
}

async fn answer(State(all): State<Arc<Registry>>) -> Response {
    // Reading maps blocks for a moment.
    let text = tokio::task::spawn_blocking(move || text(&all)).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written\n",
        )
            .into_response(),
    }
}

struct Source(Arc<Agent>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

mod fqdn;
mod layer7;
mod policy;
mod services;

type Labels<'a> = Vec<(&'static str, String)>;

/// Writes one metric with its rows; one without labels has one row.
fn rows<M: EncodeMetric>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels<'static>, M)>,
) -> fmt::Result {
    let mut rows = rows.into_iter().peekable();
    let Some((_, first)) = rows.peek() else {
        return Ok(());
    };
    let mut family = out.encode_descriptor(name, help, None, first.metric_type())?;
    for (labels, metric) in rows {
        if labels.is_empty() {
            return metric.encode(family);
        }
        metric.encode(family.encode_family(&labels.as_slice())?)?;
    }
    Ok(())
}

fn gauge(value: u64) -> ConstGauge<f64> {
    ConstGauge::new(value as f64)
}

impl Collector for Source {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let agent = &self.0;
        process(agent, &mut out)?;
        endpoints(agent, &mut out)?;
        packets(agent, &mut out)?;
        addresses(agent, &mut out)?;
        maps(agent, &mut out)?;
        sweeps(agent, &mut out)?;
        reconcilers(agent, &mut out)?;
        policy::policy(agent, &mut out)?;
        fqdn::fqdn(agent, &mut out)?;
        layer7::layer7(agent, &mut out)?;
        services::services(agent, &mut out)?;
        tables(agent, &mut out)
    }
}

fn process(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let version = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("revision", String::new()),
        ("arch", std::env::consts::ARCH.to_owned()),
    ];
    rows(
        out,
        names::VERSION,
        "Version of the agent",
        [(version, gauge(1))],
    )?;
    rows(
        out,
        names::MEMORY,
        "Resident memory of the agent in bytes",
        [(Vec::new(), gauge(machine::resident()))],
    )?;
    let degraded = agent.health.reports().into_iter();
    let degraded = degraded.map(|report| {
        (
            vec![("module", report.name)],
            gauge(u64::from(report.level > Level::Ok)),
        )
    });
    rows(
        out,
        names::DEGRADED,
        "1 while a component is not well",
        degraded,
    )?;
    let counts = agent.monitor.counts();
    let events = [
        ("delivered", &counts.delivered),
        ("unheard", &counts.unheard),
    ];
    let events = events.map(|(outcome, count)| {
        (
            vec![("outcome", outcome.to_owned())],
            ConstCounter::new(count.load(Ordering::Relaxed)),
        )
    });
    rows(
        out,
        names::MONITOR_EVENTS,
        "Records read from the event ring",
        events,
    )?;
    let boot = agent.ready_after.get().map(|seconds| {
        let labels = vec![
            ("scope", "overall".to_owned()),
            ("outcome", "success".to_owned()),
        ];
        (labels, ConstGauge::new(*seconds))
    });
    rows(
        out,
        names::BOOTSTRAP,
        "Seconds from the start of the process until it served",
        boot,
    )
}

fn endpoints(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let snapshot = agent.tables.db.snapshot();
    rows(
        out,
        names::ENDPOINT,
        "Endpoints of this node",
        [(
            Vec::new(),
            gauge(agent.tables.endpoints.len(&snapshot) as u64),
        )],
    )?;
    let count = |state: EndpointState| {
        agent
            .tables
            .endpoints
            .iter(&snapshot)
            .filter(|row| row.state == state)
            .count()
    };
    let states = EndpointState::ALL.map(|state| {
        (
            vec![("endpoint_state", state.text().to_owned())],
            gauge(count(state) as u64),
        )
    });
    rows(out, names::ENDPOINT_STATE, "Endpoints by state", states)
}

fn packets(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Ok(counters) = agent.datapath.metrics().and_then(|metrics| metrics.dump()) else {
        return Ok(());
    };
    let direction = |row: &datapath::maps::MetricsRow| {
        (
            "direction",
            abi::Direction::from_index(row.direction.into())
                .text()
                .to_owned(),
        )
    };
    let dropped = || {
        counters
            .iter()
            .filter_map(|row| abi::DropReason::from_u8(row.reason).map(|reason| (reason, row)))
    };
    let drop_labels =
        |reason: abi::DropReason, row| vec![("reason", reason.text().to_owned()), direction(row)];
    let forwarded = || counters.iter().filter(|row| row.reason == 0);
    rows(
        out,
        names::DROP_COUNT,
        "Packets dropped",
        dropped().map(|(why, row)| (drop_labels(why, row), ConstCounter::new(row.packets))),
    )?;
    rows(
        out,
        names::DROP_BYTES,
        "Bytes dropped",
        dropped().map(|(why, row)| (drop_labels(why, row), ConstCounter::new(row.bytes))),
    )?;
    rows(
        out,
        names::FORWARD_COUNT,
        "Packets forwarded",
        forwarded().map(|row| (vec![direction(row)], ConstCounter::new(row.packets))),
    )?;
    rows(
        out,
        names::FORWARD_BYTES,
        "Bytes forwarded",
        forwarded().map(|row| (vec![direction(row)], ConstCounter::new(row.bytes))),
    )
}

fn addresses(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let usage = agent.addresses.usage();
    let family = |family: api::Family| {
        let word = match family {
            api::Family::Ipv4 => "ipv4",
            api::Family::Ipv6 => "ipv6",
        };
        vec![("family", word.to_owned())]
    };
    rows(
        out,
        names::IPAM_CAPACITY,
        "Addresses that can be given out",
        usage.iter().map(|u| (family(u.family), gauge(u.capacity))),
    )?;
    rows(
        out,
        names::IP_ADDRESSES,
        "Addresses given out",
        usage.iter().map(|u| (family(u.family), gauge(u.allocated))),
    )?;
    let events = &agent.addresses.events;
    let rows_of = |index: usize, word: &str| {
        let labels =
            |action: &str| vec![("action", action.to_owned()), ("family", word.to_owned())];
        let count = |counter: &std::sync::atomic::AtomicU64| {
            ConstCounter::new(counter.load(Ordering::Relaxed))
        };
        [
            (labels("allocate"), count(&events[index].allocated)),
            (labels("release"), count(&events[index].released)),
        ]
    };
    rows(
        out,
        names::IPAM_EVENTS,
        "Allocations and releases",
        rows_of(0, "ipv4").into_iter().chain(rows_of(1, "ipv6")),
    )
}

fn maps(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Ok(all) = agent.datapath.maps() else {
        return Ok(());
    };
    let sized = || {
        all.iter()
            .filter(|map| map.max_entries > 0 && map.entries > 0)
    };
    let share = |map: &datapath::maps::MapSummary| {
        ConstGauge::new(map.entries as f64 / f64::from(map.max_entries))
    };
    rows(
        out,
        names::MAP_PRESSURE,
        "Share of a map that is in use",
        sized().map(|map| (vec![("map_name", map.name.to_owned())], share(map))),
    )?;
    rows(
        out,
        names::MAP_CAPACITY,
        "Most entries of a map",
        all.iter().map(|map| {
            (
                vec![("map_group", map.name.to_owned())],
                gauge(map.max_entries.into()),
            )
        }),
    )
}

fn sweeps(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let stats = agent
        .sweeps
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let labels = |status: &str| {
        vec![
            ("family", "all".to_owned()),
            ("protocol", "all".to_owned()),
            ("status", status.to_owned()),
        ]
    };
    let runs = [
        ("completed", stats.runs - stats.failures),
        ("failed", stats.failures),
    ];
    rows(
        out,
        names::CT_GC_RUNS,
        "Sweeps of the connection tables",
        runs.map(|(status, n)| (labels(status), ConstCounter::new(n))),
    )?;
    let entries = [
        (
            "alive",
            stats.last.seen - stats.last.deleted.min(stats.last.seen),
        ),
        ("deleted", stats.last.deleted),
    ];
    rows(
        out,
        names::CT_GC_ENTRIES,
        "Connections at the last sweep",
        entries.map(|(status, n)| (labels(status), gauge(n as u64))),
    )?;
    let seconds = ConstGauge::new(stats.last.elapsed.as_secs_f64());
    rows(
        out,
        names::CT_GC_DURATION,
        "Seconds of the last sweep",
        [(labels("completed"), seconds)],
    )
}

fn reconcilers(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(all) = agent.reconcilers.get() else {
        return Ok(());
    };
    let mut counts = Vec::new();
    let mut times = Vec::new();
    let mut failing = Vec::new();
    for one in all {
        let counters = one.counters();
        let module = ("module_id", one.name().to_owned());
        for (op, of) in [
            ("update", &counters.update),
            ("delete", &counters.delete),
            ("prune", &counters.prune),
        ] {
            let labels = |status: &str| {
                vec![
                    module.clone(),
                    ("op", op.to_owned()),
                    ("status", status.to_owned()),
                ]
            };
            counts.push((labels("success"), ConstCounter::new(of.succeeded)));
            counts.push((labels("failure"), ConstCounter::new(of.failed)));
            times.push((
                vec![module.clone(), ("op", op.to_owned())],
                ConstCounter::new(of.time.as_secs_f64()),
            ));
        }
        failing.push((vec![module], gauge(counters.failing as u64)));
    }
    rows(
        out,
        names::RECONCILER_COUNT,
        "Operations of the reconcilers",
        counts,
    )?;
    rows(
        out,
        names::RECONCILER_DURATION,
        "Seconds that they took",
        times,
    )?;
    rows(
        out,
        names::RECONCILER_ERRORS,
        "Rows not applied because of an error",
        failing,
    )
}

fn tables(agent: &Agent, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let all = agent.tables.db.snapshot().tables();
    let label = |table: &tables::TableInfo| vec![("table", table.name.to_owned())];
    rows(
        out,
        names::TABLE_OBJECTS,
        "Rows of a table",
        all.iter()
            .map(|table| (label(table), gauge(table.rows as u64))),
    )?;
    rows(
        out,
        names::TABLE_REVISION,
        "Latest revision of a table",
        all.iter()
            .map(|table| (label(table), gauge(table.revision.get()))),
    )
}
