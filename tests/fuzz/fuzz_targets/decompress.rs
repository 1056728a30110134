//! The target `decompress` under libFuzzer; what it does is in `targets/decompress.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::decompress::run(data));
