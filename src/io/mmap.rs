//! The backend `mmap`: bytes are copied into a mapping of the file, then the file is synced.
//!
//! ```text
//!   store(at, bytes):  claim the range -> populate: its pages are writable -> copy
//!                        \-- can't be --> false: the caller writes it by position
//!   durable:           a sync of the file (`group_sync`), elsewhere than on Linux after msync
//! ```
//!
//! A store into a page that the file system has no block for kills the process with SIGBUS. On
//! Linux (5.14) pages are populated first, as the kernel would on a store, but with an error for an
//! answer; it does not tell a full disk from a broken one, so the same bytes are then written by
//! position, which does. Where nothing can be populated, only files are stored into whose every
//! block is allocated. Writeback takes a page's right to be written away again, at any time; where
//! an overwrite goes to a new place the next store asks for space. So a file on such a file system
//! is never mapped (`os::OsFile`, `probe`).
//!
//! Invariants: a range is copied to by one thread at a time (`claim`); nobody is lent a slice of
//! the mapping, and reads go through descriptors, which the kernel keeps coherent with it.
//!
//! What remains is a SIGBUS: a file system that is shut down, or a file that another process cuts
//! short, between populating and copying; a full disk where the file's blocks are shared with a
//! snapshot or a clone, or lie below an overlay that copies on write, which can't be seen.
//!
//! Called by `os::OsFile` on the threads of `threads`. Source: madvise(2); LMDB for the order of
//! msync and sync outside Linux.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use super::calls::{Call, Counter};

/// Whether pages can be made writable without a fault, as far as the system goes.
pub(super) const POPULATES: bool = cfg!(all(target_os = "linux", not(prkdb_portable)));

/// How often a store that a signal interrupted is populated again.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
const RETRIES: u32 = 64;

/// A file mapped whole, shared, for writing.
#[derive(Debug)]
pub(super) struct Mapping {
    memory: MmapRaw,
    /// Every byte had its block when it was mapped.
    backed: bool,
    /// Ranges that are being copied to.
    claims: Mutex<Vec<Range<usize>>>,
    freed: Condvar,
}

impl Mapping {
    /// Maps `file`, whose size is final; none if it is empty, or where a store could not be safe.
    pub(super) fn of(file: &fs::File, counter: &Counter) -> io::Result<Option<Mapping>> {
        let meta = file.metadata()?;
        let backed = meta.blocks().saturating_mul(512) >= meta.len();
        let Ok(size) = usize::try_from(meta.len()) else { return Ok(None) };
        if size == 0 || !(POPULATES || backed) {
            return Ok(None);
        }
        counter.add(Call::Map);
        let memory = MmapOptions::new().len(size).map_raw(file)?;
        // Read ahead, pages come in folios of up to a MiB, of which one store makes all dirty.
        #[cfg(all(target_os = "linux", not(prkdb_portable)))]
        memory.advise(memmap2::Advice::Random)?;
        Ok(Some(Mapping { memory, backed, claims: Mutex::new(Vec::new()), freed: Condvar::new() }))
    }

    /// Copies `bytes` to `at`; false, with nothing changed, if that can't be done by a store.
    pub(super) fn store(&self, at: u64, bytes: &[u8], counter: &Counter) -> bool {
        let Some(range) = self.range(at, bytes.len()) else { return false };
        let _claim = self.claim(range.clone());
        if !self.populate(&range, counter) {
            return false;
        }
        assert!(range.end <= self.memory.len());
        // SAFETY: `range` ends inside the mapping, asserted above.
        #[expect(unsafe_code, reason = "a mapping has no safe way to be written")]
        let to = unsafe { self.memory.as_mut_ptr().add(range.start) };
        // SAFETY: `to` and the `bytes.len()` bytes from it on are mapped for writing as long as
        // `self` lives; `claim` keeps other writers of this process out, and there are no readers.
        #[expect(unsafe_code, reason = "a mapping has no safe way to be written")]
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        true
    }

