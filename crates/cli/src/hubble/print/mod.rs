//! What the commands print, in every format.
pub mod color;
mod event;
mod flow;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use api::hubble::flow::{AgentEvent, DebugEvent, Flow, LostEvent};
use api::hubble::json;
use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::{GetAgentEventsResponse, GetDebugEventsResponse, GetFlowsResponse};
use api::hubble::relay::{NodeState, NodeStatusEvent};
use clap::ValueEnum;
use jiff::Timestamp;

use self::color::Colors;
use super::time::Layout;
use crate::{output, table};

/// How things are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line each.
    #[default]
    Compact,
    /// One block each, a line for every part.
    Dict,
    /// One JSON object each, on one line.
    Jsonpb,
    /// As jsonpb.
    Json,
    /// Columns.
    #[value(alias = "tab")]
    Table,
}

/// What is printed, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The format.
    pub format: Format,
    /// Colours, which columns do not have.
    pub colors: Colors,
    /// How times look.
    pub layout: Layout,
    /// Whether to say which node saw it.
    pub node: bool,
    /// Names in place of addresses.
    pub translate: bool,
    /// Numbers in place of the names of reserved identities.
    pub numeric: bool,
    /// Say also what is only of interest when something does not work.
    pub debug: bool,
    /// In JSON the flow alone, without what was said beside it.
    pub bare: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: Format::Compact,
            colors: Colors::default(),
            layout: Layout::default(),
            node: false,
            translate: true,
            numeric: false,
            debug: false,
            bare: false,
        }
    }
}

