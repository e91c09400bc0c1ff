//! Mistakes on the command line, said on one line with what is accepted.
use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, Error};

/// Prints help, the version, or what is wrong; the exit status is 2 for a mistake.
#[must_use]
pub fn report(message: &Error, root: &Command, arguments: &[OsString]) -> ExitCode {
    if !message.use_stderr()
        || message.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        // If the reader is gone there is nobody left to tell.
        let _ = message.print();
        return if message.use_stderr() {
            ExitCode::from(2)
        } else {
            ExitCode::SUCCESS
        };
    }
    eprintln!("{}", line(message, root, arguments));
    ExitCode::from(2)
}

/// The mistake on one line.
fn line(message: &Error, root: &Command, arguments: &[OsString]) -> String {
    let (name, command) = reached(root, arguments);
    let text = message.render().to_string();
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let mut out = parts
        .join("; ")
        .replacen("error:", "Error:", 1)
        .replace("tip: ", "")
        .replace(":; ", ": ");
    if message.kind() == ErrorKind::InvalidSubcommand {
        let accepted: Vec<&str> = command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(Command::get_name)
            .collect();
        out.push_str(&format!("; accepted: {}", accepted.join(", ")));
    }
    out.push_str(&format!(" (see `{name} --help`)"));
    out
}

/// The innermost command that the arguments name.
fn reached<'a>(root: &'a Command, arguments: &[OsString]) -> (String, &'a Command) {
    let mut command = root;
    let mut name = root.get_name().to_owned();
    for word in arguments.iter().skip(1).map(|word| word.to_string_lossy()) {
        if let Some(sub) = command.find_subcommand(word.as_ref()) {
            command = sub;
            name.push_str(&format!(" {}", sub.get_name()));
        }
    }
    (name, command)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use expect_test::expect;

    use super::*;
    use crate::args::Cli;

    fn mistake(text: &str) -> String {
        let arguments: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        let message = Cli::try_parse_from(&arguments).unwrap_err();
        line(&message, &Cli::command(), &arguments)
    }

    #[test]
    fn one_line_each() {
        let mistakes = [
            "hypha connectivity tset",
            "hypha completion tcsh",
            "hypha connectivity test --timeout never",
            "hypha version --what",
        ];
        expect![[r#"
            Error: unrecognized subcommand 'tset'; a similar subcommand exists: 'test'; accepted: test (see `hypha connectivity --help`)
            Error: invalid value 'tcsh' for '<SHELL>'; [possible values: bash, zsh, fish]; a similar value exists: 'zsh' (see `hypha completion --help`)
            Error: invalid value 'never' for '--timeout <SECONDS>': accepted: seconds, as 30 or 0.5 (see `hypha connectivity test --help`)
            Error: unexpected argument '--what' found (see `hypha version --help`)
        "#]].assert_eq(&mistakes.map(|text| mistake(text) + "\n").concat());
    }
}
