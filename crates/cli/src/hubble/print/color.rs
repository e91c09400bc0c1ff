//! Colours of a terminal.
use std::io::IsTerminal;

use clap::ValueEnum;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// If the output is a terminal that has colours.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Colors {
    on: bool,
}

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const MAGENTA: u8 = 35;
const CYAN: u8 = 36;

impl Colors {
    /// What is meant for standard output.
    pub fn of(when: When) -> Self {
        let on = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                std::io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none()
                    && std::env::var("TERM").is_ok_and(|term| term != "dumb")
            }
        };
        Self { on }
    }

    fn paint(self, color: u8, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("\x1b[{color}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The name of an end. A port in it has its own colour and ends this one, so it comes apart.
    pub fn host(self, text: &str) -> String {
        self.paint(CYAN, text)
    }

    /// A port.
    pub fn port(self, text: &str) -> String {
        self.paint(YELLOW, text)
    }

    /// An identity.
    pub fn identity(self, text: &str) -> String {
        self.paint(MAGENTA, text)
    }

    /// Something that went through.
    pub fn good(self, text: &str) -> String {
        self.paint(GREEN, text)
    }

    /// Something that did not.
    pub fn bad(self, text: &str) -> String {
        self.paint(RED, text)
    }

    /// Neither.
    pub fn noted(self, text: &str) -> String {
        self.paint(YELLOW, text)
    }
}
