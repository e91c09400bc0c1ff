//! `hubble observe`: what an observer has recorded, and what it sees now.
pub mod file;
pub mod filters;
pub mod flags;
pub mod select;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::flow::filter;
use anyhow::{Result, anyhow};
use api::hubble::flow::Flow;
use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::observer_client::ObserverClient;
use api::hubble::observer::{
    ExportEvent, GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest, GetFlowsResponse,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use prost_types::FieldMask;
use tonic::{Code, Status, Streaming};

use self::flags::FilterFlags;
use self::select::{SelectFlags, Selection, stamp};
use super::client::{Server, Service};
use super::print::color::{Colors, When};
use super::print::{Format, Options, Printer};
use super::settings::Settings;
use super::time::Layout;
use crate::error::Usage;
use crate::output::{self, OutputClosed};

/// What is observed: flows, unless said otherwise.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ObserveArgs {
    #[command(subcommand)]
    kind: Option<Kind>,
    #[command(flatten)]
    flows: FlowArgs,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Flows: packets, verdicts, requests
    Flows(Box<FlowArgs>),
    /// What agents did: endpoints, policies, services
    AgentEvents(EventArgs),
    /// What the programs of agents tell for debugging
    DebugEvents(EventArgs),
}

#[derive(Debug, Args)]
struct FlowArgs {
    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    filters: FilterFlags,
    #[command(flatten)]
    format: FormatFlags,
    /// Names of pods and services in place of addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Formatting")]
    ip_translation: bool,
    /// Numbers in place of the names of reserved identities
    #[arg(long, help_heading = "Formatting")]
    numeric: bool,
    /// Print the filters as the flow API has them, and ask nobody
    #[arg(long)]
    print_raw_filters: bool,
    /// Only these fields of flows, as source.pod_name,verdict
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    experimental_field_mask: Vec<String>,
    /// Only the fields of flows that are printed
    #[arg(long, conflicts_with = "experimental_field_mask")]
    experimental_use_default_field_masks: bool,
}

#[derive(Debug, Args)]
struct EventArgs {
    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    format: FormatFlags,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Formatting")]
struct FormatFlags {
    /// How each is printed
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "compact")]
    output: Format,
    /// How times are printed: StampMilli, RFC3339Nano …
    #[arg(long, value_name = "LAYOUT", default_value = "StampMilli")]
    time_format: Layout,
    /// Say which node saw it
    #[arg(long)]
    print_node_name: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: When,
    /// Read what was recorded in this file instead of asking a server; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    input_file: Option<PathBuf>,
    /// Nothing is said of errors at the end of the stream, or of wrong lines of a file
    #[arg(short = 's', long)]
    silent_errors: bool,
}

impl FormatFlags {
    fn options(&self, debug: bool, follow: bool) -> Result<Options> {
        if self.output == Format::Table && follow {
            return Err(Usage(
                "-o table and --follow exclude each other: columns are as wide as their widest cell"
                    .to_owned(),
            )
            .into());
        }
        let compat = std::env::var("HUBBLE_COMPAT").unwrap_or_default();
        Ok(Options {
            format: self.output,
            colors: Colors::of(self.color),
            layout: self.time_format,
            node: self.print_node_name,
            debug,
            bare: compat.split(',').any(|word| word == "legacy-json-output"),
            ..Options::default()
        })
    }
}

/// Fields that the formats for people show.
const SHOWN: [&str; 18] = [
    "time",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "source_service",
    "destination_service",
    "l4",
    "IP",
    "ethernet",
    "l7",
    "Type",
    "node_name",
    "is_reply",
    "event_type",
    "verdict",
];

/// Carries the command out.
///
/// # Errors
/// Flags do not go together, nobody answers, or the server refuses.
pub fn run(args: &ObserveArgs, settings: &Settings) -> Result<()> {
    let now = Timestamp::now();
    match &args.kind {
        None => flows(&args.flows, settings, now),
        Some(Kind::Flows(args)) => flows(args, settings, now),
        Some(Kind::AgentEvents(args)) => agent_events(args, settings, now),
        Some(Kind::DebugEvents(args)) => debug_events(args, settings, now),
    }
}

