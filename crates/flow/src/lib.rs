//! Flows: what the kernel's events tell, named by what the tables say, kept in a ring, filtered and served.
#![forbid(unsafe_code)]

pub mod capture;
pub mod directory;
pub mod export;
pub mod filter;
mod frontends;
pub mod mask;
pub mod metrics;
mod namespaces;
pub mod observer;
pub mod record;
pub mod redact;
pub mod relay;
pub mod request;
mod ring;
pub mod serve;
pub mod summary;
pub mod view;
mod watched;
pub mod web;

pub use api::hubble as proto;
pub use filter::{FilterError, Filters};
pub use observer::{Feeder, Observer};
pub use summary::summary;
