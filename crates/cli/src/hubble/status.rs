//! `hubble status`, `hubble list` and `hubble watch`: the observers themselves.
use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use api::hubble::json;
use api::hubble::observer::{
    GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest, Node, ServerStatusRequest,
    ServerStatusResponse,
};
use api::hubble::peer::peer_client::PeerClient;
use api::hubble::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};
use api::hubble::relay::NodeState;
use clap::{Args, Subcommand, ValueEnum};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::Server;
use super::print::{self, Format};
use super::settings::Settings;
use crate::{output, table};

/// Names of nodes that are away, as many as are shown.
const AWAY: usize = 10;

/// `hubble status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How it is printed
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "compact")]
    output: Format,
}

/// Prints the state of the server.
///
/// # Errors
/// It does not answer, or says that it does not serve.
pub fn run(args: &StatusArgs, settings: &Settings) -> Result<()> {
    super::on_server(settings, async |server| {
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let mut health = HealthClient::new(server.service());
        let health = server.answer(health.check(request)).await?;
        let health = ServingStatus::try_from(health.status).unwrap_or(ServingStatus::Unknown);
        let serving = health == ServingStatus::Serving;
        let mut observer = server.observer();
        let status = if serving {
            Some(
                server
                    .answer(observer.server_status(ServerStatusRequest {}))
                    .await?,
            )
        } else {
            None
        };
        if args.output == Format::Compact {
            let word = if serving {
                "Ok".to_owned()
            } else {
                format!("Unavailable: {}", health.as_str_name())
            };
            output::write_out(&format!("Healthcheck (via {}): {word}\n", server.name))?;
        }
        let Some(status) = status else {
            return Err(anyhow!("not healthy"));
        };
        output::write_out(&show(&status, args.output)?)
    })
}

fn show(status: &ServerStatusResponse, format: Format) -> Result<String> {
    Ok(match format {
        Format::Json | Format::Jsonpb => json::to_string(status)? + "\n",
        Format::Compact => compact(status),
        Format::Dict => print::block(&parts(status)),
        Format::Table => {
            let parts = parts(status);
            let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
            let values: Vec<&str> = parts.iter().map(|(_, value)| value.as_str()).collect();
            table::align(&format!("{}\n{}\n", names.join("\t"), values.join("\t")))
        }
    })
}

/// Events per second; none if the server has only begun.
fn rate(status: &ServerStatusResponse) -> Option<f64> {
    if status.flows_rate > 0.0 {
        return Some(status.flows_rate);
    }
    let seconds = std::time::Duration::from_nanos(status.uptime_ns).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    (seconds > 0.0).then(|| status.seen_flows as f64 / seconds)
}

fn shown_rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "N/A".to_owned(), |rate| format!("{rate:.2}"))
}

