//! The chart and what is made of it.
#![recursion_limit = "512"]
#![allow(clippy::unwrap_used, reason = "tests")]

mod applying;
mod cluster;
mod corpus;
mod hubble;
mod oracle;
mod rendering;
mod rights;
mod values;
