//! A small Kubernetes-compatible API server for one machine.
//!
//! One machine is enough to run the project because of this module: it keeps objects of every registered kind in one
//! generic store and answers the Kubernetes REST protocol for them, well enough for `kube`'s client and for `kubectl`.
//!
//! * [`kind`]: what a kind is (names, scope, subresources) and the registry of kinds.
//! * [`store`]: create, get, list, update, delete, watch with Kubernetes semantics; usable in process without HTTP.
//! * [`selector`], [`patch`], [`validate`]: pure pieces, plain values in and out.
//! * [`http`]: paths, query options, content negotiation, streaming; no semantics of its own.
//!
//! It never looks at what an object means beyond what the protocol needs: controllers live elsewhere and use the API.

pub mod apply;
pub mod auth;
pub mod crd;
pub mod error;
mod face;
pub mod http;
pub mod kind;
pub mod kinds;
pub mod object;
mod openapi;
mod parsed;
pub mod patch;
pub mod printers;
mod proxy;
pub mod schema;
pub mod selector;
mod server;
mod signing;
pub mod store;
mod table;
pub mod tls;
pub mod types;
pub mod validate;

pub use error::ApiError;
pub use kind::{Kind, Registry};
pub use proxy::trusting;
pub use server::{ApiServer, Authorization, Kubelets, NoKubelets, ServerOptions, StartError};
pub use store::{Store, StoreOptions};
