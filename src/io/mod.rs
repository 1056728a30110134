//! Bytes to and from a disk: the only layer that names the operating system.
//!
//! ```text
//!   machine (writer, maker, ...)           a Disk: names, directories, locks, space
//!      | step(queue, completions)             | open, create
//!      v                                      v
//!   Queue: submit(Op) -> OpId  ----------->  File (shared by queues, readers and the caller)
//!          reap(out, until) <- Completion
//!             ^ waker(): ends the wait from another thread
//! ```
//!
//! The traits are public: a storage of one's own can be plugged in. What every implementation must
//! hold, and the callers rely on:
//!
//! 1. Requests in one queue are **unordered**. Order comes from reaping the first before submitting
//!    the second.
//! 2. A completion with `Ok(n)` and `n` less than asked is a short count; the caller submits the
//!    rest. Nothing is retried inside a queue, save what the kernel itself left unsubmitted.
//! 3. A `Write` with `dsync` whose full length came back survives power loss. So does every write
//!    that completed before a `Sync` of its file was submitted, when that sync returned `Ok`.
//! 4. Every request is answered exactly once; its buffer moves in and comes back with the answer.
//! 5. A queue is made, used and dropped on one thread; only its waker leaves it.
//!
//! Called by `segment` and `wal`; implemented on a real disk (`os`) by `uring`, `mmap`, `pwrite`
//! and `tokio_uring`, and by `sim`.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

mod ahead;
mod answers;
mod buf;
mod buf_pool;
mod calls;
mod flow;
mod group_sync;
#[cfg(test)]
pub(crate) mod heard;
mod host;
mod lock;
mod mmap;
mod notifier;
mod os;
mod probe;
mod pwrite;
mod signal;
#[cfg(feature = "sim")]
pub mod sim;
mod threads;
#[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
mod tokio_uring;
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
mod uring;
#[cfg(test)]
pub(crate) mod wrapped;

pub(crate) use ahead::{Stretch, ahead};
pub use buf::Buf;
pub(crate) use buf::ForkGuard;
pub use buf_pool::BufPool;
pub use calls::SystemCalls;
pub(crate) use flow::{Flow, FlowMachine, block_on, tell_if_slow};
pub use host::{Host, Machine, MakeMachine, Next, Running, ThreadHost};
pub(crate) use os::is_scratch;
pub use probe::{BackendReason, BackendReport, DiskOptions, open_disk, probe};

/// An open file, shared by everyone who reads or writes it.
pub type FileRef = Arc<dyn File>;

/// An open regular file.
pub trait File: Send + Sync + fmt::Debug {
    /// The name it was opened under, for messages.
    fn path(&self) -> &Path;

    /// Its size in bytes.
    ///
    /// # Errors
    /// The system's error.
    fn size(&self) -> io::Result<u64>;

    /// How many names it has in the file system (0 after it was unlinked).
    ///
    /// # Errors
    /// The system's error.
    fn links(&self) -> io::Result<u64>;

    /// Reads at `at`, on the calling thread; a short count happens only at the end of the file.
    ///
    /// - Units: bytes. Unless the file was opened `Cached`, `at`, the length and the address of
    ///   `buf` are multiples of the disk's block.
    ///
    /// # Errors
    /// The system's error; `Interrupted` is retried inside.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Says that the bytes `at .. at + len` will be read soon: of a file that is read through the
    /// page cache a system that can fetches them while the caller does something else. A hint,
    /// which a file around another one passes on; nothing happens elsewhere, nor if `len` is 0.
    fn will_need(&self, _at: u64, _len: u64) {}

    /// Says that what was read of the file through the page cache will not be read again, for it is
    /// about to be written past it: a ring's write over a cached page waits for a kernel worker. A
    /// hint, as the other one.
    fn wont_need(&self) {}

    /// For a queue to find its own kind of file behind the trait.
    fn as_any(&self) -> &dyn Any;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading through the page cache: sealed segments.
    Cached,
    /// Reading past the page cache where the file system can: the tail, in recovery.
    Direct,
    /// Writing, and reading as it is written: past the page cache where file system and backend
    /// can. What was written and is not durable may be read.
    Write,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its size in bytes; 0 unless it is a regular file.
    pub size: u64,
}

