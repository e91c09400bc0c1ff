//! Integration tests of the lab.

mod apiserver;
mod apiserver_kinds;
mod apiserver_kubectl;
mod apiserver_raw;
mod apiserver_watch;
mod network;
mod pods;
