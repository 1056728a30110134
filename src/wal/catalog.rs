//! Which segments hold which records, and how far the log has come: what readers look at.
//!
//! ```text
//! writer --publish(group)--> Segment{last, end}, watermarks --> Reader (any thread)
//! maker  --remove(before)--> retired segments: recycled only if no reader holds them
//! ```
//!
//! Segments that were open at the same time overlap in LSNs: each record stands in one of them, and
//! only their frames say in which.
//!
//! Records go while others read, and who meets half of that must not call it damage:
//!
//! ```text
//! who takes records out                 reader
//!   lock of the map                       known = changes             [acquire]
//!   watermarks, cuts, segments, first     hear of cuts up to known, look at the limit
//!   changes += 1          [release]       find, read, check
//!   unlock                                Ok: changes != known?       [acquire]
//!   files go                              Err: the same, under the lock of the map
//!                                           yes: forget it, begin anew
//! ```
//! What is read of a later history was published after `changes` was, so the reader sees that too.
//! Who meets any step of a change took the lock after it: he waits for its end and counts one more.
//!
//! Invariants: a segment is listed from its first written group on; below its `end` no byte
//! changes while it is listed, or held, unless what was cut is wiped: whoever still reads there
//! finds the name gone and hears `Truncated`; `first <= durable + 1`, `durable <= written < next`.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::cast::round_up;
use crate::format::footer::IndexEntry;
use crate::io::{Access, Disk, FileRef};
use crate::lsn::Lsn;
use crate::segment::{SegmentFile, SparseIndex};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, RwLock, RwLockWriteGuard};

use super::recovery::drop_below;

mod cuts;

use cuts::Cuts;

/// One listed segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: SegmentFile,
    pub(crate) first: Lsn,
    /// No segment that holds a record from `first` on starts below this.
    pub(crate) since: Lsn,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Lsn,
    /// When the last batch was given its place, microseconds since 1970.
    last_time_us: u64,
    end: u64,
    index: SparseIndex,
    /// More frames may come.
    grows: bool,
    /// The writer's file while the segment is open: reads go past the page cache through it.
    tail: Option<FileRef>,
}

