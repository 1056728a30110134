//! The command `prkdb`, driven as a user drives it: arguments, stdin, stdout, exit status.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
#[allow(dead_code, reason = "other tests mount other things")]
#[path = "../support/disk.rs"]
mod disk;
mod errors;
mod output;
mod round_trip;
mod support;

/// Says, past the test runner's capture, what is not tested here and why.
fn skip(what: impl std::fmt::Display, why: impl std::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr().lock(), "SKIPPED {what}: {why}").unwrap();
}
