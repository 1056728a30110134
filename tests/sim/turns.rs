//! Turns of one to four logical clients between the steps of a life: they stand in line for room
//! together, want their batches at one place, replace the user slot, compact, and follow the log.
//!
//! ```text
//! step -> turn -> step -> turn ..        a turn starts something, or goes on with it
//!          |
//!          +--> in line: future of append_batch_async --Ready--> Clients    one for each client
//! ```
//!
//! Drawn from a stream of its own, in every other seed: the others are what they were without it.
//! One thread runs all: while somebody is in line and not polled, nobody may block for room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prkdb_core::io::sim::Rng;
use prkdb_core::{Append, Error, ErrorKind, Lsn, Reader, Result, Wal};

use crate::client::{self, Asked, Turn};
use crate::life::{Hazard, Life, say};

/// Its generator, where a seed has such turns. What they add can't be checked on a bad disk.
pub fn draw(seed: u64, hazard: Hazard) -> Option<Rng> {
    let some = seed.is_multiple_of(2) && hazard == Hazard::None;
    some.then(|| Rng::stream(seed, 5))
}

/// What the user slot holds, or may.
#[derive(Default)]
pub struct Slot {
    confirmed: Vec<u8>,
    /// Asked for since, and not confirmed.
    asked: Vec<Vec<u8>>,
}

impl Slot {
    /// After a recovery it holds what was confirmed last, or what was under way, whole.
    pub fn check(&mut self, wal: &Wal) {
        let found = wal.user_state();
        let known = found == self.confirmed || self.asked.contains(&found);
        assert!(known, "the user slot holds {} bytes that nobody asked for", found.len());
        *self = Slot { confirmed: found, asked: Vec::new() };
    }
}

/// A batch whose client waits for room.
struct InLine<'w> {
    asked: Asked,
    append: Pin<Box<dyn Future<Output = Result<Append>> + 'w>>,
}

/// A reader that is kept from turn to turn.
struct Kept {
    reader: Reader,
    /// Cuts from the end before it was made.
    cuts: u64,
}

/// What is under way while one log is open.
pub struct Turns<'w> {
    rng: Option<Rng>,
    clients: usize,
    line: Vec<InLine<'w>>,
    kept: Option<Kept>,
}

impl<'w> Turns<'w> {
    pub fn new(mut rng: Option<Rng>) -> Turns<'w> {
        let clients = rng.as_mut().map_or(0, |rng| 1 + rng.index(4));
        Turns { rng, clients, line: Vec::new(), kept: None }
    }
}

