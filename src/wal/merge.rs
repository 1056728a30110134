//! Frames of segments that were written side by side, in LSN order: one cursor a segment.
//!
//! ```text
//! segment a: 1 4 [7] ..   heads 7, 8, 6: record 6 is in c; then c goes on to 9
//! segment b: 2 5 [8] ..
//! segment c: 3 [6] 9 ..   a log with one open segment at a time has one track
//! ```
//!
//! Each segment's LSNs rise and each record stands in one segment, so whose head holds it has it.
//! Heads are found by their headers; only a frame that is given is checked whole. Invariants: no
//! frame beyond its segment's last record is looked at: it was given up, or is not written; what is
//! held is bounded by one window a segment, and there are as many as were open at a time.

use std::io;
use std::sync::Arc;

use crate::format::Bad;
use crate::format::frame::Tag;
use crate::lsn::Lsn;
use crate::segment::{Cursor, Frame, Step};

use super::catalog::Segment;

/// A segment and where in it the reader is.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) segment: Arc<Segment>,
    pub(super) cursor: Cursor,
    /// The frame at the cursor, if it was looked at, and the last of its records that is part of
    /// the log: a batch can be cut in the middle.
    head: Option<(Frame, Lsn)>,
    /// What was passed over on the way to the head: bytes that are no frame.
    fault: Option<Fault>,
}

/// The segments in which the next records are.
#[derive(Debug, Default)]
pub(super) struct Merge {
    tracks: Vec<Track>,
    /// The one that gave the last frame.
    turn: usize,
}

impl Merge {
    pub(super) fn clear(&mut self) {
        self.tracks.clear();
    }

    pub(super) fn track(&mut self, i: usize) -> &mut Track {
        &mut self.tracks[i]
    }

    pub(super) fn len(&self) -> usize {
        self.tracks.len()
    }

    /// Lets go of what holds nothing from `lsn` on and never will.
    pub(super) fn keep_from(&mut self, lsn: Lsn) {
        self.tracks.retain(|track| track.segment.goes_on(lsn));
    }

    /// Whether it is at hand; what is known of it now is what `segment` says, and `window` bytes
    /// of it are read at a time at least.
    pub(super) fn has(&mut self, segment: &Arc<Segment>, window: u64) -> bool {
        let same = |track: &&mut Track| track.segment.file == segment.file;
        let Some(track) = self.tracks.iter_mut().find(same) else { return false };
        if !Arc::ptr_eq(&track.segment, segment) {
            // Somebody looked at the log again: the file is the same and holds more. How far its
            // head is part of the log is to be seen again.
            track.segment = Arc::clone(segment);
            track.head = None;
            track.cursor.renew(window);
        }
        true
    }

    pub(super) fn add(&mut self, segment: Arc<Segment>, cursor: Cursor) {
        self.tracks.push(Track { segment, cursor, head: None, fault: None });
    }

    /// The track whose head holds `lsn`; after an error it is the last that was looked at.
    pub(super) fn find(&mut self, lsn: Lsn) -> Result<Option<usize>, (usize, io::Error)> {
        for step in 0..self.tracks.len() {
            // Frames of one group stand in one segment; the next group likely is in the next one.
            let i = (self.turn + step) % self.tracks.len();
            if self.tracks[i].holds(lsn).map_err(|e| (i, e))? {
                self.turn = i;
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// What stands where `lsn` should be, once no head holds it: bytes that are no frame rather
    /// than nothing, and that rather than a later frame. None if no segment is at hand: a cut took
    /// the last of them after it was found.
    pub(super) fn instead(&mut self, lsn: Lsn) -> Result<Option<Fault>, (usize, io::Error)> {
        let mut likeliest: Option<Fault> = None;
        for (i, track) in self.tracks.iter_mut().enumerate() {
            let passed = track.fault.take().filter(|_| track.segment.last() >= lsn);
            let fault = match track.cursor.peek().map_err(|e| (i, e))? {
                _ if passed.is_some() => passed.expect("looked at just now"),
                _ if track.segment.last() < lsn => {
                    // What stands behind the last frame, in the same block, was given up.
                    Fault { doubt: 3, ..Fault::missing(track.segment.end()) }
                }
                Step::Bad { offset, why, .. } => Fault::bad(offset, &why),
                Step::Frame(frame) => {
                    // As it does in each lane that did not hold the record.
                    let why = "a later record stands here".to_string();
                    Fault { why, doubt: 2, ..Fault::missing(frame.offset) }
                }
                Step::End => Fault::missing(track.cursor.at()),
            };
            if likeliest.as_ref().is_none_or(|other| other.doubt > fault.doubt) {
                likeliest = Some(Fault { track: i, ..fault });
            }
        }
        Ok(likeliest)
    }
}

/// Why a record is not to be had, and where that shows.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) track: usize,
    pub(super) offset: u64,
    pub(super) why: String,
    /// It is whole, and newer than this build.
    pub(super) unsupported: bool,
    doubt: u8,
}

impl Fault {
    fn bad(offset: u64, why: &Bad) -> Fault {
        let unsupported = why.is_unsupported();
        Fault { track: 0, offset, why: why.to_string(), unsupported, doubt: 0 }
    }

    fn missing(offset: u64) -> Fault {
        let why = "the frame is missing".to_string();
        Fault { track: 0, offset, why, unsupported: false, doubt: 1 }
    }
}

impl Track {
    /// Goes on to the first frame that ends at `lsn` or later; whether it holds it.
    fn holds(&mut self, lsn: Lsn) -> io::Result<bool> {
        loop {
            let Some((frame, last)) = self.look(lsn)? else { return Ok(false) };
            if last >= lsn {
                let held = frame.header.first_lsn <= lsn;
                if held {
                    self.fault = None;
                }
                return Ok(held);
            }
            self.cursor.skip(&frame.header);
            self.head = None;
        }
    }

    /// The frame at the cursor, if the segment has a frame from `lsn` on.
    fn look(&mut self, lsn: Lsn) -> io::Result<Option<(Frame, Lsn)>> {
        if self.head.is_some() {
            return Ok(self.head);
        }
        let (last, end) = self.segment.bounds();
        if last < lsn {
            return Ok(None);
        }
        self.cursor.set_end(end);
        loop {
            match self.cursor.peek()? {
                Step::Frame(frame) if frame.header.tag == Tag::Mark => {
                    self.cursor.skip(&frame.header);
                    continue;
                }
                Step::Frame(frame) if frame.header.first_lsn <= last => {
                    self.head = Some((frame, last.min(frame.header.last_lsn())));
                    return Ok(self.head);
                }
                Step::Frame(_) => return Ok(None),
                Step::Bad { offset, why, .. } => self.fault = Some(Fault::bad(offset, &why)),
                Step::End if self.cursor.at() >= end => return Ok(None),
                Step::End => self.fault = Some(Fault::missing(self.cursor.at())),
            }
            // All below the end of a segment was part of the log: what follows still is.
            if !self.cursor.resync()? {
                return Ok(None);
            }
        }
    }

    /// The last record of the frame at its head.
    pub(super) fn last(&self) -> Lsn {
        self.head.map_or(Lsn::NONE, |(_, last)| last)
    }

    /// Takes the frame at its head whole, or says what is wrong with it.
    pub(super) fn take(&mut self) -> io::Result<Step> {
        let (frame, _) = self.head.take().expect("its head was found to hold the record");
        self.cursor.whole(frame)
    }
}
