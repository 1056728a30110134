//! What each fuzz target does with its input: shared by libFuzzer and by the replay of the corpus.
//!
//! ```text
//! fuzz_targets/*.rs --+                      +--> frame, scan, meta, decompress, round_trip
//!                     +--> run(input bytes) -+--> directory: edits of a log, by spots of its files
//! tests/corpus.rs ----+                      +--> operations, backends: steps of a log's life
//! ```
//!
//! A target panics when it has found something. Random bytes hardly ever pass a checksum, so that
//! inputs say which checksums are made to hold after they did their damage: a forged file, where
//! only panics, hangs and memory count. Where nothing is forged no wrong record may come back.
#![allow(dead_code, reason = "each program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

pub mod backends;
pub mod base;
pub mod decompress;
pub mod directory;
pub mod frame;
pub mod input;
pub mod layout;
pub mod meta;
#[path = "../../sim/model.rs"]
mod model;
pub mod operations;
pub mod round_trip;
pub mod scan;
pub mod steps;

/// A target's name, which is its corpus's too, and what it does.
pub struct Target(pub &'static str, pub fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    Target("frame", frame::run),
    Target("scan", scan::run),
    Target("directory", directory::run),
    Target("decompress", decompress::run),
    Target("meta", meta::run),
    Target("operations", operations::run),
    Target("round_trip", round_trip::run),
    Target("backends", backends::run),
];
