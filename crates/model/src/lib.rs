//! The nouns of the control plane: what the tables hold.
//!
//! Rows are plain values: no I/O, no clock, no interior mutability. Input rows (what Kubernetes and the kernel say) and
//! desired rows (what should be in the kernel) are separate types, so that each table has one writer.
mod allocation;
mod device;
mod endpoint;
mod identity;
mod labels;
mod mac;
mod node;
mod pod;
mod policy;
mod prefix;
mod protocol;
mod remote;
mod route;
mod schema;
mod secret;
pub mod service;
mod text;

pub use allocation::Allocation;
pub use device::Device;
pub use endpoint::{Attachment, Departure, DeviceKind, Endpoint, EndpointState, PodRef};
pub use identity::{ClusterIdentity, Identity, IdentityKind, identity_text};
pub use labels::{Labels, PodLabels};
pub use mac::{Mac, MacError};
pub use node::{CiliumNode, LocalNode, Node};
pub use pod::{Namespace, Pod, PoolNames};
pub use policy::{FILES, ManualEndpoints, PolicyObject, PolicyTables};
pub use prefix::{Prefix, PrefixSource};
pub use protocol::Protocol;
pub use remote::{EndpointSlice, NamedPort, PrefixIdentity, RemoteEndpoint, UsedPrefix};
pub use route::{Route, RouteOrigin};
pub use schema::{KUBERNETES, PLAN, POLICY, RESTORE, Tables};
pub use secret::{Contents, Secret};
pub use service::{Declared, HostPort, Service, ServiceTables};
pub use text::{LabelMap, Text};
