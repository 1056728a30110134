//! What a segment holds, gathered frame by frame: the content of its footer.
//!
//! The sparse index has room for a fixed number of entries; when it is full every second one goes
//! and the distance between entries doubles, so that it covers a segment of any size evenly. Where
//! the first distance is no less than the segment needs it stays as it was chosen.

use crate::format::footer::{Footer, IndexEntry, MAX_INDEX_ENTRIES};
use crate::format::frame::{FrameHeader, Tag};
use crate::lsn::Lsn;
use crate::options::INDEX_INTERVAL_BYTES;

/// Some frames and their offsets, evenly spread, at most `MAX_INDEX_ENTRIES`.
#[derive(Clone, Debug)]
pub(crate) struct SparseIndex {
    entries: Vec<IndexEntry>,
    step: u64,
}

impl Default for SparseIndex {
    fn default() -> SparseIndex {
        SparseIndex::every(INDEX_INTERVAL_BYTES)
    }
}

impl SparseIndex {
    /// An empty one, with an entry every so many bytes at most.
    pub(crate) fn every(bytes: u64) -> SparseIndex {
        debug_assert!(bytes > 0);
        SparseIndex { entries: Vec::with_capacity(MAX_INDEX_ENTRIES), step: bytes }
    }

    /// Takes in a frame's place, if it is far enough from the one before.
    pub(crate) fn push(&mut self, entry: IndexEntry) {
        let far = |last: &IndexEntry| entry.offset - last.offset >= self.step;
        if !self.entries.last().is_none_or(far) {
            return;
        }
        if self.entries.len() == MAX_INDEX_ENTRIES {
            // Frames may be further apart than the step; then that is the distance to double.
            let span = self.entries[MAX_INDEX_ENTRIES - 1].offset - self.entries[0].offset;
            self.step = 2 * self.step.max(span / (MAX_INDEX_ENTRIES as u64 - 1));
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.entries.push(entry);
    }

    pub(crate) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The entry at or before `lsn`.
    pub(crate) fn floor(&self, lsn: Lsn) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.lsn <= lsn);
        after.checked_sub(1).map(|i| self.entries[i])
    }
}

/// Counts, ranges and sparse index of the frames seen so far.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    first_lsn: Lsn,
    last_lsn: Lsn,
    first_time_us: u64,
    last_time_us: u64,
    frames: u64,
    records: u64,
    end: u64,
    index: SparseIndex,
}

impl Summary {
    /// Of a segment whose frames start at `start`.
    pub(crate) fn new(start: u64) -> Summary {
        Summary::indexed(start, SparseIndex::default())
    }

    /// The same, with an index of its own distance.
    pub(crate) fn indexed(start: u64, index: SparseIndex) -> Summary {
        Summary {
            first_lsn: Lsn::NONE,
            last_lsn: Lsn::NONE,
            first_time_us: 0,
            last_time_us: 0,
            frames: 0,
            records: 0,
            end: start,
            index,
        }
    }

    /// Takes in the frame at `offset`. Marks count as bytes only.
    pub(crate) fn add(&mut self, offset: u64, header: &FrameHeader) {
        self.end = offset + header.frame_len();
        if header.tag == Tag::Mark {
            return;
        }
        if self.frames == 0 {
            self.first_lsn = header.first_lsn;
            self.first_time_us = header.time_us;
        }
        self.last_lsn = header.last_lsn();
        // Times never fall, unless somebody forged them: a footer must hold then too.
        self.last_time_us = self.last_time_us.max(header.time_us);
        self.frames += 1;
        self.records += u64::from(header.count);
        self.index.push(IndexEntry { lsn: header.first_lsn, offset });
    }

    pub(crate) fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// The greatest time in a frame, microseconds.
    pub(crate) fn last_time_us(&self) -> u64 {
        self.last_time_us
    }

    /// The offset after the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where some of the frames are.
    pub(crate) fn index(&self) -> &SparseIndex {
        &self.index
    }

    /// The footer that says all this, and what was promised when it was written.
    pub(crate) fn footer(&self, durable_upto: Lsn) -> Footer {
        Footer {
            first_lsn: self.first_lsn,
            last_lsn: self.last_lsn,
            first_time_us: self.first_time_us,
            last_time_us: self.last_time_us,
            frames: self.frames,
            records: self.records,
            end: self.end,
            durable_upto,
            index: self.index.entries.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Codec;

    fn header(first: u64, stored_len: u32) -> FrameHeader {
        FrameHeader {
            tag: Tag::Batch,
            codec: Codec::None,
            flags: 0,
            stream: 0,
            count: 1,
            stored_len,
            raw_len: stored_len,
            payload_crc: 0,
            first_lsn: Lsn::new(first),
            durable_upto: Lsn::NONE,
            time_us: first,
            number: 1,
            epoch: 1,
        }
    }

    #[test]
    fn of_times_that_fall_a_footer_has_the_greatest() {
        let mut summary = Summary::new(4096);
        for (i, time_us) in [(0, 9), (1, 5)] {
            summary.add(4096 * (i + 1), &FrameHeader { time_us, ..header(i + 1, 100) });
        }
        let footer = summary.footer(Lsn::new(2));
        assert_eq!((footer.first_time_us, footer.last_time_us), (9, 9));
    }

    #[test]
    fn the_index_stays_small_and_even() {
        for every in [1, 4096, 64 << 10, 1 << 20] {
            let mut summary = Summary::indexed(4096, SparseIndex::every(every));
            for i in 0..4096 {
                summary.add(4096 + i * (64 << 10), &header(i + 1, 100));
            }
            let index = &summary.index().entries;
            assert!(index.len() <= MAX_INDEX_ENTRIES);
            assert!(index.len() >= MAX_INDEX_ENTRIES / 2);
            assert_eq!(index[0].lsn, Lsn::FIRST);
            let gaps: Vec<_> = index.windows(2).map(|w| w[1].lsn.get() - w[0].lsn.get()).collect();
            let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
            assert!(*least > 0 && *most <= 2 * least, "{least} to {most} with {every}");
            assert_eq!(summary.last_lsn(), Lsn::new(4096));
        }
    }

    #[test]
    fn entries_are_as_far_apart_as_was_asked() {
        let entries = |every| {
            let mut index = SparseIndex::every(every);
            let offsets = (1..=256).map(|block| block * 4096);
            offsets.for_each(|at| index.push(IndexEntry { lsn: Lsn::new(at), offset: at }));
            index.entries.len()
        };
        assert_eq!([64 << 10, 32 << 10, 16 << 10, 1 << 20].map(entries), [16, 32, 64, 1]);
        // More than there is room for: every second one goes, once.
        assert_eq!([1, 4096, 8192].map(entries), [128, 128, 128]);
    }
}
