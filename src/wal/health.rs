//! How a log is doing right now: may it be written, what waits and how long, how slow is a sync.
//!
//! ```text
//! callers --queue into an empty log--> oldest <--each step-- writer --completions--> last sync
//! ```
//!
//! Invariants: an append that waits is seen from the moment it is queued, also while the writer
//! itself stands still; two atomics an append, and none of them orders anything.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::cast::nanos;
use crate::error::Error;
use crate::io::tell_if_slow;

/// Stands for "none".
const NONE: u64 = u64::MAX;

/// How a log is doing; made by [`Wal::health`](super::Wal::health).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The failure after which nothing is written any more; none while the log is whole.
    pub poisoned: Option<Error>,
    /// How long the oldest append that is queued and has no answer yet has waited since its call.
    /// Seconds of it mean a device that hangs, or a disk that is full.
    pub oldest_unanswered: Option<Duration>,
    /// How long the last write or sync that made records durable took; none before the first. One
    /// that still runs shows in `oldest_unanswered`.
    pub last_sync: Option<Duration>,
}

impl Health {
    /// Whether the log can be written.
    pub fn is_ok(&self) -> bool {
        self.poisoned.is_none()
    }
}

/// What callers and writer note of it. Relaxed throughout: a number stands for nothing but itself.
pub(crate) struct Pulse {
    /// When the oldest append that has no answer was called, nanoseconds on the host's clock.
    oldest_ns: AtomicU64,
    last_sync_ns: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { oldest_ns: AtomicU64::new(NONE), last_sync_ns: AtomicU64::new(NONE) }
    }
}

impl Pulse {
    /// An append that was called at `called_ns` is queued.
    pub(crate) fn queued(&self, called_ns: u64) {
        if self.oldest_ns.load(Relaxed) == NONE {
            // If the writer notes an older one meanwhile, that one stays.
            self.oldest_ns.compare_exchange(NONE, called_ns, Relaxed, Relaxed).ok();
        }
    }

    /// The writer knows this to be the oldest without an answer.
    pub(crate) fn oldest(&self, called_ns: Option<u64>) {
        self.oldest_ns.store(called_ns.unwrap_or(NONE), Relaxed);
    }

    /// Records of `file` became durable by a write or a sync that took so long.
    pub(crate) fn synced(&self, file: &Path, took: Duration) {
        self.last_sync_ns.store(nanos(took), Relaxed);
        tell_if_slow(file, took);
    }

    /// What there is to tell at `now_ns`.
    pub(crate) fn look(&self, now_ns: u64, poisoned: Option<Error>) -> Health {
        let some = |of: &AtomicU64| Some(of.load(Relaxed)).filter(|ns| *ns != NONE);
        let waited = |since| Duration::from_nanos(now_ns.saturating_sub(since));
        Health {
            poisoned,
            oldest_unanswered: some(&self.oldest_ns).map(waited),
            last_sync: some(&self.last_sync_ns).map(Duration::from_nanos),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::io::heard::Heard;

    #[test]
    fn a_sync_slower_than_a_second_is_logged_with_file_and_time() {
        let (heard, pulse) = (Heard::default(), Pulse::default());
        tracing::subscriber::with_default(heard.clone(), || {
            for millis in [1, 999, 1000, 1001] {
                pulse.synced(Path::new("/log/7.seg"), Duration::from_millis(millis));
            }
        });
        let heard = heard.0.lock().unwrap();
        let [(Level::WARN, words)] = &heard[..] else { panic!("{heard:?}") };
        assert!(words.contains("file=/log/7.seg ") && words.contains("took_ms=1001 "), "{words}");
        let last = pulse.look(0, None).last_sync;
        assert_eq!(last, Some(Duration::from_millis(1001)));
    }
}