/// What a name stands for. Symbolic links are `Other`: they are never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Keeps the log locked while it lives; dropping it unlocks at once.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// A place that holds files: a real directory tree or a simulated one.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a regular file. Symbolic links are not followed; anything but a regular file is
    /// `InvalidInput`.
    ///
    /// # Errors
    /// The system's error.
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef>;

    /// Creates a file of `size` bytes that must not exist yet, for writing; neither its name nor
    /// its size is durable before `sync_dir` and a sync of the file.
    ///
    /// # Errors
    /// The system's error.
    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef>;

    /// Creates a directory and its missing parents, each made durable in its own parent.
    ///
    /// # Errors
    /// The system's error; none if it exists as a directory.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, replacing what has the new name; durable after `sync_dir` of both.
    ///
    /// # Errors
    /// The system's error.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name; durable after `sync_dir`.
    ///
    /// # Errors
    /// The system's error.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted, each once.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's error.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on `path`, creating the file; the holder's process id is in it.
    ///
    /// # Errors
    /// `WouldBlock` with the holder in its text if another open file holds it.
    fn lock(&self, path: &Path) -> io::Result<LockGuard>;

    /// Whether a living writer holds the lock on `path`; changes nothing, creates nothing.
    ///
    /// # Errors
    /// The system's error.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;

    /// Whether the file at `path`, where this disk holds a lock, is the one that it locked: not so
    /// once the directory was moved or replaced, and whoever is there now may be another's.
    ///
    /// # Errors
    /// The system's error; none if nothing has that name.
    fn holds(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(true)
    }

    /// Bytes that an ordinary user may still allocate below `dir`.
    ///
    /// # Errors
    /// The system's error.
    fn space(&self, dir: &Path) -> io::Result<u64>;

    /// The unit of all offsets, lengths and addresses, bytes: the greatest of 4096, the page and
    /// the alignment that direct I/O wants. A power of two.
    fn block_size(&self) -> usize;

    /// Whether `Direct` files are read past the page cache, so that what is read is what the device
    /// holds.
    fn direct(&self) -> bool;

    /// Whether files are written past the page cache as well, so that a write with `dsync` is one
    /// that the device is asked to force.
    fn writes_direct(&self) -> bool {
        self.direct()
    }

    /// How many files recovery reads at the same time, each on a thread of its own, with four
    /// more that read ahead where it is large; with one it starts none.
    fn readers(&self) -> usize {
        1
    }

    /// A queue for `depth` requests in flight, on the calling thread. Buffers in `register` are
    /// announced to the kernel where that helps; all others may be used as well. The queue keeps
    /// no window into them: their owner goes on to change them.
    ///
    /// # Errors
    /// The system's error.
    fn queue(&self, depth: usize, register: &[Buf]) -> io::Result<Box<dyn Queue>>;

    /// The system calls that its files and queues made so far; none where nobody counts.
    fn calls(&self) -> Option<SystemCalls> {
        None
    }

    /// The short name of the way it writes: `uring`, `mmap`, `pwrite`, `tokio-uring`, `sim`.
    fn name(&self) -> &'static str;
}

/// Names one request of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// A request. Offsets and lengths are in bytes, multiples of the disk's block.
#[derive(Debug)]
pub enum Op {
    /// Write all of `buf` at `at`.
    Write {
        /// Where to.
        file: FileRef,
        /// Offset in the file.
        at: u64,
        /// What; the request keeps it until it is answered.
        buf: Buf,
        /// Answer only when it is durable.
        dsync: bool,
    },
    /// Fill `buf` from `at`; a short count happens only at the end of the file.
    Read {
        /// Where from.
        file: FileRef,
        /// Offset in the file.
        at: u64,
        /// Where to; nobody else may hold it.
        buf: Buf,
    },
    /// Make durable what was written to the file by requests already answered.
    Sync {
        /// Which file.
        file: FileRef,
    },
}

/// The answer to one request.
#[derive(Debug)]
pub struct Completion {
    /// The request it answers.
    pub id: OpId,
    /// Bytes done (0 for a sync), or the system's error.
    pub result: io::Result<usize>,
    /// The request's buffer, whole as it was submitted; none for a sync.
    pub buf: Option<Buf>,
}

/// How long `reap` may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Not at all.
    Now,
    /// Until something completes, the waker is used, or so much time has passed.
    For(Duration),
    /// Until something completes or the waker is used.
    Forever,
}

/// Requests in flight and their answers, in any order.
pub trait Queue: Send {
    /// Hands one request over; it may start only when `reap` is called next.
    ///
    /// # Panics
    /// If more than the queue's depth are in flight: the caller counts.
    fn submit(&mut self, op: Op) -> OpId;

    /// Starts what was submitted and appends answers to `out`: the only place where the thread of
    /// the queue waits. Returns early with no answer when woken.
    ///
    /// # Errors
    /// The queue itself broke; requests in flight may still land, their buffers are leaked.
    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()>;

    /// Ends the wait in `reap`, now or the next one, from any thread.
    fn waker(&self) -> Waker;

    /// Forgets `file`, so that nothing of the queue keeps it open. No request of it is in flight.
    fn release(&mut self, file: &FileRef);

    /// Requests submitted and not yet answered.
    fn in_flight(&self) -> usize;
}

/// A disk together with the threads and clocks of the place it is in.
#[derive(Clone, Debug)]
pub struct World {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Threads, clocks, randomness.
    pub host: Arc<dyn Host>,
}