impl Segment {
    pub(crate) fn new(
        file: SegmentFile,
        first: Lsn,
        since: Lsn,
        tail: Option<FileRef>,
        index: SparseIndex,
    ) -> Segment {
        debug_assert!(since <= first);
        let end = file.geometry.frames_start();
        let (last, grows) = (first.prev(), tail.is_some());
        let state = State { last, last_time_us: 0, end, index, grows, tail };
        Segment { file, first, since, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames up to `last` lie below `end`; those from `entry` on are new.
    pub(crate) fn publish(&self, entry: IndexEntry, last: Lsn, end: u64, time_us: u64) {
        let mut state = self.lock();
        state.index.push(entry);
        state.last = last;
        state.last_time_us = time_us;
        state.end = round_up(end, self.file.geometry.block);
    }

    /// Frames up to `last` lie below `end`; there is no new entry for the index.
    pub(crate) fn extend(&self, last: Lsn, end: u64, time_us: u64) {
        let mut state = self.lock();
        state.last = last;
        state.last_time_us = time_us;
        state.end = round_up(end, self.file.geometry.block);
    }

    /// What lies below `end` and is new holds no record.
    pub(crate) fn grow(&self, end: u64) {
        self.lock().end = round_up(end, self.file.geometry.block);
    }

    /// No more groups are placed in it.
    pub(crate) fn stop(&self) {
        self.lock().grows = false;
    }

    /// The writer is done with it.
    pub(crate) fn seal(&self) {
        let mut state = self.lock();
        (state.grows, state.tail) = (false, None);
    }

    /// Whether it holds records from `lsn` on, or may yet.
    pub(crate) fn goes_on(&self, lsn: Lsn) -> bool {
        let state = self.lock();
        state.grows || state.last >= lsn
    }

    /// Records beyond `last` are no more part of the log.
    fn cut(&self, last: Lsn) {
        let mut state = self.lock();
        state.last = state.last.min(last);
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.lock().tail.is_none()
    }

    pub(crate) fn last(&self) -> Lsn {
        self.lock().last
    }

    /// Where frames end, a block boundary.
    pub(crate) fn end(&self) -> u64 {
        self.lock().end
    }

    /// `last` and `end` of the same moment.
    pub(crate) fn bounds(&self) -> (Lsn, u64) {
        let state = self.lock();
        (state.last, state.end)
    }

    /// The offset of a frame at or before `lsn`.
    pub(crate) fn offset_for(&self, lsn: Lsn) -> u64 {
        let start = self.file.geometry.frames_start();
        self.lock().index.floor(lsn).map_or(start, |entry| entry.offset)
    }

    /// Opens it for reading.
    pub(crate) fn open(&self, disk: &dyn Disk) -> io::Result<FileRef> {
        // The lock is let go first: whoever cuts the log needs it and does not wait for a disk.
        let tail = self.lock().tail.clone();
        match tail {
            Some(file) => Ok(file),
            None => disk.open(&self.file.path, Access::Cached),
        }
    }
}

/// By their first LSN, and number: of two that begin below the start of the log no more is known.
type Segments = BTreeMap<(Lsn, u64), Arc<Segment>>;

/// Records are being taken out, or segments replaced: one change for readers, done when dropped.
struct Change<'a> {
    segments: RwLockWriteGuard<'a, Segments>,
    changes: &'a AtomicU64,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // The lock is let go after this.
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// A log as recovery or a look found it.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) first: Lsn,
    pub(crate) next: Lsn,
    pub(crate) holes: Vec<(Lsn, Lsn)>,
}

/// The segments of a log and its watermarks.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Others may write the log, and cut it unheard until the next look: so of a log that is only
    /// looked at, and of one that was closed. Publishes nothing else.
    followed: AtomicBool,
    segments: RwLock<Segments>,
    /// Where recoveries and truncations cut the log: what a reader got from there on may be no
    /// more.
    cuts: Mutex<Cuts>,
    /// Published to readers by whoever took records out, under the lock of `segments` and after
    /// all else: how often that was done.
    changes: AtomicU64,
    /// LSNs of records that were given up, sorted and apart; changed under the lock of `segments`.
    holes: RwLock<Vec<(Lsn, Lsn)>>,
    /// Published by the maker to readers: records below are cut.
    first: AtomicU64,
    /// Published by the writer to everybody: the LSN the next record gets.
    next: AtomicU64,
    /// Published by the writer after the segment's `end`: read up to here at most.
    written: AtomicU64,
    /// Published by the writer after the write and sync completed: promised up to here.
    durable: AtomicU64,
}

impl Catalog {
    /// Of a log that is only looked at.
    pub(crate) fn following() -> Catalog {
        let catalog = Catalog::default();
        catalog.follow();
        catalog
    }

    /// From now on others may cut the log.
    pub(crate) fn follow(&self) {
        self.followed.store(true, Ordering::Release);
    }

