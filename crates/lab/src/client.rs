//! A client of a lab's API server.

use anyhow::Context;
use kube::{Client, Config};

/// A client for the server at a URL. Nothing is sent yet.
pub fn connect(url: &str) -> anyhow::Result<Client> {
    let uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    Client::try_from(Config::new(uri)).context("cannot make a client")
}
