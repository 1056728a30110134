//! Locks and atomics of the code that loom explores: std's, but in those tests.
//!
//! `--cfg prkdb_loom` makes the unit tests of `wal/interleavings.rs` run each order of their
//! threads' steps that loom finds worth it; no other test runs in such a build.

#[cfg(not(all(test, prkdb_loom)))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
};

#[cfg(all(test, prkdb_loom))]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
};
