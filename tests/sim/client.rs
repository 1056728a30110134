//! Logical clients of a simulated log: what they append, and what becomes of their tickets.
//!
//! ```text
//! draw records -> try_append_batch | append_batch -> Ticket --try_wait | wait--> Promises
//! ```

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use prkdb_core::io::sim::Rng;
use prkdb_core::{Append, Durability, ErrorKind, Lsn, LsnRange, Result, Wal};

use crate::model::{Fate, Promises};

/// What a world's clients are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// One small record a batch: groups of one block each, equal to each other.
    Uniform,
    /// All sizes, most of them small.
    Mixed,
    /// Large batches: segments are rolled.
    Bulk,
}

/// How an append deals with a full queue.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Try,
    Block,
    Poll,
}

/// A batch that waits for its answer.
struct Waiting {
    asked: Asked,
    ticket: Append,
}

/// What was asked for with a batch.
#[derive(Clone, Copy)]
pub struct Asked {
    pub batch: usize,
    pub level: Fate,
    /// Where alone it may go; and whether nothing stands there and nothing is before it.
    pub at: Option<(Lsn, bool)>,
}

impl Asked {
    fn answered(&self, promises: &mut Promises, answer: &Result<LsnRange>) {
        match (self.at, answer) {
            (Some((_, free)), Err(e)) if e.kind() == ErrorKind::Invalid => {
                assert!(!free, "batch {} was wanted where the log ended: {e}", self.batch);
                return promises.refused(self.batch);
            }
            (Some((lsn, _)), Ok(range)) => {
                assert_eq!(range.first(), lsn, "batch {} was wanted elsewhere", self.batch);
            }
            _ => {}
        }
        promises.answered(self.batch, self.level, answer);
    }
}

/// Clients in one thread: they take turns, so their batches are ordered as they were submitted.
pub struct Clients {
    habit: Habit,
    waiting: Vec<Waiting>,
    /// Somebody is in line for room and is not polled meanwhile: who blocks would wait for ever.
    pub crowded: bool,
}

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Queued,
    Busy,
    Failed(ErrorKind),
}

impl Clients {
    pub fn new(habit: Habit) -> Clients {
        Clients { habit, waiting: Vec::new(), crowded: false }
    }

    /// Lets one client append a batch of its habit.
    pub fn append(&mut self, wal: &Wal, promises: &mut Promises, rng: &mut Rng) -> Turn {
        let (records, durability) = self.draw(rng);
        let way = match rng.pick(&[Way::Try, Way::Try, Way::Block, Way::Poll]) {
            Way::Block if self.crowded => Way::Try,
            way => way,
        };
        self.submit(wal, promises, records, durability, way)
    }

    /// A batch of its habit, and how it is to be kept.
    pub fn draw(&self, rng: &mut Rng) -> (Vec<Vec<u8>>, Durability) {
        let records = draw_records(self.habit, rng);
        let durability = match rng.below(100) {
            0..60 => Durability::Sync,
            60..85 => Durability::Written,
            _ => Durability::Queued,
        };
        (records, durability)
    }

    /// Appends these records where alone they are wanted; `free` if that is where the log ends.
    pub fn append_at(
        &mut self,
        wal: &Wal,
        promises: &mut Promises,
        (records, durability): (Vec<Vec<u8>>, Durability),
        (lsn, free): (Lsn, bool),
    ) -> Turn {
        let batch = promises.submit(records);
        let appender = wal.with(durability).at(lsn);
        let outcome = appender.try_append_batch(&promises.batch(batch).records);
        let at = Some((lsn, free));
        self.take(promises, Asked { batch, level: level(durability), at }, outcome)
    }

