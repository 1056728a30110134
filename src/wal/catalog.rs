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
//! Invariants: a segment is listed from its first written group on; below its `end` no byte
//! changes while it is listed or held; `first <= durable + 1`, `durable <= written < next`.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::cast::round_up;
use crate::format::footer::IndexEntry;
use crate::io::{Access, Disk, FileRef};
use crate::lsn::Lsn;
use crate::segment::{SegmentFile, SparseIndex};

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
        match &self.lock().tail {
            Some(file) => Ok(Arc::clone(file)),
            None => disk.open(&self.file.path, Access::Cached),
        }
    }
}

/// The segments of a log by their first LSN (and number: of two that begin below the start of the
/// log no more is known), and its watermarks.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    segments: RwLock<BTreeMap<(Lsn, u64), Arc<Segment>>>,
    /// Where each recovery or truncation cut the log: what a reader got from there on may be no
    /// more.
    cuts: Mutex<Vec<Lsn>>,
    /// How many those are, for readers to see without the lock that there is none they don't know.
    cut_count: AtomicUsize,
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
    /// An empty log from `first` on, or what recovery found.
    pub(crate) fn restart(&self, segments: Vec<Arc<Segment>>, first: Lsn, next: Lsn) {
        let mut map = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        *map = segments.into_iter().map(|s| (key(&s), s)).collect();
        self.note_cut(next);
        drop(map);
        self.first.store(first.get(), Ordering::Release);
        self.next.store(next.get(), Ordering::Release);
        self.written.store(next.prev().get(), Ordering::Release);
        self.durable.store(next.prev().get(), Ordering::Release);
    }

    /// Takes out all records from `cut` on; gives the segments that hold nothing else.
    pub(crate) fn cut_from(&self, cut: Lsn) -> Vec<Arc<Segment>> {
        // First nobody goes there any more, then whoever was there hears it, then it is gone.
        let last = cut.prev().get();
        self.durable.fetch_min(last, Ordering::AcqRel);
        self.written.fetch_min(last, Ordering::AcqRel);
        self.next.fetch_min(cut.get(), Ordering::AcqRel);
        self.note_cut(cut);
        let mut map = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let gone = map.split_off(&(cut, 0));
        for segment in map.values().filter(|segment| segment.last() >= cut) {
            segment.cut(cut.prev());
        }
        gone.into_values().collect()
    }

    /// Empties the log: its next record is `next`. Gives all its segments.
    pub(crate) fn reset(&self, next: Lsn) -> Vec<Arc<Segment>> {
        let gone = self.cut_from(Lsn::FIRST);
        self.first.store(next.get(), Ordering::Release);
        self.next.store(next.get(), Ordering::Release);
        self.written.store(next.prev().get(), Ordering::Release);
        self.durable.store(next.prev().get(), Ordering::Release);
        gone
    }

    /// What readers got from `cut` on is no more.
    pub(crate) fn note_cut(&self, cut: Lsn) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.push(cut);
        self.cut_count.store(cuts.len(), Ordering::Release);
    }

    /// How many recoveries there were, and the lowest cut of those after the first `known`.
    pub(crate) fn cuts_after(&self, known: usize) -> (usize, Option<Lsn>) {
        if self.cut_count.load(Ordering::Acquire) == known {
            return (known, None);
        }
        let cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        (cuts.len(), cuts.get(known..).and_then(|new| new.iter().copied().min()))
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
        let mut map = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let gone = map.values().filter(|s| s.is_sealed() && s.last() < lsn).map(|s| key(s));
        let gone: Vec<(Lsn, u64)> = gone.collect();
        gone.into_iter().filter_map(|key| map.remove(&key)).collect()
    }

    /// The first record that is kept if segments are cut of which all is older than `time_us`, and
    /// the time of the oldest segment that is not.
    pub(crate) fn older_than(&self, time_us: u64) -> (Lsn, Option<u64>) {
        // Read first: what is durable by now shows its time below.
        let (first, end) = (self.first(), self.durable().next());
        let map = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let live = map.values().map(|segment| {
            let state = segment.lock();
            (segment.first, state.last, state.last_time_us)
        });
        let young = live.filter(|(_, last, time)| *last >= first && *time >= time_us);
        let (mut keep, mut oldest) = (end, None);
        for (first, _, time) in young {
            keep = keep.min(first);
            oldest = Some(oldest.map_or(time, |oldest: u64| oldest.min(time)));
        }
        (keep.max(first), oldest)
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
