//! The target `backends` under libFuzzer; what it does is in `targets/backends.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::backends::run(data));
