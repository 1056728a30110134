//! The log: one order of records, appended by many callers, written by one thread.
//!
//! ```text
//! Wal --append--> room -> append, encode -> shared (queue, bell) -> writer -> disk
//!     --chores--> maker (segments, META)      reader <- catalog <----'
//!     --open----> recovery                    readonly, verify: the same without a writer
//! ```
//!
//! The contract stands on [`crate`]; each file says which part of it it keeps.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cast;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{BackendReason, BackendReport, Host, ThreadHost, World, open_disk};
use crate::lsn::Lsn;
use crate::options::{Backend, Durability, MAX_USER_STATE_BYTES, SyncMethod, WalConfig};

mod absence;
mod append;
mod catalog;
mod disk_use;
mod encode;
mod engine;
mod health;
#[cfg(all(test, prkdb_loom))]
mod interleavings;
mod mailbox;
mod maker;
mod merge;
mod meta;
mod metrics;
mod patience;
mod reader;
mod readonly;
mod record;
mod records;
mod recovery;
mod repair;
mod room;
mod shared;
mod sync_choice;
mod ticket;
mod verify;
mod writer;

pub use append::{Append, Appender};
pub use health::Health;
pub use metrics::{Histogram, Metrics};
pub use reader::{ReadLevel, Reader};
pub use readonly::{LogStat, ReadOnlyWal};
pub use record::{Record, RecordBatch, RecordData};
pub use records::{Batch, Records};
pub use recovery::{GivenUp, RecoveryReport, Verdict};
pub use repair::{RepairReport, repair, repair_in, repair_to, repair_to_in};
pub use ticket::Ticket;
pub(crate) use ticket::pair;
pub use verify::{Finding, FindingKind, VerifySummary};

use engine::Engine;
use mailbox::{Cut, Job};
use recovery::{Contents, classify};
use shared::{Control, Shared, Wait};

/// Waits until a record is durable; see [`Wal::wait_durable`].
pub type WaitDurable = Ticket<Lsn>;

/// A write-ahead log, open for appending: the one handle that may write it.
///
/// - Shape: `Send + Sync`; share it by reference or in an `Arc`. Dropping it closes it.
/// - Example: `examples/simple_wal.rs`.
pub struct Wal {
    shared: Arc<Shared>,
    backend: BackendReport,
    engine: Mutex<Engine>,
}

/// The path from the root of what is named from the directory that the process is in.
fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(|e| Error::io("open", dir, None, e))
}

impl Wal {
    /// Opens the log in `config.log_dir`: creates it, or recovers what a crash left.
    ///
    /// - Durability: what is served afterwards survives power loss.
    ///
    /// # Errors
    /// `Invalid`: an option out of range, or a directory that holds something else. `Locked`: it
    /// has a writer. `Corrupt`: promised records are damaged; nothing was changed. `Unsupported`:
    /// a newer format, the backend asked for does not work here, or a codec that this build lacks.
    /// `StorageFull`, `Io`.
    pub fn open(config: WalConfig) -> Result<Wal> {
        config.validate()?;
        // Wherever the process changes to while the log is open.
        let log_dir = absolute(&config.log_dir)?;
        let config = WalConfig { log_dir, ..config };
        let (disk, backend) = open_disk(&config.log_dir, config.backend)?;
        let host: Arc<dyn Host> = Arc::new(ThreadHost::new());
        let existed = disk.list(&config.log_dir).is_ok_and(|names| {
            classify(&config.log_dir, &names).is_ok_and(|contents| contents == Contents::Log)
        });
        let opened =
            Wal::start(World { disk, host: Arc::clone(&host) }, config.clone(), backend.clone());
        match opened {
            // The probe's ring worked, and by now there is no memory for another.
            Err(e)
                if config.backend == Backend::Auto
                    && backend.name == Backend::Uring.name()
                    && e.io_kind() == Some(std::io::ErrorKind::OutOfMemory) =>
            {
                tracing::warn!(error = %e, "io_uring has no memory; writing without it");
                let disk = open_disk(&config.log_dir, Backend::Mmap);
                let (disk, _) = disk.or_else(|_| open_disk(&config.log_dir, Backend::Pwrite))?;
                let reason = BackendReason::Memlock;
                let remedy = Some("raise RLIMIT_MEMLOCK, or close other rings".to_string());
                let backend = BackendReport { name: disk.name(), reason, remedy };
                // What is new by now was made by the attempt above.
                let create_new = config.create_new && existed;
                let config = WalConfig { create_new, ..config };
                Wal::start(World { disk, host }, config, backend)
            }
            other => other,
        }
    }

