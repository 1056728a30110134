//! The ring's table of registered files: which open file has which slot.
//!
//! Locks come first and stay. A file gets a slot with its first request and keeps it until it is
//! released, or until another needs it while nothing of its own is in flight. Without a slot a
//! request names the plain descriptor.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::ring::Ring;
use crate::io::lock::LockFile;
use crate::io::os::OsFile;
use crate::options::MAX_NUM_SEGMENTS;

/// Slots for files: the segments that take groups in turn, and the few that are being sealed or
/// made. With fewer each turn would take a slot from the one that comes next.
const SLOTS: usize = MAX_NUM_SEGMENTS + 8;

/// How a request names its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By its number in the ring's table.
    Slot(u32),
    /// By its descriptor.
    Plain(RawFd),
}

struct Known {
    serial: u64,
    in_flight: usize,
    last_use: u64,
}

/// The table.
pub(super) struct Files {
    /// The slots before this one hold locks.
    first: usize,
    slots: Vec<Option<Known>>,
    clock: u64,
    /// The kernel refused a file once; it is not asked again.
    refused: bool,
}

impl Files {
    /// A table with `locks` in it.
    pub(super) fn new(ring: &Ring, locks: &[Arc<LockFile>]) -> io::Result<Files> {
        let mut table: Vec<RawFd> = locks.iter().map(|lock| lock.file().as_raw_fd()).collect();
        table.resize(locks.len() + SLOTS, -1);
        ring.submitter().register_files(&table)?;
        let slots = (0..SLOTS).map(|_| None).collect();
        Ok(Files { first: locks.len(), slots, clock: 0, refused: false })
    }

    /// A place for a request of `file`, which keeps it until `unpin`.
    pub(super) fn pin(&mut self, ring: &Ring, file: &OsFile) -> Place {
        self.clock += 1;
        let Some(slot) = self.find(file).or_else(|| self.take_slot(ring, file)) else {
            return Place::Plain(file.main().as_raw_fd());
        };
        let known = self.slots[slot].as_mut().expect("found or just filled");
        known.in_flight += 1;
        known.last_use = self.clock;
        Place::Slot(self.number(slot))
    }

    /// Ends what `pin` began.
    pub(super) fn unpin(&mut self, place: Place) {
        let Place::Slot(number) = place else { return };
        let slot = crate::cast::len(number.into()) - self.first;
        let known = self.slots[slot].as_mut().expect("a pinned slot is not emptied");
        known.in_flight -= 1;
    }

    /// Lets go of `file`, of which nothing is in flight.
    pub(super) fn release(&mut self, ring: &Ring, file: &OsFile) {
        let Some(slot) = self.find(file) else { return };
        let known = self.slots[slot].take();
        assert_eq!(known.map(|k| k.in_flight), Some(0), "released while in flight");
        if let Err(error) = ring.submitter().register_files_update(self.number(slot), &[-1]) {
            tracing::warn!(%error, "a ring keeps a file open until it is closed");
        }
    }

    fn find(&self, file: &OsFile) -> Option<usize> {
        self.slots.iter().position(|k| k.as_ref().is_some_and(|k| k.serial == file.serial()))
    }

    /// Registers `file` in a free slot, or in that of the idle file that was used least lately.
    fn take_slot(&mut self, ring: &Ring, file: &OsFile) -> Option<usize> {
        if self.refused {
            return None;
        }
        // A free slot is older than any other.
        let age = |known: &Option<Known>| match known {
            None => Some(0),
            Some(known) => (known.in_flight == 0).then_some(known.last_use),
        };
        let idle = (0..SLOTS).filter_map(|slot| Some((age(&self.slots[slot])?, slot)));
        let (_, slot) = idle.min()?;
        let fd = file.main().as_raw_fd();
        if let Err(error) = ring.submitter().register_files_update(self.number(slot), &[fd]) {
            tracing::debug!(%error, "files are not registered");
            self.refused = true;
            return None;
        }
        let (serial, last_use) = (file.serial(), self.clock);
        self.slots[slot] = Some(Known { serial, in_flight: 0, last_use });
        Some(slot)
    }

    fn number(&self, slot: usize) -> u32 {
        u32::try_from(self.first + slot).expect("a table of a few dozen")
    }
}
