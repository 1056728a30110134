//! Waking other people's tasks, on a thread of its own: it takes time, and their code may panic.
//!
//! ```text
//! writer --wake(waker)--> [ inbox ]  --all at once--> `prkdb-notifier` --waker.wake()--> runtimes
//! ```
//!
//! Used by the host for answers that are awaited. Invariants: each waker is woken once, in the
//! order of their coming; what was handed over is woken also after the host is gone; in its stride
//! nothing is allocated, and the thread is rung for only while it sleeps.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

/// Room that is kept for so many wakers at once: more rarely wait for one group.
const KEPT: usize = 1 << 14;

/// Hands wakers to the thread, which is started for the first of them.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    inbox: OnceLock<Option<Arc<Inbox>>>,
}

impl Notifier {
    /// Wakes `waker` soon, or at once where no thread could be started.
    pub(super) fn wake(&self, waker: Waker) {
        match self.inbox.get_or_init(Inbox::start) {
            Some(inbox) => inbox.put(waker),
            None => wake_quietly(waker),
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(Some(inbox)) = self.inbox.get() {
            inbox.lock().closed = true;
            inbox.filled.notify_one();
        }
    }
}

#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wakers: Vec<Waker>,
    /// The thread waits to be told.
    asleep: bool,
    /// Nothing more comes.
    closed: bool,
}

impl Inbox {
    fn start() -> Option<Arc<Inbox>> {
        let inbox = Arc::new(Inbox::default());
        let work = {
            let inbox = Arc::clone(&inbox);
            move || inbox.serve()
        };
        match std::thread::Builder::new().name("prkdb-notifier".into()).spawn(work) {
            Ok(_) => Some(inbox),
            Err(error) => {
                tracing::warn!(%error, "no thread for waking tasks; they are woken in place");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, waker: Waker) {
        let mut state = self.lock();
        state.wakers.push(waker);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.filled.notify_one();
        }
    }

    /// The thread: until nothing more comes and all are woken.
    fn serve(&self) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            while state.wakers.is_empty() {
                if state.closed {
                    return;
                }
                state.asleep = true;
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.asleep = false;
            std::mem::swap(&mut state.wakers, &mut taken);
            drop(state);
            taken.drain(..).for_each(wake_quietly);
            taken.shrink_to(KEPT);
        }
    }
}

/// A waker is its runtime's code: a panic in it is not the log's.
fn wake_quietly(waker: Waker) {
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        tracing::error!("a task's waker panicked");
        // Dropping what it panicked with is its own code too.
        if let Err(again) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// Says its number when it is woken, and that it was dropped.
    struct Says(usize, crossbeam_channel::Sender<usize>, Arc<AtomicUsize>);

    impl Wake for Says {
        fn wake(self: Arc<Self>) {
            self.1.send(self.0).unwrap();
            assert!(!self.0.is_multiple_of(5), "a waker that panics, as this test wants");
        }
    }

    impl Drop for Says {
        fn drop(&mut self) {
            self.2.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_is_woken_once_in_order_also_after_the_end_and_behind_one_that_panics() {
        let (said, heard) = crossbeam_channel::unbounded();
        let dropped = Arc::new(AtomicUsize::new(0));
        let notifier = Notifier::default();
        for number in 0..1000 {
            let says = Says(number, said.clone(), Arc::clone(&dropped));
            notifier.wake(Waker::from(Arc::new(says)));
            if number == 500 {
                // The thread falls asleep and is rung for again.
                while heard.len() <= 500 {
                    std::thread::yield_now();
                }
            }
        }
        drop((notifier, said));
        assert!(heard.iter().eq(0..1000));
        assert_eq!(dropped.load(Ordering::Relaxed), 1000);
    }
}
