//! One log under test, kept small while it is written.
//!
//! ```text
//! callers --append--> kept += cost --> wal
//!             | beyond SOFT: rings          | beyond HARD: waits
//!             v                             v
//!         janitor: truncate_before(durable_lsn) --> kept -= what it was
//! ```
//!
//! Invariants: `kept` is never less than what live segments hold, but for what was appended and not
//! durable when the janitor looked; so a log of one lane with its pool stays below [`MAX_BYTES`].
//! The janitor's work is the log's own: it runs in the measured time and counts there.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prkdb_core::{Append, Backend, Durability, Lsn, Metrics, Reader, Wal, WalConfig};

use crate::outcome::Stop;

/// What one log may take on disk, its pool included, bytes.
pub const MAX_BYTES: u64 = 256 << 20;
/// Size of a full-grown segment, bytes.
pub const SEGMENT_BYTES: u64 = 24 << 20;
/// From here on the janitor cuts: no more segments than the pool takes back.
const SOFT: u64 = 3 * SEGMENT_BYTES;
/// From here on callers wait for it.
const HARD: u64 = 5 * SEGMENT_BYTES;

/// A log, its janitor and its name.
#[derive(Debug)]
pub struct Log {
    /// The backend's name in the figures.
    pub name: &'static str,
    // Ends before the log closes: it is dropped first.
    janitor: Janitor,
    wal: Arc<Wal>,
}

/// The thread that cuts the log; dropping it ends it.
#[derive(Debug)]
struct Janitor {
    bound: Arc<Bound>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.bound.lock().ending = true;
        self.bound.changed.notify_all();
        // A panic of it has been told on stderr; the log closes all the same.
        self.thread.take().map(JoinHandle::join);
    }
}

#[derive(Debug, Default)]
struct Bound {
    /// Bytes on disk since the last cut, at most.
    kept: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cuts: u64,
    ending: bool,
    failed: Option<String>,
}

impl Bound {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `cost` bytes in, waiting while the log is too large.
    fn take(&self, cost: u64) -> Result<(), Stop> {
        // Relaxed: the count bounds a size, it guards no memory; whoever sleeps looks again under
        // the lock.
        let before = self.kept.fetch_add(cost, Ordering::Relaxed);
        if before + cost < SOFT {
            return Ok(());
        }
        let mut state = self.lock();
        if before < SOFT {
            self.changed.notify_all();
        }
        while self.kept.load(Ordering::Relaxed) >= HARD + cost && state.failed.is_none() {
            state = self.wait(state);
        }
        state.failed.clone().map_or(Ok(()), |why| Err(Stop::Failed(why)))
    }
}

impl Log {
    /// Makes a log in `dir`, with the defaults but for what `set` changes.
    pub fn open(backend: Backend, dir: &Path, set: &dyn Fn(&mut WalConfig)) -> Result<Log, Stop> {
        let name = backend.name();
        let mut config = WalConfig { backend, segment_bytes: SEGMENT_BYTES, ..WalConfig::new(dir) };
        set(&mut config);
        Log::new(name, Wal::open(config.create_new())?)
    }

    /// Keeps `wal` small, which is at its beginning.
    pub fn new(name: &'static str, wal: Wal) -> Result<Log, Stop> {
        let wal = Arc::new(wal);
        let bound = Arc::new(Bound::default());
        let thread = {
            let (wal, bound) = (Arc::clone(&wal), Arc::clone(&bound));
            let thread = std::thread::Builder::new().name("bench-janitor".into());
            thread.spawn(move || keep_small(&wal, &bound))
        };
        let thread = thread.map_err(|e| Stop::Failed(format!("starting a thread: {e}")))?;
        Ok(Log { name, janitor: Janitor { bound, thread: Some(thread) }, wal })
    }

    /// Appends a batch that takes `cost` bytes on disk.
    pub fn append(
        &self,
        durability: Durability,
        records: &[Vec<u8>],
        cost: usize,
    ) -> Result<Append, Stop> {
        self.count_in(cost)?;
        Ok(self.wal().with(durability).append_batch(records)?)
    }

    /// What comes next takes `cost` bytes on disk; waits while the log is too large.
    pub fn count_in(&self, cost: usize) -> Result<(), Stop> {
        self.janitor.bound.take(cost as u64)
    }

    /// The log itself.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// How often it was cut.
    pub fn cuts(&self) -> u64 {
        self.janitor.bound.lock().cuts
    }

    /// Cuts all that is durable, now.
    pub fn cut(&self) -> Result<(), Stop> {
        cut(&self.wal, &self.janitor.bound)?;
        Ok(())
    }

    /// Waits until everything appended so far survives power loss.
    pub fn settle(&self) -> Result<(), Stop> {
        let last = self.wal.next_lsn().prev();
        if last > Lsn::NONE {
            self.wal.wait_durable(last)?.wait()?;
        }
        Ok(())
    }

    /// The LSN of the next record.
    pub fn next_lsn(&self) -> Lsn {
        self.wal.next_lsn()
    }

    /// Reads durable records from `from` on.
    pub fn reader(&self, from: Lsn) -> Result<Reader, Stop> {
        Ok(self.wal.reader(from)?)
    }

    /// What completed so far.
    pub fn metrics(&self) -> Metrics {
        self.wal.metrics()
    }

    /// Whether it writes through a ring.
    pub fn has_ring(&self) -> bool {
        self.name.ends_with("uring")
    }

    /// Ends the janitor and closes the log.
    pub fn close(self) -> Result<(), Stop> {
        let Log { janitor, wal, .. } = self;
        drop(janitor);
        let wal = Arc::into_inner(wal);
        Ok(wal.map_or(Ok(()), Wal::close)?)
    }
}

/// The janitor: cuts whenever the log has grown to `SOFT`.
fn keep_small(wal: &Wal, bound: &Bound) {
    let mut state = bound.lock();
    while !state.ending {
        if bound.kept.load(Ordering::Relaxed) < SOFT {
            state = bound.wait(state);
            continue;
        }
        drop(state);
        let cut = cut(wal, bound);
        if matches!(cut, Ok(false)) {
            // Nothing is durable yet.
            std::thread::sleep(Duration::from_millis(1));
        }
        state = bound.lock();
        if let Err(e) = cut {
            state.failed = Some(e.to_string());
            state.ending = true;
        }
        bound.changed.notify_all();
    }
}

/// Cuts what is durable; whether something was.
fn cut(wal: &Wal, bound: &Bound) -> prkdb_core::Result<bool> {
    let durable = wal.durable_lsn();
    if durable == Lsn::NONE {
        return Ok(false);
    }
    // Taken by this cut alone: another may run at the same time.
    let seen = bound.kept.swap(0, Ordering::Relaxed);
    let cut = wal.truncate_before(durable);
    if cut.is_err() {
        bound.kept.fetch_add(seen, Ordering::Relaxed);
    }
    cut?;
    bound.lock().cuts += 1;
    Ok(true)
}
