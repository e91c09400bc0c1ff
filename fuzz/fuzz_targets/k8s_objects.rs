#![no_main]

#[path = "../checks/k8s_objects.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::run(data));