    /// Whether others may take records out that it still lists.
    pub(crate) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Acquire)
    }

    /// Begins a change that readers must notice.
    fn change(&self) -> Change<'_> {
        let segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        Change { segments, changes: &self.changes }
    }

    /// An empty log from `first` on, or what recovery found: what it gave up, from `cut` on, may
    /// have been read before.
    pub(crate) fn restart(&self, listing: Listing, cut: Lsn) {
        self.list(listing, Some(cut));
    }

    /// The log as somebody who looks again finds it; what readers got from `cut` on is no more.
    pub(crate) fn refresh(&self, listing: Listing, cut: Option<Lsn>) {
        // What is not served any more was given up, by a writer that nobody saw.
        let given_up = (listing.next < self.next()).then_some(listing.next);
        self.list(listing, cut.into_iter().chain(given_up).min());
    }

    fn list(&self, listing: Listing, cut: Option<Lsn>) {
        let Listing { segments, first, next, holes } = listing;
        let mut change = self.change();
        *change.segments = segments.into_iter().map(|s| (key(&s), s)).collect();
        *self.holes.write().unwrap_or_else(PoisonError::into_inner) = holes;
        if let Some(cut) = cut {
            self.push_cut(&change, cut);
        }
        self.set_start(first, next);
    }

    /// Takes out all records from `cut` on; gives the segments that hold nothing else.
    pub(crate) fn cut_from(&self, cut: Lsn) -> Vec<Arc<Segment>> {
        self.take_from(&mut self.change(), cut)
    }

    /// Empties the log: its next record is `next`. Gives all its segments.
    pub(crate) fn reset(&self, next: Lsn) -> Vec<Arc<Segment>> {
        let mut change = self.change();
        let gone = self.take_from(&mut change, Lsn::FIRST);
        self.set_start(next, next);
        gone
    }

    fn take_from(&self, change: &mut Change<'_>, cut: Lsn) -> Vec<Arc<Segment>> {
        let last = cut.prev().get();
        self.durable.fetch_min(last, Ordering::AcqRel);
        self.written.fetch_min(last, Ordering::AcqRel);
        self.next.fetch_min(cut.get(), Ordering::AcqRel);
        self.push_cut(change, cut);
        self.holes.write().unwrap_or_else(PoisonError::into_inner).retain_mut(|(from, to)| {
            // Their LSNs are given again.
            *to = (*to).min(cut);
            *from < *to
        });
        let gone = change.segments.split_off(&(cut, 0));
        for segment in change.segments.values().filter(|segment| segment.last() >= cut) {
            segment.cut(cut.prev());
        }
        gone.into_values().collect()
    }

    /// All records of the log from `first` on are promised, up to the one before `next`.
    fn set_start(&self, first: Lsn, next: Lsn) {
        self.first.store(first.get(), Ordering::Release);
        self.next.store(next.get(), Ordering::Release);
        self.written.store(next.prev().get(), Ordering::Release);
        self.durable.store(next.prev().get(), Ordering::Release);
    }

    /// What readers got from `cut` on is no more.
    fn push_cut(&self, change: &Change<'_>, cut: Lsn) {
        let number = change.changes.load(Ordering::Relaxed) + 1;
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).push(number, cut);
    }

    /// How many changes were done.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// How many changes were done, those included that are under way: it waits for them.
    pub(crate) fn settled_changes(&self) -> u64 {
        let settled = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let changes = self.changes();
        drop(settled);
        changes
    }

    /// The lowest cut of those after the change `known`.
    pub(crate) fn cut_since(&self, known: u64) -> Option<Lsn> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).lowest_since(known)
    }

    /// The LSNs of records that were given up, half-open ranges.
    pub(crate) fn holes(&self) -> Vec<(Lsn, Lsn)> {
        self.holes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hole that `lsn` is in.
    pub(crate) fn hole_at(&self, lsn: Lsn) -> Option<(Lsn, Lsn)> {
        let holes = self.holes.read().unwrap_or_else(PoisonError::into_inner);
        let at = holes.partition_point(|(_, to)| *to <= lsn);
        holes.get(at).filter(|(from, _)| *from <= lsn).copied()
    }

    /// The last LSN before the next hole behind `lsn`.
    pub(crate) fn last_before_hole(&self, lsn: Lsn) -> Lsn {
        let holes = self.holes.read().unwrap_or_else(PoisonError::into_inner);
        let at = holes.partition_point(|(from, _)| *from <= lsn);
        holes.get(at).map_or(Lsn::MAX, |(from, _)| from.prev())
    }

    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        let mut map = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(key(&segment), segment);
    }

    /// How many segments hold records.
    pub(crate) fn count(&self) -> u64 {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// The segments of which one holds `lsn`: those that overlap there, or if none reaches so far
    /// the one that begins last before it.
    pub(crate) fn find(&self, lsn: Lsn) -> Vec<Arc<Segment>> {
        let map = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let Some((to, newest)) = map.range(..=(lsn, u64::MAX)).next_back() else {
            return Vec::new();
        };
        let beside = map.range((newest.since, 0)..=*to).map(|(_, segment)| segment);
        let mut found: Vec<_> = beside.filter(|s| s.last() >= lsn).cloned().collect();
        if found.is_empty() {
            found.push(Arc::clone(newest));
        }
        found
    }

    /// Takes out the sealed segments that hold nothing at or above `lsn`.
    pub(crate) fn remove_before(&self, lsn: Lsn) -> Vec<Arc<Segment>> {
        let map = &mut self.change().segments;
        let gone = map.values().filter(|s| s.is_sealed() && s.last() < lsn).map(|s| key(s));
        let gone: Vec<(Lsn, u64)> = gone.collect();
        gone.into_iter().filter_map(|key| map.remove(&key)).collect()
    }

    /// The first record that is kept if segments are cut of which all is older than `time_us`.
    pub(crate) fn older_than(&self, time_us: u64) -> Lsn {
        // Read first: what is durable by now shows its time below.
        let (first, end) = (self.first(), self.durable().next());
        let young = self.times(first).into_iter().filter(|(_, time)| *time >= time_us);
        young.fold(end, |keep, (begins, _)| keep.min(begins)).max(first)
    }

    /// The time that has to be too old before `older_than` gives more than the first record.
    /// Segments overlap: of those that begin no later than the log does, the newest holds it back.
    pub(crate) fn newest_at_start(&self) -> Option<u64> {
        let first = self.first();
        let times = self.times(first);
        let at_start = times.iter().filter(|(begins, _)| *begins <= first).map(|(_, time)| *time);
        at_start.max().or_else(|| times.iter().map(|(_, time)| *time).min())
    }

    /// Where the segments begin that hold something at or above `first`, and when the newest record
    /// of each was given its place.
    fn times(&self, first: Lsn) -> Vec<(Lsn, u64)> {
        let map = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let times = map.values().filter_map(|segment| {
            let state = segment.lock();
            (state.last >= first).then_some((segment.first, state.last_time_us))
        });
        times.collect()
    }

    /// The oldest sealed segment: its size, and the LSN after its last record.
    pub(crate) fn oldest_sealed(&self) -> Option<(u64, Lsn)> {
        let map = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let sealed = map.values().filter(|segment| segment.is_sealed());
        let oldest = sealed.min_by_key(|segment| segment.last())?;
        Some((oldest.file.geometry.size, oldest.last().next()))
    }

    /// The first record that is kept.
    pub(crate) fn first(&self) -> Lsn {
        Lsn::new(self.first.load(Ordering::Acquire))
    }

    pub(crate) fn set_first(&self, lsn: Lsn) {
        let _change = self.change();
        drop_below(&mut self.holes.write().unwrap_or_else(PoisonError::into_inner), lsn);
        self.first.store(lsn.get(), Ordering::Release);
    }

    pub(crate) fn next(&self) -> Lsn {
        Lsn::new(self.next.load(Ordering::Acquire))
    }

    pub(crate) fn set_next(&self, lsn: Lsn) {
        self.next.store(lsn.get(), Ordering::Release);
    }

    pub(crate) fn written(&self) -> Lsn {
        Lsn::new(self.written.load(Ordering::Acquire))
    }

    pub(crate) fn set_written(&self, lsn: Lsn) {
        self.written.store(lsn.get(), Ordering::Release);
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn set_durable(&self, lsn: Lsn) {
        self.durable.store(lsn.get(), Ordering::Release);
    }
}

fn key(segment: &Segment) -> (Lsn, u64) {
    (segment.first, segment.file.id.number)
}
