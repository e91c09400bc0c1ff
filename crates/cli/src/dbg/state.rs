//! What the agent knows: addresses, nodes, tables, settings, versions.
use std::collections::BTreeMap;

use anyhow::Result;
use api::{IpEntry, NodeInfo, Setting, TableDump, TableInfo};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::error::Usage;
use crate::output::OutputArgs;
use crate::table::{Table, align};
use crate::target::{Agent, show};
use crate::version;

#[derive(Debug, Subcommand)]
pub enum IpCommand {
    /// All known addresses and prefixes
    List {
        #[command(flatten)]
        output: OutputArgs,
        /// Identities as numbers, not as labels
        #[arg(short = 'n', long)]
        numeric: bool,
        /// With the node behind which each address is
        #[arg(short = 'v', long)]
        verbose: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// All nodes
    List(OutputArgs),
}

#[derive(Debug, Args)]
pub struct StatedbArgs {
    /// The table; without it, the list of tables
    table: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// `get KEY` prints one value; without it, all settings
    #[arg(value_names = ["get", "KEY"], num_args = 0..=2)]
    words: Vec<String>,
    /// With each setting's source
    #[arg(short = 'a', long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run_ip(
    agents: &mut [Agent],
    IpCommand::List {
        output,
        numeric,
        verbose,
    }: &IpCommand,
) -> Result<()> {
    show(
        agents,
        output,
        |agent| Ok(agent.client.ips()?),
        |entries| ips(entries, *numeric, *verbose),
    )
}

fn ips(entries: &[IpEntry], numeric: bool, verbose: bool) -> String {
    let mut header = vec!["IP", "IDENTITY", "SOURCE"];
    header.extend(
        verbose
            .then_some(["HOST", "ENCRYPT_KEY"])
            .into_iter()
            .flatten(),
    );
    let mut text = header.join("\t") + "\n";
    for entry in entries {
        let (first, rest) = identity(entry, numeric);
        let mut cells = vec![entry.prefix.to_string(), first, entry.source.clone()];
        if verbose {
            cells.extend([
                entry
                    .tunnel_endpoint
                    .map(|ip| ip.to_string())
                    .unwrap_or_default(),
                "0".into(),
            ]);
        }
        text.push_str(&(cells.join("\t") + "\n"));
        let empty = "\t".repeat(cells.len() - 2);
        text.extend(rest.iter().map(|label| format!("\t{label}{empty}\n")));
    }
    align(&text)
}

/// The identity as the first line and further lines of its column.
fn identity(entry: &IpEntry, numeric: bool) -> (String, Vec<String>) {
    let mut labels = entry.labels.clone();
    labels.sort();
    match (numeric, abi::identity::reserved_name(entry.identity)) {
        (true, _) => (entry.identity.to_string(), Vec::new()),
        (false, _) if !labels.is_empty() => (labels.remove(0), labels),
        (false, Some(name)) => (format!("reserved:{name}"), Vec::new()),
        (false, None) => (entry.identity.to_string(), Vec::new()),
    }
}

pub fn run_node(agents: &mut [Agent], NodeCommand::List(output): &NodeCommand) -> Result<()> {
    show(
        agents,
        output,
        |agent| Ok(agent.client.nodes()?),
        |nodes| node_list(nodes),
    )
}

fn node_list(nodes: &[NodeInfo]) -> String {
    let mut nodes: Vec<&NodeInfo> = nodes.iter().collect();
    nodes.sort_by_key(|node| (!node.local, node.name.clone()));
    let mut table = Table::new(&[
        "Name",
        "IPv4 Address",
        "Endpoint CIDR",
        "IPv6 Address",
        "Endpoint CIDR",
        "Source",
    ]);
    for node in nodes {
        let cidrs = |ipv4: bool| {
            let of_family = node
                .pod_cidrs
                .iter()
                .filter(|cidr| cidr.addr().is_ipv4() == ipv4);
            of_family
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        table.row(&[
            node.name.clone(),
            node.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
            cidrs(true),
            node.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
            cidrs(false),
            if node.local {
                "local".into()
            } else {
                node.source.clone()
            },
        ]);
    }
    table.render()
}

pub fn run_statedb(agents: &mut [Agent], args: &StatedbArgs) -> Result<()> {
    match args.table.as_deref() {
        None | Some("dump") => show(
            agents,
            &args.output,
            |agent| Ok(agent.client.tables()?),
            |tables| table_list(tables),
        ),
        Some(name) => show(
            agents,
            &args.output,
            |agent| Ok(agent.client.table(name)?),
            table_rows,
        ),
    }
}

fn table_list(tables: &[TableInfo]) -> String {
    let mut out = Table::new(&["Name", "#Objects", "Revision", "Initialized"]);
    for table in tables {
        out.row(&[
            table.name.clone(),
            table.rows.to_string(),
            table.revision.to_string(),
            table.initialized.to_string(),
        ]);
    }
    out.render()
}

fn table_rows(dump: &TableDump) -> String {
    let mut out = Table::default();
    out.row(&dump.columns);
    for row in &dump.rows {
        out.row(row);
    }
    out.render()
}

pub fn run_config(agents: &mut [Agent], args: &ConfigArgs) -> Result<()> {
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => show(
            agents,
            &args.output,
            |agent| Ok(agent.client.config()?),
            |settings| config(settings, args.all),
        ),
        ["get", key] => show(
            agents,
            &args.output,
            |agent| setting(agent, key),
            |setting| format!("{}\n", setting.value),
        ),
        _ => Err(Usage("accepted: config, config --all, config get KEY".into()).into()),
    }
}

fn setting(agent: &mut Agent, key: &str) -> Result<Setting> {
    let settings = agent.client.config()?;
    let found = settings
        .into_iter()
        .find(|setting| setting.name.eq_ignore_ascii_case(key));
    found.ok_or_else(|| anyhow::anyhow!("Configuration does not exist: {key}"))
}

fn config(settings: &[Setting], all: bool) -> String {
    let mut sorted: Vec<&Setting> = settings.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    // No setting can be changed while the agent runs.
    let mut text = String::from("#### Read-only configurations ####\n");
    for setting in sorted {
        let value = setting.value.replace('\n', " ");
        let source = if all {
            format!("   ({})", setting.source)
        } else {
            String::new()
        };
        text.push_str(
            &(format!("{:<34}: {value}{source}", setting.name)
                .trim_end()
                .to_owned()
                + "\n"),
        );
    }
    text
}

#[derive(Serialize)]
struct Versions {
    client: String,
    daemon: String,
}

pub fn run_version(agents: &mut [Agent]) -> Result<()> {
    let ask = |agent: &mut Agent| {
        let status = agent.client.healthz()?;
        Ok(Versions {
            client: version::client().trim().to_owned(),
            daemon: status.version,
        })
    };
    show(agents, &OutputArgs::default(), ask, |versions| {
        format!("Client: {}\nDaemon: {}\n", versions.client, versions.daemon)
    })
}

/// The value of a setting, for other commands.
pub fn value_of(agent: &mut Agent, key: &str) -> Result<Option<String>> {
    let settings: BTreeMap<String, String> = agent
        .client
        .config()?
        .into_iter()
        .map(|s| (s.name, s.value))
        .collect();
    Ok(settings.get(key).cloned().filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn ip_list() {
        let entries: Vec<IpEntry> = serde_json::from_value(json!([
            {"prefix": "10.7.1.12/32", "identity": 21565, "labels": ["k8s:b=2", "k8s:a=1"], "source": "k8s", "tunnelEndpoint": "192.0.2.12"},
            {"prefix": "0.0.0.0/0", "identity": 2, "source": "generated"},
            {"prefix": "2001:db8::/64", "identity": 300, "source": "k8s"},
        ]))
        .unwrap();
        expect![[r#"
            IP              IDENTITY         SOURCE
            10.7.1.12/32    k8s:a=1          k8s
                            k8s:b=2
            0.0.0.0/0       reserved:world   generated
            2001:db8::/64   300              k8s
        "#]]
        .assert_eq(&ips(&entries, false, false));
        expect![[r#"
            IP              IDENTITY   SOURCE      HOST         ENCRYPT_KEY
            10.7.1.12/32    21565      k8s         192.0.2.12   0
            0.0.0.0/0       2          generated                0
            2001:db8::/64   300        k8s                      0
        "#]]
        .assert_eq(&ips(&entries, true, true));
    }

    #[test]
    fn nodes_with_the_own_first() {
        let nodes: Vec<NodeInfo> = serde_json::from_value(json!([
            {"name": "n1", "ipv4": "192.0.2.11", "podCidrs": ["10.7.1.0/24"], "source": "kubernetes"},
            {"name": "n2", "local": true, "ipv4": "192.0.2.12", "ipv6": "2001:db8::12", "podCidrs": ["10.7.2.0/24", "2001:db8:7::/112"], "source": "local"},
        ]))
        .unwrap();
        expect![[r#"
            Name   IPv4 Address   Endpoint CIDR   IPv6 Address   Endpoint CIDR      Source
            n2     192.0.2.12     10.7.2.0/24     2001:db8::12   2001:db8:7::/112   local
            n1     192.0.2.11     10.7.1.0/24                                       kubernetes
        "#]]
        .assert_eq(&node_list(&nodes));
    }

    #[test]
    fn tables() {
        let table = TableInfo {
            name: "endpoints".into(),
            rows: 7,
            revision: 99,
            initialized: true,
        };
        expect![[r#"
            Name        #Objects   Revision   Initialized
            endpoints   7          99         true
        "#]]
        .assert_eq(&table_list(&[table]));
        let dump = TableDump {
            columns: vec!["Name".into(), "Status".into()],
            rows: vec![
                vec!["10.7.2.0/24".into(), "done".into()],
                vec!["10.7.3.0/24".into(), "error: no route".into()],
            ],
            ..TableDump::default()
        };
        expect![[r#"
            Name          Status
            10.7.2.0/24   done
            10.7.3.0/24   error: no route
        "#]]
        .assert_eq(&table_rows(&dump));
    }

    #[test]
    fn settings() {
        let setting = |name: &str, value: &str| Setting {
            name: name.into(),
            value: value.into(),
            default: String::new(),
            source: "default".into(),
        };
        let settings = [
            setting("routing-mode", "tunnel"),
            setting("debug", ""),
            setting("enable-ipv4-masquerade-very-long-name", "true"),
        ];
        expect![[r#"
            #### Read-only configurations ####
            debug                             :
            enable-ipv4-masquerade-very-long-name: true
            routing-mode                      : tunnel
        "#]]
        .assert_eq(&config(&settings, false));
        assert!(config(&settings, true).contains(": tunnel   (default)"));
    }
}
