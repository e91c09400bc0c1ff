//! `identity list|get`.
use anyhow::Result;
use api::IdentityInfo;
use clap::Subcommand;

use crate::error::Usage;
use crate::output::{Format, OutputArgs};
use crate::table::align;
use crate::target::{Agent, show};

#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// All identities that this node knows, or those with labels
    List {
        /// Identities that have all these labels, as k8s:app=cart
        labels: Vec<String>,
        /// Only those of this node's endpoints, with the number of endpoints
        #[arg(long)]
        endpoints: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One identity, or those with labels, as JSON
    Get {
        /// Its number
        #[arg(required_unless_present = "labels")]
        id: Option<String>,
        /// Identities that have all these labels
        #[arg(
            short = 'l',
            long = "label",
            value_delimiter = ',',
            conflicts_with = "id"
        )]
        labels: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub fn run(agents: &mut [Agent], command: &IdentityCommand) -> Result<()> {
    match command {
        IdentityCommand::List {
            labels,
            endpoints,
            output,
        } => show(
            agents,
            output,
            |agent| {
                let mut found = with_labels(agent, labels)?;
                found.retain(|identity| !endpoints || identity.endpoints > 0);
                Ok(found)
            },
            |found| list(found, *endpoints),
        ),
        IdentityCommand::Get { id, labels, output } => {
            let id = id.as_deref().map(number).transpose()?;
            let output = OutputArgs {
                format: Some(output.format.clone().unwrap_or(Format::Json)),
            };
            let get = |agent: &mut Agent| match id {
                Some(id) => Ok(vec![agent.client.identity(id)?]),
                None => with_labels(agent, labels),
            };
            show(agents, &output, get, |_| String::new())
        }
    }
}

/// The number of an identity, or the name of a reserved one.
fn number(text: &str) -> Result<u32> {
    let name = text.strip_prefix("reserved:").unwrap_or(text);
    let reserved = (0..256).find(|id| abi::identity::reserved_name(*id) == Some(name));
    text.parse().ok().or(reserved).ok_or_else(|| {
        Usage(format!(
            "`{text}` is no identity; accepted: a number, or a reserved name as host or world"
        ))
        .into()
    })
}

fn with_labels(agent: &mut Agent, labels: &[String]) -> Result<Vec<IdentityInfo>> {
    let mut found = agent.client.identities()?;
    found.retain(|identity| super::has_labels(&identity.labels, labels));
    found.sort_by_key(|identity| identity.id);
    Ok(found)
}

fn list(identities: &[IdentityInfo], counted: bool) -> String {
    let mut text = String::from("ID\tLABELS");
    text.push_str(if counted { "\tREFCOUNT\n" } else { "\n" });
    for identity in identities {
        let first = identity.labels.first().map_or("no labels", String::as_str);
        text.push_str(&format!("{}\t{first}", identity.id));
        if counted {
            text.push_str(&format!("\t{}", identity.endpoints));
        }
        text.push('\n');
        for label in identity.labels.iter().skip(1) {
            text.push_str(&format!("\t{label}{}\n", if counted { "\t" } else { "" }));
        }
    }
    align(&text)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn identities() -> Vec<IdentityInfo> {
        let identity = |id, labels: &[&str], endpoints| IdentityInfo {
            id,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            endpoints,
            ..IdentityInfo::default()
        };
        vec![
            identity(1, &["reserved:host"], 0),
            identity(
                21565,
                &["k8s:app=cart", "k8s:io.kubernetes.pod.namespace=shop"],
                2,
            ),
        ]
    }

    #[test]
    fn a_line_per_label() {
        expect![[r#"
            ID      LABELS
            1       reserved:host
            21565   k8s:app=cart
                    k8s:io.kubernetes.pod.namespace=shop
        "#]]
        .assert_eq(&list(&identities(), false));
        expect![[r#"
            ID      LABELS                                 REFCOUNT
            1       reserved:host                          0
            21565   k8s:app=cart                           2
                    k8s:io.kubernetes.pod.namespace=shop
        "#]]
        .assert_eq(&list(&identities(), true));
    }

    #[test]
    fn numbers_and_reserved_names() {
        assert_eq!(number("21565").unwrap(), 21565);
        assert_eq!(number("host").unwrap(), 1);
        assert_eq!(number("reserved:world").unwrap(), 2);
        assert!(
            number("cart")
                .unwrap_err()
                .to_string()
                .contains("accepted: a number")
        );
    }
}