    /// Opens a log on a disk and threads of one's own, such as simulated ones. On real files the
    /// directory should be named from the root: the process may change its own.
    ///
    /// # Errors
    /// As [`Wal::open`]; `config.backend` is not looked at.
    pub fn open_in(world: World, config: WalConfig) -> Result<Wal> {
        config.validate()?;
        let name = world.disk.name();
        Wal::start(
            world,
            config,
            BackendReport { name, reason: BackendReason::Named, remedy: None },
        )
    }

    fn start(world: World, config: WalConfig, backend: BackendReport) -> Result<Wal> {
        let (disk, dir) = (Arc::clone(&world.disk), config.log_dir.clone());
        let failed = |e| Error::io("open", &dir, None, e);
        disk.create_dir(&dir).map_err(failed)?;
        // Somebody else's directory must not even get a LOCK.
        classify(&dir, &disk.list(&dir).map_err(failed)?)?;
        // A log keeps the block it was made with, also on a disk that would take a smaller one.
        let loaded = match meta::load(&*disk, &dir) {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                // It may be half of what a living writer is writing: he holds the lock then.
                drop(engine::take_lock(&world, &dir)?);
                meta::load(&*disk, &dir)?
            }
            loaded => loaded?,
        };
        let block = match loaded {
            Some(loaded) => cast::len(loaded.meta.block_size.into()),
            None => disk.block_size(),
        };
        let shared = Arc::new(Shared::new(config, world, block));
        let engine = Engine::open(&shared)?;
        Ok(Wal { shared, backend, engine: Mutex::new(engine) })
    }

    /// Appends records as one batch, blocking only while the queue is full; the ticket resolves
    /// when the batch has the configured durability.
    ///
    /// - Shape: 1 to 1 Mi records of at most 16 MiB, 32 MiB together; anything [`Records`]: a
    ///   slice, array or `Vec` of `AsRef<[u8]>`, or a [`Batch`]. One LSN per record, in order.
    /// - Durability: `Ok` from a `Sync` ticket survives power loss. After `NotConfirmed` the batch
    ///   is found whole or not at all.
    ///
    /// # Errors
    /// `Invalid`: outside the limits. `Poisoned`: an earlier write or sync failed. `Closed`: a
    /// forked child. In each case nothing was queued.
    pub fn append_batch(&self, records: impl Records) -> Result<Append> {
        self.with(self.shared.config.durability).append_batch(records)
    }

    /// Appends records as one batch if there is room in the queue right now.
    ///
    /// # Errors
    /// `Busy`: nothing was queued. Else as [`Wal::append_batch`].
    pub fn try_append_batch(&self, records: impl Records) -> Result<Append> {
        self.with(self.shared.config.durability).try_append_batch(records)
    }

    /// Appends records as one batch, waiting for room without blocking a thread; in any runtime.
    ///
    /// # Errors
    /// As [`Wal::append_batch`].
    pub async fn append_batch_async(&self, records: impl Records) -> Result<Append> {
        self.with(self.shared.config.durability).append_batch_async(records).await
    }

    /// Appends records as one batch if the first of them becomes record `expected`; blocks only
    /// while the queue is full. For whoever numbers records himself, as a replicated log does.
    ///
    /// - Durability: as [`Wal::append_batch`].
    ///
    /// # Errors
    /// As [`Wal::append_batch`]. The ticket: `Invalid` if the log's next record was another one
    /// when the batch's turn came; then nothing was appended.
    pub fn append_at(&self, expected: Lsn, records: impl Records) -> Result<Append> {
        self.with(self.shared.config.durability).at(expected).append_batch(records)
    }

    /// Appends with another durability than the configured one:
    /// `wal.with(Durability::Queued).append_batch(..)`.
    pub fn with(&self, durability: Durability) -> Appender<'_> {
        Appender::new(&self.shared, durability)
    }

    /// The last record of which it is promised that it survives power loss; inclusive, 0 = none.
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.catalog.durable()
    }

    /// The last record whose write and all before it completed; inclusive, 0 = none. Falls back to
    /// `durable_lsn` when the log is poisoned.
    pub fn written_lsn(&self) -> Lsn {
        self.shared.catalog.written()
    }

    /// The first record that is kept.
    pub fn first_lsn(&self) -> Lsn {
        self.shared.catalog.first()
    }

    /// The LSN that the next record gets; exclusive.
    pub fn next_lsn(&self) -> Lsn {
        self.shared.catalog.next()
    }

    /// How many segments hold records, open ones included. One that is only prepared counts not.
    pub fn segment_count(&self) -> u64 {
        self.shared.catalog.count()
    }

    /// Resolves when everything up to `lsn` is durable, appended yet or not; syncs if it must. If
    /// the record is cut from the end meanwhile, the one that takes its LSN is waited for.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`. The ticket: `Poisoned` if the log fails first.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<WaitDurable> {
        self.wait("wait_durable", lsn, false)
    }

    fn wait(&self, op: &'static str, lsn: Lsn, is_there: bool) -> Result<WaitDurable> {
        self.shared.check_writable(op)?;
        let (answer, ticket) = ticket::pair(&self.shared.world.host, op);
        self.shared.control(Control::WaitDurable(Wait { lsn, answer, is_there }));
        Ok(ticket)
    }

    /// Reads promised records from `from` on, in LSN order.
    ///
    /// # Errors
    /// `Truncated`: `from` was cut. `Invalid`: it is `Lsn::NONE`. `Closed`.
    pub fn reader(&self, from: Lsn) -> Result<Reader> {
        self.reader_at(from, ReadLevel::Durable)
    }

    /// Reads records from `from` on, as far as `level` allows.
    ///
    /// # Errors
    /// As [`Wal::reader`].
    pub fn reader_at(&self, from: Lsn, level: ReadLevel) -> Result<Reader> {
        self.shared.check_fork("read")?;
        let disk = Arc::clone(&self.shared.world.disk);
        Reader::new(Arc::clone(&self.shared.catalog), disk, from, level)
    }

    /// Reads one promised record.
    ///
    /// # Errors
    /// `Invalid`: not durable, or no LSN. `Truncated`. `Corrupt` with file and offset. `Lost`.
    /// `Io`.
    pub fn read(&self, lsn: Lsn) -> Result<Record> {
        self.shared.check_fork("read")?;
        let disk = Arc::clone(&self.shared.world.disk);
        Reader::one(Arc::clone(&self.shared.catalog), disk, lsn)
    }

    /// Cuts all records below `lsn`; whole segments below it are recycled or removed.
    ///
    /// - Durability: when it returns `Ok` the cut survives power loss. Works on a full disk that
    ///   overwrites in place.
    ///
    /// # Errors
    /// `Invalid`: `lsn` is beyond the next record. `Poisoned`, `Closed`. `Io`, `NotConfirmed`: META
    /// could not be written, the log is poisoned; after `resume` or a reopen the cut has happened,
    /// or has not.
    pub fn truncate_before(&self, lsn: Lsn) -> Result<()> {
        self.shared.check_writable("truncate_before")?;
        let next = self.next_lsn();
        if lsn > next {
            let why = format!("{lsn} is beyond the next record, {next}");
            return Err(Error::invalid("truncate_before", why));
        }
        // The log must not start behind what may be lost.
        if lsn.prev() > self.durable_lsn() {
            self.wait("truncate_before", lsn.prev(), true)?.wait()?;
        }
        let (answer, ticket) = ticket::pair(&self.shared.world.host, "truncate_before");
        self.shared.mailbox.job(Job::TruncateBefore(lsn, answer));
        ticket.wait()
    }

    /// Cuts what `retention_ms` and `compaction` of the configuration say, now; in the background
    /// they act by themselves. Gives the first record that is kept.
    ///
    /// - Shape: whole sealed segments. Down to a `SizeWindow` itself, first by giving up prepared
    ///   and retired segments; in the background there may be one segment more. While a segment
    ///   that was cut can't be removed no further one is cut for its size.
    /// - Durability: as [`Wal::truncate_before`].
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Io`, `NotConfirmed`: as [`Wal::truncate_before`]. `Io` too if the
    /// size of the log's files could not be looked at; then nothing else happened.
    pub fn compact(&self) -> Result<Lsn> {
        self.shared.check_writable("compact")?;
        let (answer, ticket) = ticket::pair(&self.shared.world.host, "compact");
        self.shared.mailbox.job(Job::Compact(answer));
        ticket.wait()
    }

    /// Cuts all records above `lsn`, which is kept; the next record gets the LSN after it. What was
    /// queued before the call is made durable first, then cut. `lsn` may be the one before the
    /// first: then the log is empty.
    ///
    /// - Durability: when it returns `Ok` the cut survives power loss, and no later crash brings
    ///   the records back. A crash before leaves all of them or none. Works on a full disk that
    ///   overwrites in place.
    /// - Readers that are beyond get `Truncated`.
    ///
    /// # Errors
    /// `Invalid`: `lsn` is not in the log. `Poisoned`, `Closed`: nothing was cut. `Io`,
    /// `NotConfirmed`: META could not be written, the log is poisoned; after `resume` or a reopen
    /// all of the cut has happened, or nothing.
    pub fn truncate_after(&self, lsn: Lsn) -> Result<()> {
        self.cut("truncate_after", Cut::After(lsn))
    }

    /// Empties the log; its next record gets the LSN `next`, lower or higher than before. For
    /// whoever installs a snapshot that replaces the records.
    ///
    /// - Durability: as [`Wal::truncate_after`].
    ///
    /// # Errors
    /// `Invalid`: `next` is `Lsn::NONE`, or above 2^63, which leaves too few LSNs for a log's life.
    /// `Poisoned`, `Closed`; `NotConfirmed`: as [`Wal::truncate_after`].
    pub fn reset_to(&self, next: Lsn) -> Result<()> {
        if next == Lsn::NONE {
            return Err(Error::invalid("reset_to", "LSNs start at 1; reset to Lsn::FIRST"));
        }
        if next.get() > 1 << 63 {
            let why = format!("{next} is above 2^63: too few LSNs are left behind it");
            return Err(Error::invalid("reset_to", why));
        }
        self.cut("reset_to", Cut::Reset(next))
    }

    fn cut(&self, op: &'static str, cut: Cut) -> Result<()> {
        self.shared.check_writable(op)?;
        let (answer, ticket) = ticket::pair(&self.shared.world.host, op);
        self.shared.control(Control::Cut(cut, answer));
        ticket.wait().map(drop)
    }

    /// Replaces the log's user slot: a few bytes that a caller keeps beside the records, such as
    /// the term and vote of a consensus system.
    ///
    /// - Shape: at most [`MAX_USER_STATE_BYTES`] bytes; an empty slice clears it.
    /// - Durability: `Ok` survives power loss; after a crash in between, the old bytes or the new
    ///   ones are there, whole. It is not ordered with appends that are still in flight: wait for
    ///   those it speaks of. Works on a full disk that
    ///   overwrites in place. Costs two forced writes of 64 KiB.
    ///
    /// # Errors
    /// `Invalid`: too long. `Poisoned`, `Closed`. `Io`, `NotConfirmed`: META could not be written,
    /// the log is poisoned; after `resume` or a reopen the slot holds the old bytes or the new.
    pub fn set_user_state(&self, state: impl AsRef<[u8]>) -> Result<()> {
        self.shared.check_writable("set_user_state")?;
        let state = state.as_ref();
        if state.len() > MAX_USER_STATE_BYTES {
            let why = format!(
                "it has {} bytes, at most {MAX_USER_STATE_BYTES} are possible; keep the rest in \
                 records",
                state.len()
            );
            return Err(Error::invalid("set_user_state", why));
        }
        let (answer, ticket) = ticket::pair(&self.shared.world.host, "set_user_state");
        self.shared.mailbox.job(Job::SetUserState(state.to_vec(), answer));
        ticket.wait()
    }

    /// The user slot as it is durable; empty if it was never set.
    pub fn user_state(&self) -> Vec<u8> {
        self.shared.user_state()
    }

    /// Recovers a poisoned log in the process: reads the tail back from the device, cuts what was
    /// not promised, and appends again. Does nothing if the log is not poisoned.
    ///
    /// - Durability: as [`Wal::open`]. Readers go on, but for those that read what is given up now,
    ///   with [`ReadLevel::Written`], or any where `RecoveryPolicy::PointInTime` cuts the log:
    ///   they get `Truncated`.
    ///
    /// # Errors
    /// What [`Wal::open`] may say; the log stays poisoned and `resume` can be called again. Where
    /// records go through the page cache (`Mmap`; btrfs) a failure can leave pages of several files
    /// unwritten, and each tells of its own once: on a healthy disk it takes as many calls.
    pub fn resume(&self) -> Result<()> {
        self.shared.check_fork("resume")?;
        let mut engine = self.engine();
        if self.shared.latch.get().is_none() {
            return Ok(());
        }
        engine.restart(&self.shared)
    }

    /// What the last `open` or `resume` found.
    pub fn recovery(&self) -> RecoveryReport {
        self.shared.last_report()
    }

    /// The LSNs of records that were lost to damage and given up: readers say `Lost` there.
    pub fn holes(&self) -> Vec<std::ops::Range<Lsn>> {
        self.shared.catalog.holes().into_iter().map(|(from, to)| from..to).collect()
    }

    /// Which backend writes, and why not a better one.
    pub fn backend(&self) -> BackendReport {
        self.backend.clone()
    }

    /// How the next group is made durable: `Dsync` or `Fdatasync`, as configured or as
    /// [`SyncMethod::Auto`] found it; `Dsync` until it was measured.
    pub fn sync_method(&self) -> SyncMethod {
        self.shared.sync_choice.method()
    }

    /// What it did since it was opened: counts, sizes of groups, latencies. Always counted.
    ///
    /// - Units: in each name. Cheap enough to be asked every second.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// How it is doing right now: poisoned or not and why, what waits and how long, how slow the
    /// last sync was. For a check that runs every second; takes no lock unless it is poisoned.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Makes all that was queued durable, marks the log as closed, unlocks it.
    ///
    /// # Errors
    /// What could not be made durable and why. The log is closed all the same.
    pub fn close(self) -> Result<()> {
        self.shared.check_fork("close")?;
        self.engine().close(&self.shared)
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        let engine = self.engine.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.shared.fork.is_child() {
            // Threads and lock are the parent's; dropping the lock would unlock it for him.
            std::mem::forget(std::mem::take(engine));
            return;
        }
        if let Err(error) = engine.close(&self.shared) {
            tracing::error!(%error, "the log could not be closed whole");
        }
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wal({}, {} durable)", self.shared.dir.display(), self.durable_lsn())
    }
}
