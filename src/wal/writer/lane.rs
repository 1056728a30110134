//! Segments the writer has open: the one that takes frames, and those that wait to be sealed.

use std::sync::Arc;
use std::time::Duration;

use crate::io::FileRef;
use crate::segment::{Made, SegmentFile, Summary};

use super::super::catalog::Segment;

/// Plain writes that make the writer sync by itself: bytes.
const UNSYNCED_BYTES: u64 = 16 << 20;
/// And how long the oldest may wait.
const UNSYNCED_AGE: Duration = Duration::from_secs(1);

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
    pub(super) sync_in_flight: bool,
    pub(super) sealing: bool,
    /// Its footer is durable.
    pub(super) sealed: bool,
}

impl Lane {
    pub(super) fn new(made: Made) -> Lane {
        let start = made.segment.geometry.frames_start();
        Lane::resumed(made.segment, made.file, Summary::new(start), start, None)
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
            sync_in_flight: false,
            sealing: false,
            sealed: false,
        }
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

    /// When the writer syncs it though nobody waits.
    pub(super) fn sync_due(&self) -> Option<Duration> {
        let since = self.unsynced_since?;
        Some(if self.unsynced_bytes >= UNSYNCED_BYTES { since } else { since + UNSYNCED_AGE })
    }
}
