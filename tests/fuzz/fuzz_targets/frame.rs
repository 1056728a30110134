//! The target `frame` under libFuzzer; what it does is in `targets/frame.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::frame::run(data));
