#![no_main]

#[path = "../checks/api_server.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::run(data));
