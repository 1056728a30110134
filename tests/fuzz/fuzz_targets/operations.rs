//! The target `operations` under libFuzzer; what it does is in `targets/operations.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::operations::run(data));
