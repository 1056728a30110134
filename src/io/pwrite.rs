//! The backend `pwrite`: positional writes through a file's descriptors. The portable reference.
//!
//! ```text
//!   O_DIRECT taken:  plain write -> main      durable write -> the O_DSYNC descriptor, one call
//!   else:            plain write -> main      durable write -> the thread's own, then its sync
//! ```
//!
//! A positional write can't ask to be durable request by request, as one on a ring can: hence the
//! second descriptor. Through the page cache each I/O thread has an open file description of its
//! own: of two syncs at once on one description one takes the other's error.
//!
//! Invariant: at most one sync is in flight per open file description (`Lane::turn`).
//!
//! Called by `os::OsFile` on the threads of `threads`; `mmap` syncs through the same descriptors.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::calls::{Call, Counter};

/// An open file description, and the right to sync through it.
#[derive(Debug)]
struct Lane {
    file: fs::File,
    turn: Mutex<()>,
}

/// The descriptors of one file.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// Never empty; the first serves all but the I/O threads' syncs.
    lanes: Vec<Lane>,
    forced: Option<fs::File>,
}

impl Descriptors {
    /// A file with one descriptor.
    pub(super) fn of(main: fs::File) -> Descriptors {
        Descriptors { lanes: vec![Lane { file: main, turn: Mutex::new(()) }], forced: None }
    }

    /// Adds the one whose writes are durable when they return: opened O_DSYNC.
    pub(super) fn set_forced(&mut self, file: fs::File) {
        self.forced = Some(file);
    }

    /// The descriptor whose writes are durable when they return.
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    pub(super) fn forced(&self) -> Option<&fs::File> {
        self.forced.as_ref()
    }

    /// Adds one for another I/O thread.
    pub(super) fn push(&mut self, file: fs::File) {
        self.lanes.push(Lane { file, turn: Mutex::new(()) });
    }

    /// How many I/O threads have one of their own.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The descriptor for plain writes and for reads.
    pub(super) fn main(&self) -> &fs::File {
        &self.lanes[0].file
    }

    /// One write, durable if `dsync` and its whole length came back.
    pub(super) fn write(
        &self,
        lane: usize,
        at: u64,
        bytes: &[u8],
        dsync: bool,
        counter: &Counter,
    ) -> io::Result<usize> {
        counter.add(Call::Write);
        match (&self.forced, dsync) {
            (Some(file), true) => file.write_at(bytes, at),
            (_, false) => self.main().write_at(bytes, at),
            (None, true) => {
                let written = self.lane(lane).file.write_at(bytes, at)?;
                if written == bytes.len() {
                    self.sync(lane, counter)?;
                }
                Ok(written)
            }
        }
    }

    /// Makes durable what was written before.
    pub(super) fn sync(&self, lane: usize, counter: &Counter) -> io::Result<()> {
        let lane = self.lane(lane);
        let _turn = lane.turn.lock().unwrap_or_else(PoisonError::into_inner);
        counter.add(Call::Sync);
        super::os::sync_to_device(&lane.file)
    }

    fn lane(&self, lane: usize) -> &Lane {
        &self.lanes[lane % self.lanes.len()]
    }
}
