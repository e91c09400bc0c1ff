//! `service list` and `service get`.
use anyhow::Result;
use api::{ServiceBackend, ServiceInfo, ServiceList, path};
use clap::Subcommand;

use crate::output::OutputArgs;
use crate::table::Table;
use crate::target::{Agent, show};

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Every address and port that is served, with its backends
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One of them
    Get {
        /// Its number, as `service list` shows it
        id: u16,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub fn run(agents: &mut [Agent], command: &ServiceCommand) -> Result<()> {
    match command {
        ServiceCommand::List { output } => show(agents, output, list, |all| table(all)),
        ServiceCommand::Get { id, output } => show(
            agents,
            output,
            |agent| Ok(agent.client.get::<ServiceInfo>(&path::service(*id))?),
            |one| table(std::slice::from_ref(one)),
        ),
    }
}

/// The services. What is wrong is told beside, where it is not in the way of what reads the list.
fn list(agent: &mut Agent) -> Result<Vec<ServiceInfo>> {
    let list: ServiceList = agent.client.get(path::SERVICE)?;
    for problem in &list.problems {
        eprintln!("{}: {}", problem.object, problem.what);
    }
    Ok(list.services)
}

/// The layout of `service list`.
#[must_use]
pub fn table(services: &[ServiceInfo]) -> String {
    let mut table = Table::new(&["ID", "Frontend", "Service Type", "Backend"]);
    for service in services {
        let mut backends = (1..).zip(&service.backends);
        let id = match service.id {
            0 => "-".to_owned(),
            id => id.to_string(),
        };
        let first = backends.next().map(shown).unwrap_or_default();
        table.row(&[id, service.frontend.clone(), service.kind.clone(), first]);
        for backend in backends {
            table.row(&["", "", "", &shown(backend)]);
        }
    }
    table.render()
}

fn shown((number, backend): (usize, &ServiceBackend)) -> String {
    let weight = match backend.weight {
        100 => String::new(),
        weight => format!(" (weight: {weight})"),
    };
    format!(
        "{number} => {} ({}){weight}",
        backend.address, backend.state
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_list_has_a_line_for_each_backend() {
        let backend = |address: &str, state: &str, weight| ServiceBackend {
            address: address.into(),
            state: state.into(),
            weight,
            ..ServiceBackend::default()
        };
        let service = |id, frontend: &str, kind: &str, backends| ServiceInfo {
            id,
            frontend: frontend.into(),
            kind: kind.into(),
            backends,
            ..ServiceInfo::default()
        };
        let services = [
            service(
                1,
                "10.96.0.1:443/TCP",
                "ClusterIP",
                vec![backend("192.0.2.10:6443/TCP", "active", 100)],
            ),
            service(
                7,
                "192.0.2.11:30080/TCP/i",
                "NodePort",
                vec![
                    backend("10.7.1.12:80/TCP", "active", 50),
                    backend("10.7.2.9:80/TCP", "terminating", 100),
                ],
            ),
            service(0, "10.96.0.2:80/TCP", "ClusterIP", Vec::new()),
        ];
        expect![[r"
            ID   Frontend                 Service Type   Backend
            1    10.96.0.1:443/TCP        ClusterIP      1 => 192.0.2.10:6443/TCP (active)
            7    192.0.2.11:30080/TCP/i   NodePort       1 => 10.7.1.12:80/TCP (active) (weight: 50)
                                                         2 => 10.7.2.9:80/TCP (terminating)
            -    10.96.0.2:80/TCP         ClusterIP
        "]]
        .assert_eq(&table(&services));
    }
}
