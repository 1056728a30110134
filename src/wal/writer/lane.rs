//! Segments the writer has open: lanes that take frames, and those that wait to be sealed.
//!
//! ```text
//! groups in LSN order: 1 2 3 4 5 6 ..   lane a: 1 4 [full] --rolled--> old: footer when durable
//!                                       lane b: 2 5 ..         in its place: the next segment
//!                                       lane c: 3 6 ..
//! ```
//!
//! Lanes take turns, group by group. All of a prefix must be durable before any of it is answered,
//! so no choice among them gains anything; taking turns keeps each equally busy, lets each sync
//! cover groups of about the same age, and tells a reader where the next group likely is. They were
//! opened one after the other and are of one size, so they don't fill up at one moment either.

use std::sync::Arc;
use std::time::Duration;

use crate::io::FileRef;
use crate::lsn::Lsn;
use crate::segment::{Made, SegmentFile, SparseIndex, Summary};

use super::super::catalog::Segment;

/// Plain writes that make the writer sync by itself: bytes, of all lanes together.
const UNSYNCED_BYTES: u64 = 16 << 20;
/// And how long the oldest may wait.
const UNSYNCED_AGE: Duration = Duration::from_secs(1);
/// With so many written bytes behind the syncs that are in flight nothing more is written until one
/// is done: the recovery of a log whose files are not read past the page cache may have to hold
/// twice as much in memory, and the groups that were in flight.
const MOST_UNSYNCED_BYTES: u64 = 4 * UNSYNCED_BYTES;

/// The open segments.
pub(super) struct Lanes {
    /// How many may take frames at once.
    most: usize,
    /// Bytes between entries of their indexes.
    pub(super) index_interval: u64,
    /// Those that do.
    open: Vec<Lane>,
    /// The one whose turn it is: groups are placed there.
    turn: usize,
    /// Full ones that are not sealed yet.
    old: Vec<Lane>,
    /// Bytes placed since the last segment was opened, and after how many one will be full.
    placed: u64,
    span: u64,
}

impl Lanes {
    pub(super) fn new(most: usize, index_interval: u64, resumed: Option<Lane>) -> Lanes {
        let open = resumed.into_iter().collect();
        Lanes { most, index_interval, open, turn: 0, old: Vec::new(), placed: 0, span: 0 }
    }

    /// The lane whose turn it is.
    pub(super) fn current(&mut self) -> &mut Lane {
        self.open.get_mut(self.turn).expect("a group is placed only where a lane had room")
    }

    /// The open segment with this number.
    pub(super) fn of(&mut self, number: u64) -> &mut Lane {
        let mut found = self.old.iter_mut().chain(&mut self.open);
        let found = found.find(|lane| lane.number() == number);
        found.expect("a segment stays open while groups of it are in flight")
    }

    /// Every open segment.
    pub(super) fn all(&self) -> impl Iterator<Item = &Lane> {
        self.old.iter().chain(&self.open)
    }

