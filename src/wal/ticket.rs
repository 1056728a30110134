//! A promise of one answer: the half that gives it and the half that waits for it.
//!
//! ```text
//! Answer --ok / fail / drop--> cell --wait() or .await--> Ticket
//! ```
//!
//! Invariants: a cell is answered exactly once, also when its `Answer` is dropped, by a panic or
//! because the writer is gone; dropping a ticket cancels nothing. No runtime is needed: a blocked
//! thread waits on the cell's condition variable, or stays awake for a short while (`patience`); a
//! task leaves its waker, which the host wakes on a thread of its own. Cells are used again: the
//! last of both halves gives its cell back, so that an append in its stride allocates nothing.
//!
//! Each ticket is a shard of its own. Of 64 sleeping threads one call that wakes all takes 90 us on
//! two cores, a call for each 130; but four groups are in flight, a shard would hold callers of
//! each, and an answer would wake four times as many as it is for.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::io::{ForkGuard, Host};
use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard};

use super::patience::Patience;

/// Cells that are kept for later pairs: more tickets are rarely out at once.
const KEPT: usize = 1024;

struct Cell<T> {
    host: Arc<dyn Host>,
    state: Mutex<State<T>>,
    answered: Condvar,
    /// Publishes nothing: who sees it looks at the state.
    done: AtomicBool,
    /// Halves that are not dropped yet. Whoever drops the last one is alone with the cell: the
    /// other half touched it for the last time before.
    holders: AtomicUsize,
    /// Where it goes then.
    home: Weak<Cells<T>>,
}

enum State<T> {
    Open(Waiting),
    Answered(Result<T>),
    Taken,
}

/// Who is to be told of the answer.
#[derive(Default)]
struct Waiting {
    task: Option<Waker>,
    /// A thread sleeps.
    thread: bool,
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until it is answered, but may return before that.
    fn wait(&self) {
        match self.home.upgrade() {
            Some(home) => {
                let done = || self.done.load(Ordering::Relaxed);
                home.patience.wait(&*self.host, &done, || self.sleep());
            }
            None => self.sleep(),
        }
    }

