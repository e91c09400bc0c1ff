//! Metrics of requests, as a proxy tells of them. An answer counts for the request that it answers: source is whoever asked.
use super::{Contexts, Labels, Series};
use crate::view::View;
use api::hubble::flow::{L7FlowType, TrafficDirection, layer7::Record};
use prometheus_client::{
    metrics::exemplar::{CounterWithExemplar, HistogramWithExemplars},
    registry::Registry,
};
use std::sync::Arc;

type Counts = Series<CounterWithExemplar<Labels>>;
type Durations = Series<HistogramWithExemplars<Labels>>;

/// Seconds up to which requests are counted together.
const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

fn durations() -> HistogramWithExemplars<Labels> {
    HistogramWithExemplars::new(BUCKETS.into_iter())
}

fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}

/// Which side of the connection told of it.
fn reporter(flow: &dyn View) -> &'static str {
    match TrafficDirection::try_from(flow.direction()) {
        Ok(TrafficDirection::Ingress) => "server",
        Ok(TrafficDirection::Egress) => "client",
        _ => "unknown",
    }
}

/// Requests by HTTP.
pub(super) struct Http {
    requests: Counts,
    /// Answers, where they are counted on their own.
    responses: Option<Counts>,
    durations: Durations,
    exemplars: bool,
}

impl Http {
    /// Requests and answers.
    pub fn new(registry: &mut Registry, contexts: &Arc<Contexts>) -> Self {
        let responses = Counts::made_by(
            registry,
            "http_responses",
            "Answers by HTTP",
            contexts,
            CounterWithExemplar::default,
        );
        Self {
            responses: Some(responses),
            ..Self::second(registry, contexts, false)
        }
    }

    /// Requests with what became of them.
    pub fn second(registry: &mut Registry, contexts: &Arc<Contexts>, exemplars: bool) -> Self {
        Self {
            requests: Counts::made_by(
                registry,
                "http_requests",
                "Requests by HTTP",
                contexts,
                CounterWithExemplar::default,
            ),
            responses: None,
            durations: Durations::made_by(
                registry,
                "http_request_duration_seconds",
                "How long requests by HTTP took",
                contexts,
                durations,
            ),
            exemplars,
        }
    }

    pub fn forget(&mut self, pod: &str) {
        self.requests.forget(pod);
        self.durations.forget(pod);
        if let Some(responses) = &mut self.responses {
            responses.forget(pod);
        }
    }

    pub fn see(&mut self, flow: &dyn View) {
        let Some(l7) = flow.l7() else { return };
        let Some(Record::Http(http)) = &l7.record else {
            return;
        };
        let reporter = reporter(flow);
        let trace = flow.trace_id();
        let exemplar = || {
            let wanted = self.exemplars && !trace.is_empty();
            wanted.then(|| vec![("traceID".to_owned(), trace.to_owned())])
        };
        let mut labels = vec![
            ("method", http.method.as_str()),
            ("protocol", http.protocol.as_str()),
        ];
        if l7.r#type() != L7FlowType::Response {
            if self.responses.is_some() {
                labels.push(("reporter", reporter));
                self.requests.see(flow, false, &labels, |count| {
                    count.inc_by(1, None, None);
                });
            }
            return;
        }
        let exemplar = exemplar();
        let status = http.code.to_string();
        labels.extend([("status", status.as_str()), ("reporter", reporter)]);
        let counted = self.responses.as_mut().unwrap_or(&mut self.requests);
        counted.see(flow, true, &labels, |count| {
            count.inc_by(1, exemplar.clone(), None);
        });
        let labels = [("method", http.method.as_str()), ("reporter", reporter)];
        self.durations.see(flow, true, &labels, |durations| {
            durations.observe(seconds(l7.latency_ns), exemplar, None);
        });
    }
}

/// Requests by Kafka's protocol.
pub(super) struct Kafka {
    requests: Counts,
    durations: Durations,
}

impl Kafka {
    pub fn new(registry: &mut Registry, contexts: &Arc<Contexts>) -> Self {
        Self {
            requests: Counts::made_by(
                registry,
                "kafka_requests",
                "Requests to Kafka",
                contexts,
                CounterWithExemplar::default,
            ),
            durations: Durations::made_by(
                registry,
                "kafka_request_duration_seconds",
                "How long requests to Kafka took",
                contexts,
                durations,
            ),
        }
    }

    pub fn forget(&mut self, pod: &str) {
        self.requests.forget(pod);
        self.durations.forget(pod);
    }

    pub fn see(&mut self, flow: &dyn View) {
        let Some(l7) = flow.l7() else { return };
        let Some(Record::Kafka(kafka)) = &l7.record else {
            return;
        };
        let error = kafka.error_code.to_string();
        let mut labels = vec![
            ("topic", kafka.topic.as_str()),
            ("api_key", kafka.api_key.as_str()),
        ];
        let reporter = ("reporter", reporter(flow));
        if l7.r#type() == L7FlowType::Response {
            labels.push(reporter);
            self.durations.see(flow, true, &labels, |durations| {
                durations.observe(seconds(l7.latency_ns), None, None);
            });
        } else {
            labels.extend([("error_code", error.as_str()), reporter]);
            self.requests.see(flow, false, &labels, |count| {
                count.inc_by(1, None, None);
            });
        }
    }
}
