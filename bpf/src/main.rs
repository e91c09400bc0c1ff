//! The eBPF programs of the datapath: one file per hook in `programs`, everything they share beside it.
//!
//! A program is a short story told by its `run` function; what it decides (`Outcome`) becomes a verdict, an event and a count in
//! one place, [`flow::Flow::finish`]. All state is in the maps; all configuration is constant while a program is loaded.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod calls;
mod clock;
mod config;
mod conntrack;
mod cross;
mod direct;
mod flow;
mod forward;
mod fragments;
mod maps;
mod neigh;
mod packet;
mod policy;
mod programs;
mod proxy;
mod refuse;
mod routes;
mod service;
mod skb;
mod snat;
mod sock;
mod translate;
mod xdp;

/// Some helpers are for programs under the GPL; the source is under Apache-2.0 as well.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The code has no panics: the linker drops this, and the verifier would refuse it.
    loop {}
}
