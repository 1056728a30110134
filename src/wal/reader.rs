//! Reading records in LSN order, out of sealed segments and the open one alike.
//!
//! ```text
//! next LSN -> catalog -> segments (pinned) -> merge -> frame -> body, copied out -> record, ...
//! ```
//!
//! Invariants: nothing beyond the limit is given; a record is given only after its checksums held;
//! a pinned segment is not recycled; what a reader holds is bounded by one body and one window, or
//! one window each of the segments that were written side by side.

use std::io;
use std::sync::Arc;

use crate::bugs::{self, Bug};
use crate::cast::len;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Bad;
use crate::format::codec::Decoder;
use crate::format::frame::{Body, FrameHeader, decode_body};
use crate::io::{Disk, ForkGuard};
use crate::lsn::{Lsn, LsnRange};
use crate::segment::{Cursor, Frame, Step};

use super::catalog::{Catalog, Segment};
use super::merge::Merge;
use super::record::{Record, RecordBatch, RecordData};

mod refusal;

/// Bytes a reader reads at a time: one record, or many.
const SMALL_WINDOW: u64 = 16 << 10;
const LARGE_WINDOW: u64 = 256 << 10;
/// Bytes that a reader of many has fetched before it comes to them.
const AHEAD: u64 = 2 << 20;

/// How far a reader goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadLevel {
    /// Records that are promised.
    #[default]
    Durable,
    /// Also records that are written and may be gone after a power cut.
    Written,
}

/// Records in LSN order, without gaps; made by [`Wal::reader`](super::Wal::reader), or by
/// [`ReadOnlyWal::reader`](super::ReadOnlyWal::reader) for a log as its last look found it.
///
/// - Shape: ends at the watermark; asked again later it goes on from there. `Send`; one thread at a
///   time. It keeps at most one batch and one window of 256 KiB in memory, or a smaller window for
///   each segment written side by side; what it has fetched ahead is in the page cache.
/// - Durability: gives promised records only, unless made with [`ReadLevel::Written`]; of a
///   [`ReadOnlyWal`](super::ReadOnlyWal) what that serves.
/// - Cuts: what it gave is of one history. If the log was cut from the end (`truncate_after`,
///   `reset_to`, `resume`, or a recovery in another process) below the record it gives next, it
///   says `Truncated`; at that record or beyond, it goes on. What `truncate_before` took and it did
///   not have yet is `Truncated` too. It never says `Corrupt` for a cut that it raced with.
///
/// # Errors
/// `Truncated`: make a new one from `first_lsn`, or from where the caller's own state ends.
/// `Corrupt` with file and offset. `Unsupported`: a codec that this build lacks. `Closed`: a forked
/// child. Each of these is final: asked again it gives the same error. After `Io` it tries again.
/// `Lost`: records that were damaged and given up stood here; told once a hole. `next_lsn` is then
/// behind it, and asked again the reader goes on there.
#[derive(Debug)]
pub struct Reader {
    catalog: Arc<Catalog>,
    disk: Arc<dyn Disk>,
    level: ReadLevel,
    next: Lsn,
    window: u64,
    merge: Merge,
    hand: Option<Hand>,
    decoder: Decoder,
    failed: Option<Error>,
    /// Where the log goes on behind the hole that was met.
    behind: Option<Lsn>,
    /// Changes of the catalog that this reader knows of.
    known: u64,
    fork: ForkGuard,
}

/// The batch records are given from.
#[derive(Debug)]
struct Hand {
    header: FrameHeader,
    /// The last of its records that is part of the log: a batch can be cut in the middle.
    last: Lsn,
    body: Body,
    segment: Arc<Segment>,
    offset: u64,
}

impl Hand {
    /// A record of it whose own checksum does not hold.
    fn damaged(&self, lsn: Lsn, why: &Bad) -> Error {
        let path = &self.segment.file.path;
        Error::corrupt("read", path, self.offset, format!("record {lsn}: {why}"))
    }
}

