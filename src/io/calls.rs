//! Counts of the system calls that a disk's queues and files make: what a group costs, exactly.
//!
//! Each backend counts where it calls, so that a count can be compared with what a tracer sees.
//! What the standard library does to park a thread (futex) is not counted, nor are calls on names,
//! and hints.

use std::sync::atomic::{AtomicU64, Ordering};

/// System calls of a disk that move data or wake, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SystemCalls {
    /// `io_uring_enter`: submits, reaps and waits.
    pub enters: u64,
    /// `pread`.
    pub reads: u64,
    /// `pwrite`, forced or not.
    pub writes: u64,
    /// `fdatasync`, `msync`, on Apple systems `F_FULLFSYNC`.
    pub syncs: u64,
    /// `mmap` and `madvise`.
    pub maps: u64,
    /// Writes to the eventfd that ends a wait in the ring.
    pub wakes: u64,
}

impl SystemCalls {
    /// All of them.
    pub fn total(&self) -> u64 {
        [self.enters, self.reads, self.writes, self.syncs, self.maps, self.wakes]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// What was called since `earlier`, of the same disk.
    #[must_use]
    pub fn since(&self, earlier: &SystemCalls) -> SystemCalls {
        SystemCalls {
            enters: self.enters.saturating_sub(earlier.enters),
            reads: self.reads.saturating_sub(earlier.reads),
            writes: self.writes.saturating_sub(earlier.writes),
            syncs: self.syncs.saturating_sub(earlier.syncs),
            maps: self.maps.saturating_sub(earlier.maps),
            wakes: self.wakes.saturating_sub(earlier.wakes),
        }
    }
}

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    Enter,
    Read,
    Write,
    Sync,
    Map,
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    Wake,
}

/// What the queues and files of one disk count into, by kind.
#[derive(Debug, Default)]
pub(super) struct Counter {
    enters: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
    maps: AtomicU64,
    wakes: AtomicU64,
}

impl Counter {
    /// One call more. Relaxed: a count stands for nothing but itself.
    pub(super) fn add(&self, call: Call) {
        let of = match call {
            #[cfg(all(target_os = "linux", not(prkdb_portable)))]
            Call::Enter => &self.enters,
            Call::Read => &self.reads,
            Call::Write => &self.writes,
            Call::Sync => &self.syncs,
            Call::Map => &self.maps,
            #[cfg(all(target_os = "linux", not(prkdb_portable)))]
            Call::Wake => &self.wakes,
        };
        of.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub(super) fn calls(&self) -> SystemCalls {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        SystemCalls {
            enters: count(&self.enters),
            reads: count(&self.reads),
            writes: count(&self.writes),
            syncs: count(&self.syncs),
            maps: count(&self.maps),
            wakes: count(&self.wakes),
        }
    }
}
