//! What the engines of streams have in common: what they work with, and how they are made.
use crate::{drain::Drain, origin::Origin, policy::Policy, record::Recorder};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Bounds of a protocol.
pub trait Bounds {
    /// Connections at once; more wait to be accepted.
    fn connections(&self) -> usize;
}

/// Serves a protocol, in the bounds that are its own.
#[derive(Clone)]
pub struct Engine<L>(pub(crate) Arc<Shared<L>>);

pub(crate) struct Shared<L> {
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) origin: Arc<dyn Origin>,
    pub(crate) recorder: Recorder,
    pub(crate) limits: L,
    pub(crate) drain: Drain,
    pub(crate) places: Arc<Semaphore>,
}

impl<L: Bounds> Engine<L> {
    /// An engine that asks the newest policy for each request.
    #[must_use]
    pub fn new(
        policy: watch::Receiver<Arc<Policy>>,
        origin: Arc<dyn Origin>,
        recorder: Recorder,
        limits: L,
        drain: Drain,
    ) -> Self {
        Self(Arc::new(Shared {
            policy,
            origin,
            recorder,
            places: Arc::new(Semaphore::new(limits.connections())),
            limits,
            drain,
        }))
    }
}