    /// Every open segment.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.old.iter_mut().chain(&mut self.open)
    }

    /// Whether another segment would serve a group of `bytes`: fewer are open than may be, or the
    /// one whose turn comes has no room for it.
    pub(super) fn want_one(&self, bytes: u64) -> bool {
        let open = self.open.len();
        open < self.most || self.open[(self.turn + 1) % open].left() < bytes
    }

    /// Gives the turn to the next lane that has room for `bytes`; false if none has.
    pub(super) fn next_turn(&mut self, bytes: u64) -> bool {
        let open = self.open.len();
        let mut turns = (1..=open).map(|step| (self.turn + step) % open);
        let next = turns.find(|i| self.open[*i].left() >= bytes);
        self.turn = next.unwrap_or(self.turn);
        next.is_some()
    }

    /// Opens a segment and gives it the turn; where no more may be open the fullest is rolled.
    pub(super) fn open(&mut self, made: Made) {
        let lane = Lane::new(made, self.index_interval);
        let fullest = (0..self.open.len()).min_by_key(|i| self.open[*i].left());
        match fullest.filter(|_| self.open.len() >= self.most) {
            Some(full) => {
                let full_lane = std::mem::replace(&mut self.open[full], lane);
                self.turn = full;
                self.old.push(full_lane.roll());
            }
            None => {
                self.turn = self.open.len();
                self.open.push(lane);
            }
        }
        let least = self.open.iter().map(Lane::left).min().unwrap_or(0);
        (self.placed, self.span) = (0, least * self.open.len() as u64);
    }

    /// A group of `bytes` was placed; gives how much was since the last segment was opened, and
    /// how much will have been when a lane is full: 0 if one more segment could be used at once.
    pub(super) fn placed(&mut self, bytes: u64) -> (u64, u64) {
        self.placed += bytes;
        (self.placed, if self.open.len() < self.most { 0 } else { self.span })
    }

    /// Lets no lane take frames any more.
    pub(super) fn roll_all(&mut self) {
        self.old.extend(self.open.drain(..).map(Lane::roll));
    }

    /// Lets no lane take frames any more that is at least half full, or holds nothing that is still
    /// in the log, which starts at `first`. The others go on with what fits them: a batch that is
    /// too large must not use up the room that smaller ones have.
    pub(super) fn roll_used(&mut self, first: Lsn) {
        let used = |lane: &mut Lane| {
            let ends = lane.summary.last_lsn();
            lane.left() < lane.segment.geometry.size / 2 || (Lsn::NONE < ends && ends < first)
        };
        self.old.extend(self.open.extract_if(.., used).map(Lane::roll));
        self.turn = 0;
    }

    /// Rolls all lanes that hold records, but that with `last`, the last of the log: only there it
    /// can go on.
    pub(super) fn roll_all_but_last(&mut self, last: Lsn) {
        let before = |lane: &mut Lane| {
            let ends = lane.summary.last_lsn();
            Lsn::NONE < ends && ends < last
        };
        self.old.extend(self.open.extract_if(.., before).map(Lane::roll));
        self.turn = 0;
    }

    /// What one lane may leave unsynced.
    pub(super) fn unsynced_share(&self) -> u64 {
        UNSYNCED_BYTES / self.most as u64
    }

    /// Whether syncs are so far behind that nothing more is written. One is in flight then, or due.
    pub(super) fn wait_for_syncs(&self) -> bool {
        self.all().map(|lane| lane.unsynced_bytes).sum::<u64>() >= MOST_UNSYNCED_BYTES
    }

    /// How many were rolled and are not sealed yet.
    pub(super) fn unsealed(&self) -> usize {
        self.old.len()
    }

    /// Those that were rolled.
    pub(super) fn old_mut(&mut self) -> &mut Vec<Lane> {
        &mut self.old
    }

    /// Where the oldest listed one starts: `first` if none started before.
    pub(super) fn since(&self, first: Lsn) -> Lsn {
        let starts = self.all().filter_map(|lane| lane.listed.as_ref());
        starts.map(|segment| segment.first).min().map_or(first, |lowest| lowest.min(first))
    }
}

/// One open segment.
pub(super) struct Lane {
    pub(super) segment: SegmentFile,
    pub(super) file: FileRef,
    /// Where the next group goes, a block boundary.
    pub(super) tail: u64,
    /// Everything placed so far, for the footer.
    pub(super) summary: Summary,
    /// Its entry in the catalog, from its first written group on.
    pub(super) listed: Option<Arc<Segment>>,
    /// Bytes of plain writes that no sync covers, and since when.
    unsynced_bytes: u64,
    unsynced_since: Option<Duration>,
    /// It takes no more frames.
    pub(super) rolled: bool,
    pub(super) sync_in_flight: bool,
    pub(super) sealing: bool,
    /// Its footer is durable.
    pub(super) sealed: bool,
}

impl Lane {
    pub(super) fn new(made: Made, index_interval: u64) -> Lane {
        let start = made.segment.geometry.frames_start();
        let summary = Summary::indexed(start, SparseIndex::every(index_interval));
        Lane::resumed(made.segment, made.file, summary, start, None)
    }

    /// A segment that already holds frames, after a clean close.
    pub(super) fn resumed(
        segment: SegmentFile,
        file: FileRef,
        summary: Summary,
        tail: u64,
        listed: Option<Arc<Segment>>,
    ) -> Lane {
        Lane {
            segment,
            file,
            tail,
            summary,
            listed,
            unsynced_bytes: 0,
            unsynced_since: None,
            rolled: false,
            sync_in_flight: false,
            sealing: false,
            sealed: false,
        }
    }

    /// It takes no more frames.
    fn roll(mut self) -> Lane {
        self.rolled = true;
        if let Some(listed) = &self.listed {
            listed.stop();
        }
        self
    }

    pub(super) fn number(&self) -> u64 {
        self.segment.id.number
    }

    /// Bytes of frames that still fit after the tail.
    pub(super) fn left(&self) -> u64 {
        self.segment.geometry.frames_end() - self.tail
    }

    /// A plain write of `bytes` completed.
    pub(super) fn wrote_plain(&mut self, bytes: u64, now: Duration) {
        self.unsynced_bytes += bytes;
        self.unsynced_since.get_or_insert(now);
    }

    /// A sync of everything completed is being submitted.
    pub(super) fn sync_started(&mut self) {
        self.unsynced_bytes = 0;
        self.unsynced_since = None;
        self.sync_in_flight = true;
    }

    /// When the writer syncs it though nobody waits: with `share` bytes unsynced at once.
    pub(super) fn sync_due(&self, share: u64) -> Option<Duration> {
        let since = self.unsynced_since?;
        Some(if self.unsynced_bytes >= share { since } else { since + UNSYNCED_AGE })
    }
}
