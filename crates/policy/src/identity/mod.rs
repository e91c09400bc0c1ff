//! Numbers for sets of labels: which ranges there are, who gets one, and which labels an address has.
mod allocator;
mod fixed;
mod metadata;
mod scope;

pub use allocator::{Acquired, AllocateError, Allocator, Order};
pub use fixed::{FIXED_LABEL, FixedError, FixedIdentities};
pub use metadata::{Info, Metadata, Resolved, Source};
pub use scope::{Scope, world_labels, world_of};
