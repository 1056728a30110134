//! A real directory tree, shared by all backends: names, directories, locks, space.
//!
//! ```text
//!   OsDisk --open, create--> OsFile --(shared)--> ThreadQueue, UringQueue, ...
//!      |                                             ^
//!      +-- LOCK: its locks are registered in each ring made here, so that they outlive requests
//! ```
//!
//! What the file system can do is found by trial, once, in the log's directory (`volume`).
//!
//! Invariants: only regular files are opened, links never followed; files are 0600, directories
//! 0700; a directory made here is durable in its parent before `create_dir` returns.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::calls::Counter;
use super::flow::tell_if_slow;
use super::lock::{self, LockFile};
use super::threads::ThreadQueue;
use super::{Access, Buf, Disk, Entry, EntryKind, FileRef, LockGuard, Queue, SystemCalls};

mod device;
mod file;
mod volume;

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
pub(super) use device::allocate;
use device::sync_names;
pub(super) use device::{sync_to_device, uninterrupted, write_whole};
pub(super) use file::{OsFile, open_regular};
pub(super) use volume::Volume;
pub(crate) use volume::is_scratch;
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
pub(super) use volume::set_direct;
pub(super) use volume::{nearest_directory, scratch};

/// Reads that a disk answers sooner side by side than one after the other.
const READERS: usize = 4;

/// How a disk writes: which queue it makes, and how it opens files for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Positional writes on I/O threads.
    Pwrite,
    /// Copies into mappings on I/O threads.
    Mmap,
    /// An io_uring.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    Uring,
    /// The runtime tokio-uring on a thread.
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    TokioUring,
}

impl Way {
    /// Whether it writes past the page cache where the file system can.
    fn writes_direct(self) -> bool {
        self != Way::Mmap
    }

    /// Its short name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Pwrite => "pwrite",
            Way::Mmap => "mmap",
            #[cfg(all(target_os = "linux", not(prkdb_portable)))]
            Way::Uring => "uring",
            #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
            Way::TokioUring => "tokio-uring",
        }
    }
}

/// A real directory tree.
pub(super) struct OsDisk {
    way: Way,
    volume: Volume,
    locks: Mutex<Vec<Weak<LockFile>>>,
    outwaited: lock::Outwaited,
    /// Directories that were synced last, kept open: a process that has no descriptor left for a
    /// moment can sync those all the same.
    spare: Mutex<VecDeque<(PathBuf, fs::File)>>,
    counter: Arc<Counter>,
}

/// How many those are: a log has two.
const SPARES: usize = 4;

impl OsDisk {
    /// A disk on the file system that `volume` describes.
    pub(super) fn new(way: Way, volume: Volume) -> OsDisk {
        let (locks, outwaited) = (Mutex::new(Vec::new()), lock::Outwaited::default());
        OsDisk { way, volume, locks, outwaited, spare: Mutex::default(), counter: Arc::default() }
    }

    /// Syncs a directory that is open already, if it is still the one of that name.
    fn sync_spare(&self, dir: &Path) -> Option<io::Result<()>> {
        let spares = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, spare) = spares.iter().find(|(path, _)| path == dir)?;
        let (ours, theirs) = (spare.metadata().ok()?, fs::metadata(dir).ok()?);
        let same = (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino());
        same.then(|| sync_names(spare))
    }

    fn keep_spare(&self, dir: &Path, file: fs::File) {
        let mut spares = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spares.retain(|(path, _)| path != dir);
        spares.truncate(SPARES - 1);
        spares.push_front((dir.to_path_buf(), file));
    }

    /// The locks held through this disk.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    fn held(&self) -> io::Result<Vec<Arc<LockFile>>> {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let held: Vec<_> = locks.iter().filter_map(Weak::upgrade).collect();
        if held.iter().any(|lock| lock.is_pinned()) {
            // Recovery in this process could be overtaken by a write from before.
            let why = "an earlier ring broke, its requests may still land; use a new process";
            return Err(io::Error::other(why));
        }
        Ok(held)
    }
}

