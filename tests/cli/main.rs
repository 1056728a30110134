//! The command `prkdb`, driven as a user drives it: arguments, stdin, stdout, exit status.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod errors;
mod output;
mod round_trip;
mod support;
