//! What a log promises, on real files: every suite that needs no process of its own.
//!
//! ```text
//! what is kept        damage policies repair newer golden_log directory leaks panics silent
//! how it is written   unsynced sync_method lanes index filesystem bounds refused
//! what goes, is read  truncation retention readers batches window unread beside lanes_lost
//!                     repair_to verified
//! how it is asked     options health
//! ```
//!
//! One program, for building one takes longer than most suites run. What counts something of a
//! whole process (descriptors, allocations, system calls, bytes written), limits it or asks for a
//! number of cycles is a program of its own beside this folder.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod batches;
mod beside;
#[cfg(feature = "sim")]
mod bounds;
mod damage;
mod directory;
mod filesystem;
mod followed;
mod forged;
mod golden_log;
#[cfg(feature = "sim")]
mod health;
#[cfg(all(feature = "cli", feature = "sim"))]
mod heard;
mod index;
mod lanes;
mod lanes_lost;
mod leaks;
mod newer;
#[cfg(feature = "sim")]
mod options;
mod outlook;
mod panics;
mod policies;
mod readers;
mod refused;
mod repair;
mod repair_to;
mod retention;
mod silent;
mod sync_method;
mod truncation;
mod unread;
mod unsynced;
mod verified;
#[cfg(feature = "sim")]
mod window;

/// Does nothing unless another test runs it as its child.
#[test]
fn child_appends_until_it_is_killed() {
    support::child_main();
}
