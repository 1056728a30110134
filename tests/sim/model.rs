//! What must be in the log: every batch that was submitted, what was promised about it, and which
//! record was read where.
//!
//! ```text
//! submit -> Batch{Open} --ticket--> Written | Durable | Absent
//! read(lsn) --learn--> known[lsn]: (batch, index), once and for all
//! ```
//!
//! Invariants checked here: I1 promised batches are there byte for byte; I2 no gap; I3 a batch is
//! whole or absent; I4 nothing else, nowhere else, never twice; I5 what was served stays.

use std::collections::BTreeSet;

use prkdb_core::{ErrorKind, Lsn, LsnRange, Result};

/// Bytes that say which batch a record starts.
const ID_LEN: usize = 16;
const ID_MAGIC: &[u8; 8] = b"simbatch";

/// What is known of a batch from its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered, or answered with `NotConfirmed`, or ordered only: whole or absent.
    Open,
    /// Survives a killed process.
    Written,
    /// Survives power loss.
    Durable,
    /// Certainly not in the log.
    Absent,
}

/// One batch that was submitted.
pub struct Batch {
    pub records: Vec<Vec<u8>>,
    pub fate: Fate,
    /// Its place among all that were queued.
    order: u64,
    range: Option<LsnRange>,
    /// Where it was once said to stand, also if it was cut since.
    given: Option<LsnRange>,
}

/// What the log owes.
#[derive(Default)]
pub struct Promises {
    batches: Vec<Batch>,
    /// Places among the queued that were given out.
    orders: u64,
    /// For each LSN from 1 on the record that was read there; none if a policy cut it unread.
    known: Vec<Option<(usize, usize)>>,
    /// Batches below this were looked for: what is not known of them never may be.
    settled: usize,
    /// Batches from this on were submitted since the log was opened.
    opened: usize,
    /// Everything up to here was called durable, or written.
    pub promised: u64,
    pub written: u64,
    /// Where the log may start: the last truncation that was confirmed, the furthest tried.
    pub first_least: u64,
    pub first_most: u64,
    /// A truncation from the end that was not confirmed: the last record it keeps.
    pub cut: Option<u64>,
    /// A reset that was not confirmed: the next record after it.
    pub reset: Option<u64>,
    /// Where batches were cut in the middle: what stands there is the start of another.
    seams: BTreeSet<u64>,
}

impl Promises {
    pub fn new() -> Promises {
        Promises { first_least: 1, first_most: 1, ..Promises::default() }
    }

    /// Takes in a batch that is about to be submitted: marks its first record with its number.
    pub fn submit(&mut self, mut records: Vec<Vec<u8>>) -> usize {
        let number = self.batches.len();
        let first = &mut records[0];
        first.resize(first.len().max(ID_LEN), 0);
        first[..8].copy_from_slice(ID_MAGIC);
        first[8..ID_LEN].copy_from_slice(&(number as u64).to_le_bytes());
        let order = self.orders;
        self.batches.push(Batch { records, fate: Fate::Open, order, range: None, given: None });
        self.orders += 1;
        number
    }

    pub fn batch(&self, number: usize) -> &Batch {
        &self.batches[number]
    }

    /// Its turn came later than when it was submitted: it was in line for room.
    pub fn queued(&mut self, number: usize) {
        self.batches[number].order = self.orders;
        self.orders += 1;
    }

    /// It was refused before it was queued.
    pub fn refused(&mut self, number: usize) {
        self.batches[number].fate = Fate::Absent;
    }

    /// Takes in the answer of a batch's ticket; `level` is what its `Ok` promises.
    pub fn answered(&mut self, number: usize, level: Fate, answer: &Result<LsnRange>) {
        let batch = &mut self.batches[number];
        assert_eq!(batch.fate, Fate::Open, "batch {number} was answered twice");
        match answer {
            Ok(range) => {
                assert_eq!(range.count() as usize, batch.records.len(), "batch {number}: LSNs");
                (batch.range, batch.given) = (Some(*range), Some(*range));
                batch.fate = level;
                if level == Fate::Durable {
                    self.promised = self.promised.max(range.last().get());
                }
            }
            Err(e) => match e.kind() {
                ErrorKind::NotConfirmed => {}
                ErrorKind::StorageFull
                | ErrorKind::Io
                | ErrorKind::Poisoned
                | ErrorKind::Closed => {
                    batch.fate = Fate::Absent;
                }
                _ => panic!("batch {number}: {e}"),
            },
        }
    }

    /// The log was opened.
    pub fn opened(&mut self) {
        self.opened = self.batches.len();
    }

    /// `close` returned `Ok`: everything it had queued is durable.
    pub fn closed(&mut self) {
        for batch in &mut self.batches[self.opened..] {
            if batch.range.is_some() {
                batch.fate = Fate::Durable;
            }
        }
    }

