//! The stream of live events.
use super::{Answer, Shared};
use crate::agent::Agent;
use api::{ApiError, MonitorEvent, MonitorKind, MonitorQuery};
use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures::stream::unfold;
use std::{convert::Infallible, net::IpAddr, sync::Arc};
use tokio::sync::broadcast::{Receiver, error::RecvError, error::TryRecvError};

/// Most events that go out in one piece.
const CHUNK: usize = 256;

/// What a listener wants, with endpoints as their addresses.
#[derive(Debug)]
struct Filter {
    query: MonitorQuery,
    from: Option<Vec<IpAddr>>,
    to: Option<Vec<IpAddr>>,
    related: Option<Vec<IpAddr>>,
}

impl Filter {
    fn new(agent: &Agent, query: MonitorQuery) -> Answer<Self> {
        let snapshot = agent.tables.db.snapshot();
        let addresses = |id: Option<u16>| -> Answer<Option<Vec<IpAddr>>> {
            let Some(id) = id else { return Ok(None) };
            let endpoint = agent.tables.endpoints.get(&snapshot, &id);
            let endpoint = endpoint.ok_or_else(|| ApiError::not_found(format!("endpoint {id}")))?;
            Ok(Some(endpoint.addresses().collect()))
        };
        let (from, to, related) = (
            addresses(query.from)?,
            addresses(query.to)?,
            addresses(query.related_to)?,
        );
        Ok(Self {
            query,
            from,
            to,
            related,
        })
    }

    fn takes(&self, event: &MonitorEvent) -> bool {
        let has = |wanted: &Option<Vec<IpAddr>>, ends: &[Option<IpAddr>]| {
            wanted
                .as_ref()
                .is_none_or(|all| ends.iter().flatten().any(|ip| all.contains(ip)))
        };
        self.query.wants(event.kind)
            && has(&self.from, &[event.src])
            && has(&self.to, &[event.dst])
            && has(&self.related, &[event.src, event.dst])
    }
}

/// `GET /v1/monitor?…`: one JSON object per line until the client closes or the agent stops.
pub(super) async fn stream(
    State(agent): Shared,
    query: Result<Query<MonitorQuery>, QueryRejection>,
) -> Answer<Response> {
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!(
            "the query is not understood: {}",
            error.body_text()
        ))
    })?;
    let filter = Filter::new(&agent, query)?;
    let receiver = agent.monitor.listen();
    let lines = unfold((receiver, filter), |(mut receiver, filter)| async move {
        let text = next_lines(&mut receiver, &filter).await?;
        Some((
            Ok::<Bytes, Infallible>(Bytes::from(text)),
            (receiver, filter),
        ))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

/// The next lines for a listener; none when there will be no more. Never empty, which would look like the end.
async fn next_lines(
    receiver: &mut Receiver<Arc<MonitorEvent>>,
    filter: &Filter,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while out.is_empty() {
        match receiver.recv().await {
            Ok(event) => add(&mut out, &event, filter),
            Err(RecvError::Lagged(lost)) => add_lost(&mut out, lost),
            Err(RecvError::Closed) => return None,
        }
        for _ in 1..CHUNK {
            match receiver.try_recv() {
                Ok(event) => add(&mut out, &event, filter),
                Err(TryRecvError::Lagged(lost)) => add_lost(&mut out, lost),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }
    Some(out)
}

fn add(out: &mut Vec<u8>, event: &MonitorEvent, filter: &Filter) {
    if filter.takes(event) && serde_json::to_writer(&mut *out, event).is_ok() {
        out.push(b'\n');
    }
}

fn add_lost(out: &mut Vec<u8>, lost: u64) {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut event = MonitorEvent::new(
        MonitorKind::Lost,
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    );
    event.lost = lost;
    if serde_json::to_writer(&mut *out, &event).is_ok() {
        out.push(b'\n');
    }
}
