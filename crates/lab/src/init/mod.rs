//! The lab's helper processes. The program starts itself again with a hidden subcommand, so that namespaces are made
//! by a process that has a single thread yet.

pub mod container;
pub mod holder;
pub mod rootfs;
pub mod starter;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

/// The hidden subcommand of `lab` under which [`InitCommand`] is mounted.
pub const SUBCOMMAND: &str = "internal";
/// Names the lab in the environment of its processes.
pub const LAB_ENV: &str = "HYPHA_LAB";
/// Overrides which program is started for helper processes.
pub const EXE_ENV: &str = "HYPHA_LAB_EXE";

/// Roles of helper processes; not for people.
#[derive(Debug, clap::Subcommand)]
pub enum InitCommand {
    /// Holds the namespaces of a machine.
    Holder,
    /// Starts the first processes of a node's containers, and is each of them.
    Starter,
    /// Becomes a command in a container.
    Exec,
    /// Serves echo and whoami.
    Serve(crate::workload::ServeArgs),
    /// Is a small program of a tool image.
    Tool {
        /// Which one.
        tool: String,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs a lab.
    Supervise,
    /// Is a lab's API server.
    ApiServer {
        /// A file that says how.
        told: PathBuf,
    },
}

impl InitCommand {
    /// Plays the role; the result is the exit code.
    pub fn run(self) -> anyhow::Result<i32> {
        match self {
            InitCommand::Holder => holder::run().map(|()| 0),
            InitCommand::Starter => starter::run(),
            InitCommand::Exec => container::exec(),
            InitCommand::Serve(args) => crate::workload::run(&args),
            InitCommand::Tool { tool, args } => crate::workload::tools::run(&tool, &args),
            InitCommand::Supervise => crate::supervisor::run().map(|()| 0),
            InitCommand::ApiServer { told } => crate::supervisor::server::run(&told).map(|()| 0),
        }
    }
}

/// The role of a program started with these arguments, if it is one of those that every container has: for them the commands
/// for people need not be prepared.
pub fn role(arguments: &[OsString]) -> Option<InitCommand> {
    let [_, lab, internal, role] = arguments else {
        return None;
    };
    match role.to_str() {
        _ if lab != "lab" || internal != SUBCOMMAND => None,
        Some("starter") => Some(InitCommand::Starter),
        Some("exec") => Some(InitCommand::Exec),
        _ => None,
    }
}

/// The program that has the lab's commands: this one.
pub fn exe() -> anyhow::Result<PathBuf> {
    match std::env::var_os(EXE_ENV) {
        Some(path) => Ok(path.into()),
        // After a rebuild the old file is gone, and a running lab goes on with the program it was started from.
        None => match std::env::current_exe().context("cannot find the path of this program")? {
            path if path.exists() => Ok(path),
            _ => Ok("/proc/self/exe".into()),
        },
    }
}

/// The program with all roles and commands: `hypha` beside this one, or this one.
pub fn hypha() -> anyhow::Result<PathBuf> {
    let exe = exe()?;
    let beside = exe.with_file_name("hypha");
    Ok(if beside.exists() { beside } else { exe })
}

/// A command that plays a role.
pub fn command(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(exe()?);
    command.args(["lab", SUBCOMMAND, role]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_containers_are_known_by_the_arguments_alone() {
        let of = |words: &str| role(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(matches!(
            of("hypha lab internal starter"),
            Some(InitCommand::Starter)
        ));
        assert!(matches!(
            of("/x/hypha lab internal exec"),
            Some(InitCommand::Exec)
        ));
        for other in [
            "hypha lab internal holder",
            "hypha lab internal starter x",
            "hypha lab up starter x",
            "hypha agent internal starter",
        ] {
            assert!(of(other).is_none(), "{other}");
        }
        let made = command("starter").unwrap();
        let words = made.get_args().map(OsString::from);
        let words: Vec<_> = [OsString::new()].into_iter().chain(words).collect();
        assert!(matches!(role(&words), Some(InitCommand::Starter)));
    }
}
