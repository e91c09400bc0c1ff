//! Every program by `BPF_PROG_TEST_RUN`: packet and map contents in; verdict, bytes, map contents, counters and events out.
mod frontends;
mod packet;
mod scene;

mod connections;
mod direct;
mod drivers;
mod fragments;
mod from_container;
pub mod fuzz;
mod geneve;
mod masquerade;
mod neighbours;
mod node;
mod overlay;
mod policy;
mod policy_connections;
mod policy_model;
mod policy_node;
mod proxy;
mod proxy_toy;
mod proxy_wires;
mod reasons;
mod services;
mod services_model;
mod services_node;
mod verifier;
mod wires;
