//! The buffers that a ring knows: written from without mapping their pages each time.
//!
//! No handle is kept, because memory that a queue held could not be changed by its owner. What is
//! kept is the memory's id, which is never given to other memory: what is found by it is alive.

use std::io;

use nix::libc;

use super::ring::Ring;
use crate::io::Buf;

/// The most that every kernel with io_uring takes.
const MOST: usize = 1024;

/// Registered memory, by id.
pub(super) struct Registered {
    /// Sorted by id; the second is the index in the kernel's table.
    known: Vec<(u64, u16)>,
}

impl Registered {
    /// Announces `bufs`; where only so much memory may be locked, an eighth less, and so on.
    pub(super) fn new(ring: &Ring, bufs: &[Buf]) -> io::Result<Registered> {
        let mut bufs = &bufs[..bufs.len().min(MOST)];
        loop {
            let registered = Registered::try_new(ring, bufs)?;
            if !registered.known.is_empty() || bufs.is_empty() {
                return Ok(registered);
            }
            bufs = &bufs[..bufs.len() - bufs.len().div_ceil(8)];
        }
    }

    /// Announces all of them or, where that much memory may not be locked, none.
    fn try_new(ring: &Ring, bufs: &[Buf]) -> io::Result<Registered> {
        let vector = |buf: &Buf| {
            let (start, len) = buf.memory_range();
            libc::iovec { iov_base: start.cast(), iov_len: len }
        };
        let table: Vec<_> = bufs.iter().map(vector).collect();
        let mut known: Vec<_> = bufs.iter().map(Buf::memory_id).zip(0..).collect();
        known.sort_unstable();
        if table.is_empty() {
            return Ok(Registered { known });
        }
        // SAFETY: each range is memory that lives during the call. The kernel then holds the pages
        // themselves; they are only used by requests that own a handle to the same memory.
        #[expect(unsafe_code, reason = "the kernel is handed raw addresses")]
        let registered = unsafe { ring.submitter().register_buffers(&table) };
        if let Err(error) = registered {
            if !matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EPERM)) {
                return Err(error);
            }
            tracing::debug!(%error, "buffers are not registered");
            known.clear();
        }
        Ok(Registered { known })
    }

    /// The index of the memory that `buf` is a window into.
    pub(super) fn index(&self, buf: &Buf) -> Option<u16> {
        let found = self.known.binary_search_by_key(&buf.memory_id(), |&(id, _)| id);
        found.ok().map(|n| self.known[n].1)
    }
}