impl fmt::Debug for OsDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsDisk({}, {:?})", self.name(), self.volume)
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef> {
        Ok(Arc::new(OsFile::open(path, access, self.way, &self.volume, &self.counter)?))
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef> {
        Ok(Arc::new(OsFile::create(path, size, self.way, &self.volume, &self.counter)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = parent(path) else {
            return Ok(());
        };
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                // Whoever made it may have died before its name was durable.
                return match self.sync_dir(parent) {
                    Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
                    other => other,
                };
            }
            Ok(_) => return Err(ErrorKind::NotADirectory.into()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        self.create_dir(parent)?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
        self.sync_dir(parent)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in fs::read_dir(dir)? {
            let found = found?;
            let name = found.file_name().to_string_lossy().into_owned();
            let meta = match found.metadata() {
                Ok(meta) => meta,
                // Removed since the directory was read.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let (kind, size) = match meta.file_type() {
                t if t.is_file() => (EntryKind::File, meta.len()),
                t if t.is_dir() => (EntryKind::Directory, 0),
                _ => (EntryKind::Other, 0),
            };
            entries.push(Entry { name, kind, size });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        // A name that was replaced meanwhile, as METRICS is, may have been read twice.
        entries.dedup_by(|a, b| a.name == b.name);
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let directory = nix::libc::O_DIRECTORY;
        match fs::OpenOptions::new().read(true).custom_flags(directory).open(dir) {
            Ok(file) => {
                let began = Instant::now();
                let synced = sync_names(&file);
                tell_if_slow(dir, began.elapsed());
                synced?;
                self.keep_spare(dir, file);
                Ok(())
            }
            Err(e) if matches!(e.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE)) => {
                self.sync_spare(dir).unwrap_or(Err(e))
            }
            Err(e) => Err(e),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        let lock = lock::take(path)?;
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|old| old.strong_count() > 0);
        locks.push(Arc::downgrade(&lock));
        Ok(Box::new(lock::Held(lock)))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        lock::is_held(path, &self.outwaited)
    }

    fn holds(&self, path: &Path) -> io::Result<bool> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = locks.iter().filter_map(Weak::upgrade);
        Ok(held.any(|lock| lock.is_same(&found)))
    }

    fn space(&self, dir: &Path) -> io::Result<u64> {
        let fs = nix::sys::statvfs::statvfs(dir)?;
        Ok(wide(fs.blocks_available()).saturating_mul(wide(fs.fragment_size())))
    }

    fn block_size(&self) -> usize {
        self.volume.block
    }

    fn direct(&self) -> bool {
        self.volume.takes_direct && !self.volume.copies_on_write
    }

    fn writes_direct(&self) -> bool {
        self.direct() && self.way.writes_direct()
    }

    fn readers(&self) -> usize {
        READERS
    }

    #[cfg_attr(
        not(all(target_os = "linux", not(prkdb_portable))),
        expect(unused_variables, reason = "only a ring registers buffers")
    )]
    fn queue(&self, depth: usize, register: &[Buf]) -> io::Result<Box<dyn Queue>> {
        assert!(depth > 0);
        match self.way {
            Way::Pwrite | Way::Mmap => Ok(Box::new(ThreadQueue::new(depth)?)),
            #[cfg(all(target_os = "linux", not(prkdb_portable)))]
            Way::Uring => {
                let counter = Arc::clone(&self.counter);
                Ok(Box::new(super::uring::UringQueue::new(depth, register, self.held()?, counter)?))
            }
            #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
            Way::TokioUring => Ok(Box::new(super::tokio_uring::TokioQueue::new(depth)?)),
        }
    }

    fn calls(&self) -> Option<SystemCalls> {
        match self.way {
            // What the runtime calls is its own business.
            #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
            Way::TokioUring => None,
            _ => Some(self.counter.calls()),
        }
    }

    fn name(&self) -> &'static str {
        self.way.name()
    }
}

/// The directory that holds `path`'s name; none for the root and for names that are their own.
fn parent(path: &Path) -> Option<&Path> {
    path.file_name()?;
    match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Some(Path::new(".")),
        other => other,
    }
}

/// The counts of `statvfs` have different widths on different systems.
fn wide(count: impl Into<u64>) -> u64 {
    count.into()
}
