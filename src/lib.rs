//! An embeddable, Linux-first write-ahead log on io_uring; the ground of a storage engine.
//!
//! ```text
//!  callers, sync or async        the writer thread                     device
//!  append_batch(records) ---->   LSNs, frames, groups  ==== ring ===>  segments
//!  ticket: .wait() / .await <--- durable watermark     <== answers ==
//! ```
//!
//! # Example
//! ```
//! # let dir = std::env::temp_dir().join(format!("prkdb-doc-{}", std::process::id()));
//! use prkdb_core::{Lsn, Wal, WalConfig};
//!
//! let wal = Wal::open(WalConfig::new(&dir))?;
//! let lsns = wal.append_batch(["one", "two"])?.wait()?;
//! assert_eq!(wal.durable_lsn(), lsns.last());
//! for record in wal.reader(Lsn::FIRST)? {
//!     let record = record?;
//!     println!("{} {:?}", record.lsn, record.data);
//! }
//! wal.close()?;
//! # std::fs::remove_dir_all(dir).unwrap();
//! # Ok::<(), prkdb_core::Error>(())
//! ```
//!
//! # Contract
//! `Ok` from a `Sync` append survives power loss. After `NotConfirmed` the batch is found whole
//! or not at all. After a failed write or sync the log is poisoned: batches in flight are
//! `NotConfirmed`, those never submitted `Poisoned` (certainly absent), reads of durable records
//! go on, nothing is written; [`Wal::resume`] runs recovery in the process, or one reopens. A
//! full disk is not poison: LSNs are given out only into reserved space, so the batch fails with
//! `StorageFull`, nothing else changes, and appends work again when space is back; but a file
//! system that copies on write (btrfs, ZFS) may lack room for what is reserved, and then that is a
//! failed write. Records are read back in LSN order, byte for byte, or an error names file and
//! offset; never something else, never less in silence. Two processes can't write one log.
//! Everything queued, cached or mapped has a bound. [`Wal::close`] and `Drop` make all that was
//! queued durable or say that they could not.
//!
//! # Threat model
//! - Trusted: whoever may write the log's files, and whoever runs the process. A CRC finds damage;
//!   it is no signature, and who writes the files can write a log that looks whole.
//! - Not trusted: the bytes of the files. Whatever stands in them, reading gives an error or a
//!   record whose checksums hold: no undefined behaviour, no panic, no endless loop, no more memory
//!   than the file holds and one batch unpacked, no path that was not asked for.
//! - Not trusted: the records. None can pass for a frame, for headers are salted with a random
//!   number that no record knows, and with their place. Only behind damage, where the next header
//!   is looked for at every byte, is there a chance: 2^-32 for each that a record imitates. None
//!   unpacks to more than was appended; one that is too large is `Invalid` and holds nobody else
//!   up.
//! - Other users of the machine: files are 0600, directories 0700, opened without following links,
//!   only if they are regular. What is not a log's by its name is never written or removed.
//! - Who gets at the disk later: nothing goes there but what was appended, padding is zeros. What
//!   was cut stays until its space is used again, unless [`WalConfig::wipe_retired`] is set.
//!   Nothing is encrypted.
//!
//! # Backends
//! [`Backend::Auto`] writes through an io_uring ring where a trial in the log's directory shows
//! that one works, else into mapped files, else by position; [`Wal::backend`] tells which, why, and
//! what would help. The same records make the same bytes on each, and each continues the others'
//! logs. [`io`] holds the traits behind them: a storage of one's own can be plugged in.
//!
//! # Where to find what
//! - Append from a thread or a task: [`Wal::append_batch`], [`Wal::append_batch_async`]; without
//!   waiting for room: [`Wal::try_append_batch`]; at one LSN or not at all: [`Wal::append_at`];
//!   with another durability: [`Wal::with`].
//! - Read and follow, in the writer's process or beside it: [`Wal::reader`], [`ReadOnlyWal`]; whole
//!   batches at once: [`Reader::next_batch`].
//! - Cut the start, the end or all of it: [`Wal::truncate_before`], [`Wal::truncate_after`],
//!   [`Wal::reset_to`]; by itself: [`CompactionPolicy`], [`WalConfig::retention_ms`].
//! - Bound the disk use: [`WalConfig::max_disk_bytes`]. Compress: [`CompressionConfig`].
//! - Keep a little state beside the records: [`Wal::set_user_state`].
//! - Go on after a failed disk: [`Wal::resume`].
//! - Damage: [`ReadOnlyWal::verify`] names it, [`RecoveryPolicy`] and [`repair()`] give it up.
//! - Look: [`Wal::health`] what is wrong now, [`Wal::metrics`] counts and latencies.
//!
//! # Threads and waiting
//! Appends encode on the caller's thread and wait only while the queue is full; [`Ticket::wait`]
//! waits for the disk, and blocks its thread: in a task `.await` the ticket instead. Dropping a
//! ticket cancels nothing. `open`, `close`, reads, truncations and [`Wal::set_user_state`] block:
//! call them where a task may block, as `examples/async_tokio.rs` does.
//!
//! # Errors
//! [`Error::kind`] says what to do: `Busy` try again; `StorageFull` free space, then append again;
//! `Io` of an append: no segment could be made, nothing was appended, try again; `Poisoned`,
//! `NotConfirmed`: call [`Wal::resume`] or reopen, then look which batches are there; `Truncated`
//! begin anew at [`Wal::first_lsn`]; `Locked` another process has it; `Invalid` and `Unsupported`
//! mend the call or the build; `Corrupt` restore the file that is named, or give up what is lost
//! ([`repair()`]); `Lost` go on behind the hole; `Closed` is final.
//!
//! # Features
//! `lz4`, `snappy`, `zstd` (default): the codecs; `zstd` compiles C. `cli`: the command `prkdb`.
//! `sim`: the simulated disk. `tokio-uring`: one more backend, for comparison. `bugs`: planted
//! bugs that the tests have to find, for nothing else. `fuzz`: a door to the private parsers, for
//! the fuzz targets of the crate itself.
//!
//! # Layers
//! Imports point down only; a test holds the table.
//!
//! ```text
//! 5  lib.rs            this map
//! 4  compat/  fuzz     names of other times: [`wal`], [`batch_config`] | a door for fuzzing
//! 3  wal/              the log: callers, writer, maker, recovery, readers
//! 2  segment/          one file of frames: geometry, walking, making
//! 1  io/     format/   bytes <-> disk | bytes <-> meaning (pure)
//! 0  error lsn options cast bugs sync
//! ```

