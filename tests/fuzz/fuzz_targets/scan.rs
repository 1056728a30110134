//! The target `scan` under libFuzzer; what it does is in `targets/scan.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::scan::run(data));
