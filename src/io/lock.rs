//! The lock that keeps a second writer out: `flock` on LOCK, with the holder's process id in it and
//! when that process started.
//!
//! The kernel frees the lock when the last reference to the open file is gone. A ring is such a
//! reference, and is torn down some milliseconds after its process; so where the named process is
//! gone a newcomer waits. Another process may have its id by then: in a container that was started
//! again the newcomer itself. Both are for people and for that decision only, the lock decides.
//!
//! Invariants: the id is written after the lock was taken and blanked before it is given back, if
//! that can be done (a name that stays is not read while nobody holds the lock); a lock that a
//! broken ring pinned is never given back while this process lives; a forked child, which shares
//! the open file, gives back nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::buf::ForkGuard;
use super::os::{open_regular, uninterrupted, write_whole};
use super::signal::block_file_size_signal;

/// How long a newcomer waits for the lock of a process that is gone.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// The holder has a fixed width: giving the lock back must not need space on a full disk.
const WIDTH: usize = 40;

/// A process, told from a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    /// When it started, in ticks since the machine did, where that is to be had.
    started: Option<u64>,
}

/// The locked file.
#[derive(Debug)]
pub(super) struct LockFile {
    file: fs::File,
    /// Set by a queue that broke: its requests may still land, so the lock stays.
    pinned: AtomicBool,
    fork: ForkGuard,
}

impl LockFile {
    /// Whether this describes the locked file.
    pub(super) fn is_same(&self, other: &fs::Metadata) -> bool {
        let same = |ours: fs::Metadata| (ours.dev(), ours.ino()) == (other.dev(), other.ino());
        self.file.metadata().is_ok_and(same)
    }

    /// Keeps the lock until the process ends.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(super) fn pin(&self) {
        self.pinned.store(true, Ordering::Relaxed);
    }

    /// Whether a queue broke while this lock was held.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(super) fn file(&self) -> &fs::File {
        &self.file
    }
}

/// Unlocks when dropped, also while a ring still refers to the file.
pub(super) struct Held(pub(super) Arc<LockFile>);

impl Drop for Held {
    fn drop(&mut self) {
        let lock = &*self.0;
        if lock.fork.is_child() || lock.pinned.load(Ordering::Relaxed) {
            return;
        }
        let blanked = blank_holder(&lock.file);
        if let Err(error) = blanked {
            tracing::warn!(%error, "the log's lock still names this process");
        }
        if let Err(error) = lock.file.unlock() {
            tracing::warn!(%error, "the log's lock was not given back");
        }
    }
}

/// Takes the lock, waiting only for a process that is gone.
pub(super) fn take(path: &Path) -> io::Result<Arc<LockFile>> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = open_regular(path, &mut options, 0)?;
    if !outwait(&file, fs::File::try_lock, &Outwaited::default())? {
        let whom = match holder(&named(&file)?) {
            Some(process) => format!("process {}", process.id),
            None => "a process that left no id".into(),
        };
        let text = format!("the log is locked by {whom}");
        return Err(io::Error::new(ErrorKind::WouldBlock, text));
    }
    match name_holder(&file, &myself()) {
        // The lock holds without the id; a newcomer then waits before it is refused.
        Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            tracing::warn!(error = %e, "the lock could not be marked with the process id");
        }
        other => other?,
    }
    Ok(Arc::new(LockFile { file, pinned: AtomicBool::new(false), fork: ForkGuard::new() }))
}

/// Whether somebody who lives holds the lock; changes nothing.
pub(super) fn is_held(path: &Path, before: &Outwaited) -> io::Result<bool> {
    let file = match open_regular(path, fs::OpenOptions::new().read(true), 0) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match outwait(&file, fs::File::try_lock_shared, before)? {
        true => file.unlock().map(|()| false),
        false => Ok(true),
    }
}

/// The holder that seemed to be gone and kept the lock for all the time that it was given: it lives
/// where this process can't see it, as in another container. Who looks again does not wait again.
#[derive(Debug, Default)]
pub(super) struct Outwaited(Mutex<Option<String>>);

