#![no_main]

#[path = "../checks/chart_values.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::run(data));