    fn range(&self, at: u64, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.memory.len()).then_some(start..end)
    }

    /// Waits until nobody else copies to any byte of `range`.
    fn claim(&self, range: Range<usize>) -> Claim<'_> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        while claims.iter().any(|other| other.start < range.end && range.start < other.end) {
            claims = self.freed.wait(claims).unwrap_or_else(PoisonError::into_inner);
        }
        claims.push(range.clone());
        Claim { mapping: self, range }
    }

    /// Makes the pages of `range` writable without a fault; false if that can't be had.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    fn populate(&self, range: &Range<usize>, counter: &Counter) -> bool {
        for _ in 0..RETRIES {
            counter.add(Call::Map);
            let advice = memmap2::Advice::PopulateWrite;
            match self.memory.advise_range(advice, range.start, range.len()) {
                Ok(()) => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A kernel before 5.14.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => return self.backed,
                // EFAULT: a store would be SIGBUS. EAGAIN, no memory: the caller writes by
                // position, which asks again and hears of it as an error.
                Err(_) => return false,
            }
        }
        false
    }

    #[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
    fn populate(&self, _: &Range<usize>, _: &Counter) -> bool {
        self.backed
    }

    /// Hands stores over to the file system, whose sync need not see them by itself. One at a time:
    /// of two, one takes the other's error.
    #[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
    pub(super) fn flush(&self, counter: &Counter) -> io::Result<()> {
        counter.add(Call::Sync);
        self.memory.flush()
    }

    /// On Linux a sync of the file sees pages that a store made dirty by itself.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    #[expect(clippy::unused_self, reason = "elsewhere there is something to do")]
    pub(super) fn flush(&self, _: &Counter) -> io::Result<()> {
        Ok(())
    }
}

/// The right to copy to a range.
struct Claim<'a> {
    mapping: &'a Mapping,
    range: Range<usize>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.mapping.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let at = claims.iter().position(|other| *other == self.range);
        claims.swap_remove(at.expect("entered when it was claimed"));
        drop(claims);
        self.mapping.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const LEN: usize = 256 << 10;

    fn mapped() -> (fs::File, Mapping) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0; LEN], 0).unwrap();
        let mapping = Mapping::of(&file, &Counter::default()).unwrap().expect("no empty file");
        (file, mapping)
    }

    #[test]
    fn what_was_stored_is_read_through_a_descriptor() {
        let (file, mapping) = mapped();
        assert!(mapping.store(5000, &[7; 100], &Counter::default()));
        let mut bytes = [9; 102];
        file.read_exact_at(&mut bytes, 4999).unwrap();
        assert_eq!((bytes[0], bytes[101]), (0, 0));
        assert!(bytes[1..101].iter().all(|&b| b == 7));
    }

    #[test]
    fn a_store_beyond_the_mapping_is_refused_and_changes_nothing() {
        let (file, mapping) = mapped();
        for at in [LEN as u64 - 1, LEN as u64, u64::MAX - 1, u64::MAX] {
            assert!(!mapping.store(at, &[7; 2], &Counter::default()), "at {at}");
        }
        let mut bytes = vec![9; LEN];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|&b| b == 0));
        assert_eq!(file.metadata().unwrap().len(), LEN as u64);
    }

    #[test]
    fn stores_into_one_range_do_not_mix() {
        let (file, mapping) = mapped();
        for _ in 0..20 {
            std::thread::scope(|scope| {
                for byte in 1..=4u8 {
                    let mapping = &mapping;
                    scope.spawn(move || {
                        assert!(mapping.store(0, &vec![byte; LEN], &Counter::default()));
                    });
                }
            });
            let mut bytes = vec![0; LEN];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes[0] > 0 && bytes.iter().all(|&b| b == bytes[0]), "two stores, mixed");
        }
        assert!(mapping.claims.lock().unwrap().is_empty());
    }

    #[test]
    fn a_file_with_holes_is_stored_into_only_where_pages_can_be_populated() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN as u64).unwrap();
        let counter = Counter::default();
        let mapping = Mapping::of(&file, &counter).unwrap();
        let stored = mapping.is_some_and(|mapping| mapping.store(0, &[7; 100], &counter));
        assert_eq!(stored, POPULATES);
    }

    #[test]
    fn an_empty_file_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        assert!(Mapping::of(&file, &Counter::default()).unwrap().is_none());
    }
}
