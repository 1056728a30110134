//! Which backend, and why not a better one: found by doing what the log will do, where it will.
//!
//! ```text
//!   Pwrite ----------------------------------------------> pwrite, `named`: no ring call at all
//!   Auto --- no O_DIRECT, or not writable ---------------> pwrite, `filesystem`
//!     \----- ring: make, write, sync, read back -- fine -> uring, `ok`
//!   Uring --/                                   \- errno -> pwrite, its reason (Uring: an error)
//! ```
//!
//! Decided by errno, never by a version or a text. A full disk says nothing about io_uring, and
//! neither does a failing one: that is the caller's error.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::Disk;
use super::os::{OsDisk, Volume, Way};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Backend;

/// Which backend was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendReport {
    /// Its short name: `uring` or `pwrite`.
    pub name: &'static str,
    /// Why this one.
    pub reason: BackendReason,
    /// What to do to get a better one, if there is a better one.
    pub remedy: Option<String>,
}

/// Why a backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendReason {
    /// The best there is, and it works.
    Ok,
    /// A filter (a container's, as a rule) forbids io_uring.
    Seccomp,
    /// The system's administrator turned io_uring off.
    Sysctl,
    /// A ring needs more memory than may be locked.
    Memlock,
    /// The kernel has no io_uring, or one that is too old.
    Kernel,
    /// The file system takes no direct I/O, or can't be written.
    Filesystem,
    /// The caller asked for it by name.
    Named,
}

impl fmt::Display for BackendReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendReason::Ok => "ok",
            BackendReason::Seccomp => "seccomp",
            BackendReason::Sysctl => "sysctl",
            BackendReason::Memlock => "memlock",
            BackendReason::Kernel => "kernel",
            BackendReason::Filesystem => "filesystem",
            BackendReason::Named => "named",
        })
    }
}

/// Finds what a log in `dir` would be written with, by trying it there.
///
/// - Shape: `dir` need not exist; then its nearest parent that does is tried. Changes nothing.
///
/// # Errors
/// `Unsupported`: io_uring was asked for by name and does not work; the message has reason and
/// remedy. `Io`: the directory or its disk fails.
pub fn probe(dir: &Path, backend: Backend) -> Result<BackendReport> {
    examine(dir, backend).map(|(_, _, report)| report)
}

/// A disk on the file system of `dir`, with the backend that [`probe`] finds.
pub(crate) fn open_disk(dir: &Path, backend: Backend) -> Result<(Arc<dyn Disk>, BackendReport)> {
    let (way, volume, report) = examine(dir, backend)?;
    Ok((Arc::new(OsDisk::new(way, volume)), report))
}

