//! Which backend, and why not a better one: found by doing what the log will do, where it will.
//!
//! ```text
//!   Auto --- takes O_DIRECT and a ring writes, syncs, reads back ------> uring, `ok`
//!     \----- else, with the reason --- a file can be mapped -----------> mmap, that reason
//!                                 \--- not even that ------------------> pwrite, that reason
//!   by name: tried in the same way; it works: `named`, else `Unsupported` with reason and remedy
//! ```
//!
//! Decided by errno and by what the system says of itself (`refusal`), never by a version or an
//! error's text. A full disk says nothing about a backend, and neither does a failing one: that is
//! the caller's error. Where `Mmap` or `Pwrite` is named no ring call is made.

use std::fmt;
use std::io::{self, ErrorKind as Kind};
use std::path::Path;
use std::sync::Arc;

use super::Disk;
use super::host::no_thread;
use super::os::{OsDisk, Volume, Way};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Backend;
use refusal::Refusal;

mod mapping;
mod refusal;
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
mod ring;
#[cfg(test)]
mod tests;

/// Which backend was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendReport {
    /// Its short name: `uring`, `mmap`, `pwrite` or `tokio-uring`.
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
    /// The system's administrator turned io_uring off, for this user or for all.
    Sysctl,
    /// A security module of the kernel forbids io_uring.
    Policy,
    /// A ring needs more memory than may be locked, or than there is.
    Memlock,
    /// The kernel has no io_uring, or one that is too old.
    Kernel,
    /// The file system's files take no direct I/O (or were not to), can't be mapped safely, or
    /// can't be written.
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
            BackendReason::Policy => "policy",
            BackendReason::Memlock => "memlock",
            BackendReason::Kernel => "kernel",
            BackendReason::Filesystem => "filesystem",
            BackendReason::Named => "named",
        })
    }
}

/// How a disk is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// How bytes get to it. Default `Auto`.
    pub backend: Backend,
    /// Bypass the page cache where the file system can. Default true. Without it writes are slower
    /// on a ring, and recovery can't tell what only the cache holds, so that it copies the tail.
    pub direct: bool,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions { backend: Backend::Auto, direct: true }
    }
}

impl From<Backend> for DiskOptions {
    fn from(backend: Backend) -> DiskOptions {
        DiskOptions { backend, ..DiskOptions::default() }
    }
}

/// Finds what a log in `dir` would be written with, by trying it there.
///
/// - Shape: `dir` need not exist; then its nearest parent that does is tried. Changes nothing.
///
/// # Errors
/// `Unsupported`: a backend was asked for by name and does not work; the message has reason and
/// remedy. `Invalid`: a file is where a directory should be. `Io`: the directory or its disk fails.
pub fn probe(dir: &Path, backend: Backend) -> Result<BackendReport> {
    examine(dir, backend.into()).map(|(_, _, report)| report)
}

/// Opens the file system of `dir`, with the backend that [`probe`] finds: for a log on a real disk
/// with threads or clocks of one's own ([`Wal::open_in`](crate::Wal::open_in)).
///
/// - Shape: `dir` need not exist; every path that is used with the disk lies below it.
///
/// # Errors
/// As [`probe`].
pub fn open_disk(
    dir: &Path,
    options: impl Into<DiskOptions>,
) -> Result<(Arc<dyn Disk>, BackendReport)> {
    let (way, volume, report) = examine(dir, options.into())?;
    Ok((Arc::new(OsDisk::new(way, volume)), report))
}

