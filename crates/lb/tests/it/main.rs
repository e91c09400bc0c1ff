//! Plans, step by step against all at once and against a slow model; and everything else, by cases with names.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod annotations;
mod cases;
mod explain;
mod generate;
mod incremental;
mod ipam;
mod ipam_random;
mod kit;
mod l2;
mod limits;
mod maglev;
mod model;
mod options;
mod parse;
mod redirect;
mod sim;