    /// All beyond `keep` was cut: it must not come back.
    pub fn cut_after(&mut self, keep: u64) {
        self.cut = None;
        (self.promised, self.written) = (keep, keep);
        self.skip_cut(keep + 1);
        self.known.truncate(place(keep + 1));
        for batch in &mut self.batches {
            if batch.range.is_some_and(|range| range.first().get() > keep) {
                batch.fate = Fate::Absent;
                batch.range = None;
            }
        }
        self.seams.retain(|seam| *seam <= keep);
        self.seams.insert(keep + 1);
    }

    /// The log was emptied: its next record is `next`.
    pub fn reset_to(&mut self, next: u64) {
        self.reset = None;
        self.cut_after(0);
        self.known.resize(place(next), None);
        (self.promised, self.written) = (next - 1, next - 1);
        self.seams = [next].into();
        self.first_least = next;
        self.first_most = if self.first_most == u64::MAX { u64::MAX } else { next };
    }

    /// A record was read from a disk that can't be trusted, after `last` if that is known; gives
    /// which it is. I4, I7: records may be gone, and older ones back, but none has other bytes than
    /// one that was submitted for its place. I3: a batch that has begun goes on to its end.
    pub fn recognize(
        &self,
        last: Option<(usize, usize)>,
        lsn: u64,
        data: &[u8],
    ) -> Option<(usize, usize)> {
        let found = match last {
            Some((batch, i)) if !self.is_end((batch, i)) => {
                let next = (batch, i + 1);
                assert!(self.stands(next, lsn, data), "I3: at {lsn} batch {batch} is left");
                Some(next)
            }
            // The log may start inside a batch, if that is read first.
            _ => number_of(data).map(|number| (number, 0)).or_else(|| {
                assert!(last.is_none(), "I3, I4, I7: record {lsn} starts no batch");
                self.inside(lsn, data)
            }),
        };
        if let Some((batch, i)) = found {
            assert!(self.stands((batch, i), lsn, data), "I4, I7: record {lsn} was never submitted");
            let fate = self.batches[batch].fate;
            assert_ne!(fate, Fate::Absent, "I4: batch {batch} at {lsn} was refused");
        }
        found
    }

    /// Whether this is the last record of its batch.
    pub fn is_end(&self, (batch, i): (usize, usize)) -> bool {
        i + 1 == self.batches[batch].records.len()
    }

    /// Whether that record has these bytes, and was not said to be elsewhere.
    fn stands(&self, (number, i): (usize, usize), lsn: u64, data: &[u8]) -> bool {
        self.batches.get(number).is_some_and(|batch| {
            let here = batch.given.is_none_or(|range| range.first().get() + i as u64 == lsn);
            here && batch.records.get(i).is_some_and(|r| r == data)
        })
    }

    /// Which record it may be, of the middle of a batch; none if several may.
    fn inside(&self, lsn: u64, data: &[u8]) -> Option<(usize, usize)> {
        let all = self.batches.iter().enumerate();
        let all = all.flat_map(|(number, b)| (1..b.records.len()).map(move |i| (number, i)));
        let mut fitting = all.filter(|place| self.stands(*place, lsn, data));
        let found = fitting.next();
        assert!(found.is_some(), "I4, I7: record {lsn} was never submitted");
        found.filter(|_| fitting.next().is_none())
    }

    /// The last LSN of which the content is known.
    pub fn known_last(&self) -> u64 {
        self.known.len() as u64
    }

    /// The bytes that stand at an LSN that is known.
    pub fn content(&self, lsn: u64) -> &[u8] {
        let (batch, i) = self.known[place(lsn)].expect("it was read");
        &self.batches[batch].records[i]
    }

    /// A record was read at the durable level.
    pub fn learn(&mut self, lsn: u64, data: &[u8]) {
        if lsn > self.known_last() {
            self.skip_cut(lsn);
            assert_eq!(lsn, self.known_last() + 1, "I2: a gap before record {lsn}");
            let next = self.next(self.known.last().copied().flatten(), lsn, data);
            self.known.push(Some(next));
        }
        let (batch, i) = match self.known[place(lsn)] {
            Some(known) => known,
            None => self.find_unread(lsn, data),
        };
        let right = self.batches[batch].records[i] == data;
        assert!(right, "I1: record {lsn}, number {i} of batch {batch}, has other bytes");
    }

    /// Where a policy cuts, records before `next` may have gone unread: in whole segments, so
    /// what stands there is the start of a batch.
    fn skip_cut(&mut self, next: u64) {
        if self.first_most == u64::MAX && next > self.known_last() + 1 {
            self.known.resize(place(next), None);
        }
    }