impl Reader {
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        disk: Arc<dyn Disk>,
        from: Lsn,
        level: ReadLevel,
    ) -> Result<Reader> {
        if from == Lsn::NONE {
            return Err(Error::invalid("read", "LSNs start at 1; read from Lsn::FIRST"));
        }
        let (window, fork) = (LARGE_WINDOW, ForkGuard::new());
        // Before anything else is looked at.
        let known = catalog.changes();
        let reader = Reader {
            catalog,
            disk,
            level,
            next: from,
            window,
            merge: Merge::default(),
            hand: None,
            decoder: Decoder::default(),
            failed: None,
            behind: None,
            known,
            fork,
        };
        reader.check_first()?;
        Ok(reader)
    }

    /// One record and no more.
    pub(crate) fn one(catalog: Arc<Catalog>, disk: Arc<dyn Disk>, lsn: Lsn) -> Result<Record> {
        let mut reader = Reader::new(catalog, disk, lsn, ReadLevel::Durable)?;
        reader.window = SMALL_WINDOW;
        reader.next().unwrap_or_else(|| {
            let durable = reader.catalog.durable();
            Err(Error::invalid(
                "read",
                format!("record {lsn} is not durable; {durable} is the last"),
            ))
        })
    }

    /// The LSN of the record it gives next.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The next records at once: what is left of the batch that holds the next one. The same
    /// records, and errors, as one by one; it takes half the time where batches are large and their
    /// records small, for what is done once a record otherwise is done once a batch.
    ///
    /// ```
    /// # use prkdb_core::{Lsn, Wal, WalConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let wal = Wal::open(WalConfig::new(dir.path()))?;
    /// wal.append_batch(["one", "two", "three"])?.wait()?;
    /// let mut reader = wal.reader(Lsn::FIRST)?;
    /// while let Some(batch) = reader.next_batch() {
    ///     let batch = batch?;
    ///     for (lsn, record) in batch.lsns().iter().zip(batch.iter()) {
    ///         println!("{lsn} {}", record.len());
    ///     }
    /// }
    /// # Ok::<(), prkdb_core::Error>(())
    /// ```
    ///
    /// - Shape: none at the watermark; asked again later it goes on from there. Batches are those
    ///   that were appended, but for their beginning where the reader starts in the middle of one,
    ///   and for what a cut took.
    ///
    /// # Errors
    /// As [`Reader`].
    pub fn next_batch(&mut self) -> Option<Result<RecordBatch>> {
        self.give(Reader::batch, |batch| batch.lsns().last())
    }

    /// Gives what `read` finds at the next record, up to `last` of it, and goes on behind that.
    fn give<T>(
        &mut self,
        read: impl Fn(&mut Reader) -> Result<T>,
        last: impl Fn(&T) -> Lsn,
    ) -> Option<Result<T>> {
        if let Some(error) = &self.failed {
            return Some(Err(error.clone()));
        }
        if self.fork.is_child() {
            let why = "this is a forked child; open the log anew";
            return Some(Err(Error::new(ErrorKind::Closed, "read", why)));
        }
        let outcome = self.settled(read)?;
        match &outcome {
            Ok(given) => self.next = last(given).next(),
            Err(error) if error.kind() == ErrorKind::Io => {}
            Err(error) if error.kind() == ErrorKind::Lost => {
                self.next = self.behind.take().expect("set with the error");
            }
            Err(error) => self.failed = Some(error.clone()),
        }
        Some(outcome)
    }

    fn limit(&self) -> Lsn {
        match self.level {
            ReadLevel::Durable if bugs::on(Bug::ReaderAheadOfDurable) => self.catalog.written(),
            ReadLevel::Durable => self.catalog.durable(),
            ReadLevel::Written => self.catalog.written(),
        }
    }

    fn check_first(&self) -> Result<()> {
        let first = self.catalog.first();
        if self.next < first {
            let why = format!("record {} was cut; the log starts at {first}", self.next);
            return Err(Error::new(ErrorKind::Truncated, "read", why));
        }
        Ok(())
    }

    /// After a `resume` or a truncation the log may go on differently from where it was cut.
    fn notice_changes(&mut self) -> Result<()> {
        let changes = self.catalog.changes();
        if changes == self.known {
            return Ok(());
        }
        let cut = self.catalog.cut_since(self.known);
        self.known = changes;
        let Some(cut) = cut else { return Ok(()) };
        self.hand = None;
        self.merge.clear();
        if self.next > cut {
            let why =
                format!("records from {cut} on were cut or given up after this reader came by");
            return Err(Error::new(ErrorKind::Truncated, "read", why));
        }
        Ok(())
    }

    /// What `read` gives at the next record, or why there is none, of a log that did not change
    /// while it was read; none at the watermark. Begins anew only if records were taken out
    /// meanwhile.
    fn settled<T>(&mut self, read: impl Fn(&mut Reader) -> Result<T>) -> Option<Result<T>> {
        loop {
            // Before the limit is looked at: what lies beyond it may be another history.
            if let Err(truncated) = self.notice_changes() {
                return Some(Err(truncated));
            }
            if self.next > self.limit() {
                return None;
            }
            let outcome = read(self);
            let changes = match outcome {
                Ok(_) => self.catalog.changes(),
                // It may have met the middle of a change.
                Err(_) => self.catalog.settled_changes(),
            };
            if changes == self.known {
                return Some(outcome);
            }
        }
    }

    /// The batch that holds the next record.
    fn hand(&mut self) -> Result<&mut Hand> {
        let held = |hand: &Hand| hand.header.first_lsn <= self.next && self.next <= hand.last;
        if !self.hand.as_ref().is_some_and(held) {
            // Let go first: of two bodies in memory one would not be counted.
            self.hand = None;
            self.hand = Some(self.fetch()?);
        }
        Ok(self.hand.as_mut().expect("fetched just now"))
    }

    /// The next record as it stands at this moment; the reader stays before it.
    fn record(&mut self) -> Result<Record> {
        let lsn = self.next;
        let hand = self.hand()?;
        let i = lsn.get() - hand.header.first_lsn.get();
        let i = u32::try_from(i).expect("a batch is bounded");
        let range = hand.body.range(&hand.header, i).map_err(|why| hand.damaged(lsn, &why))?;
        let data = RecordData::new(hand.body.share(), range);
        Ok(Record { lsn, time_us: hand.header.time_us, data })
    }

    /// What the batch of the next record has from there on; the reader stays before it.
    fn batch(&mut self) -> Result<RecordBatch> {
        let (lsn, limit) = (self.next, self.limit());
        let hand = self.hand()?;
        // The limit may have been lowered just now, below what this reader has given already.
        let (header, last) = (hand.header, hand.last.min(limit).max(lsn));
        let within = |lsn: Lsn| u32::try_from(lsn.get() - header.first_lsn.get());
        let [from, to] = [lsn, last.next()].map(|lsn| within(lsn).expect("a batch is bounded"));
        let count = match hand.body.prove(&header) {
            Ok(()) => to - from,
            // One of them is bad, or one that is not asked for: those before it are given first.
            Err(_) => {
                hand.body.range(&header, from).map_err(|why| hand.damaged(lsn, &why))?;
                let good = |i: &u32| hand.body.range(&header, *i).is_ok();
                u32::try_from((from..to).take_while(good).count()).expect("a batch is bounded")
            }
        };
        let body = hand.body.clone();
        Ok(RecordBatch::new(header, body, LsnRange::new(lsn, count)))
    }

    /// The frame that holds the next record.
    fn fetch(&mut self) -> Result<Hand> {
        self.check_first()?;
        if let Some((from, to)) = self.catalog.hole_at(self.next) {
            self.behind = Some(to);
            let why = format!(
                "records {from} to {} were damaged or missing and were given up; the log goes on \
                 at {to}",
                to.prev()
            );
            return Err(Error::new(ErrorKind::Lost, "read", why));
        }
        let mut found = self.merge.find(self.next);
        if let Ok(None) = found {
            // Ended, or a frame further on: the catalog knows better.
            self.seek()?;
            found = self.merge.find(self.next);
        }
        let outcome = match found {
            Ok(Some(track)) => self.take_up(track),
            Ok(None) => Err(self.missing()),
            Err((track, e)) => Err(self.io_error(track, e)),
        };
        if outcome.is_err() {
            // Asked again it starts anew.
            self.merge.clear();
        }
        outcome
    }

    /// The frame at the head of a track, checked whole, and its body.
    fn take_up(&mut self, i: usize) -> Result<Hand> {
        let many = self.merge.len() > 1;
        let track = self.merge.track(i);
        // A hole may begin in the middle of a batch.
        let last = track.last().min(self.catalog.last_before_hole(self.next));
        let segment = Arc::clone(&track.segment);
        let frame = match track.take() {
            Ok(Step::Frame(frame)) => frame,
            Ok(Step::Bad { offset, why, .. }) => {
                return Err(self.damage(&segment, offset, &why.to_string()));
            }
            Ok(Step::End) => unreachable!("a frame is whole or bad"),
            Err(e) => return Err(self.io_error(i, e)),
        };
        let Frame { header, offset } = frame;
        let body = match track.cursor.stored(&frame) {
            Ok(stored) => decode_body(&mut self.decoder, &header, stored),
            Err(e) => return Err(self.io_error(i, e)),
        };
        if many {
            // Or each of them would keep its largest frame.
            track.cursor.shrink(LARGE_WINDOW);
        }
        match body {
            Ok(body) => Ok(Hand { header, last, body, segment, offset }),
            Err(why @ Bad::Codec(_)) => {
                Err(Error::unsupported("read", &segment.file.path, offset, why))
            }
            Err(why) => Err(self.damage(&segment, offset, &why.to_string())),
        }
    }

    /// Opens the segments that may hold the next record; those at hand stay where they are.
    fn seek(&mut self) -> Result<()> {
        let found = self.catalog.find(self.next);
        if found.is_empty() {
            self.check_first()?;
            return Err(self.nowhere());
        }
        let lanes = found.len() as u64;
        let window = (self.window / lanes).max(SMALL_WINDOW);
        let mut new = found;
        new.retain(|segment| !self.merge.has(segment, self.window_in(segment, window)));
        self.merge.keep_from(self.next);
        for segment in new {
            let cursor = self.cursor(&segment, window, AHEAD / lanes)?;
            self.merge.add(segment, cursor);
        }
        Ok(())
    }

    /// A cursor at the next record or before it.
    fn cursor(&self, segment: &Segment, window: u64, ahead: u64) -> Result<Cursor> {
        let path = &segment.file.path;
        let file = match segment.open(&*self.disk) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.gone(path, None, e)),
            Err(e) => return Err(Error::io("read", path, None, e)),
        };
        let at = segment.offset_for(self.next);
        let window = self.window_in(segment, window);
        let mut cursor = Cursor::new(file, segment.file.id, segment.file.geometry, at, window);
        cursor.set_end(segment.end());
        if self.window > SMALL_WINDOW {
            cursor.read_ahead(ahead);
        }
        debug_assert!(len(at) > 0);
        Ok(cursor)
    }

    /// `window`, or what is left of the segment if that is less.
    fn window_in(&self, segment: &Segment, window: u64) -> u64 {
        let at = segment.offset_for(self.next);
        window.min(segment.end().saturating_sub(at).max(segment.file.geometry.block))
    }
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.give(Reader::record, |record| record.lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Listing;
    use super::*;
    use crate::io::open_disk;
    use crate::options::Backend;

    #[test]
    fn a_promised_record_that_no_segment_holds_is_damage() {
        let root = tempfile::tempdir().unwrap();
        let (disk, _) = open_disk(root.path(), Backend::Pwrite).unwrap();
        let (catalog, first, next) = (Arc::new(Catalog::default()), Lsn::new(3), Lsn::new(9));
        let (segments, holes) = (Vec::new(), Vec::new());
        catalog.restart(Listing { segments, first, next, holes }, next);
        let mut reader = Reader::new(catalog, disk, first, ReadLevel::Durable).unwrap();
        let error = reader.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("no segment holds record 3"), "{error}");
        assert_eq!(reader.next_lsn(), first);
    }
}
