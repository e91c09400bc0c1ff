//! Flags that choose flows. Their order counts, so clap's own derive does not do: `--not` is for the flag after it.
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::filters::Filters;

macro_rules! ends {
    ($($name:literal $value:literal $help:literal,)*) => {
        /// Flags for each end of a flow: names for the source, the destination and either; what a value is called; what it is.
        const ENDS: &[([&str; 3], &str, &str)] = &[
            $(([concat!("from-", $name), concat!("to-", $name), $name], $value, $help),)*
        ];
    };
}

ends! {
    "pod" "[NAMESPACE/]NAME" "pods whose names begin so",
    "ip" "ADDRESS|CIDR" "an address or a range",
    "fqdn" "NAME" "a DNS name; * stands for anything",
    "label" "SELECTOR" "labels, as k8s:app in (a,b)",
    "namespace" "NAMESPACE" "pods of a namespace",
    "all-namespaces" "" "pods of every namespace",
    "service" "[NAMESPACE/]NAME" "services whose names begin so",
    "port" "PORT" "a port",
    "identity" "NUMBER|NAME" "a security identity, as 21565 or world",
    "workload" "[KIND/]NAME" "what owns the pods",
    "cluster" "NAME" "a cluster",
}

/// Flags for the flow as a whole.
const FLOW: &[(&str, &str, &str)] = &[
    ("snat-ip", "ADDRESS|CIDR", "Masqueraded to this address"),
    (
        "verdict",
        "VERDICT",
        "What became of it: FORWARDED, DROPPED, ERROR, AUDIT, REDIRECTED, TRACED, TRANSLATED",
    ),
    (
        "drop-reason-desc",
        "REASON",
        "Why it was dropped, as POLICY_DENIED",
    ),
    (
        "protocol",
        "PROTOCOL",
        "tcp, udp, icmp, icmpv4, icmpv6, sctp, http, dns, kafka",
    ),
    (
        "tcp-flags",
        "FLAGS",
        "TCP with all of these flags, as SYN,ACK",
    ),
    (
        "type",
        "TYPE[:POINT]",
        "Kind of event: capture, drop, l7, policy-verdict, trace, trace-sock, or trace:to-endpoint",
    ),
    ("traffic-direction", "DIRECTION", "ingress or egress"),
    (
        "http-status",
        "CODE",
        "Status of HTTP answers, as 404 or 4+",
    ),
    ("http-method", "METHOD", "Method of HTTP requests"),
    ("http-path", "REGEX", "Path of HTTP requests"),
    ("http-url", "REGEX", "URL of HTTP requests"),
    ("http-header", "KEY:VALUE", "A header of HTTP requests"),
    ("trace-id", "ID", "The trace it belongs to"),
    ("uuid", "UUID", "This flow alone"),
    (
        "node-name",
        "[CLUSTER/]NODE",
        "Seen on nodes of this name; * stands for anything",
    ),
    ("node-label", "SELECTOR", "Seen on nodes with these labels"),
    ("interface", "NAME|INDEX", "Seen at this device"),
    ("ip-version", "VERSION", "4 or 6"),
    ("ipv4", "", "As --ip-version 4"),
    ("ipv6", "", "As --ip-version 6"),
    (
        "cel-expression",
        "EXPRESSION",
        "An expression over the variable _flow is true",
    ),
    (
        "allowlist",
        "JSON",
        "Flows that this filter of the flow API matches",
    ),
    (
        "denylist",
        "JSON",
        "Flows that this filter of the flow API does not match",
    ),
    ("not", "", "Flows that the filter after it does not match"),
];

/// Which flows are wanted.
#[derive(Clone, Debug, Default)]
pub struct FilterFlags {
    /// What the flags mean.
    pub filters: Filters,
}

fn short(name: &str) -> Option<char> {
    match name {
        "label" => Some('l'),
        "namespace" => Some('n'),
        "all-namespaces" => Some('A'),
        "type" => Some('t'),
        "ipv4" => Some('4'),
        "ipv6" => Some('6'),
        _ => None,
    }
}

fn arg(name: &'static str, value: &'static str, help: String) -> Arg {
    let arg = Arg::new(name)
        .long(name)
        .help(help)
        .help_heading("Filters")
        .action(ArgAction::Append);
    let arg = match short(name) {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    if value.is_empty() {
        // A switch that may be there several times, each at its place.
        arg.value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg.value_name(value)
    }
}

/// Every flag.
fn all() -> impl Iterator<Item = Arg> {
    let ends = ENDS.iter().flat_map(|(names, value, help)| {
        let [from, to, either] = *names;
        [
            arg(from, value, format!("From {help}")),
            arg(to, value, format!("To {help}")),
            arg(either, value, format!("From or to {help}")),
        ]
    });
    let flow = FLOW
        .iter()
        .map(|(name, value, help)| arg(name, value, (*help).to_owned()));
    ends.chain(flow)
}

/// Flags that were given, in their order.
fn given(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let names = ENDS
        .iter()
        .flat_map(|(names, ..)| *names)
        .chain(FLOW.iter().map(|(name, ..)| *name));
    let mut found = Vec::new();
    for name in names {
        let (Some(values), Some(places)) =
            (matches.get_many::<String>(name), matches.indices_of(name))
        else {
            continue;
        };
        found.extend(
            places
                .zip(values)
                .map(|(place, value)| (place, name, value.clone())),
        );
    }
    found.sort_by_key(|(place, ..)| *place);
    found
        .into_iter()
        .map(|(_, name, value)| (name, value))
        .collect()
}

impl Args for FilterFlags {
    fn augment_args(command: Command) -> Command {
        command.args(all())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let filters = Filters::of(&given(matches))
            .map_err(|text| Error::raw(ErrorKind::ValueValidation, format!("{text}\n")))?;
        Ok(Self { filters })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flags of a line, for tests of what they mean.
#[cfg(test)]
pub fn read(line: &str) -> Result<Vec<(&'static str, String)>, Error> {
    let command = FilterFlags::augment_args(Command::new("observe"));
    command
        .try_get_matches_from(line.split(' '))
        .map(|matches| given(&matches))
}
