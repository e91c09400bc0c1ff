#![no_main]

#[path = "../checks/proxy_http.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::run(data));
