//! The target `round_trip` under libFuzzer; what it does is in `targets/round_trip.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::round_trip::run(data));