/// How many of how many, as 4,095/4,095 (100.00%).
fn filled(current: u64, max: u64, commas: bool) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let percent = if max == 0 {
        0.0
    } else {
        current as f64 / max as f64 * 100.0
    };
    let number = |number: u64| {
        if commas {
            thousands(number)
        } else {
            number.to_string()
        }
    };
    let ratio = format!("{}/{}", number(current), number(max));
    if max == 0 {
        ratio
    } else {
        format!("{ratio} ({percent:.2}%)")
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn compact(status: &ServerStatusResponse) -> String {
    let mut text = format!(
        "Current/Max Flows: {}\nFlows/s: {}\n",
        filled(status.num_flows, status.max_flows, true),
        shown_rate(rate(status))
    );
    let away = status.num_unavailable_nodes.unwrap_or_default();
    if let Some(connected) = status.num_connected_nodes {
        let all = u64::from(connected) + u64::from(away);
        let _ = writeln!(text, "Connected Nodes: {connected}/{all}");
    }
    if away > 0 {
        let _ = writeln!(text, "Unavailable Nodes: {away}");
        let shown = status.unavailable_nodes.iter().take(AWAY);
        let count = shown.len();
        for name in shown {
            let _ = writeln!(text, "  - {name}");
        }
        let more = (away as usize).saturating_sub(count);
        if more > 0 && count > 0 {
            let _ = writeln!(text, "  and {more} more...");
        }
    }
    text
}

fn parts(status: &ServerStatusResponse) -> Vec<(&'static str, String)> {
    let nodes = |count: Option<u32>| count.map_or_else(|| "N/A".to_owned(), |n| n.to_string());
    vec![
        ("NUM FLOWS", thousands(status.num_flows)),
        ("MAX FLOWS", thousands(status.max_flows)),
        ("SEEN FLOWS", thousands(status.seen_flows)),
        ("FLOWS PER SECOND", shown_rate(rate(status))),
        ("UPTIME", age(status.uptime_ns)),
        ("NUM CONNECTED NODES", nodes(status.num_connected_nodes)),
        ("NUM UNAVAILABLE NODES", nodes(status.num_unavailable_nodes)),
        ("VERSION", status.version.clone()),
    ]
}

/// A span in whole seconds, as 1h2m3s.
fn age(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// What is listed.
#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// Nodes whose observers the relay knows
    #[command(visible_alias = "node")]
    Nodes {
        #[command(flatten)]
        output: ListArgs,
    },
    /// Namespaces that flows of the last hour were from or to
    #[command(visible_alias = "ns", alias = "namespace")]
    Namespaces {
        #[command(flatten)]
        output: ListArgs,
    },
}

#[derive(Debug, Args)]
#[doc(hidden)]
pub struct ListArgs {
    /// How they are printed
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Wide,
    Json,
}

/// Prints a list.
///
/// # Errors
/// The server does not answer, or has no such list.
pub fn list(command: &ListCommand, settings: &Settings) -> Result<()> {
    super::on_server(settings, async |server| {
        let mut observer = server.observer();
        let text = match command {
            ListCommand::Nodes { output } => {
                let found = server
                    .answer(observer.get_nodes(GetNodesRequest {}))
                    .await?;
                match output.output {
                    ListFormat::Json => array(&found.nodes)?,
                    format => nodes(&found.nodes, format == ListFormat::Wide),
                }
            }
            ListCommand::Namespaces { output } => {
                let asked = observer.get_namespaces(GetNamespacesRequest {});
                let found = server.answer(asked).await?;
                match output.output {
                    ListFormat::Json => array(&found.namespaces)?,
                    format => namespaces(&found, format == ListFormat::Wide),
                }
            }
        };
        output::write_out(&text)
    })
}

/// Messages as one JSON array.
fn array<M: prost::Message + prost::Name>(messages: &[M]) -> Result<String> {
    let texts: Result<Vec<_>, _> = messages.iter().map(json::to_string).collect();
    let all: serde_json::Value = serde_json::from_str(&format!("[{}]", texts?.join(",")))?;
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn nodes(nodes: &[Node], wide: bool) -> String {
    let mut text = "NAME\tSTATUS\tAGE\tFLOWS/S\tCURRENT/MAX-FLOWS".to_owned();
    text += if wide {
        "\tVERSION\tADDRESS\tTLS\n"
    } else {
        "\n"
    };
    for node in nodes {
        let state = match NodeState::try_from(node.state).unwrap_or_default() {
            NodeState::NodeConnected => "Connected",
            NodeState::NodeUnavailable => "Unavailable",
            NodeState::NodeGone => "Gone",
            NodeState::NodeError => "Error",
            NodeState::UnknownNodeState => "Unknown",
        };
        let (up, seconds) = (node.uptime_ns > 0, node.uptime_ns as f64 / 1e9);
        let or_not = |text: String| if up { text } else { "N/A".to_owned() };
        let _ = write!(
            text,
            "{}\t{state}\t{}\t{}\t{}",
            node.name,
            or_not(age(node.uptime_ns)),
            or_not(format!("{:.2}", node.seen_flows as f64 / seconds)),
            or_not(filled(node.num_flows, node.max_flows, false)),
        );
        if wide {
            let tls = match &node.tls {
                Some(tls) if tls.enabled => "Enabled",
                _ => "Disabled",
            };
            let _ = write!(text, "\t{}\t{}\t{tls}", node.version, node.address);
        }
        text.push('\n');
    }
    table::align(&text)
}

fn namespaces(found: &GetNamespacesResponse, wide: bool) -> String {
    let mut text = "NAMESPACE".to_owned();
    text += if wide { "\tCLUSTER\n" } else { "\n" };
    for one in &found.namespaces {
        text += &one.namespace;
        if wide {
            text += &format!("\t{}", one.cluster);
        }
        text.push('\n');
    }
    table::align(&text)
}

/// What is watched.
#[derive(Debug, Subcommand)]
pub enum WatchCommand {
    /// Nodes with observers, as they come and go
    Peers,
}

/// Prints changes until the stream ends or somebody interrupts.
///
/// # Errors
/// The server does not answer, or knows no peers.
pub fn watch(WatchCommand::Peers: &WatchCommand, settings: &Settings) -> Result<()> {
    super::on_server(settings, async |server: Server| {
        let mut peers = PeerClient::new(server.service());
        let stream = peers.notify(NotifyRequest {}).await;
        let mut stream = stream
            .map_err(|status| server.refused(&status))?
            .into_inner();
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            match message.map_err(|status| server.refused(&status))? {
                Some(change) => output::write_out(&peer(&change))?,
                None => return Ok(()),
            }
        }
    })
}

fn peer(change: &ChangeNotification) -> String {
    let kind = ChangeNotificationType::try_from(change.r#type).unwrap_or_default();
    let tls = match &change.tls {
        Some(tls) => format!(" (TLS.ServerName: {})", tls.server_name),
        None => String::new(),
    };
    format!(
        "{:<12} {} {}{tls}\n",
        kind.as_str_name(),
        change.address,
        change.name
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn state_of_a_relay() {
        let mut status = ServerStatusResponse {
            num_flows: 9004,
            max_flows: 12285,
            seen_flows: 1_234_567,
            uptime_ns: 3_723_000_000_000,
            num_connected_nodes: Some(3),
            num_unavailable_nodes: Some(0),
            version: "hubble-relay v1".to_owned(),
            flows_rate: 17.428,
            ..ServerStatusResponse::default()
        };
        let mut text = show(&status, Format::Compact).unwrap();
        text += &show(&status, Format::Dict).unwrap();
        text += &show(&status, Format::Table).unwrap();
        text += &show(&status, Format::Json).unwrap();
        status.flows_rate = 0.0;
        status.num_unavailable_nodes = Some(12);
        status.unavailable_nodes = (0..10).map(|number| format!("w{number}")).collect();
        text += &show(&status, Format::Compact).unwrap();
        text += &show(&ServerStatusResponse::default(), Format::Compact).unwrap();
        expect![[r#"
            Current/Max Flows: 9,004/12,285 (73.29%)
            Flows/s: 17.43
            Connected Nodes: 3/3
                        NUM FLOWS: 9,004
                        MAX FLOWS: 12,285
                       SEEN FLOWS: 1,234,567
                 FLOWS PER SECOND: 17.43
                           UPTIME: 1h2m3s
              NUM CONNECTED NODES: 3
            NUM UNAVAILABLE NODES: 0
                          VERSION: hubble-relay v1
            NUM FLOWS   MAX FLOWS   SEEN FLOWS   FLOWS PER SECOND   UPTIME   NUM CONNECTED NODES   NUM UNAVAILABLE NODES   VERSION
            9,004       12,285      1,234,567    17.43              1h2m3s   3                     0                       hubble-relay v1
            {"num_flows":"9004","max_flows":"12285","seen_flows":"1234567","uptime_ns":"3723000000000","num_connected_nodes":3,"num_unavailable_nodes":0,"version":"hubble-relay v1","flows_rate":17.428}
            Current/Max Flows: 9,004/12,285 (73.29%)
            Flows/s: 331.61
            Connected Nodes: 3/15
            Unavailable Nodes: 12
              - w0
              - w1
              - w2
              - w3
              - w4
              - w5
              - w6
              - w7
              - w8
              - w9
              and 2 more...
            Current/Max Flows: 0/0
            Flows/s: N/A
        "#]].assert_eq(&text);
    }

    #[test]
    fn lists() {
        let all = [
            Node {
                name: "w1".to_owned(),
                version: "cilium v1".to_owned(),
                address: "192.0.2.11:4244".to_owned(),
                state: NodeState::NodeConnected.into(),
                tls: Some(api::hubble::observer::Tls {
                    enabled: true,
                    server_name: "w1.default.hubble-grpc.cilium.io".to_owned(),
                }),
                uptime_ns: 60_000_000_000,
                num_flows: 4095,
                max_flows: 4095,
                seen_flows: 6000,
            },
            Node {
                name: "c2/w2".to_owned(),
                address: "192.0.2.12:4244".to_owned(),
                state: NodeState::NodeUnavailable.into(),
                ..Node::default()
            },
        ];
        let found = GetNamespacesResponse {
            namespaces: vec![api::hubble::observer::Namespace {
                cluster: "default".to_owned(),
                namespace: "shop".to_owned(),
            }],
        };
        let mut text = nodes(&all, false) + &nodes(&all, true) + &array(&all[1..]).unwrap();
        text += &(namespaces(&found, false) + &namespaces(&found, true));
        text += &peer(&ChangeNotification {
            name: "w1".to_owned(),
            address: "192.0.2.11:4244".to_owned(),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: Some(api::hubble::peer::Tls {
                server_name: "w1.default.hubble-grpc.cilium.io".to_owned(),
            }),
        });
        expect![[r#"
            NAME    STATUS        AGE    FLOWS/S   CURRENT/MAX-FLOWS
            w1      Connected     1m0s   100.00    4095/4095 (100.00%)
            c2/w2   Unavailable   N/A    N/A       N/A
            NAME    STATUS        AGE    FLOWS/S   CURRENT/MAX-FLOWS     VERSION     ADDRESS           TLS
            w1      Connected     1m0s   100.00    4095/4095 (100.00%)   cilium v1   192.0.2.11:4244   Enabled
            c2/w2   Unavailable   N/A    N/A       N/A                               192.0.2.12:4244   Disabled
            [
              {
                "address": "192.0.2.12:4244",
                "name": "c2/w2",
                "state": "NODE_UNAVAILABLE"
              }
            ]
            NAMESPACE
            shop
            NAMESPACE   CLUSTER
            shop        default
            PEER_ADDED   192.0.2.11:4244 w1 (TLS.ServerName: w1.default.hubble-grpc.cilium.io)
        "#]].assert_eq(&text);
    }
}
