//! Services, with real clients and packets.

mod matrix;
mod rolling;