fn flows(args: &FlowArgs, settings: &Settings, now: Timestamp) -> Result<()> {
    let filters = &args.filters.filters;
    if args.print_raw_filters {
        return output::write_out(&filters.show()?);
    }
    let selection = args
        .select
        .selection(now, args.format.input_file.is_some())?;
    let mut options = args
        .format
        .options(settings.on("debug"), selection.follow)?;
    options.translate = args.ip_translation;
    options.numeric = args.numeric;
    let mask = mask(args, &options);
    let mut printer = Printer::new(options, io::stdout(), io::stderr());
    if let Some(path) = &args.format.input_file {
        let wanted = filter::Filters::compile(&filters.allow, &filters.deny)
            .map_err(|error| Usage(error.to_string()))?;
        let silent = args.format.silent_errors;
        let passes = |response: &GetFlowsResponse| match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => wanted.passes(flow),
            _ => true,
        };
        let wanted = |event| file::flow(event).filter(passes);
        file::read(file::open(path)?, &selection, silent, wanted, |response| {
            printer.response(&response)
        })?;
        return printer.finish();
    }
    let request = GetFlowsRequest {
        number: selection.number,
        first: selection.first,
        follow: selection.follow,
        blacklist: filters.deny.clone(),
        whitelist: filters.allow.clone(),
        since: selection.since.map(stamp),
        until: selection.until.map(stamp),
        field_mask: mask,
        ..GetFlowsRequest::default()
    };
    super::on_server(settings, async |server| {
        let stream = server.observer().get_flows(request).await;
        let end = each(&server, stream, |response| printer.response(&response)).await;
        ended(end, args.format.silent_errors, &mut printer)
    })
}

/// What is masked away costs nothing on the way; JSON is for programs, which ask for themselves.
fn mask(args: &FlowArgs, options: &Options) -> Option<FieldMask> {
    let people = matches!(
        options.format,
        Format::Compact | Format::Dict | Format::Table
    );
    let paths: Vec<String> = if args.experimental_use_default_field_masks && people {
        let summary = std::iter::once("Summary");
        SHOWN
            .into_iter()
            .chain(summary)
            .map(str::to_owned)
            .collect()
    } else {
        args.experimental_field_mask.clone()
    };
    (!paths.is_empty()).then_some(FieldMask { paths })
}

fn agent_events(args: &EventArgs, settings: &Settings, now: Timestamp) -> Result<()> {
    let ask = async |mut observer: Asked, selection: Selection| {
        let request = GetAgentEventsRequest {
            number: selection.number,
            first: selection.first,
            follow: selection.follow,
            since: selection.since.map(stamp),
            until: selection.until.map(stamp),
        };
        observer.get_agent_events(request).await
    };
    let print = |printer: &mut ToTerminal, response| printer.agent_event(&response);
    events(args, settings, now, file::agent_event, ask, print)
}

fn debug_events(args: &EventArgs, settings: &Settings, now: Timestamp) -> Result<()> {
    let ask = async |mut observer: Asked, selection: Selection| {
        let request = GetDebugEventsRequest {
            number: selection.number,
            first: selection.first,
            follow: selection.follow,
            since: selection.since.map(stamp),
            until: selection.until.map(stamp),
        };
        observer.get_debug_events(request).await
    };
    let print = |printer: &mut ToTerminal, response| printer.debug_event(&response);
    events(args, settings, now, file::debug_event, ask, print)
}

type ToTerminal = Printer<io::Stdout, io::Stderr>;
type Asked = ObserverClient<Service>;

