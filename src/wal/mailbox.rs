//! What the writer, callers and the maker leave for each other.
//!
//! ```text
//! writer --take(bytes)--> need | ready | failed <--put-- maker
//! caller --job----------> jobs                  --next-> maker
//! ```
//!
//! Invariants: a segment is handed over once; whoever waits hears when the maker is gone; nobody's
//! waker or answer runs under the lock.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::Waker;

use crate::bugs::{self, Bug};
use crate::error::{Error, ErrorKind, Result};
use crate::lsn::Lsn;
use crate::segment::Made;
use crate::sync::{Mutex, MutexGuard};

use super::ticket::Answer;

/// What the maker is asked to do besides making segments.
pub(crate) enum Job {
    /// Cut all records below this LSN.
    TruncateBefore(Lsn, Answer<()>),
    /// Take records out from the end, now that nothing is in flight.
    Cut(Cut, Answer<Lsn>),
    /// Cut what the configured policies cut; answered with the first record that is kept.
    Compact(Answer<Lsn>),
    /// Make room for a segment of so many bytes, unless there is by now; answered with whether
    /// something was done for it.
    MakeRoom(u64, Answer<bool>),
    /// Take out segments that lie below the start of the log and were sealed only now.
    Retire,
    /// Replace what the caller keeps in META.
    SetUserState(Vec<u8>, Answer<()>),
    /// Record that the log was closed whole.
    MarkClean(Answer<()>),
    /// There are no more jobs.
    Stop,
}

impl Job {
    /// It is being done: an answer that gets lost from now on means that it may have happened.
    pub(super) fn begun(&mut self) {
        match self {
            Job::TruncateBefore(_, answer)
            | Job::SetUserState(_, answer)
            | Job::MarkClean(answer) => answer.submitted(),
            Job::Cut(_, answer) | Job::Compact(answer) => answer.submitted(),
            Job::MakeRoom(_, answer) => answer.submitted(),
            Job::Retire | Job::Stop => {}
        }
    }

    /// Answers it with `error` instead of doing it.
    pub(super) fn fail(self, error: Error) {
        match self {
            Job::TruncateBefore(_, answer)
            | Job::SetUserState(_, answer)
            | Job::MarkClean(answer) => answer.fail(error),
            Job::Cut(_, answer) | Job::Compact(answer) => answer.fail(error),
            Job::MakeRoom(_, answer) => answer.fail(error),
            Job::Retire | Job::Stop => {}
        }
    }
}

/// Where a log is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Behind this record, which is kept.
    After(Lsn),
    /// Everything goes, and the next record has this LSN.
    Reset(Lsn),
}

/// What the maker and the writer leave for each other.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Option<Made>,
    /// Bytes of frames the writer waits for; 0 if it does not wait.
    need: u64,
    /// Why the last one could not be made; nothing more is made until the writer asks.
    failed: Option<Error>,
    /// Bytes placed since a segment was taken, and after how many the next is wanted; the second
    /// is 0 if it is wanted at once.
    used: u64,
    open_bytes: u64,
    /// Segments that were rolled over and have no footer yet.
    unsealed: usize,
    jobs: VecDeque<Job>,
    /// No segments are made any more, and nothing is cut for one.
    enough: bool,
    /// When its jobs are done the maker ends.
    stop: bool,
    /// The maker is gone, at its end or by a panic.
    dead: bool,
    waker: Option<Waker>,
}

impl State {
    /// The segment that is ready, if it has room for `bytes`; then the maker begins the next.
    fn take_ready(&mut self, bytes: u64) -> Option<Made> {
        let made = self.ready.take_if(|made| made.segment.geometry.capacity() >= bytes)?;
        self.need = 0;
        self.used = 0;
        Mailbox::wake(self);
        Some(made)
    }
}

/// What the writer gets when it asks for a segment.
pub(crate) enum Taken {
    Ready(Made),
    /// The maker works on it and will ring.
    Wait,
    /// It could not be made; all who wait for it hear this.
    Failed(Error),
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(state: &State) {
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }

    /// A new maker listens here, and nothing is left of the one before.
    pub(crate) fn install(&self, waker: Waker) {
        let fresh = State { waker: Some(waker), ..State::default() };
        let old = std::mem::replace(&mut *self.lock(), fresh);
        // Without the lock: answers that drop with it may wake anything.
        drop(old);
    }

    /// The writer wants a segment with room for `bytes` of frames.
    pub(crate) fn take(&self, bytes: u64) -> Taken {
        let mut state = self.lock();
        if let Some(made) = state.take_ready(bytes) {
            return Taken::Ready(made);
        }
        if state.need > 0
            && let Some(error) = state.failed.take()
        {
            state.need = 0;
            if bugs::on(Bug::SpaceNotAskedAgain) {
                (state.need, state.failed) = (bytes, Some(error.clone()));
            }
            return Taken::Failed(error);
        }
        if state.dead {
            let why = "the thread that makes segments is gone; call resume() or reopen the log";
            return Taken::Failed(Error::new(ErrorKind::Poisoned, "append", why));
        }
        if state.need == 0 {
            state.failed = None;
            state.need = bytes;
            Mailbox::wake(&state);
        }
        Taken::Wait
    }

    /// A segment with room for `bytes` of frames, if one is ready; else nothing is asked for.
    pub(crate) fn take_ready(&self, bytes: u64) -> Option<Made> {
        self.lock().take_ready(bytes)
    }