impl Outwaited {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries to lock, for a while if the named holder is gone: what it had in flight may still land.
fn outwait(
    file: &fs::File,
    lock: fn(&fs::File) -> Result<(), fs::TryLockError>,
    before: &Outwaited,
) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        match lock(file) {
            Ok(()) => return Ok(true),
            Err(fs::TryLockError::Error(e)) if e.kind() == ErrorKind::Interrupted => continue,
            Err(fs::TryLockError::Error(e)) => return Err(e),
            Err(fs::TryLockError::WouldBlock) => {}
        }
        let text = named(file)?;
        if holder(&text).is_some_and(lives) || before.lock().as_ref() == Some(&text) {
            return Ok(false);
        }
        if start.elapsed() >= PATIENCE {
            *before.lock() = Some(text);
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

fn name_holder(file: &fs::File, holder: &str) -> io::Result<()> {
    write_whole(file, format!("{holder:<WIDTH$}").as_bytes(), 0)
}

/// Takes the holder's name out, on a thread that may write: the caller's would die of the signal
/// where no file may be written any more.
fn blank_holder(file: &fs::File) -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("prkdb-unlock".into());
        let blanked = thread.spawn_scoped(scope, || {
            block_file_size_signal();
            name_holder(file, "")
        });
        blanked?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// This process, as it is named in the file.
fn myself() -> String {
    let id = std::process::id();
    match i32::try_from(id).ok().and_then(look_at) {
        Some((_, started)) => format!("{id} {started}"),
        None => id.to_string(),
    }
}

/// What the file says of its holder.
fn named(file: &fs::File) -> io::Result<String> {
    let mut text = [0; WIDTH];
    let len = uninterrupted(|| file.read_at(&mut text, 0))?;
    Ok(String::from_utf8_lossy(&text[..len]).into_owned())
}

/// The process that it names; none while nobody holds it, or not yet.
fn holder(text: &str) -> Option<Process> {
    let mut words = text.split_ascii_whitespace();
    let id = words.next().and_then(|word| word.parse().ok()).filter(|&id| id > 0);
    let started = words.next().and_then(|word| word.parse().ok());
    id.map(|id| Process { id, started })
}

/// Whether the process runs: one that ended and was not yet waited for does not.
fn lives(process: Process) -> bool {
    let id = nix::unistd::Pid::from_raw(process.id);
    if nix::sys::signal::kill(id, None) == Err(nix::errno::Errno::ESRCH) {
        return false;
    }
    match look_at(process.id) {
        Some((state, started)) => {
            !['Z', 'X'].contains(&state) && process.started.is_none_or(|then| then == started)
        }
        None => true,
    }
}

/// The state of a process, and when it started; none where the system does not tell.
fn look_at(id: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Behind the name, which may hold anything: the state, and twenty fields from there the start.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        assert!(!is_held(&path, &Outwaited::default()).unwrap());
        assert!(!path.exists(), "asking must not create it");
        let first = Held(take(&path).unwrap());
        assert!(is_held(&path, &Outwaited::default()).unwrap());
        let refused = take(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        assert!(!is_held(&path, &Outwaited::default()).unwrap());
        drop(Held(take(&path).unwrap()));
    }

    #[test]
    fn the_lock_is_given_back_although_another_reference_to_the_file_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let first = take(&path).unwrap();
        let in_a_ring = first.file.try_clone().unwrap();
        drop(Held(first));
        drop(Held(take(&path).unwrap()));
        drop(in_a_ring);
    }

    /// A lock that is held in the name of a process that has ended.
    fn held_by_one_that_is_gone(path: &Path) -> Arc<LockFile> {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let lock = take(path).unwrap();
        name_holder(&lock.file, &child.id().to_string()).unwrap();
        lock
    }

    #[test]
    fn a_newcomer_waits_for_a_process_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        assert_waits_for(held_by_one_that_is_gone(&path), &path);
    }

    #[test]
    fn a_newcomer_with_the_id_of_a_process_that_is_gone_waits_for_it() {
        let id = std::process::id();
        let Some((_, started)) = look_at(i32::try_from(id).unwrap()) else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let first = take(&path).unwrap();
        assert_eq!(
            holder(&named(&first.file).unwrap()),
            Some(Process { id: i32::try_from(id).unwrap(), started: Some(started) })
        );
        name_holder(&first.file, &format!("{id} {}", started - 1)).unwrap();
        assert_waits_for(first, &path);
    }

    fn assert_waits_for(first: Arc<LockFile>, path: &Path) {
        std::thread::scope(|scope| {
            let second = scope.spawn(|| take(path).map(Held));
            std::thread::sleep(PAUSE * 3);
            assert!(!second.is_finished(), "it must neither get the lock nor give up");
            drop(Held(first));
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_holder_that_only_seemed_to_be_gone_is_waited_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let first = held_by_one_that_is_gone(&path);
        let before = Outwaited::default();
        std::thread::scope(|scope| {
            let look = scope.spawn(|| is_held(&path, &before).unwrap());
            std::thread::sleep(PAUSE * 3);
            assert!(!look.is_finished(), "the first look waits");
            assert!(look.join().unwrap(), "in vain");
            let other = scope.spawn(|| is_held(&path, &Outwaited::default()).unwrap());
            std::thread::sleep(PAUSE * 3);
            assert!(is_held(&path, &before).unwrap());
            assert!(!other.is_finished(), "who knows of it was not the slower one");
            drop(Held(first));
            assert!(!other.join().unwrap());
        });
    }

    #[test]
    fn a_lock_that_a_broken_queue_pinned_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let first = take(&path).unwrap();
        first.pinned.store(true, Ordering::Relaxed);
        let leaked = Arc::clone(&first);
        drop(Held(first));
        assert!(is_held(&path, &Outwaited::default()).unwrap());
        drop(leaked);
    }
}
