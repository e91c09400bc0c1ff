//! The flow API: messages and services that Hubble clients know, made from `proto/`.
//!
//! The code in `generated/` is checked in; a test says when it is not what `proto/` gives, and writes it anew with
//! `UPDATE_GOLDEN=1`.
pub mod json;

/// What was seen: flows, lost events, what the agent did.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod flow {
    include!("generated/flow.rs");
}

/// How flows are asked for.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "generated"
)]
pub mod observer {
    include!("generated/observer.rs");
}

/// How a relay hears of the nodes.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "generated"
)]
pub mod peer {
    include!("generated/peer.rs");
}

/// What a relay says of the nodes behind it.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod relay {
    include!("generated/relay.rs");
}

/// All of the API as a set of file descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
