//! The relay: all nodes' observers as one.
//!
//! [`pool`] follows the peer service and keeps a connection to every node; [`service`] answers; a request for flows ([`flows`])
//! is put to every node and what they send is merged in the order of time ([`merge`]). A node that is slow, silent or away lets
//! others wait for a bounded time, and every reader's memory is bounded, too.
pub mod cli;
pub mod connect;
mod flows;
mod merge;
pub mod pool;
pub mod server;
pub mod service;
#[cfg(test)]
mod tests;
