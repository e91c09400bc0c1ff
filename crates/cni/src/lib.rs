//! The CNI plugin: makes a pod's interface and asks the agent for its address and endpoint. CNI specification 1.1.0.
//!
//! The binary is [`main`](run) around this library. It is started for every pod, so it is small, has no threads and no async
//! runtime, and sends its kernel requests in two batches.
#![forbid(unsafe_code)]

mod config;
mod device;
mod error;
mod invocation;
mod log;
mod names;
mod result;
mod verb;
mod version;

use std::{
    io::{Read, Write},
    time::Instant,
};

pub use config::{Attachment, Config, parse_config};
pub use device::{Attached, PodInterface};
pub use error::{CniError, code};
pub use invocation::{Command, Invocation, PodArgs, parse_args};
pub use names::{host_interface, host_mac, pod_mac};
pub use result::{CniResult, Interface, IpConfig, RouteConfig};
pub use version::Version;

use log::Log;

/// Runs one invocation. `env` is the environment, `stdin` the network configuration; what the runtime reads goes to `stdout`.
/// The value is the process's exit status.
pub fn run(env: impl Fn(&str) -> Option<String>, stdin: impl Read, mut stdout: impl Write) -> u8 {
    let start = Instant::now();
    let mut log = Log::none();
    let outcome = invoke(&env, stdin, &mut log);
    let what = || {
        format!(
            "{} {}",
            env("CNI_COMMAND").unwrap_or_default(),
            env("CNI_CONTAINERID").unwrap_or_default()
        )
    };
    let (text, status) = match outcome {
        Ok(text) => {
            log.line("info", &format!("{} done in {:?}", what(), start.elapsed()));
            (text, 0)
        }
        Err(error) => {
            log.line(
                "error",
                &format!("{} failed after {:?}: {error}", what(), start.elapsed()),
            );
            (error.to_json(), 1)
        }
    };
    // Nobody is left to tell when the runtime has closed the pipe.
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    status
}

fn invoke(
    env: &impl Fn(&str) -> Option<String>,
    stdin: impl Read,
    log: &mut Log,
) -> Result<String, CniError> {
    let command = Command::from_env(env)?;
    if command == Command::Version {
        return Ok(version::answer());
    }
    let config = parse_config(&config::read(stdin)?)?;
    *log = Log::open(&config);
    let version = config.version;
    let mut run = || {
        version.check(command)?;
        let invocation = Invocation::from_env(command, env)?;
        verb::run(&invocation, &config, log)
    };
    run().map_err(|e| e.in_version(version))
}