/// Events of one kind: recorded ones of a file, of which `recorded` makes them, or what the server has for `ask`.
fn events<T>(
    args: &EventArgs,
    settings: &Settings,
    now: Timestamp,
    recorded: impl Fn(ExportEvent) -> Option<T>,
    ask: impl AsyncFnOnce(Asked, Selection) -> Result<tonic::Response<Streaming<T>>, Status>,
    print: impl Fn(&mut ToTerminal, T) -> Result<()>,
) -> Result<()> {
    let selection = args
        .select
        .selection(now, args.format.input_file.is_some())?;
    let options = args
        .format
        .options(settings.on("debug"), selection.follow)?;
    let mut printer = Printer::new(options, io::stdout(), io::stderr());
    let silent = args.format.silent_errors;
    if let Some(path) = &args.format.input_file {
        let file = file::open(path)?;
        file::read(file, &selection, silent, recorded, |response| {
            print(&mut printer, response)
        })?;
        return printer.finish();
    }
    super::on_server(settings, async |server| {
        let stream = ask(server.observer(), selection).await;
        let end = each(&server, stream, |response| print(&mut printer, response)).await;
        ended(end, silent, &mut printer)
    })
}

/// Flows of a file, or all that a server keeps; since then, if something is said.
///
/// # Errors
/// The file has something else, a time is none, or nobody answers.
pub fn recorded(
    path: Option<&Path>,
    since: Option<&str>,
    settings: &Settings,
) -> Result<Vec<Flow>> {
    let flags = SelectFlags {
        all: true,
        since: since.map(str::to_owned),
        ..SelectFlags::default()
    };
    let selection = flags.selection(Timestamp::now(), path.is_some())?;
    let mut flows = Vec::new();
    let mut take = |response: GetFlowsResponse| {
        if let Some(ResponseTypes::Flow(flow)) = response.response_types {
            flows.push(flow);
        }
        Ok(())
    };
    match path {
        Some(path) => file::read(file::open(path)?, &selection, false, file::flow, take)?,
        None => super::on_server(settings, async |server| {
            let request = GetFlowsRequest {
                number: selection.number,
                since: selection.since.map(stamp),
                ..GetFlowsRequest::default()
            };
            let stream = server.observer().get_flows(request).await;
            each(&server, stream, &mut take).await
        })?,
    }
    Ok(flows)
}

/// Hands on what comes until the stream ends or somebody interrupts.
async fn each<T>(
    server: &Server,
    stream: Result<tonic::Response<Streaming<T>>, Status>,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    // The first tick is at once, the next one never.
    let mut ticks = tokio::time::interval(FOREVER);
    ticks.tick().await;
    each_until(server, stream, &mut ticks, |event| {
        if let Event::Message(message) = event {
            take(message)?;
        }
        Ok(true)
    })
    .await
}

/// A time that nobody waits for.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What happens while a stream is read.
pub enum Event<T> {
    /// Something came.
    Message(T),
    /// Time has passed.
    Tick,
}

/// Hands on what comes, and how time passes, until `take` has enough, the stream ends or somebody interrupts.
///
/// # Errors
/// Those of `take`, and what the server refuses.
pub async fn each_until<T>(
    server: &Server,
    stream: Result<tonic::Response<Streaming<T>>, Status>,
    ticks: &mut tokio::time::Interval,
    mut take: impl FnMut(Event<T>) -> Result<bool>,
) -> Result<()> {
    let refused = |status: Status| server.refused(&status);
    let mut stream = stream.map_err(refused)?.into_inner();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = ticks.tick() => {
                if !take(Event::Tick)? {
                    return Ok(());
                }
                continue;
            }
            _ = &mut interrupted => return Ok(()),
        };
        match message {
            Ok(Some(message)) => {
                if !take(Event::Message(message))? {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::Cancelled => return Ok(()),
            Err(status) => return Err(refused(status)),
        }
    }
}

/// What came is printed even if the stream broke.
fn ended<O: Write, E: Write>(
    end: Result<()>,
    silent: bool,
    printer: &mut Printer<O, E>,
) -> Result<()> {
    match end {
        Err(error) if error.is::<OutputClosed>() => Err(error),
        Err(error) => {
            printer.finish()?;
            if silent { Ok(()) } else { Err(anyhow!(error)) }
        }
        Ok(()) => printer.finish(),
    }
}
