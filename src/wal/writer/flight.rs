//! Groups between their placement and their durability, in LSN order, and the two watermarks.
//!
//! ```text
//! oldest                                                            newest
//! [durable, written] [written, sync in flight] [in flight] [written] [in flight]
//!  ^ leaves: durable watermark                  ^ written watermark stops here
//! ```
//!
//! Pure bookkeeping: no I/O. Invariants: a group is durable when its own dsync write returned its
//! full length, or when a sync that was submitted after its last write completed returned `Ok`; a
//! later dsync write never covers an earlier plain one; both watermarks move over a contiguous
//! prefix only.

use std::collections::VecDeque;
use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::io::Buf;
use crate::lsn::{Lsn, LsnRange};
use crate::options::Durability;

use super::super::ticket::Answer;

/// A batch that has its LSNs, waiting for its level.
pub(crate) struct Placed {
    pub(crate) answer: Answer<LsnRange>,
    pub(crate) range: LsnRange,
    pub(crate) durability: Durability,
    /// When the append was called, nanoseconds on the host's clock.
    pub(crate) called_ns: u64,
}

/// What a group holds, for the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) batches: u64,
    pub(crate) record_bytes: u64,
}

/// One write of whole blocks: the frames of one or many batches.
pub(crate) struct Group {
    /// Number of the segment it lies in.
    pub(crate) segment: u64,
    pub(crate) at: u64,
    pub(crate) buf: Option<Buf>,
    pub(crate) first: Lsn,
    /// `first.prev()` for a mark, which has no records.
    pub(crate) last: Lsn,
    /// Offset after its last frame.
    pub(crate) end: u64,
    pub(crate) counts: Counts,
    /// When its last batch was given its place.
    pub(crate) time_us: u64,
    /// When it was handed to the queue, on the host's clock.
    pub(crate) since: Duration,
    pub(crate) dsync: bool,
    /// It counts as in flight until it is durable, not only until it is written.
    pub(crate) needs_durable: bool,
    pub(crate) batches: Vec<Placed>,
    pub(crate) pieces_left: usize,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Writing,
    /// On its way to the device; the next sync covers it.
    Written,
    /// A sync that covers it is in flight.
    Syncing,
    Durable,
}

/// All groups that are not durable yet, and those behind them.
#[derive(Default)]
pub(crate) struct Flight {
    groups: VecDeque<Group>,
    /// Sequence number of the front group.
    base: u64,
    /// Sequence number of the first group that is not in the written prefix.
    written: u64,
    /// Sequence number of the first group that may have batches without an answer.
    answered: u64,
    in_flight: usize,
}

impl Flight {
    /// Takes a group in; gives its sequence number.
    pub(crate) fn push(&mut self, group: Group) -> u64 {
        debug_assert!(self.groups.back().is_none_or(|last| last.last < group.first));
        self.groups.push_back(group);
        self.in_flight += 1;
        self.base + self.groups.len() as u64 - 1
    }

