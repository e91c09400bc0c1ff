//! `hypha hubble ui`: the relay's page in a browser of this machine.
use std::process::{Command, Stdio};

use anyhow::Result;
use clap::Args;

use super::forward::{self, Door};
use super::settings::Settings;
use crate::output;

/// Where the relay's pods serve the page.
const PAGE: Door = Door {
    name: "ui",
    usual: None,
    missing: "the relay serves no page: `hypha upgrade --reuse-values --set hubble.ui.enabled=true` makes it",
};

/// Arguments of `hypha hubble ui`.
#[derive(Debug, Args)]
pub struct UiArgs {
    /// Port of this machine
    #[arg(value_name = "PORT", default_value = "12000", value_parser = port)]
    port: u16,
    /// Open the page in a browser
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = super::settings::switch)]
    open_browser: bool,
}

fn port(text: &str) -> Result<u16, String> {
    let wrong = |_| "accepted: a port from 1 to 65535, or 0 for any that is free".to_owned();
    text.parse().map_err(wrong)
}

/// Brings the page to a port of this machine until it is interrupted.
///
/// # Errors
/// The port is in use, or nobody serves the page.
pub async fn run(args: &UiArgs, settings: &Settings) -> Result<()> {
    forward::serve(settings, PAGE, args.port, |at| {
        let url = format!("http://localhost:{}", at.port());
        if args.open_browser && open(&url) {
            return output::write_out(&format!("ℹ️  Opening {url} in your browser\n"));
        }
        output::write_out(&format!("ℹ️  Hubble UI is available at {url}\n"))
    })
    .await
}

/// Whether the desktop was asked to open the address.
fn open(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let mut command = Command::new(program);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    let started = quiet.stderr(Stdio::null()).arg(url).spawn();
    // It may live as long as the browser does.
    started
        .map(|mut child| std::thread::spawn(move || child.wait()))
        .is_ok()
}
