//! Admission: bytes that callers may have queued, given out in the order they were asked for.
//!
//! ```text
//! append --take(bytes)--> used + bytes <= limit ? Grant : wait in line --> ... Grant dropped
//!                                                              ^-----------------'
//! ```
//!
//! Invariants: the queue is bounded in bytes and in batches; nobody overtakes a waiter; a batch
//! larger than the limit goes in alone, when the queue is empty. Called by the appender; grants
//! travel with their batch and come back when the writer has placed it, or when it is dropped.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::io::Host;
use crate::sync::{Mutex, MutexGuard};

use super::ticket::{Answer, Cells, Ticket};

/// Batches that may be queued, whatever their size.
pub(crate) const MAX_QUEUED_BATCHES: usize = 8192;

pub(crate) struct Room {
    limit: usize,
    places: Arc<Cells<Grant>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    batches: usize,
    waiting: VecDeque<(usize, Answer<Grant>)>,
    /// So long a line is looked through for places that were given up.
    crowd: usize,
    /// Somebody is letting in those in line.
    admitting: bool,
    refused: Option<Error>,
}

impl Room {
    pub(crate) fn new(limit: usize, host: Arc<dyn Host>) -> Arc<Room> {
        Arc::new(Room { limit, places: Cells::new(host, Duration::ZERO), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one batch of `bytes`, or none at the moment.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Result<Option<Grant>> {
        let mut state = self.lock();
        if let Some(error) = &state.refused {
            return Err(error.clone());
        }
        let free = state.waiting.is_empty() && state.fits(bytes, self.limit);
        Ok(free.then(|| state.grant(self, bytes)))
    }

    /// A place in line for room for one batch of `bytes`.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Ticket<Grant> {
        let (answer, ticket) = self.places.pair("append");
        let mut state = self.lock();
        if let Some(error) = &state.refused {
            let error = error.clone();
            drop(state);
            answer.fail(error);
            return ticket;
        }
        state.waiting.push_back((bytes, answer));
        let left = state.leave_abandoned();
        drop(state);
        drop(left);
        self.admit();
        ticket
    }

    /// Refuses everybody from now on, those in line too; with none, admits again.
    pub(crate) fn refuse(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.refused = error.clone();
        let waiting = match &error {
            Some(_) => std::mem::take(&mut state.waiting),
            None => VecDeque::new(),
        };
        drop(state);
        // Answered without the lock: a waker may run anything.
        for ((_, answer), error) in waiting.into_iter().zip(error.into_iter().cycle()) {
            answer.fail(error);
        }
    }

    /// Lets in those in line for whom there is room.
    fn admit(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.admitting {
            // Whoever does it looks again before it stops; also when it is this very thread, whose
            // grant was dropped because nobody waited for it any more.
            return;
        }
        state.admitting = true;
        while let Some((bytes, answer)) = state.waiting.front() {
            let (gone, bytes) = (answer.is_abandoned(), *bytes);
            if !gone && !state.fits(bytes, self.limit) {
                break;
            }
            let (_, answer) = state.waiting.pop_front().expect("it was looked at just now");
            let grant = (!gone).then(|| state.grant(self, bytes));
            // Answered and dropped without the lock: both may run somebody else's code.
            drop(state);
            match grant {
                Some(grant) => answer.ok(grant),
                None => drop(answer),
            }
            state = self.lock();
        }
        state.admitting = false;
    }

    fn give_back(self: &Arc<Self>, bytes: usize) {
        let mut state = self.lock();
        state.used -= bytes;
        state.batches -= 1;
        let waiting = !state.waiting.is_empty();
        drop(state);
        if waiting {
            self.admit();
        }
    }
}

impl State {
    fn fits(&self, bytes: usize, limit: usize) -> bool {
        let empty = self.batches == 0;
        empty || (self.used + bytes <= limit && self.batches < MAX_QUEUED_BATCHES)
    }

    /// Takes the places out that nobody waits in: futures that were dropped. Looked for each time
    /// the line has doubled, so that a place costs little and the line stays bounded.
    fn leave_abandoned(&mut self) -> Vec<Answer<Grant>> {
        let mut left = Vec::new();
        if self.waiting.len() > self.crowd.max(64) {
            let all = std::mem::take(&mut self.waiting);
            for (bytes, answer) in all {
                match answer.is_abandoned() {
                    true => left.push(answer),
                    false => self.waiting.push_back((bytes, answer)),
                }
            }
            self.crowd = 2 * self.waiting.len();
        }
        left
    }

    fn grant(&mut self, room: &Arc<Room>, bytes: usize) -> Grant {
        self.used += bytes;
        self.batches += 1;
        Grant { room: Arc::clone(room), bytes }
    }
}

/// Room that was taken; dropping it gives it back.
pub(crate) struct Grant {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::io::ThreadHost;

    fn room(limit: usize) -> Arc<Room> {
        Room::new(limit, Arc::new(ThreadHost::new()))
    }

    #[test]
    fn nobody_overtakes_a_waiter() {
        let room = room(100);
        let first = room.try_take(60).unwrap().unwrap();
        let mut large = room.take(80);
        assert!(large.try_wait().is_none());
        assert!(room.try_take(1).unwrap().is_none(), "it would overtake");
        drop(first);
        let large = large.wait().unwrap();
        assert!(room.try_take(20).unwrap().is_some());
        drop(large);
    }

    #[test]
    fn an_oversize_batch_goes_in_alone() {
        let room = room(100);
        let small = room.try_take(1).unwrap().unwrap();
        let mut huge = room.take(1000);
        assert!(huge.try_wait().is_none());
        drop(small);
        let huge = huge.wait().unwrap();
        assert!(room.try_take(1).unwrap().is_none());
        drop(huge);
        assert!(room.try_take(1).unwrap().is_some());
    }

    #[test]
    fn an_abandoned_place_in_line_lets_the_next_in() {
        let room = room(100);
        let all = room.try_take(100).unwrap().unwrap();
        let gone = room.take(100);
        let next = room.take(100);
        drop(gone);
        drop(all);
        assert!(next.wait().is_ok());
    }

    #[test]
    fn a_long_line_of_abandoned_places_costs_neither_stack_nor_memory() {
        let room = room(100);
        let all = room.try_take(100).unwrap().unwrap();
        for _ in 0..200_000 {
            drop(room.take(100));
            assert!(room.lock().waiting.len() <= 66);
        }
        // And a line that nobody gave up before there was room.
        let line: Vec<_> = (0..100_000).map(|_| room.take(100)).collect();
        drop(line);
        let next = room.take(100);
        drop(all);
        assert!(next.wait().is_ok());
    }

    #[test]
    fn places_given_up_behind_one_that_waits_leave_the_line() {
        let room = room(100);
        let all = room.try_take(100).unwrap().unwrap();
        let first = room.take(100);
        for _ in 0..1000 {
            drop(room.take(100));
            assert!(room.lock().waiting.len() <= 66);
        }
        drop(all);
        assert!(first.wait().is_ok());
    }

    #[test]
    fn a_refusal_reaches_those_in_line() {
        let room = room(100);
        let all = room.try_take(100).unwrap().unwrap();
        let waiting = room.take(1);
        room.refuse(Some(Error::new(ErrorKind::Closed, "append", "")));
        assert_eq!(waiting.wait().err().map(|e| e.kind()), Some(ErrorKind::Closed));
        assert!(room.try_take(1).is_err());
        // It came between its own look and the refusal.
        let late = room.take(1);
        assert_eq!(late.wait().err().map(|e| e.kind()), Some(ErrorKind::Closed));
        room.refuse(None);
        drop(all);
        assert!(room.try_take(1).unwrap().is_some());
    }
}
