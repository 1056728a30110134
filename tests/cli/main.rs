//! The command `prkdb`, driven as a user drives it: arguments, stdin, stdout, exit status.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
#[cfg(target_os = "linux")]
mod bomb;
#[allow(dead_code, reason = "other tests mount other things")]
#[path = "../support/disk.rs"]
mod disk;
mod errors;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "other tests read other things")]
#[path = "../support/format.rs"]
mod format;
mod output;
#[cfg(target_os = "linux")]
mod repair;
mod round_trip;
mod support;
mod transcript;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "other tests take other zeros")]
#[path = "../support/zeros.rs"]
mod zeros;

/// The segment files of a log, by number.
fn segments(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    found.sort();
    found
}

/// Says, past the test runner's capture, what is not tested here and why.
fn skip(what: impl std::fmt::Display, why: impl std::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr().lock(), "SKIPPED {what}: {why}").unwrap();
}