impl Life {
    /// Takes a turn, if there is one; whether the log was seen to be poisoned.
    pub fn turn<'w>(&mut self, wal: &'w Wal, turns: &mut Turns<'w>) -> bool {
        let Some(mut rng) = turns.rng.take() else { return false };
        let poisoned = rng.chance(400)
            && match rng.below(100) {
                0..40 => self.stand_in_line(wal, turns, &mut rng),
                40..65 => self.poll_line(turns, &mut rng),
                65..75 => self.append_at(wal, &mut rng),
                75..85 => self.set_user_state(wal, &mut rng),
                85..90 if self.policies => self.compact(wal),
                _ => self.follow(wal, turns, &mut rng),
            };
        self.clients.crowded = !turns.line.is_empty();
        turns.rng = Some(rng);
        poisoned
    }

    /// Each client that is not in line yet asks for room.
    fn stand_in_line<'w>(&mut self, wal: &'w Wal, turns: &mut Turns<'w>, rng: &mut Rng) -> bool {
        for _ in turns.line.len()..turns.clients {
            let (records, durability) = self.clients.draw(rng);
            let batch = self.promises.submit(records);
            let records = self.promises.batch(batch).records.clone();
            let level = client::level(durability);
            let appender = wal.with(durability);
            let append = async move { appender.append_batch_async(&records).await };
            let append = Box::pin(append);
            turns.line.push(InLine { asked: Asked { batch, level, at: None }, append });
            // They ask at once: who asked first is served first.
            if self.poll_one(turns, turns.line.len() - 1) == Some(ErrorKind::Poisoned) {
                return true;
            }
        }
        say!(self, "{} of {} clients in line", turns.line.len(), turns.clients);
        false
    }

    /// Polls one of those in line; how it failed, if it did.
    fn poll_one(&mut self, turns: &mut Turns<'_>, i: usize) -> Option<ErrorKind> {
        let polled = turns.line[i].append.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(outcome) = polled else { return None };
        let asked = turns.line.remove(i).asked;
        self.promises.queued(asked.batch);
        match self.clients.take(&mut self.promises, asked, outcome) {
            Turn::Queued => None,
            Turn::Busy => panic!("who waits for room is never told that there is none"),
            Turn::Failed(kind) => {
                let ended = kind == ErrorKind::Poisoned || self.sim.crashed();
                assert!(ended, "an append in line was refused as {kind:?}");
                Some(kind)
            }
        }
    }

    /// Polls those in line, in any order.
    fn poll_line(&mut self, turns: &mut Turns<'_>, rng: &mut Rng) -> bool {
        let before = turns.line.len();
        for _ in 0..before {
            let i = rng.index(turns.line.len().max(1));
            if i < turns.line.len() && self.poll_one(turns, i) == Some(ErrorKind::Poisoned) {
                return true;
            }
        }
        say!(self, "{before} were in line, {} are", turns.line.len());
        false
    }

    /// Lets everybody in; whether the log was seen to be poisoned.
    pub fn empty_line(&mut self, turns: &mut Turns<'_>) -> bool {
        let mut poisoned = false;
        for _ in 0..10_000 {
            for i in (0..turns.line.len()).rev() {
                poisoned |= self.poll_one(turns, i) == Some(ErrorKind::Poisoned);
            }
            if turns.line.is_empty() || self.sim.crashed() {
                self.clients.crowded = false;
                return poisoned;
            }
            self.sim.pass(Duration::from_millis(1));
        }
        panic!("{} are in line, and nobody is served any more", turns.line.len());
    }

    /// I8: a poisoned log answers those in line too, and the next life starts without one.
    pub fn refused_in_line(&mut self, turns: &mut Turns<'_>) {
        self.empty_line(turns);
    }

    /// The end of a life: who is still in line gives up, as if it had never asked.
    pub fn leave(&mut self, turns: Turns<'_>) -> Option<Rng> {
        for InLine { asked, .. } in &turns.line {
            self.promises.refused(asked.batch);
        }
        self.clients.crowded = false;
        turns.rng
    }

    /// Appends a batch that belongs at one place: the next one, or another.
    fn append_at(&mut self, wal: &Wal, rng: &mut Rng) -> bool {
        if rng.chance(500) {
            let failed = self.clients.wait_all(&mut self.promises);
            if matches!(failed, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed)) {
                return true;
            }
        }
        let (next, beyond) = (wal.next_lsn(), rng.pick(&[0, 0, 0, 1]));
        let lsn = Lsn::new(next.get() + beyond);
        let free = beyond == 0 && self.clients.is_idle();
        let batch = self.clients.draw(rng);
        let turn = self.clients.append_at(wal, &mut self.promises, batch, (lsn, free));
        say!(self, "append at {lsn}, next {next}, free {free}: {turn:?}");
        match turn {
            Turn::Queued | Turn::Busy => false,
            Turn::Failed(ErrorKind::Poisoned) => true,
            Turn::Failed(kind) => panic!("an append was refused as {kind:?}"),
        }
    }

    /// Replaces the user slot.
    fn set_user_state(&mut self, wal: &Wal, rng: &mut Rng) -> bool {
        let len = rng.pick(&[0, 8, 600, 4096]);
        let state: Vec<u8> = (0..len).map(|_| rng.bits().to_le_bytes()[0]).collect();
        let outcome = wal.set_user_state(&state);
        say!(self, "user state of {len} bytes: {outcome:?}");
        match outcome {
            Ok(()) => {
                assert!(wal.user_state() == state, "the user slot shows something else");
                self.slot = Slot { confirmed: state, asked: Vec::new() };
                false
            }
            Err(e) => {
                self.slot.asked.push(state);
                self.failed_meta(&e)
            }
        }
    }

    /// Cuts what the policies say.
    fn compact(&mut self, wal: &Wal) -> bool {
        let outcome = wal.compact();
        say!(self, "compact: {outcome:?}, first {}", wal.first_lsn());
        match outcome {
            Ok(first) => {
                assert!(first <= wal.first_lsn(), "{first} is kept, and cut");
                self.promises.first_least = self.promises.first_least.max(first.get());
                false
            }
            // The log's size could not be looked at, and nothing was cut.
            Err(e) if wal.wait_durable(Lsn::NONE).is_ok() => {
                self.expect_io(&e);
                false
            }
            Err(e) => self.failed_meta(&e),
        }
    }

    /// META could not be written: whether the log is poisoned.
    fn failed_meta(&self, e: &Error) -> bool {
        if !matches!(e.kind(), ErrorKind::Poisoned | ErrorKind::NotConfirmed) {
            self.expect_io(e);
        }
        !self.sim.crashed()
    }

    /// Goes on with the reader that is kept, or makes one.
    fn follow(&mut self, wal: &Wal, turns: &mut Turns<'_>, rng: &mut Rng) -> bool {
        let Some(kept) = &mut turns.kept else {
            let (first, known) = (wal.first_lsn().get(), self.promises.known_last());
            let from = first + rng.below((known + 2).saturating_sub(first).max(1));
            let reader = wal.reader(Lsn::new(from)).expect("it starts within the log");
            turns.kept = Some(Kept { reader, cuts: self.cuts });
            return false;
        };
        self.tally.reads += 1;
        for _ in 0..1 + rng.below(20) {
            let (next, durable) = (kept.reader.next_lsn(), wal.durable_lsn());
            match kept.reader.next() {
                Some(Ok(record)) => {
                    assert_eq!(record.lsn, next, "I2: a reader that was kept leaves a gap");
                    self.promises.learn(record.lsn.get(), &record.data);
                }
                Some(Err(e)) if e.kind() == ErrorKind::Truncated => {
                    say!(self, "kept reader at {next}: {e}");
                    let cut = next < wal.first_lsn() || kept.cuts != self.cuts;
                    assert!(cut, "a kept reader at {next} was told of a cut: {e}");
                    turns.kept = None;
                    return false;
                }
                Some(Err(e)) => {
                    self.expect_read_io(&e);
                    self.tally.unread += u64::from(!self.sim.crashed());
                    return false;
                }
                None => {
                    assert!(next > durable, "a kept reader ends at {next}, {durable} is durable");
                    return false;
                }
            }
        }
        false
    }
}