fn examine(dir: &Path, options: DiskOptions) -> Result<(Way, Volume, BackendReport)> {
    let look = || {
        // A scratch file may be too large for the caller's limits as well.
        super::signal::block_file_size_signal();
        let mut volume = Volume::of(dir).map_err(|e| match e.kind() {
            Kind::NotADirectory => {
                Error::invalid("open", "this is no directory; a log is a directory").at(dir, None)
            }
            _ => Error::io("probe", dir, None, e),
        })?;
        volume.takes_direct &= options.direct;
        let (way, reason, remedy) = choose(dir, options, &volume)?;
        Ok((way, volume, BackendReport { name: way.name(), reason, remedy }))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("prkdb-probe".into());
        let failed = |e| Error::io("probe", dir, None, no_thread(e));
        let thread = thread.spawn_scoped(scope, look).map_err(failed)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

type Choice = (Way, BackendReason, Option<String>);

fn choose(dir: &Path, options: DiskOptions, volume: &Volume) -> Result<Choice> {
    let named = match options.backend {
        Backend::Auto => return best(dir, options, volume),
        Backend::Pwrite => return Ok((Way::Pwrite, BackendReason::Named, None)),
        Backend::Mmap => try_mapping(dir, volume)?,
        Backend::Uring => try_ring(dir, volume)?,
        // A ring of our own first: the runtime keeps to itself when its ring does not work.
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        Backend::TokioUring => match try_ring(dir, volume)? {
            Ok(_) => ring::attempt(Way::TokioUring, dir, volume)?,
            refused => refused,
        },
    };
    named.map(|way| (way, BackendReason::Named, None)).map_err(|refusal| {
        let Refusal { reason, remedy } = refusal;
        let text = format!("{} does not work here ({reason}): {remedy}", options.backend);
        Error::new(ErrorKind::Unsupported, "probe", text).at(dir, None)
    })
}

/// The ladder: a ring past the page cache, else a mapping where it is safe, else positional writes.
fn best(dir: &Path, options: DiskOptions, volume: &Volume) -> Result<Choice> {
    let refusal = match no_direct(options, volume) {
        Some(remedy) => Refusal::new(BackendReason::Filesystem, remedy),
        None => match try_ring(dir, volume)? {
            Ok(way) => return Ok((way, BackendReason::Ok, None)),
            Err(refusal) => refusal,
        },
    };
    let way = match volume.is_served {
        // A store into a page that its server does not bring any more would kill the process.
        true => Way::Pwrite,
        false => try_mapping(dir, volume)?.unwrap_or_else(|worse| {
            tracing::debug!(remedy = worse.remedy, "files are not mapped");
            Way::Pwrite
        }),
    };
    Ok((way, refusal.reason, Some(refusal.remedy)))
}

/// Why a ring would write through the page cache, where it is the slow case.
fn no_direct(options: DiskOptions, volume: &Volume) -> Option<&'static str> {
    let has_rings = cfg!(all(target_os = "linux", not(prkdb_portable)));
    if volume.takes_direct || volume.read_only.is_some() || !has_rings {
        return None;
    }
    Some(match (options.direct, volume.untried) {
        (false, _) => "let writes bypass the page cache",
        (true, true) => "free some space: what the file system can do could not be tried",
        (true, false) => "put the log on a file system that takes O_DIRECT, such as ext4 or XFS",
    })
}

/// A way that works, or why it does not.
type Tried = std::result::Result<Way, Refusal>;

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn try_ring(dir: &Path, volume: &Volume) -> Result<Tried> {
    match volume.read_only {
        Some(kind) => Ok(Err(not_writable(kind))),
        None => ring::attempt(Way::Uring, dir, volume),
    }
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
fn try_ring(_: &Path, volume: &Volume) -> Result<Tried> {
    Ok(Err(match volume.read_only {
        Some(kind) => not_writable(kind),
        None => Refusal::new(BackendReason::Kernel, "io_uring needs Linux and a build for it"),
    }))
}

fn try_mapping(dir: &Path, volume: &Volume) -> Result<Tried> {
    match volume.read_only {
        // The error of the first file that is opened for writing says more than a refusal.
        Some(_) => Ok(Ok(Way::Mmap)),
        None => mapping::attempt(dir, volume),
    }
}

fn not_writable(kind: Kind) -> Refusal {
    Refusal::new(BackendReason::Filesystem, format!("make the directory writable ({kind})"))
}

/// Whether there is only no room: then nothing is known of the backend, and nothing against it.
fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge)
}
