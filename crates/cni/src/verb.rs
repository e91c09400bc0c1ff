//! One module per command.

mod add;
mod check;
mod del;
mod gc;
mod status;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use api::Client;

use crate::{CniError, Command, Config, Invocation, log::Log};

/// How long the agent may take for one request; ADD waits here until the kernel enforces.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Does what is asked; the value goes to stdout.
pub(crate) fn run(
    invocation: &Invocation,
    config: &Config,
    log: &mut Log,
) -> Result<String, CniError> {
    match invocation.command {
        Command::Add => add::add(invocation, config, log)
            .map(|result| result.in_version(config.version).to_json()),
        Command::Del => del::del(invocation, config, log).map(|()| String::new()),
        Command::Check => check::check(invocation, config).map(|()| String::new()),
        Command::Status => status::status(config).map(|()| String::new()),
        Command::Gc => gc::gc(config, log).map(|()| String::new()),
        Command::Version => Ok(crate::version::answer()),
    }
}

fn agent(config: &Config) -> Client {
    Client::new(&config.agent_socket).timeout(AGENT_TIMEOUT)
}

/// Where deletions wait for the agent: beside its socket.
fn delete_queue(config: &Config) -> PathBuf {
    config
        .agent_socket
        .parent()
        .unwrap_or(Path::new("/"))
        .join(api::delete_queue::DIRECTORY)
}
