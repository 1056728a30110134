//! What a reader gives: one record, or what one batch has of them.
//!
//! Invariant: the checksum of each record in it held. Records share their batch's bytes, which were
//! copied out of the log's files and belong to nobody else.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::format::frame::{Body, FrameHeader};
use crate::lsn::{Lsn, LsnRange};

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub lsn: Lsn,
    /// When its batch was given its place, microseconds since 1970; never runs backwards.
    pub time_us: u64,
    /// Its bytes.
    pub data: RecordData,
}

/// The bytes of one record: a share of its batch, cheap to clone.
#[derive(Clone)]
pub struct RecordData {
    body: Arc<[u8]>,
    range: Range<usize>,
}

impl RecordData {
    pub(super) fn new(body: Arc<[u8]>, range: Range<usize>) -> RecordData {
        RecordData { body, range }
    }
}

impl Deref for RecordData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.body[self.range.clone()]
    }
}

impl AsRef<[u8]> for RecordData {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

impl PartialEq for RecordData {
    fn eq(&self, other: &RecordData) -> bool {
        **self == **other
    }
}

impl Eq for RecordData {}

/// The records of one batch, or those of them from where a reader was on; what
/// [`Reader::next_batch`](super::Reader::next_batch) gives.
///
/// - Shape: at least one record; LSNs follow each other, in the order of [`iter`](Self::iter).
/// - Memory: as long as it lives, all of its batch as it was appended, up to 40 MiB.
pub struct RecordBatch {
    header: FrameHeader,
    body: Body,
    lsns: LsnRange,
}

impl RecordBatch {
    /// `body` was checked whole and holds `lsns`.
    pub(super) fn new(header: FrameHeader, body: Body, lsns: LsnRange) -> RecordBatch {
        RecordBatch { header, body, lsns }
    }

    /// The LSNs of its records.
    pub fn lsns(&self) -> LsnRange {
        self.lsns
    }

    /// When it was given its place, microseconds since 1970; never runs backwards.
    pub fn time_us(&self) -> u64 {
        self.header.time_us
    }

    /// Its records, in order. They can be appended to another log as they are: `&batch` is
    /// [`Records`](super::Records).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.body.records(&self.header, self.skipped(), self.lsns.count())
    }

    /// How many records of its batch stand before it.
    fn skipped(&self) -> u32 {
        u32::try_from(self.lsns.first().get() - self.header.first_lsn.get()).expect("in the batch")
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordBatch({} to {})", self.lsns.first(), self.lsns.last())
    }
}

impl super::Records for RecordBatch {
    fn count(&self) -> usize {
        self.lsns.count() as usize
    }

    fn record(&self, i: usize) -> &[u8] {
        assert!(i < self.count(), "record {i} of {}", self.count());
        let i = u32::try_from(i).expect("below `count`, as the trait says");
        let range = self.body.range(&self.header, self.skipped() + i);
        &self.body[range.expect("below `count`, and proven")]
    }
}