    /// Groups that hold a place in the pipeline.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn get(&mut self, seq: u64) -> Option<&mut Group> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.groups.get_mut(index)
    }

    /// One piece of a group was written whole; true if it was the last.
    pub(crate) fn piece_written(&mut self, seq: u64) -> bool {
        let group = self.get(seq).expect("a group stays until its pieces are written");
        group.pieces_left = group.pieces_left.checked_sub(1).expect("a piece is answered once");
        if group.pieces_left > 0 {
            return false;
        }
        debug_assert_eq!(group.stage, Stage::Writing);
        group.stage = if group.dsync { Stage::Durable } else { Stage::Written };
        if group.dsync || !group.needs_durable {
            self.in_flight -= 1;
        }
        true
    }

    /// A sync of `segment` is being submitted: it covers what is written now.
    pub(crate) fn sync_started(&mut self, segment: u64) {
        for group in self.of(segment) {
            if group.stage == Stage::Written {
                group.stage = Stage::Syncing;
            }
        }
    }

    /// That sync returned `Ok`.
    pub(crate) fn sync_done(&mut self, segment: u64) {
        let mut landed = 0;
        for group in self.of(segment) {
            let early = group.stage == Stage::Written && bugs::on(Bug::SyncCoversLaterWrites);
            if group.stage == Stage::Syncing || early {
                group.stage = Stage::Durable;
                landed += usize::from(group.needs_durable);
            }
        }
        self.in_flight -= landed;
    }

    /// The first group of `segment` that no sync covers yet, if it is written.
    pub(crate) fn first_unsynced(&mut self, segment: u64) -> Option<&mut Group> {
        let open = |g: &&mut Group| matches!(g.stage, Stage::Writing | Stage::Written);
        let first = self.of(segment).find(|g| open(g) && !g.dsync);
        first.filter(|group| group.stage == Stage::Written)
    }

    /// Whether anything of `segment` is not durable yet.
    pub(crate) fn has(&mut self, segment: u64) -> bool {
        self.of(segment).any(|group| group.stage != Stage::Durable)
    }

    fn of(&mut self, segment: u64) -> impl Iterator<Item = &mut Group> {
        self.groups.iter_mut().filter(move |group| group.segment == segment)
    }

    /// The first batch that waits for an answer. Groups that are answered and not synced may be
    /// many: none is looked at twice.
    pub(crate) fn oldest(&mut self) -> Option<&Placed> {
        self.answered = self.answered.max(self.base);
        while self.get(self.answered).is_some_and(|group| group.batches.is_empty()) {
            self.answered += 1;
        }
        self.get(self.answered)?.batches.first()
    }

    /// The next group that joins the written prefix.
    pub(crate) fn next_written(&mut self) -> Option<&mut Group> {
        let index = usize::try_from(self.written - self.base).ok()?;
        let group = self.groups.get_mut(index)?;
        if group.stage == Stage::Writing {
            return None;
        }
        self.written += 1;
        Some(group)
    }

    /// The next group that joins the durable prefix; it leaves.
    pub(crate) fn pop_durable(&mut self) -> Option<Group> {
        if self.base >= self.written || self.groups.front()?.stage != Stage::Durable {
            return None;
        }
        self.base += 1;
        self.groups.pop_front()
    }

    /// Every group, after a failure that can't be mended.
    pub(crate) fn take_all(&mut self) -> Vec<Group> {
        self.base += self.groups.len() as u64;
        self.written = self.base;
        self.in_flight = 0;
        self.groups.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(segment: u64, first: u64, dsync: bool, needs_durable: bool) -> Group {
        Group {
            segment,
            at: 0,
            buf: None,
            first: Lsn::new(first),
            last: Lsn::new(first),
            end: 0,
            counts: Counts::default(),
            time_us: 0,
            since: Duration::ZERO,
            dsync,
            needs_durable,
            batches: Vec::new(),
            pieces_left: 1,
            stage: Stage::Writing,
        }
    }

    fn durable(flight: &mut Flight) -> Vec<u64> {
        while flight.next_written().is_some() {}
        std::iter::from_fn(|| flight.pop_durable().map(|g| g.first.get())).collect()
    }

    #[test]
    fn a_hole_holds_the_watermark_back() {
        let mut flight = Flight::default();
        let seqs: Vec<u64> = (1..=3).map(|i| flight.push(group(1, i, true, true))).collect();
        flight.piece_written(seqs[1]);
        flight.piece_written(seqs[2]);
        assert!(durable(&mut flight).is_empty());
        flight.piece_written(seqs[0]);
        assert_eq!(durable(&mut flight), [1, 2, 3]);
        assert_eq!(flight.in_flight(), 0);
    }

    #[test]
    fn a_dsync_write_does_not_cover_an_earlier_plain_one() {
        let mut flight = Flight::default();
        let plain = flight.push(group(1, 1, false, false));
        let sync = flight.push(group(1, 2, true, true));
        flight.piece_written(plain);
        flight.piece_written(sync);
        assert!(durable(&mut flight).is_empty());
        flight.sync_started(1);
        flight.sync_done(1);
        assert_eq!(durable(&mut flight), [1, 2]);
    }

    #[test]
    fn a_sync_does_not_cover_what_completed_after_it_was_submitted() {
        let mut flight = Flight::default();
        let (a, b) = (flight.push(group(1, 1, false, true)), flight.push(group(1, 2, false, true)));
        flight.piece_written(a);
        flight.sync_started(1);
        flight.piece_written(b);
        flight.sync_done(1);
        assert_eq!(durable(&mut flight), [1]);
        assert_eq!(flight.in_flight(), 1);
        assert!(flight.first_unsynced(1).is_some());
    }

    #[test]
    fn a_sync_covers_its_own_segment_only() {
        let mut flight = Flight::default();
        let (a, b) = (flight.push(group(1, 1, false, true)), flight.push(group(2, 2, false, true)));
        flight.piece_written(a);
        flight.piece_written(b);
        flight.sync_started(2);
        flight.sync_done(2);
        assert!(durable(&mut flight).is_empty());
        assert!(flight.has(1));
        assert!(!flight.has(2));
    }
}
