//! Whether there is a writer to take what callers queue.
//!
//! ```text
//! caller                          writer that leaves      `resume`
//!   queue                           gone = true
//!   [fence]                         [fence]
//!   gone? empty the queue           empty the queue
//!                                                           turn { gone = false }
//!   turn { still gone? empty it }                           a writer takes what is queued
//! ```
//! Either the caller sees that the writer is gone, or the writer that leaves sees what was queued:
//! nothing stays there unanswered. Who saw it and comes late takes nothing from the next writer.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::sync::{AtomicBool, Mutex, fence};

#[derive(Default)]
pub(crate) struct Absence {
    gone: AtomicBool,
    /// Held by whoever empties the queue, and while a writer comes back.
    turn: Mutex<()>,
}

impl Absence {
    /// The writer leaves; gives what `empty` finds in the queue.
    pub(crate) fn begins<T>(&self, empty: impl FnOnce() -> T) -> Option<T> {
        self.gone.store(true, Ordering::SeqCst);
        self.if_gone(empty)
    }

    /// Another one comes.
    pub(crate) fn ends(&self) {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.gone.store(false, Ordering::SeqCst);
        drop(turn);
    }

    /// What `empty` finds in the queue, if nobody will take it. Called after something was queued.
    pub(crate) fn if_gone<T>(&self, empty: impl FnOnce() -> T) -> Option<T> {
        fence(Ordering::SeqCst);
        if !self.gone.load(Ordering::SeqCst) {
            return None;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.gone.load(Ordering::SeqCst).then(empty);
        drop(turn);
        found
    }
}
