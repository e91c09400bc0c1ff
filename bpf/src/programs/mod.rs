//! One file per hook.
mod from_container;
mod from_host;
mod from_netdev;
mod from_overlay;
mod to_container;
mod to_netdev;