fn examine(dir: &Path, backend: Backend) -> Result<(Way, Volume, BackendReport)> {
    let look = || {
        // A scratch file may be too large for the caller's limits as well.
        super::signal::block_file_size_signal();
        let volume = Volume::of(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotADirectory => {
                Error::invalid("open", "this is no directory; a log is a directory").at(dir, None)
            }
            _ => Error::io("probe", dir, None, e),
        })?;
        let (way, report) = choose(dir, backend, &volume)?;
        Ok((way, volume, report))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("prkdb-probe".into());
        let thread =
            thread.spawn_scoped(scope, look).map_err(|e| Error::io("probe", dir, None, e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Why io_uring is not taken, and what would help.
#[derive(Debug)]
struct Refusal {
    reason: BackendReason,
    remedy: String,
}

impl Refusal {
    fn new(reason: BackendReason, remedy: impl Into<String>) -> Refusal {
        Refusal { reason, remedy: remedy.into() }
    }
}

fn choose(dir: &Path, backend: Backend, volume: &Volume) -> Result<(Way, BackendReport)> {
    let pwrite = |reason, remedy| (Way::Pwrite, BackendReport { name: "pwrite", reason, remedy });
    let refusal = match backend {
        Backend::Pwrite => return Ok(pwrite(BackendReason::Named, None)),
        Backend::Auto if volume.read_only.is_none() && !volume.takes_direct => Refusal::new(
            BackendReason::Filesystem,
            "put the log on a file system that takes O_DIRECT, such as ext4 or XFS",
        ),
        Backend::Auto | Backend::Uring => match ring::attempt(dir, volume)? {
            Ok(way) => {
                let named = backend == Backend::Uring;
                let reason = if named { BackendReason::Named } else { BackendReason::Ok };
                return Ok((way, BackendReport { name: "uring", reason, remedy: None }));
            }
            Err(refusal) => refusal,
        },
    };
    if backend == Backend::Uring {
        let text = format!("io_uring does not work here ({}): {}", refusal.reason, refusal.remedy);
        return Err(Error::new(ErrorKind::Unsupported, "probe", text).at(dir, None));
    }
    Ok(pwrite(refusal.reason, Some(refusal.remedy)))
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
mod ring {
    use super::*;

    pub(super) fn attempt(_: &Path, _: &Volume) -> Result<std::result::Result<Way, Refusal>> {
        Ok(Err(Refusal::new(BackendReason::Kernel, "io_uring needs a build for Linux")))
    }
}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
mod ring {
    use std::io;

    use nix::libc;

    use super::*;
    use crate::io::os::{OsFile, nearest_directory, scratch, set_direct};
    use crate::io::{Buf, Completion, FileRef, Op, Queue, Until};

    /// What kept a step of the trial from working.
    enum Trouble {
        /// The ring itself, by this errno.
        Ring(io::Error),
        /// The file under it.
        File(io::Error),
    }

    /// Makes a ring and sends a scratch file through it.
    pub(super) fn attempt(
        dir: &Path,
        volume: &Volume,
    ) -> Result<std::result::Result<Way, Refusal>> {
        if let Some(kind) = volume.read_only {
            let remedy = format!("make the directory writable ({kind})");
            return Ok(Err(Refusal::new(BackendReason::Filesystem, remedy)));
        }
        let file = match nearest_directory(dir).and_then(|dir| scratch(&dir)) {
            Ok(file) => Some(file),
            Err(e) if is_full(&e) => None,
            Err(e) => return Err(Error::io("probe", dir, None, e)),
        };
        let file = match file {
            None => None,
            Some(file) if !volume.takes_direct => Some(OsFile::around(dir, file, None)),
            Some(file) => {
                set_direct(&file).map_err(|e| Error::io("probe", dir, None, e))?;
                Some(OsFile::around(dir, file, Some(volume.block)))
            }
        };
        match round_trip(volume, file.map(|f| -> FileRef { Arc::new(f) })) {
            Ok(()) => Ok(Ok(Way::Uring)),
            Err(Trouble::File(e)) if is_full(&e) => Ok(Ok(Way::Uring)),
            Err(Trouble::File(e)) => Err(Error::io("probe", dir, None, e)),
            Err(Trouble::Ring(e)) => match e.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => Err(Error::io("probe", dir, None, e)),
                _ => Ok(Err(refusal(&e, sysctl().as_deref()))),
            },
        }
    }

    fn is_full(e: &io::Error) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }

    /// Write, sync and read through a ring; without a file, only what wakes it.
    fn round_trip(volume: &Volume, file: Option<FileRef>) -> std::result::Result<(), Trouble> {
        const BYTE: u8 = 0xa5;
        let mut buf = Buf::zeroed(volume.block, volume.block);
        buf.bytes_mut().expect("just made").fill(BYTE);
        let disk = OsDisk::new(Way::Uring, volume.clone());
        let mut queue = disk.queue(1, std::slice::from_ref(&buf)).map_err(Trouble::Ring)?;
        queue.waker().wake();
        queue.reap(&mut Vec::new(), Until::Forever).map_err(Trouble::Ring)?;
        let Some(file) = file else { return Ok(()) };
        let mut step = |op| one(&mut *queue, op);
        let written = step(Op::Write { file: Arc::clone(&file), at: 0, buf, dsync: true })?;
        let len = written.result.map_err(sort)?;
        step(Op::Sync { file: Arc::clone(&file) })?.result.map_err(sort)?;
        let buf = Buf::zeroed(volume.block, volume.block);
        let read = step(Op::Read { file, at: 0, buf })?;
        let same = read.result.map_err(sort)? == len
            && read.buf.is_some_and(|b| b.bytes()[..len].iter().all(|&byte| byte == BYTE));
        if same {
            return Ok(());
        }
        Err(Trouble::File(io::Error::other("what was written was not read back")))
    }

    fn one(queue: &mut dyn Queue, op: Op) -> std::result::Result<Completion, Trouble> {
        queue.submit(op);
        let mut out = Vec::with_capacity(1);
        loop {
            queue.reap(&mut out, Until::Forever).map_err(Trouble::Ring)?;
            if let Some(answer) = out.pop() {
                return Ok(answer);
            }
        }
    }

    /// A request's error: about the request as such, or about the file.
    fn sort(e: io::Error) -> Trouble {
        match e.raw_os_error() {
            Some(
                libc::EPERM
                | libc::EACCES
                | libc::ENOSYS
                | libc::EINVAL
                | libc::EOPNOTSUPP
                | libc::ENOMEM,
            ) => Trouble::Ring(e),
            _ => Trouble::File(e),
        }
    }

    /// The switch that turns io_uring off; none where the kernel has no such switch.
    fn sysctl() -> Option<String> {
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()
    }

    pub(super) fn refusal(e: &io::Error, sysctl: Option<&str>) -> Refusal {
        let off = sysctl.is_some_and(|text| text.trim() != "0");
        let reason = match (e.raw_os_error(), off, sysctl.is_some()) {
            (Some(libc::EPERM), true, _) => BackendReason::Sysctl,
            (Some(libc::EPERM | libc::EACCES), _, _) => BackendReason::Seccomp,
            // The switch is there, so io_uring is built in: somebody only says it is not.
            (Some(libc::ENOSYS), _, true) => BackendReason::Seccomp,
            (Some(libc::ENOMEM), _, _) => BackendReason::Memlock,
            _ => BackendReason::Kernel,
        };
        let remedy = match reason {
            BackendReason::Sysctl => "set the sysctl kernel.io_uring_disabled to 0".to_owned(),
            BackendReason::Seccomp => "allow io_uring_setup, io_uring_enter and \
                io_uring_register in the seccomp profile of the container or service"
                .to_owned(),
            BackendReason::Memlock => {
                "raise the limit on locked memory (ulimit -l) or the container's memory".to_owned()
            }
            _ => format!("run Linux 5.11 or newer with io_uring built in (the kernel said: {e})"),
        };
        Refusal::new(reason, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_pwrite_is_taken_as_named() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, report) = open_disk(dir.path(), Backend::Pwrite).unwrap();
        assert_eq!((disk.name(), report.name), ("pwrite", "pwrite"));
        assert_eq!((report.reason, report.remedy), (BackendReason::Named, None));
    }

    #[test]
    fn auto_takes_the_ring_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("not/yet/there");
        let report = probe(&missing, Backend::Auto).unwrap();
        match report.name {
            "uring" => assert_eq!((report.reason, report.remedy), (BackendReason::Ok, None)),
            _ => {
                println!("no io_uring here: {}: {:?}", report.reason, report.remedy);
                assert!(report.remedy.is_some());
                let refused = probe(&missing, Backend::Uring).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Unsupported);
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a probe leaves nothing");
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(probe(&file, Backend::Auto).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    #[test]
    fn a_filter_is_told_from_the_switch_and_from_an_old_kernel() {
        use BackendReason::{Kernel, Memlock, Seccomp, Sysctl};
        use nix::libc::{EACCES, EINVAL, ENOMEM, ENOSYS, EPERM};
        use std::io;
        for (errno, switch, reason) in [
            (EPERM, Some("2\n"), Sysctl),
            (EPERM, Some("1\n"), Sysctl),
            (EPERM, Some("0\n"), Seccomp),
            (EPERM, None, Seccomp),
            (EACCES, Some("0\n"), Seccomp),
            (ENOSYS, Some("0\n"), Seccomp),
            (ENOSYS, None, Kernel),
            (EINVAL, Some("0\n"), Kernel),
            (ENOMEM, Some("0\n"), Memlock),
        ] {
            let refusal = ring::refusal(&io::Error::from_raw_os_error(errno), switch);
            assert_eq!(refusal.reason, reason, "errno {errno}, switch {switch:?}");
        }
    }
}
