//! Where queues that work on other threads leave their answers, and where their reaper waits.
//!
//! ```text
//!   worker threads                     the queue's thread
//!   push(completion), fail() --+       take(out, until): waits on the condition variable,
//!   a waker: `woken` = true ---+--->   which also a waker ends, under the same lock
//! ```
//!
//! Used by `threads` (the backends `pwrite` and `mmap`) and `tokio_uring`.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::time::Instant;

use super::{Completion, Until};

/// Answers of one queue.
#[derive(Default)]
pub(super) struct Answers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    done: VecDeque<Completion>,
    woken: bool,
    /// A worker died: its request will never be answered.
    broken: bool,
}

impl Answers {
    /// Room for `depth` answers, so that leaving one allocates nothing.
    pub(super) fn new(depth: usize) -> Arc<Answers> {
        let answers = Answers::default();
        answers.lock().done.reserve(depth);
        Arc::new(answers)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an answer.
    pub(super) fn push(&self, answer: Completion) {
        self.lock().done.push_back(answer);
        self.changed.notify_one();
    }

    /// Says that some answers will never come.
    pub(super) fn fail(&self) {
        self.lock().broken = true;
        self.changed.notify_one();
    }

    /// Moves what is there to `out`, waiting for it as `reap` does; tells how many.
    pub(super) fn take(&self, out: &mut Vec<Completion>, until: Until) -> io::Result<usize> {
        let deadline = match until {
            Until::For(wait) => Instant::now().checked_add(wait),
            Until::Now | Until::Forever => None,
        };
        let mut state = self.lock();
        while state.done.is_empty() && !state.woken && !state.broken && until != Until::Now {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let rest = deadline.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        break;
                    }
                    let waited = self.changed.wait_timeout(state, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        // Whoever woke us changed something before, which our caller looks at next.
        state.woken = false;
        let taken = state.done.len();
        out.extend(state.done.drain(..));
        if taken == 0 && state.broken {
            return Err(io::Error::other("an I/O thread of the log died"));
        }
        Ok(taken)
    }
}

/// Held by a worker: tells the queue when it unwinds.
pub(super) struct Alarm(pub(super) Arc<Answers>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

impl Wake for Answers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.lock().woken = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_panics_ends_the_wait_with_an_error() {
        let answers = Answers::new(1);
        let alarm = Alarm(Arc::clone(&answers));
        let worker = std::thread::spawn(move || {
            let _alarm = alarm;
            panic!("as a worker might");
        });
        answers.take(&mut Vec::new(), Until::Forever).unwrap_err();
        worker.join().unwrap_err();
    }
}
