//! `fqdn cache list|clean` and `fqdn names`.
use anyhow::Result;
use api::{FqdnLookup, FqdnQuery};
use clap::{Args, Subcommand};

use crate::output::{Format, OutputArgs, render};
use crate::table::align;
use crate::target::{Agent, show};

#[derive(Debug, Subcommand)]
pub enum FqdnCommand {
    /// Names that pods were told of, and their addresses
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Names and patterns that rules speak of
    Names {
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is known
    List {
        #[command(flatten)]
        which: Which,
        /// Those of one endpoint, by its number
        #[arg(short = 'e', long, value_name = "ENDPOINT")]
        endpoint: Option<u32>,
        /// Those that were looked up (lookup), or that count beyond their time (connection)
        #[arg(short = 's', long, value_name = "SOURCE", value_parser = ["lookup", "connection"])]
        source: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Forget names: what connects by them is cut until it has looked them up again
    Clean {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub struct Which {
    /// Names like this, such as *.example.org
    #[arg(short = 'p', long, value_name = "PATTERN", default_value = "")]
    matchpattern: String,
}

impl Which {
    fn query(&self) -> FqdnQuery {
        FqdnQuery {
            matchpattern: self.matchpattern.clone(),
        }
    }
}

pub fn run(agents: &mut [Agent], command: &FqdnCommand) -> Result<()> {
    match command {
        FqdnCommand::Names { output } => show(
            agents,
            output,
            |agent| Ok(agent.client.fqdn_names()?),
            |names| render(&Format::Json, names).unwrap_or_default(),
        ),
        FqdnCommand::Cache(CacheCommand::List {
            which,
            endpoint,
            source,
            output,
        }) => {
            let ask = |agent: &mut Agent| {
                let mut all = agent.client.fqdn_cache(&which.query())?;
                all.retain(|one| {
                    endpoint.is_none_or(|endpoint| one.endpoint_id == endpoint)
                        && source.as_ref().is_none_or(|source| one.source == *source)
                });
                Ok(all)
            };
            show(agents, output, ask, |all| table(all))
        }
        FqdnCommand::Cache(CacheCommand::Clean { which, output }) => show(
            agents,
            output,
            |agent| Ok(agent.client.clean_fqdn_cache(&which.query())?),
            |done| {
                format!(
                    "FQDN proxy cache cleared: {} addresses of names\n",
                    done.cleaned
                )
            },
        ),
    }
}

fn table(all: &[FqdnLookup]) -> String {
    let mut text = "Endpoint\tSource\tFQDN\tTTL\tExpirationTime\tIPs\t\n".to_owned();
    for one in all {
        let ips: Vec<String> = one.ips.iter().map(ToString::to_string).collect();
        text += &format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t\n",
            one.endpoint_id,
            one.source,
            one.fqdn,
            one.ttl,
            one.expiration_time,
            ips.join(",")
        );
    }
    align(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_lookup() {
        let one = FqdnLookup {
            fqdn: "www.example.org.".to_owned(),
            ips: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
            lookup_time: "2030-01-02T03:04:05Z".to_owned(),
            ttl: 60,
            expiration_time: "2030-01-02T03:05:05Z".to_owned(),
            endpoint_id: 904,
            source: "lookup".to_owned(),
        };
        assert_eq!(
            table(&[one]),
            "Endpoint   Source   FQDN               TTL   ExpirationTime         IPs\n\
             904        lookup   www.example.org.   60    2030-01-02T03:05:05Z   192.0.2.1,192.0.2.2\n"
        );
    }
}
