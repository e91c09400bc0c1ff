//! The chart of `deploy/helm/hypha` without Helm: values, objects, and bringing them into a cluster.
//!
//! [`render()`] is pure: values in, objects out, in the order in which they are to be applied. What asks an API server is in [`apply`].
pub mod apply;
pub mod certs;
pub mod chart;
mod order;
pub mod release;
mod render;
pub mod schema;
pub mod template;
pub mod values;

pub use render::{RenderError, Rendered, Request, dot, notes, refused_settings, render};
