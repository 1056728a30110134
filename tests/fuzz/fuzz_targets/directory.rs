//! The target `directory` under libFuzzer; what it does is in `targets/directory.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::directory::run(data));