/// A time of the API; none if it is none.
pub fn moment(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    if !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// Between blocks.
const SEPARATOR: &str = "------------";

/// How long a list of nodes may be before it is cut.
const NAMES_LIMIT: usize = 50;

/// Prints to `out`; what nodes say of themselves goes to `err`.
pub struct Printer<O, E> {
    options: Options,
    out: O,
    err: E,
    begun: bool,
    table: String,
}

impl<O: Write, E: Write> Printer<O, E> {
    /// Prints with these options.
    pub fn new(mut options: Options, out: O, err: E) -> Self {
        if options.format == Format::Table {
            options.colors = Colors::default();
        }
        Self {
            options,
            out,
            err,
            begun: false,
            table: String::new(),
        }
    }

    /// Whatever a server sent.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn response(&mut self, response: &GetFlowsResponse) -> Result<()> {
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => self.flow(flow, response),
            Some(ResponseTypes::LostEvents(lost)) => self.lost(lost, response),
            Some(ResponseTypes::NodeStatus(status)) => self.node_status(status, response),
            None => Ok(()),
        }
    }

    fn flow(&mut self, flow: &Flow, response: &GetFlowsResponse) -> Result<()> {
        match self.options.format {
            Format::Json if self.options.bare => self.json(flow),
            Format::Json | Format::Jsonpb => self.json(response),
            Format::Compact => {
                let line = flow::Words::of(flow, &self.options).line(self.options.node);
                self.write(&line)
            }
            Format::Dict | Format::Table => {
                let words = flow::Words::of(flow, &self.options);
                self.row(&[
                    ("TIMESTAMP", words.time),
                    ("NODE", words.node),
                    ("SOURCE", words.source),
                    ("DESTINATION", words.destination),
                    ("TYPE", words.kind),
                    ("VERDICT", words.verdict),
                    ("SUMMARY", words.summary),
                ])
            }
        }
    }

    fn lost(&mut self, lost: &LostEvent, response: &GetFlowsResponse) -> Result<()> {
        let source = flow::lost_at(lost);
        let (cpu, count) = flow::lost(lost);
        match self.options.format {
            Format::Json | Format::Jsonpb => self.json(response),
            Format::Compact => self.write(&format!("EVENTS LOST: {source} CPU({cpu}) {count}\n")),
            Format::Dict | Format::Table => {
                let time = self.options.layout.show(moment(response.time.as_ref()));
                self.row(&[
                    ("TIMESTAMP", time),
                    ("NODE", response.node_name.clone()),
                    ("SOURCE", source.to_owned()),
                    ("DESTINATION", String::new()),
                    ("TYPE", "EVENTS LOST".to_owned()),
                    ("VERDICT", String::new()),
                    ("SUMMARY", format!("CPU({cpu}) - {count}")),
                ])
            }
        }
    }

    /// What a relay says of the nodes behind it: to the other output, and if all is well only for debugging.
    fn node_status(&mut self, status: &NodeStatusEvent, response: &GetFlowsResponse) -> Result<()> {
        let state = NodeState::try_from(status.state_change).unwrap_or_default();
        if !self.options.debug
            && !matches!(state, NodeState::NodeError | NodeState::NodeUnavailable)
        {
            return Ok(());
        }
        let time = self.options.layout.show(moment(response.time.as_ref()));
        let text = match self.options.format {
            Format::Json | Format::Jsonpb => json::to_string(response)? + "\n",
            Format::Dict => {
                let message = match status.message.as_str() {
                    "" => "N/A".to_owned(),
                    text => format!("{text:?}"),
                };
                block(&[
                    ("TIMESTAMP", time),
                    ("STATE", state.as_str_name().to_owned()),
                    ("NODES", listed(&status.node_names)),
                    ("MESSAGE", message),
                ])
            }
            Format::Compact | Format::Table => {
                format!("{time} [{}]: {}\n", response.node_name, said(state, status))
            }
        };
        Ok(self.err.write_all(text.as_bytes())?)
    }

    /// Something that the agent did.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn agent_event(&mut self, response: &GetAgentEventsResponse) -> Result<()> {
        let nothing = AgentEvent::default();
        let event = response.agent_event.as_ref().unwrap_or(&nothing);
        let kind = event::agent_type(event);
        let details = event::agent_details(event, &self.options);
        let time = self.options.layout.show(moment(response.time.as_ref()));
        match self.options.format {
            Format::Json if self.options.bare => self.json(event),
            Format::Json | Format::Jsonpb => self.json(response),
            Format::Compact => {
                let node = self.node(&response.node_name);
                self.write(&format!("{time}{node}: {kind} ({details})\n"))
            }
            Format::Dict | Format::Table => self.row(&[
                ("TIMESTAMP", time),
                ("NODE", response.node_name.clone()),
                ("TYPE", kind.to_owned()),
                ("DETAILS", details),
            ]),
        }
    }

    /// Something that the agent's programs told for debugging.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn debug_event(&mut self, response: &GetDebugEventsResponse) -> Result<()> {
        let nothing = DebugEvent::default();
        let event = response.debug_event.as_ref().unwrap_or(&nothing);
        let [from, kind, mark, cpu] = event::debug_parts(event);
        let time = self.options.layout.show(moment(response.time.as_ref()));
        match self.options.format {
            Format::Json if self.options.bare => self.json(event),
            Format::Json | Format::Jsonpb => self.json(response),
            Format::Compact => {
                let node = self.node(&response.node_name);
                self.write(&format!(
                    "{time}{node}: {from} {kind} MARK: {mark} CPU: {cpu} ({})\n",
                    event.message
                ))
            }
            Format::Dict | Format::Table => self.row(&[
                ("TIMESTAMP", time),
                ("NODE", response.node_name.clone()),
                ("FROM", from),
                ("TYPE", kind),
                ("CPU", cpu),
                ("MARK", mark),
                ("MESSAGE", event.message.clone()),
            ]),
        }
    }

    /// Prints what had to wait until the end: columns are as wide as their widest cell.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        let text = table::align(&std::mem::take(&mut self.table));
        self.write(&text)
    }

    fn node(&self, name: &str) -> String {
        if self.options.node {
            format!(" [{name}]")
        } else {
            String::new()
        }
    }

    /// A block of lines, or a row of the table.
    fn row(&mut self, parts: &[(&str, String)]) -> Result<()> {
        let node = self.options.node;
        let wanted: Vec<_> = parts
            .iter()
            .filter(|(name, _)| node || *name != "NODE")
            .cloned()
            .collect();
        let first = !std::mem::replace(&mut self.begun, true);
        if self.options.format == Format::Dict {
            let separator = if first {
                String::new()
            } else {
                format!("{SEPARATOR}\n")
            };
            return self.write(&(separator + &block(&wanted)));
        }
        let line = |cells: Vec<&str>| cells.join("\t") + "\n";
        if first {
            self.table += &line(wanted.iter().map(|(name, _)| *name).collect());
        }
        self.table += &line(wanted.iter().map(|(_, text)| text.as_str()).collect());
        Ok(())
    }

    fn json<M: prost::Message + prost::Name>(&mut self, message: &M) -> Result<()> {
        let mut line = Vec::with_capacity(1024);
        json::write(&mut line, message)?;
        line.push(b'\n');
        output::check(self.out.write_all(&line).and_then(|()| self.out.flush()))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        output::check(
            self.out
                .write_all(text.as_bytes())
                .and_then(|()| self.out.flush()),
        )
    }
}

/// Lines with their names right-aligned.
pub fn block(parts: &[(&str, String)]) -> String {
    let width = parts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in parts {
        let _ = writeln!(text, "{name:>width$}: {value}");
    }
    text
}

/// Names with commas, cut where there are too many.
fn listed(names: &[String]) -> String {
    let mut length = 0;
    let shown = names
        .iter()
        .enumerate()
        .take_while(|(index, name)| {
            length += name.len() + 2;
            length <= NAMES_LIMIT || *index == 0
        })
        .count();
    let text = names[..shown].join(", ");
    match names.len() - shown {
        0 => text,
        more => format!("{text} (and {more} more)"),
    }
}

fn said(state: NodeState, status: &NodeStatusEvent) -> String {
    let count = status.node_names.len();
    let names = listed(&status.node_names);
    match state {
        NodeState::NodeConnected => format!("Receiving flows from {count} nodes: {names}"),
        NodeState::NodeUnavailable => format!("{count} nodes are unavailable: {names}"),
        NodeState::NodeGone => format!("{count} nodes removed from cluster: {names}"),
        NodeState::NodeError => format!("Error {:?} on {count} nodes: {names}", status.message),
        NodeState::UnknownNodeState => format!("unknown state of {count} nodes: {names}"),
    }
}
