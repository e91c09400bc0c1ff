//! How a command ends.
use std::process::ExitCode;

use crate::output::OutputClosed;

/// The person asked for something that does not exist; exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A command did what it should, and what it found is bad; the output has said so already. Exit status 1.
#[derive(Debug, thiserror::Error)]
#[error("findings")]
pub struct Findings;

/// The exit status for `result`; an error is printed on one line.
#[must_use]
pub fn exit(result: Result<(), anyhow::Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) if error.is::<Findings>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {}", one_line(&error));
            if error.is::<Usage>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The error and its causes on one line, without a cause that the line before has said already.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_on_one_line_once() {
        let error = anyhow!("refused\nby peer")
            .context("cannot ask: refused\nby peer")
            .context("no status");
        assert_eq!(one_line(&error), "no status: cannot ask: refused by peer");
    }
}
