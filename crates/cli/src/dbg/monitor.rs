//! `monitor`.
use std::io::Write;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};
use api::{MonitorEvent, MonitorKind, MonitorQuery};
use clap::{Args, ValueEnum};

use super::event::{self, Style};
use super::places::Places;
use crate::error::one_line;
use crate::output;
use crate::target::Agent;

#[derive(Debug, Args)]
pub struct MonitorArgs {
    /// Time, length and source of every event
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Only these kinds of events
    #[arg(short = 't', long = "type", value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Only what this endpoint sends
    #[arg(long, value_name = "ENDPOINT")]
    from: Option<u16>,
    /// Only what this endpoint receives
    #[arg(long, value_name = "ENDPOINT")]
    to: Option<u16>,
    /// Only what this endpoint sends or receives
    #[arg(long, value_name = "ENDPOINT")]
    related_to: Option<u16>,
    /// One JSON object per line
    #[arg(short = 'j', long)]
    json: bool,
    /// All identities as numbers
    #[arg(short = 'n', long)]
    numeric: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Trace,
    Drop,
    PolicyVerdict,
    TraceSock,
    L7,
    Agent,
}

impl From<Kind> for MonitorKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Trace => Self::Trace,
            Kind::Drop => Self::Drop,
            Kind::PolicyVerdict => Self::PolicyVerdict,
            Kind::TraceSock => Self::TraceSock,
            Kind::L7 => Self::L7,
            Kind::Agent => Self::Agent,
        }
    }
}

pub fn run(agents: &[Agent], args: &MonitorArgs) -> Result<()> {
    let kinds: Vec<MonitorKind> = args.kinds.iter().copied().map(Into::into).collect();
    let query = MonitorQuery {
        from: args.from,
        to: args.to,
        related_to: args.related_to,
        ..MonitorQuery::default()
    }
    .kinds(&kinds);
    let (found, events) = mpsc::sync_channel(1024);
    let several = agents.len() > 1;
    // All streams first: an agent that cannot be asked ends the command before any thread waits for events.
    let open = |agent: &Agent| {
        agent
            .client
            .monitor(&query)
            .with_context(|| format!("cannot listen{}", on(agent)))
    };
    let streams = agents.iter().map(open).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for (agent, lines) in agents.iter().zip(streams) {
            let (found, prefix) = (found.clone(), agent.node.clone().filter(|_| several));
            let mut places = Places::of(agent);
            scope.spawn(move || {
                for event in lines {
                    let event =
                        event.map(|event| if args.json { event } else { places.add(event) });
                    if found.send((prefix.clone(), event)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(found);
        let result = print(args, events);
        if let Err(error) = &result {
            // Threads that wait for an event of a quiet node cannot be told to stop; the process ends with them.
            let closed = error.is::<output::OutputClosed>();
            if !closed {
                eprintln!("Error: {}", one_line(error));
            }
            std::process::exit(i32::from(!closed));
        }
        result
    })
}

fn on(agent: &Agent) -> String {
    agent
        .node
        .as_ref()
        .map(|node| format!(" on {node}"))
        .unwrap_or_default()
}

type Found = (Option<String>, Result<MonitorEvent, api::ClientError>);

fn print(args: &MonitorArgs, events: mpsc::Receiver<Found>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if !args.json {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        output::check(writeln!(
            out,
            "Listening for events on {cpus} CPUs with one shared ring of memory\nPress Ctrl-C to quit"
        ))?;
    }
    for (node, event) in events {
        let event = event?;
        if !args.kinds.is_empty() && !wanted(args, event.kind) {
            continue;
        }
        output::check(
            writeln!(out, "{}", text(args, node.as_deref(), &event)?).and_then(|()| out.flush()),
        )?;
    }
    bail!("the agent ended the stream; is it restarting?")
}

/// Lost events are always told.
fn wanted(args: &MonitorArgs, kind: MonitorKind) -> bool {
    kind == MonitorKind::Lost
        || args
            .kinds
            .iter()
            .any(|wanted| MonitorKind::from(*wanted) == kind)
}

fn text(args: &MonitorArgs, node: Option<&str>, event: &MonitorEvent) -> Result<String> {
    if args.json {
        let mut value = serde_json::to_value(event).context("cannot write the event as JSON")?;
        if let (Some(node), Some(object)) = (node, value.as_object_mut()) {
            object.insert("node".into(), node.into());
        }
        return Ok(value.to_string());
    }
    let line = event::line(
        event,
        Style {
            numeric: args.numeric,
            verbose: args.verbose > 0,
        },
    );
    Ok(node.map_or_else(|| line.clone(), |node| format!("{node}: {line}")))
}
