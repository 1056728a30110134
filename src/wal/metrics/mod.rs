//! What the log counts of itself, always: one table of names, live and as a snapshot.
//!
//! ```text
//! callers, writer, maker --> Meters (atomics) --look--> Metrics --> wal.metrics()
//!                                                          |----> file METRICS --> prkdb stat
//!                                                          `----> Display, counts(), histograms()
//! ```
//!
//! Counting costs an append one look at the clock and some stores of the writer's; nothing is
//! allocated and no lock is taken. Latencies end at the clock of the writer's step, which it reads
//! once, so they are told up to one step too short.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::io::SystemCalls;

pub(crate) mod file;
mod histogram;
mod text;

pub use histogram::Histogram;
pub(crate) use histogram::Recorder;

/// The table: every count and every histogram is named here and nowhere else.
macro_rules! metrics {
    (
        counts { $($(#[doc = $count_doc:expr])+ $count:ident,)+ }
        histograms { $($(#[doc = $histogram_doc:expr])+ $histogram:ident,)+ }
    ) => {
        /// What a log did since it was opened, as of one moment.
        ///
        /// - Shape: plain data. `Display` prints a table; [`counts`](Metrics::counts) and
        ///   [`histograms`](Metrics::histograms) give all by name, for an exporter.
        /// - Units: bytes and nanoseconds where a name ends so, else plain counts.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            /// When this was taken, microseconds since 1970 by the wall clock.
            pub at_us: u64,
            /// For how long the log had been open, microseconds.
            pub open_us: u64,
            $($(#[doc = $count_doc])+ pub $count: u64,)+
            $($(#[doc = $histogram_doc])+ pub $histogram: Histogram,)+
            /// System calls that moved data, of all the log's threads, opening and reading
            /// included; none where the backend does not count (`tokio-uring`, `sim`).
            pub calls: Option<SystemCalls>,
        }

        impl Metrics {
            /// All counts by name.
            pub fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($count), self.$count),)+]
            }

            /// All histograms by name.
            pub fn histograms(&self) -> Vec<(&'static str, &Histogram)> {
                vec![$((stringify!($histogram), &self.$histogram),)+]
            }

            fn count_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($count) => Some(&mut self.$count),)+
                    _ => None,
                }
            }

            fn histogram_mut(&mut self, name: &str) -> Option<&mut Histogram> {
                match name {
                    $(stringify!($histogram) => Some(&mut self.$histogram),)+
                    _ => None,
                }
            }
        }

        /// The same, being counted. Relaxed throughout: a number stands for nothing but itself.
        #[derive(Default)]
        pub(crate) struct Meters {
            $(pub(crate) $count: AtomicU64,)+
            $(pub(crate) $histogram: Recorder,)+
        }

        impl Meters {
            /// What was counted so far; the caller knows the time.
            pub(crate) fn look(&self) -> Metrics {
                Metrics {
                    at_us: 0,
                    open_us: 0,
                    $($count: self.$count.load(Relaxed),)+
                    $($histogram: self.$histogram.look(),)+
                    calls: None,
                }
            }
        }
    };
}

metrics! {
    counts {
        /// Groups written: batches that shared a write.
        groups,
        /// Batches written.
        batches,
        /// Records written.
        records,
        /// Bytes of the records written, without headers, checksums and padding.
        bytes,
        /// Bytes of the groups as written: whole blocks, marks included. Over `bytes` it is what
        /// the log's form costs.
        written_bytes,
        /// Groups without a record, which say while the log is idle how far the promise goes.
        marks,
        /// Syncs of a file that succeeded, beside writes that are durable by themselves.
        syncs,
        /// Appends that were told `Busy`: there was no room in the queue and they did not wait.
        busy,
        /// Appends refused for another reason: `Invalid` (also at an LSN that was not the next),
        /// `Poisoned`, `Closed`.
        refused,
        /// Batches that were queued and failed because no segment could be made for them: the disk
        /// is full, or the log takes `max_disk_bytes`.
        storage_full,
        /// Batches that were queued and failed for another reason.
        failed,
        /// Segments written anew.
        segments_made,
        /// Segments made from a retired one, without writing its content.
        segments_recycled,
        /// Segments that were cut and whose names were taken away.
        segments_retired,
    }
    histograms {
        /// Waiting for room in the queue, nanoseconds; of those appends that had to.
        room_ns,
        /// From the append's call, or from when it had room, to its place in a group, nanoseconds.
        queue_ns,
        /// From handing a group to the disk to its completion, nanoseconds; durable then, if it was
        /// written with `Dsync`.
        write_ns,
        /// From the append's call to its answer, at the durability it asked for, nanoseconds; of
        /// those that succeeded.
        answer_ns,
        /// Batches in a group.
        group_batches,
        /// Bytes of a group as written.
        group_bytes,
        /// Groups in flight when one more was handed to the disk, that one included.
        depth,
    }
}

/// Adds to a count that several threads may add to.
pub(crate) fn add(to: &AtomicU64, more: u64) {
    to.fetch_add(more, Relaxed);
}
