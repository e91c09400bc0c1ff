//! `dbg status`: the agent's own view, in the order and with the labels that users know.
use anyhow::Result;
use api::{AgentStatus, ComponentState};
use clap::Args;

use super::report;
use crate::error::Findings;
use crate::output::OutputArgs;
use crate::target::{Agent, show};

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// With addresses, controllers and modules
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Only `OK`, or what is wrong
    #[arg(long, conflicts_with = "verbose")]
    brief: bool,
    /// With every allocated address
    #[arg(long)]
    all_addresses: bool,
    /// With every controller
    #[arg(long)]
    all_controllers: bool,
    /// With every redirect to the proxy
    #[arg(long)]
    all_redirects: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(agents: &mut [Agent], args: &StatusArgs) -> Result<()> {
    let failed = std::cell::Cell::new(false);
    let ask = |agent: &mut Agent| {
        let status = agent.client.healthz()?;
        failed.set(
            failed.get() || !matches!(status.state, ComponentState::Ok | ComponentState::Warning),
        );
        Ok(status)
    };
    let detail = report::Detail {
        addresses: args.verbose || args.all_addresses,
        controllers: args.verbose || args.all_controllers,
        modules: args.verbose,
        redirects: args.verbose || args.all_redirects,
    };
    show(agents, &args.output, ask, |status| {
        if args.brief {
            brief(status)
        } else {
            report::text(status, detail)
        }
    })?;
    if failed.get() {
        Err(Findings.into())
    } else {
        Ok(())
    }
}

/// `OK`, or a line for each part that is not.
fn brief(status: &AgentStatus) -> String {
    if status.state == ComponentState::Ok {
        return "OK\n".into();
    }
    let bad = status.components.iter().filter(|part| {
        matches!(
            part.state,
            ComponentState::Failure | ComponentState::Warning
        )
    });
    let lines: String = bad
        .map(|part| format!("{}: {}: {}\n", part.state.text(), part.name, part.message))
        .collect();
    if lines.is_empty() {
        format!("{}: {}\n", status.state.text(), status.message)
    } else {
        lines
    }
}

#[cfg(test)]
mod tests {
    use api::Component;

    use super::*;

    #[test]
    fn brief_is_ok_or_a_list() {
        let mut status = AgentStatus::default();
        assert_eq!(brief(&status), "OK\n");
        status.state = ComponentState::Failure;
        status.message = "starting".into();
        assert_eq!(brief(&status), "Failure: starting\n");
        let part = Component {
            name: "kubernetes".into(),
            state: ComponentState::Failure,
            message: "no answer".into(),
            ..Component::default()
        };
        status.components.push(part);
        assert_eq!(brief(&status), "Failure: kubernetes: no answer\n");
    }
}
