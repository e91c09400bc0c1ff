//! Flows as lines of JSON in a file, one [`ExportEvent`] each. A disk that is full costs lines, which are counted, and nothing else:
//! the exporter is a reader of the ring like any other.
pub mod dynamic;
mod file;
mod otlp;

pub use file::{Rotation, Target};
pub use otlp::Collector;

use crate::{
    filter::{FilterError, Filters},
    mask::Mask,
    observer::Observer,
    serve::follow,
};
use api::hubble::{
    flow::FlowFilter,
    json::{self, JsonError, Unknown},
    observer::{ExportEvent, GetFlowsRequest, GetFlowsResponse, export_event, get_flows_response},
};
use futures::StreamExt as _;
use prost_types::FieldMask;
use runtime::stop::Stop;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a line may wait before it is in the file.
const FLUSH: Duration = Duration::from_secs(1);
/// Lines that are written at once.
const AT_ONCE: usize = 256;
/// How often it is told that lines cannot be written.
const COMPLAIN: Duration = Duration::from_secs(60);

/// What is exported, and where to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    /// The file, or standard output.
    pub target: Target,
    /// When to begin another file.
    pub rotation: Rotation,
    /// What is wanted; nothing: everything.
    pub wanted: Vec<FlowFilter>,
    /// What of that is left out.
    pub unwanted: Vec<FlowFilter>,
    /// The fields of flows that are wanted; none: all.
    pub fields: Vec<String>,
}

/// What of an export is not understood.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A filter.
    #[error("a filter is not understood: {0}")]
    Filter(#[from] FilterError),
    /// The text of a filter.
    #[error("a filter is not understood: {0}")]
    Json(#[from] JsonError),
    /// A field.
    #[error("{0}")]
    Field(String),
}

/// Lines that were written, and lines that were not.
#[derive(Debug, Default)]
pub struct Written {
    /// In the file.
    pub lines: AtomicU64,
    /// Lost, since the file could not be written.
    pub lost: AtomicU64,
}

/// Filters as a setting gives them: JSON objects, one after the other.
///
/// # Errors
/// One is not a filter.
pub fn filters(text: &str) -> Result<Vec<FlowFilter>, ExportError> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let mut filters = Vec::new();
    for value in values {
        let text = match value {
            Ok(value) => value.to_string(),
            // Whoever reads filters says what is wrong with this one.
            Err(_) => text.to_owned(),
        };
        filters.push(json::from_str(&text, Unknown::Refuse)?);
    }
    Ok(filters)
}

impl Export {
    /// Whether all of it is understood.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self) -> Result<(), ExportError> {
        Filters::compile(&self.wanted, &self.unwanted)?;
        Mask::new(self.mask().as_ref()).map_err(ExportError::Field)?;
        Ok(())
    }

    fn mask(&self) -> Option<FieldMask> {
        (!self.fields.is_empty()).then(|| FieldMask {
            paths: self.fields.clone(),
        })
    }

    fn request(&self) -> GetFlowsRequest {
        GetFlowsRequest {
            follow: true,
            field_mask: self.mask(),
            whitelist: self.wanted.clone(),
            blacklist: self.unwanted.clone(),
            ..GetFlowsRequest::default()
        }
    }

    /// Writes what comes from now on until `stop`; `written` says how it goes.
    ///
    /// # Errors
    /// Filters or fields are not understood.
    pub async fn run(
        self,
        observer: Observer,
        written: Arc<Written>,
        stop: Stop,
    ) -> Result<(), ExportError> {
        self.check()?;
        let Ok(stream) = follow(observer, &self.request(), stop) else {
            return Ok(());
        };
        let mut batches = stream.ready_chunks(AT_ONCE);
        let mut file = file::File::new(self.target, self.rotation, written.clone());
        let mut complained: Option<Instant> = None;
        let mut flush = tokio::time::Instant::now() + FLUSH;
        loop {
            let next = tokio::time::timeout_at(flush, batches.next()).await;
            let outcome = match next {
                Ok(None) => break,
                Ok(Some(batch)) => write(&mut file, batch),
                Err(_) => {
                    flush += FLUSH;
                    file.flush()
                }
            };
            let Err(error) = outcome else { continue };
            if complained.is_none_or(|when| when.elapsed() >= COMPLAIN) {
                complained = Some(Instant::now());
                let lost = written.lost.load(Ordering::Relaxed);
                tracing::warn!(%error, lost, "flows cannot be written to their file");
            }
        }
        if let Err(error) = file.flush() {
            tracing::warn!(%error, "the last flows could not be written to their file");
        }
        Ok(())
    }
}

fn write(
    file: &mut file::File,
    batch: Vec<Result<GetFlowsResponse, tonic::Status>>,
) -> std::io::Result<()> {
    let mut outcome = Ok(());
    for response in batch.into_iter().flatten() {
        let Some(event) = event(response) else {
            continue;
        };
        let mut line = Vec::with_capacity(1024);
        if json::write(&mut line, &event).is_err() {
            continue;
        }
        line.push(b'\n');
        if let Err(error) = file.write(&line) {
            outcome = Err(error);
        }
    }
    outcome
}

fn event(response: GetFlowsResponse) -> Option<ExportEvent> {
    use export_event::ResponseTypes as Out;
    use get_flows_response::ResponseTypes as In;
    let what = match response.response_types? {
        In::Flow(flow) => Out::Flow(flow),
        In::NodeStatus(status) => Out::NodeStatus(status),
        In::LostEvents(lost) => Out::LostEvents(lost),
    };
    Some(ExportEvent {
        node_name: response.node_name,
        time: response.time,
        response_types: Some(what),
    })
}