    /// Which record with these bytes was answered to stand at `lsn`.
    fn of_range(&self, lsn: u64, data: &[u8]) -> Option<(usize, usize)> {
        self.batches.iter().enumerate().rev().find_map(|(number, batch)| {
            let first = batch.range?.first().get();
            let i = lsn.checked_sub(first).map(|i| place(i + 1))?;
            (batch.records.get(i)? == data).then_some((number, i))
        })
    }

    /// What a policy was about to cut when the world ended is back, and read now.
    fn find_unread(&mut self, lsn: u64, data: &[u8]) -> (usize, usize) {
        let before = lsn.checked_sub(2).and_then(|i| self.known[place(i + 1)]);
        let goes_on = before.filter(|(b, i)| i + 1 < self.batches[*b].records.len());
        let found = match goes_on.filter(|_| !self.seams.contains(&lsn)) {
            Some((batch, i)) => (batch, i + 1),
            None => {
                let start = number_of(data).map(|number| (number, 0));
                start.or_else(|| self.of_range(lsn, data)).expect("I3, I4: it starts no batch")
            }
        };
        let batch = self.batches.get(found.0).expect("I4: it was never submitted");
        assert_ne!(batch.fate, Fate::Absent, "I4: batch {} at {lsn} was refused", found.0);
        let at = batch.range.map_or(lsn, |range| range.first().get() + found.1 as u64);
        assert_eq!(at, lsn, "I4: batch {} stands at another LSN", found.0);
        self.known[place(lsn)] = Some(found);
        found
    }

    /// A record was read that may be gone after a crash, after `last` or the last that is known;
    /// gives which it is.
    pub fn foresee(&self, last: Option<(usize, usize)>, lsn: Lsn, data: &[u8]) -> (usize, usize) {
        let known = self.known.last().copied().flatten();
        let last = last.or(known.filter(|_| lsn.get() == self.known_last() + 1));
        let (batch, i) = self.next(last, lsn.get(), data);
        let right = self.batches[batch].records[i] == data;
        assert!(right, "I1: record {lsn}, number {i} of batch {batch}, has other bytes");
        (batch, i)
    }

    /// Which record may stand at `lsn`, after `last`.
    fn next(&self, last: Option<(usize, usize)>, lsn: u64, data: &[u8]) -> (usize, usize) {
        if let Some((batch, i)) = last
            && i + 1 < self.batches[batch].records.len()
            && !self.seams.contains(&lsn)
        {
            return (batch, i + 1);
        }
        let number = number_of(data);
        let Some(batch) = number.and_then(|n| self.batches.get(n)) else {
            panic!("I3, I4: record {lsn} is no start of a batch that was submitted");
        };
        let number = number.expect("it names a batch");
        assert!(
            last.is_none_or(|(b, _)| self.batches[b].order < batch.order),
            "I4: batch {number} at {lsn} is out of order"
        );
        assert!(number >= self.settled, "I4: batch {number} came back at {lsn}");
        assert_ne!(batch.fate, Fate::Absent, "I4: batch {number} at {lsn} was refused");
        let at = batch.range.map_or(lsn, |range| range.first().get());
        assert_eq!(at, lsn, "I4: batch {number} stands at another LSN");
        (number, 0)
    }

    /// Recovery served the log from `first` to before `next`, and all of it was read.
    pub fn settle(&mut self, first: u64, next: u64, killed: bool) {
        if first == next {
            self.skip_cut(next);
        }
        assert_eq!(self.known_last() + 1, next, "I2: what was served was not all read");
        if let Some(Some((batch, i))) = self.known.last() {
            let count = self.batches[*batch].records.len();
            let whole = i + 1 == count || self.seams.contains(&next);
            assert!(whole, "I3: batch {batch} is there in part");
        }
        for (number, batch) in self.batches.iter().enumerate().skip(self.settled) {
            let owed = batch.fate == Fate::Durable || (killed && batch.fate == Fate::Written);
            let Some(range) = batch.range.filter(|range| owed && range.end().get() > first) else {
                continue;
            };
            if self.first_most == u64::MAX && range.first().get() < first {
                // A policy may have cut its start unread.
                continue;
            }
            let there = self.known.get(place(range.first().get()));
            assert_eq!(
                there,
                Some(&Some((number, 0))),
                "I1: {:?} batch {number} is gone",
                batch.fate
            );
        }
        self.settled = self.batches.len();
    }
}

fn place(lsn: u64) -> usize {
    usize::try_from(lsn - 1).expect("a simulated log is short")
}

fn number_of(data: &[u8]) -> Option<usize> {
    let id = data.get(..ID_LEN)?;
    let number = u64::from_le_bytes(id[8..].try_into().ok()?);
    (id[..8] == *ID_MAGIC).then(|| usize::try_from(number).ok()).flatten()
}