    /// The writer placed `used` bytes since it took a segment, of so many after which it wants the
    /// next: 0 if it wants it at once.
    pub(crate) fn used(&self, used: u64, of: u64) {
        let mut state = self.lock();
        let more = used >> 20 != state.used >> 20 || of != state.open_bytes;
        (state.used, state.open_bytes) = (used, of);
        if state.ready.is_none() && more {
            Mailbox::wake(&state);
        }
    }

    /// What became of a segment that was wanted: whether the writer waits for it, and the segment
    /// that was ready before and is too small.
    /// `asked` is what the writer needed when it was begun.
    pub(super) fn put(&self, outcome: Result<Made>, asked: u64) -> (bool, Option<Made>) {
        let mut state = self.lock();
        let wait = state.need > 0;
        let unused = match outcome {
            Ok(made) => state.ready.replace(made),
            Err(error) => {
                let is_news = !matches!(error.kind(), ErrorKind::Closed | ErrorKind::Poisoned);
                if is_news && !wait && !state.enough {
                    // Nobody waits for it yet; who does hears it as the append's error.
                    tracing::warn!(%error, "no segment can be made ahead");
                }
                // Begun before the writer asked it says nothing to him: it is tried once more.
                if !wait || asked > 0 {
                    state.failed = Some(error);
                }
                None
            }
        };
        (wait, unused)
    }

    /// Takes back a segment that was made before `epoch` and not taken yet.
    pub(super) fn take_back(&self, epoch: u64) -> Option<Made> {
        self.lock().ready.take_if(|made| made.segment.id.epoch < epoch)
    }

    /// The next job, `Stop` at the end.
    pub(super) fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        state.jobs.pop_front().or_else(|| state.stop.then_some(Job::Stop))
    }

    /// The writer has so many segments left to seal.
    pub(crate) fn unsealed(&self, count: usize) {
        let mut state = self.lock();
        if state.unsealed != count {
            state.unsealed = count;
            Mailbox::wake(&state);
        }
    }

    /// Whether no segment will be sealed by itself, or nobody is to wait for one any more.
    pub(super) fn nothing_to_seal(&self) -> bool {
        let state = self.lock();
        state.unsealed == 0 || state.enough
    }

    /// Lets the maker look again.
    pub(crate) fn nudge(&self) {
        Mailbox::wake(&self.lock());
    }

    /// After a truncation it is worth trying again to make a segment ahead.
    pub(super) fn space_came_back(&self) {
        let mut state = self.lock();
        if state.need == 0 {
            state.failed = None;
        }
        Mailbox::wake(&state);
    }

    pub(crate) fn job(&self, job: Job) {
        let mut state = self.lock();
        if state.dead {
            // Dropped without the lock: the answer that goes with it may run anything.
            drop(state);
            return drop(job);
        }
        state.jobs.push_back(job);
        Mailbox::wake(&state);
    }

    /// A job for the sake of a segment that is being made; false if none is made any more. So after
    /// `stop` nothing is asked for that nobody would answer, and nothing is cut from a log that
    /// META already calls closed.
    pub(super) fn job_of_making(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.enough {
            drop(state);
            drop(job);
            return false;
        }
        state.jobs.push_back(job);
        Mailbox::wake(&state);
        true
    }

    /// Whether no more segments are wanted: the log closes.
    pub(super) fn is_enough(&self) -> bool {
        self.lock().enough
    }

    /// Whether somebody waits for the next segment or has a place for it now, or for the end.
    pub(super) fn hurries(&self) -> bool {
        let state = self.lock();
        state.need > 0 || state.open_bytes == 0 || state.enough
    }

    /// No more segments are wanted.
    pub(crate) fn enough(&self) {
        let mut state = self.lock();
        state.enough = true;
        Mailbox::wake(&state);
    }

    /// Ends the maker when its jobs are done.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        (state.enough, state.stop) = (true, true);
        Mailbox::wake(&state);
    }

    /// Nobody works here any more: whoever waits hears it. Tells whether that was asked for.
    pub(super) fn close(&self) -> bool {
        let mut state = self.lock();
        state.dead = true;
        let (jobs, asked) = (std::mem::take(&mut state.jobs), state.stop);
        drop(state);
        drop(jobs);
        asked
    }

    /// Bytes to make the next segment for, when one is wanted; 0 means none waits for it.
    pub(super) fn wanted(&self) -> Option<Option<u64>> {
        let state = self.lock();
        if state.enough {
            return Some(None);
        }
        let small = |m: &Made| m.segment.geometry.capacity() < state.need;
        let wanted = state.failed.is_none() && state.ready.as_ref().is_none_or(small);
        wanted.then_some(Some(state.need))
    }

    /// Whether `done` bytes of the next segment, of `size`, may be written: no faster than 1.2
    /// times the rate at which the open ones are used, unless the writer has a place for it now.
    pub(super) fn may_write(&self, done: u64, size: u64) -> Option<Result<()>> {
        let state = self.lock();
        if state.enough {
            return Some(Err(Error::new(ErrorKind::Closed, "make segment", "the log closes")));
        }
        let ahead = u128::from(state.used) * 12 * u128::from(size);
        let paced = u128::from(done) * 10 * u128::from(state.open_bytes) <= ahead;
        let free = state.need > 0 || state.open_bytes == 0 || done == 0 || paced;
        free.then_some(Ok(()))
    }
}