    fn sleep(&self) {
        let mut state = self.lock();
        if let State::Open(waiting) = &mut *state {
            waiting.thread = true;
            drop(self.answered.wait(state).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// One half's hold on a cell.
struct Half<T>(Arc<Cell<T>>);

impl<T> std::ops::Deref for Half<T> {
    type Target = Cell<T>;

    fn deref(&self) -> &Cell<T> {
        &self.0
    }
}

impl<T> Drop for Half<T> {
    fn drop(&mut self) {
        // Releases what this half did to the cell to the half that comes last.
        if self.holders.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(home) = self.home.upgrade()
        {
            home.take_back(&self.0);
        }
    }
}

/// Makes pairs out of cells that were used before.
pub(crate) struct Cells<T> {
    host: Arc<dyn Host>,
    idle: Mutex<Vec<Arc<Cell<T>>>>,
    patience: Patience,
    fork: ForkGuard,
}

impl<T> Cells<T> {
    /// Whoever waits for one of its tickets stays awake for `awake` at most.
    pub(crate) fn new(host: Arc<dyn Host>, awake: Duration) -> Arc<Cells<T>> {
        let (idle, patience) = (Mutex::new(Vec::new()), Patience::new(awake));
        Arc::new(Cells { host, idle, patience, fork: ForkGuard::new() })
    }

    /// As [`pair`], without allocating while there are idle cells.
    pub(crate) fn pair(self: &Arc<Self>, op: &'static str) -> (Answer<T>, Ticket<T>) {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let cell = idle.unwrap_or_else(|| new_cell(&self.host, Arc::downgrade(self)));
        *cell.lock() = State::Open(Waiting::default());
        cell.done.store(false, Ordering::Relaxed);
        self.patience.handed_out();
        halves(cell, op)
    }

    /// Keeps a cell that nobody holds any more.
    fn take_back(&self, cell: &Arc<Cell<T>>) {
        if self.fork.is_child() {
            // A thread that is not here may hold the lock for good.
            return;
        }
        // What nobody took goes now, and without a lock: it may run somebody else's code.
        let left = std::mem::replace(&mut *cell.lock(), State::Taken);
        drop(left);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(Arc::clone(cell));
        }
    }
}

fn new_cell<T>(host: &Arc<dyn Host>, home: Weak<Cells<T>>) -> Arc<Cell<T>> {
    let (state, answered) = (Mutex::new(State::Open(Waiting::default())), Condvar::new());
    let (done, holders) = (AtomicBool::new(false), AtomicUsize::new(0));
    Arc::new(Cell { host: Arc::clone(host), state, answered, done, holders, home })
}

fn halves<T>(cell: Arc<Cell<T>>, op: &'static str) -> (Answer<T>, Ticket<T>) {
    // Nobody else knows the cell.
    cell.holders.store(2, Ordering::Relaxed);
    let other = Half(Arc::clone(&cell));
    let answer = Answer { cell: Some(other), op, submitted: false };
    (answer, Ticket { cell: Half(cell), fork: ForkGuard::new() })
}

/// The half that answers.
pub(crate) struct Answer<T> {
    cell: Option<Half<T>>,
    /// What was asked for, for the message of an answer that gets lost.
    op: &'static str,
    /// Whether the batch may be on disk: what a dropped answer means.
    submitted: bool,
}

/// A pair of halves for the operation `op`; the ticket waits by the means of `host`.
pub(crate) fn pair<T>(host: &Arc<dyn Host>, op: &'static str) -> (Answer<T>, Ticket<T>) {
    halves(new_cell(host, Weak::new()), op)
}

impl<T> Answer<T> {
    /// From now on an answer that gets lost means `NotConfirmed` instead of `Poisoned`.
    pub(crate) fn submitted(&mut self) {
        self.submitted = true;
    }

    /// Whether the ticket was dropped: nobody will ever look at the answer.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.holders.load(Ordering::Acquire) == 1)
    }

    pub(crate) fn ok(self, value: T) {
        self.give(Ok(value));
    }

    pub(crate) fn fail(self, error: Error) {
        self.give(Err(error));
    }

    fn give(mut self, outcome: Result<T>) {
        let cell = self.cell.take().expect("an answer is given once: giving consumes it");
        settle(&cell, outcome);
    }
}

fn settle<T>(cell: &Cell<T>, outcome: Result<T>) {
    let before = std::mem::replace(&mut *cell.lock(), State::Answered(outcome));
    if let Some(home) = cell.home.upgrade() {
        home.patience.answered();
    }
    cell.done.store(true, Ordering::Relaxed);
    let State::Open(waiting) = before else { return };
    if waiting.thread {
        cell.answered.notify_all();
    }
    if let Some(waker) = waiting.task {
        cell.host.wake(waker);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let Some(cell) = self.cell.take() else { return };
        let error = if self.submitted {
            Error::new(ErrorKind::NotConfirmed, self.op, "the log failed while it was written")
        } else {
            Error::new(ErrorKind::Poisoned, self.op, "the log failed before it was done")
        };
        settle(&cell, Err(error));
    }
}

/// Waits for one answer: call [`wait`](Ticket::wait), or `.await` it in any async runtime.
///
/// - Shape: answered exactly once. Dropping it cancels nothing.
#[must_use = "a ticket is how one learns whether it happened"]
pub struct Ticket<T> {
    cell: Half<T>,
    fork: ForkGuard,
}

impl<T> Ticket<T> {
    /// Blocks the calling thread until the answer is there.
    ///
    /// # Errors
    /// The answer's own: for an append `StorageFull`, `NotConfirmed`, `Poisoned`, `Io` or `Closed`.
    pub fn wait(mut self) -> Result<T> {
        loop {
            if let Some(outcome) = self.try_wait() {
                return outcome;
            }
            if self.cell.host.step() {
                continue;
            }
            self.cell.wait();
        }
    }

    /// The answer, if it is there; it can be taken once.
    pub fn try_wait(&mut self) -> Option<Result<T>> {
        if self.fork.is_child() {
            let why = "this is a forked child; the answer goes to its parent";
            return Some(Err(Error::new(ErrorKind::Closed, "wait", why)));
        }
        let mut state = self.cell.lock();
        match &*state {
            State::Open(_) => None,
            State::Answered(_) => match std::mem::replace(&mut *state, State::Taken) {
                State::Answered(outcome) => Some(outcome),
                State::Open(_) | State::Taken => None,
            },
            State::Taken => {
                Some(Err(Error::invalid("wait", "the answer was already taken from this ticket")))
            }
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if !self.fork.is_child()
            && let State::Open(Waiting { task, .. }) = &mut *self.cell.lock()
        {
            match task {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *task = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        self.try_wait().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> std::fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.cell.lock() {
            State::Open(_) => "open",
            State::Answered(Ok(_)) => "ok",
            State::Answered(Err(_)) => "failed",
            State::Taken => "taken",
        };
        write!(f, "Ticket({state})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ThreadHost;

    fn host() -> Arc<dyn Host> {
        Arc::new(ThreadHost::new())
    }

    #[test]
    fn a_dropped_answer_still_answers() {
        let (answer, ticket) = pair::<u8>(&host(), "test");
        drop(answer);
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Poisoned);
        let (mut answer, ticket) = pair::<u8>(&host(), "test");
        answer.submitted();
        drop(answer);
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::NotConfirmed);
    }

    #[test]
    fn a_cell_is_used_again_once_both_halves_are_gone() {
        let cells = Cells::<u8>::new(host(), Duration::ZERO);
        let idle = || cells.idle.lock().unwrap().len();
        let (answer, ticket) = cells.pair("test");
        answer.ok(1);
        assert_eq!(idle(), 0, "its answer was not looked at");
        assert_eq!(ticket.wait().unwrap(), 1);
        let (answer, mut ticket) = cells.pair("test");
        assert_eq!(idle(), 0, "a second cell was made");
        assert!(ticket.try_wait().is_none(), "an old answer");
        drop(ticket);
        assert!(answer.is_abandoned());
        answer.ok(2);
        assert_eq!(idle(), 1);
        let (answer, ticket) = cells.pair("test");
        drop(answer);
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(idle(), 1);
    }

    #[test]
    fn a_blocked_thread_is_woken() {
        let (answer, ticket) = pair::<u8>(&host(), "test");
        let thread = std::thread::spawn(move || ticket.wait().unwrap());
        answer.ok(7);
        assert_eq!(thread.join().unwrap(), 7);
    }

    #[test]
    fn a_task_is_woken_and_an_answer_is_taken_once() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(false.into()));
        let waker = Waker::from(Arc::clone(&flag));
        let mut cx = Context::from_waker(&waker);
        let (answer, mut ticket) = pair::<u8>(&host(), "test");
        assert!(Pin::new(&mut ticket).poll(&mut cx).is_pending());
        answer.ok(1);
        while !flag.0.load(std::sync::atomic::Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
        assert!(matches!(Pin::new(&mut ticket).poll(&mut cx), Poll::Ready(Ok(1))));
        assert!(ticket.try_wait().unwrap().is_err());
    }
}
