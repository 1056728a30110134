//! How far recovery is, over all of its passes.
//!
//! ```text
//! passes:  survey | sweep | inspect      each over all bytes of segments; TornTail has one
//! told:    0 ........ total ........ 3 total
//! ```
//!
//! Invariants: what is told never falls; each call is a step of at least `STEP` bytes, or the end
//! of a segment.

use std::cell::Cell;

/// Bytes between two calls inside a segment.
const STEP: u64 = 1 << 20;

/// Told to nobody, or to the hook of whoever opens or repairs the log.
#[derive(Default)]
pub(crate) struct Progress<'a> {
    hook: Option<&'a dyn Fn(u64, u64)>,
    total: u64,
    /// Bytes of the passes and segments before this one.
    before: Cell<u64>,
    told: Cell<u64>,
}

impl<'a> Progress<'a> {
    /// Over so many bytes, in so many passes.
    pub(super) fn new(hook: &'a dyn Fn(u64, u64), bytes: u64, passes: u64) -> Self {
        Progress { hook: Some(hook), total: bytes * passes, ..Progress::default() }
    }

    /// So far it is in a segment.
    pub(super) fn at(&self, offset: u64) {
        let done = self.before.get() + offset;
        if done >= self.told.get() + STEP {
            self.tell(done);
        }
    }

    /// A segment of this size is done.
    pub(super) fn end_segment(&self, size: u64) {
        self.before.set(self.before.get() + size);
        self.tell(self.before.get());
    }

    /// All is done.
    pub(super) fn finish(&self) {
        self.tell(self.total);
    }

    fn tell(&self, done: u64) {
        // Files that came or went meanwhile must not make more of it than there is.
        let done = done.min(self.total).max(self.told.get());
        self.told.set(done);
        if let Some(hook) = self.hook {
            hook(done, self.total);
        }
    }
}
