//! The plugin as a runtime sees it: the binary, its environment, its stdin and stdout, in namespaces of its own.
#![allow(clippy::unwrap_used, reason = "tests")]

mod agent;
mod attach;
mod corpus;
mod fault;
mod input;
mod node;