#[cfg(feature = "bugs")]
pub mod bugs;
#[cfg(not(feature = "bugs"))]
mod bugs;
mod cast;
mod compat;
mod error;
pub mod format;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod io;
// Its folder is `wal`; that name stands for the public face below.
#[path = "wal/mod.rs"]
mod log;
mod lsn;
mod options;
mod segment;
mod sync;

pub use compat::{batch_config, wal};
pub use error::{Error, ErrorKind, Result};
pub use io::{BackendReason, BackendReport, SystemCalls, probe};
pub use log::{
    Append, Appender, Batch, Finding, FindingKind, GivenUp, Health, Histogram, LogStat, Metrics,
    ReadLevel, ReadOnlyWal, Reader, Record, RecordBatch, RecordData, Records, RecoveryReport,
    RepairReport, Ticket, Verdict, VerifySummary, WaitDurable, Wal, repair, repair_in, repair_to,
    repair_to_in,
};
pub use lsn::{Lsn, LsnRange};
pub use options::{
    Backend, BatchConfig, CompactionPolicy, CompressionConfig, CompressionType, Durability,
    MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_DEPTH, MAX_NUM_SEGMENTS, MAX_RECORD_BYTES,
    MAX_SEGMENT_BYTES, MAX_USER_STATE_BYTES, MIN_DISK_BYTES, MIN_SEGMENT_BYTES, OnRecoveryProgress,
    RecoveryPolicy, RecoveryProgress, SyncMethod, WalConfig,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
