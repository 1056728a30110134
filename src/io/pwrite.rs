//! The backend `pwrite`: positional writes through a file's descriptors. The portable reference.
//!
//! ```text
//!   O_DIRECT taken:  plain write -> main      durable write -> the O_DSYNC descriptor, one call
//!   else:            plain write -> main      durable write -> main, then a sync (`group_sync`)
//! ```
//!
//! A positional write can't ask to be durable request by request, as one on a ring can: hence the
//! second descriptor.
//!
//! Called by `os::OsFile` on the threads of `threads`; `mmap` syncs through the same descriptor.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use super::calls::{Call, Counter};
use super::group_sync::GroupSync;

/// The descriptors of one file.
#[derive(Debug)]
pub(super) struct Descriptors {
    main: fs::File,
    forced: Option<fs::File>,
    syncs: GroupSync,
}

impl Descriptors {
    /// A file with one descriptor.
    pub(super) fn of(main: fs::File) -> Descriptors {
        Descriptors { main, forced: None, syncs: GroupSync::default() }
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

    /// The descriptor for plain writes, reads and syncs.
    pub(super) fn main(&self) -> &fs::File {
        &self.main
    }

    /// The syncs of the main descriptor.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(super) fn syncs(&self) -> &GroupSync {
        &self.syncs
    }

    /// One write, durable if `dsync` and its whole length came back.
    pub(super) fn write(
        &self,
        at: u64,
        bytes: &[u8],
        dsync: bool,
        counter: &Counter,
    ) -> io::Result<usize> {
        counter.add(Call::Write);
        if let (Some(file), true) = (&self.forced, dsync) {
            return file.write_at(bytes, at);
        }
        let written = self.main.write_at(bytes, at)?;
        if dsync && written == bytes.len() {
            self.sync(|| Ok(()), counter)?;
        }
        Ok(written)
    }

    /// Makes durable what was written before, after `flush`, by this caller or by another.
    pub(super) fn sync(
        &self,
        flush: impl FnOnce() -> io::Result<()>,
        counter: &Counter,
    ) -> io::Result<()> {
        self.syncs.join(|| {
            flush()?;
            counter.add(Call::Sync);
            super::os::sync_to_device(&self.main)
        })
    }
}
