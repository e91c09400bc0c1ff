//! The proxy on loopback sockets: real clients, real servers, and bytes that no client would send.
#![allow(clippy::unwrap_used, reason = "tests")]

mod clients;
mod control;
mod corpus;
mod dns;
mod dns_attacks;
mod http;
mod inspect;
mod kafka;
mod relay;
mod replace;
mod rules;
mod smuggling;
mod streams;
mod tls;
mod transparent;
mod world;
