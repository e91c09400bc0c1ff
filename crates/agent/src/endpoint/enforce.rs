//! What the endpoint manager asks of policy before it lets packets of an endpoint pass.
use model::Endpoint;
use std::{any::Any, fmt};

/// Makes sure that the kernel has the rows of an endpoint.
pub trait Enforcer: fmt::Debug + Send + Sync {
    /// Returns once the rows of the subject that fits the endpoint's identity, labels and ports are in the kernel. The
    /// endpoint's own subject is the one that it had before.
    fn realise(&self, endpoint: &Endpoint) -> Grant;
    /// Has every connection asked about again with its next packet.
    fn ask_again(&self);
}

/// Under which number an endpoint's rows stand.
#[derive(Default)]
pub struct Grant {
    /// The number; 0: policy is not asked.
    pub subject: u32,
    /// Further bits of `abi::endpoint_flags` for the endpoint's record.
    pub flags: u16,
    /// Whether policy decides on what the endpoint receives, and on what it sends.
    pub enforcing: [bool; 2],
    /// All policies are known. If not, an endpoint that is new goes on, since nothing passes until they are; one that runs keeps
    /// the identity that it had.
    pub settled: bool,
    /// Keeps the rows until the endpoint's row in the table has the number.
    pub hold: Option<Box<dyn Any + Send>>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("subject", &self.subject)
            .field("flags", &self.flags)
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

/// Nobody enforces anything.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Enforcer for Nobody {
    fn realise(&self, _: &Endpoint) -> Grant {
        Grant {
            settled: true,
            ..Grant::default()
        }
    }

    fn ask_again(&self) {}
}
