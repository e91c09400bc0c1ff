//! Services, with real clients and packets.

mod direct;
mod faults;
mod ipam;
mod l2;
mod limits;
mod matrix;
mod rolling;
mod socket;
mod tables;
mod topology;