    /// Whether no batch waits for its answer.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Appends these records.
    pub fn submit(
        &mut self,
        wal: &Wal,
        promises: &mut Promises,
        records: Vec<Vec<u8>>,
        durability: Durability,
        way: Way,
    ) -> Turn {
        let batch = promises.submit(records);
        let records = &promises.batch(batch).records;
        let appender = wal.with(durability);
        let outcome = match way {
            Way::Try => Some(appender.try_append_batch(records)),
            Way::Block => Some(appender.append_batch(records)),
            Way::Poll => {
                let append = pin!(appender.append_batch_async(records));
                match append.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(outcome) => Some(outcome),
                    // Dropped in line for room: as if it had never been asked for.
                    Poll::Pending => None,
                }
            }
        };
        let asked = Asked { batch, level: level(durability), at: None };
        match outcome {
            Some(outcome) => self.take(promises, asked, outcome),
            None => {
                promises.refused(batch);
                Turn::Busy
            }
        }
    }

    /// Takes what an append gave.
    pub fn take(&mut self, promises: &mut Promises, asked: Asked, outcome: Result<Append>) -> Turn {
        match outcome {
            Ok(ticket) => {
                self.waiting.push(Waiting { asked, ticket });
                Turn::Queued
            }
            Err(e) => {
                promises.refused(asked.batch);
                if e.kind() == ErrorKind::Busy { Turn::Busy } else { Turn::Failed(e.kind()) }
            }
        }
    }

    /// Takes the answers that are there.
    pub fn poll(&mut self, promises: &mut Promises) {
        self.waiting.retain_mut(|w| match w.ticket.try_wait() {
            Some(answer) => {
                w.asked.answered(promises, &answer);
                false
            }
            None => true,
        });
    }

    /// Waits for one answer, of a ticket drawn by seed.
    pub fn wait_one(&mut self, promises: &mut Promises, rng: &mut Rng) -> Option<Result<LsnRange>> {
        if self.waiting.is_empty() {
            return None;
        }
        let w = self.waiting.swap_remove(rng.index(self.waiting.len()));
        let answer = w.ticket.wait();
        w.asked.answered(promises, &answer);
        Some(answer)
    }

    /// Waits for all answers; gives the first error.
    pub fn wait_all(&mut self, promises: &mut Promises) -> Option<ErrorKind> {
        let mut failed = None;
        for w in self.waiting.drain(..) {
            let answer = w.ticket.wait();
            // That its place was taken is no failure.
            let kind = answer.as_ref().err().map(|e| e.kind());
            failed = failed.or(kind.filter(|kind| *kind != ErrorKind::Invalid));
            w.asked.answered(promises, &answer);
        }
        failed
    }

    /// The log was seen to be poisoned: every ticket still open has to end, and none as `Ok` (I8).
    pub fn poisoned(&mut self, wal: &Wal, promises: &mut Promises) {
        // What was answered before is: nothing becomes durable any more.
        let durable = wal.durable_lsn();
        self.waiting.retain_mut(|w| match w.ticket.try_wait() {
            Some(answer) => {
                let last = answer.as_ref().map_or(Lsn::NONE, LsnRange::last);
                let late = w.asked.level == Fate::Durable && last > durable;
                assert!(!late, "I8: batch {} was answered beyond {durable}", w.asked.batch);
                w.asked.answered(promises, &answer);
                false
            }
            None => true,
        });
        for w in self.waiting.drain(..) {
            let answer = w.ticket.wait();
            assert!(answer.is_err(), "I8: batch {} became Ok in a poisoned log", w.asked.batch);
            w.asked.answered(promises, &answer);
        }
    }
}

/// What the `Ok` of a batch promises.
pub fn level(durability: Durability) -> Fate {
    match durability {
        Durability::Sync => Fate::Durable,
        Durability::Written => Fate::Written,
        Durability::Queued => Fate::Open,
    }
}

fn draw_records(habit: Habit, rng: &mut Rng) -> Vec<Vec<u8>> {
    let (count, most) = match (habit, rng.below(100)) {
        (Habit::Uniform, _) => (1, 100),
        (Habit::Mixed, 0..60) => (1 + rng.index(4), 200),
        (Habit::Mixed, 60..90) => (1 + rng.index(20), 2000),
        (Habit::Mixed, 90..97) => (1 + rng.index(3), 20_000),
        (Habit::Mixed, _) => (1 + rng.index(2), 200_000),
        (Habit::Bulk, 0..50) => (1 + rng.index(3), 1000),
        (Habit::Bulk, 50..90) => (1 + rng.index(4), 60_000),
        (Habit::Bulk, _) => (1 + rng.index(3), 300_000),
    };
    (0..count).map(|_| draw_record(most, rng)).collect()
}

fn draw_record(most: u64, rng: &mut Rng) -> Vec<u8> {
    let len = if rng.chance(100) { 0 } else { rng.below(most + 1) };
    let mut record = Vec::with_capacity(usize::try_from(len).expect("a record is small") + 8);
    // Zeros and noise: a block of zeros inside a frame must not look like its end.
    let zeros = rng.chance(100);
    while (record.len() as u64) < len {
        let word = if zeros { 0 } else { rng.bits() };
        record.extend_from_slice(&word.to_le_bytes());
    }
    record.truncate(usize::try_from(len).expect("a record is small"));
    record
}
