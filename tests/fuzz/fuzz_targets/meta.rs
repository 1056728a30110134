//! The target `meta` under libFuzzer; what it does is in `targets/meta.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::meta::run(data));
