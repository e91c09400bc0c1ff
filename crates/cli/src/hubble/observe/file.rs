//! Records that were written before: lines of JSON, as `-o jsonpb` prints and exporters write them.
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use api::hubble::flow::Flow;
use api::hubble::json::{self, Unknown};
use api::hubble::observer::export_event::ResponseTypes as Exported;
use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::{
    ExportEvent, GetAgentEventsResponse, GetDebugEventsResponse, GetFlowsResponse,
};
use jiff::Timestamp;

use super::select::Selection;
use crate::hubble::print::moment;

/// Lines of a file, or of standard input for `-`; with what the file is called.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> Result<(String, Box<dyn BufRead>)> {
    if path == Path::new("-") {
        let lines = Box::new(BufReader::new(io::stdin()));
        return Ok(("standard input".to_owned(), lines));
    }
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    Ok((name, Box::new(BufReader::new(file))))
}

/// A recorded event of any kind. A line may also be a flow alone, as older clients wrote it.
fn event(line: &str) -> Result<ExportEvent, json::JsonError> {
    let event: ExportEvent = json::from_str(line, Unknown::Ignore)?;
    if event.response_types.is_some() {
        return Ok(event);
    }
    let flow: Flow = json::from_str(line, Unknown::Ignore)?;
    let known = flow.time.is_some() || flow.verdict != 0 || flow.ip.is_some();
    Ok(ExportEvent {
        node_name: flow.node_name.clone(),
        time: flow.time,
        response_types: known.then_some(Exported::Flow(flow)),
    })
}

/// Reads events one by one and hands on those that `wanted` makes something of, within the selection.
///
/// # Errors
/// A line is no event: said with its number, unless `silent`.
pub fn read<T>(
    (name, lines): (String, Box<dyn BufRead>),
    selection: &Selection,
    silent: bool,
    wanted: impl Fn(ExportEvent) -> Option<T>,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let limit = usize::try_from(selection.number).unwrap_or(usize::MAX);
    // Only the end of the file says which are the last.
    let mut last = VecDeque::new();
    let (mut taken, all) = (0, limit == usize::MAX || limit == 0);
    for (number, line) in lines.lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let event = match event(&line) {
            Ok(event) => event,
            Err(_) if silent => continue,
            Err(error) => return Err(anyhow!("{name}: line {}: {error}", number + 1)),
        };
        if !within(selection, moment(event.time.as_ref())) {
            continue;
        }
        let Some(found) = wanted(event) else { continue };
        if all {
            take(found)?;
        } else if selection.first {
            take(found)?;
            taken += 1;
            if taken == limit {
                return Ok(());
            }
        } else {
            if last.len() == limit {
                last.pop_front();
            }
            last.push_back(found);
        }
    }
    last.into_iter().try_for_each(take)
}

fn within(selection: &Selection, time: Option<Timestamp>) -> bool {
    let Some(time) = time else {
        return selection.since.is_none() && selection.until.is_none();
    };
    selection.since.is_none_or(|since| time >= since)
        && selection.until.is_none_or(|until| time <= until)
}

/// An event as an observer would have sent it; none if it is no flow.
pub fn flow(event: ExportEvent) -> Option<GetFlowsResponse> {
    let response_types = match event.response_types? {
        Exported::Flow(flow) => ResponseTypes::Flow(flow),
        Exported::NodeStatus(status) => ResponseTypes::NodeStatus(status),
        Exported::LostEvents(lost) => ResponseTypes::LostEvents(lost),
        Exported::AgentEvent(_) | Exported::DebugEvent(_) => return None,
    };
    Some(GetFlowsResponse {
        response_types: Some(response_types),
        node_name: event.node_name,
        time: event.time,
    })
}

/// As [`flow`], of what agents did.
pub fn agent_event(event: ExportEvent) -> Option<GetAgentEventsResponse> {
    let Exported::AgentEvent(agent_event) = event.response_types? else {
        return None;
    };
    Some(GetAgentEventsResponse {
        agent_event: Some(agent_event),
        node_name: event.node_name,
        time: event.time,
    })
}

/// As [`flow`], of what programs told for debugging.
pub fn debug_event(event: ExportEvent) -> Option<GetDebugEventsResponse> {
    let Exported::DebugEvent(debug_event) = event.response_types? else {
        return None;
    };
    Some(GetDebugEventsResponse {
        debug_event: Some(debug_event),
        node_name: event.node_name,
        time: event.time,
    })
}
