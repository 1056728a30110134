//! What the file system under a log can do, found by trial in the log's directory.
//!
//! A scratch file without a name is written past the page cache with growing alignment. What the
//! file system says about itself is not asked for: it is often not implemented, or wrong. Its kind
//! is, where a trial shows nothing: it copies on write, or a server behind FUSE does the work.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
use super::uninterrupted;
use crate::io::buf::page_size;

/// The coarsest alignment that is tried, bytes.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
const COARSEST: u64 = 64 << 10;

/// Properties of the file system.
#[derive(Clone, Debug)]
pub(in crate::io) struct Volume {
    /// The greatest of 4096, the page, and what direct I/O wants, bytes.
    pub(in crate::io) block: usize,
    /// Whether files may be opened O_DIRECT.
    pub(in crate::io) takes_direct: bool,
    /// Whether an overwrite goes to a new place; then a direct read proves nothing about the old.
    pub(in crate::io) copies_on_write: bool,
    /// Whether a server in user space does the work.
    pub(in crate::io) is_served: bool,
    /// No scratch file could be made for want of space: the rest is not known.
    pub(in crate::io) untried: bool,
    /// Why no scratch file could be written, if that is so: a read-only or foreign directory.
    pub(in crate::io) read_only: Option<ErrorKind>,
}

impl Volume {
    /// Tries the file system of `dir`, or of its nearest parent that exists.
    pub(in crate::io) fn of(dir: &Path) -> io::Result<Volume> {
        let dir = nearest_directory(dir)?;
        let mut volume = Volume {
            block: page_size().max(4096),
            takes_direct: false,
            copies_on_write: copies_on_write(&dir)?,
            is_served: is_fuse(&dir)?,
            untried: false,
            read_only: None,
        };
        match scratch(&dir) {
            Ok(file) => volume.try_direct(&file)?,
            Err(e) => match e.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    volume.read_only = Some(e.kind());
                }
                // Not even an inode is left.
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    volume.untried = !volume.try_direct_reading(&dir)?;
                }
                _ => return Err(e),
            },
        }
        volume.takes_direct &= !volume.is_served;
        Ok(volume)
    }

    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    fn try_direct(&mut self, file: &fs::File) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.find_unit(file, |buf, at| file.write_at(buf, at))
    }

    /// Tries a file that is there, without changing it; false if there is none to try.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    fn try_direct_reading(&mut self, dir: &Path) -> io::Result<bool> {
        use std::os::unix::fs::FileExt;
        let large = |path: &PathBuf| {
            fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > COARSEST)
        };
        let paths = fs::read_dir(dir)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut files = paths.filter(large).filter_map(|path| {
            super::open_regular(&path, fs::OpenOptions::new().read(true), 0).ok()
        });
        let Some(file) = files.next() else { return Ok(false) };
        self.find_unit(&file, |buf, at| file.read_at(buf, at))?;
        Ok(true)
    }

    /// Turns O_DIRECT on and calls with growing alignment until it is taken.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    fn find_unit(
        &mut self,
        file: &fs::File,
        call: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        if !set_direct(file)? {
            return Ok(());
        }
        let mut unit = self.block;
        while unit as u64 <= COARSEST {
            // One unit further than the start, at an address that is no multiple of more.
            let mut buf = crate::io::Buf::zeroed(unit * 3, unit * 2);
            let bytes = &mut buf.bytes_mut().expect("just allocated")[unit..2 * unit];
            match uninterrupted(|| call(bytes, unit as u64)).map_err(|e| (e.kind(), e)) {
                Ok(_) => {}
                // Alignment is checked before space is sought.
                Err((
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge,
                    _,
                )) => {}
                Err((ErrorKind::InvalidInput, _)) => {
                    unit *= 2;
                    continue;
                }
                Err((_, e)) => return Err(e),
            }
            (self.takes_direct, self.block) = (true, unit);
            break;
        }
        Ok(())
    }

    #[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
    fn try_direct(&mut self, _: &fs::File) -> io::Result<()> {
        Ok(())
    }

    /// There is nothing to find out.
    #[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
    fn try_direct_reading(&mut self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

/// `dir`, or its nearest parent that exists as a directory.
pub(in crate::io) fn nearest_directory(dir: &Path) -> io::Result<PathBuf> {
    for candidate in dir.ancestors() {
        let candidate = if candidate.as_os_str().is_empty() { Path::new(".") } else { candidate };
        match fs::metadata(candidate) {
            Ok(found) if found.is_dir() => return Ok(candidate.to_path_buf()),
            Ok(_) => return Err(ErrorKind::NotADirectory.into()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(PathBuf::from("."))
}

/// How the names of scratch files start.
const SCRATCH: &str = ".prkdb-scratch-";

/// Whether this is the name of a scratch file that a killed process left.
pub(crate) fn is_scratch(name: &str) -> bool {
    name.starts_with(SCRATCH)
}

/// A file without a name, opened for reading and writing through the page cache.
pub(in crate::io) fn scratch(dir: &Path) -> io::Result<fs::File> {
    match unnamed(dir) {
        Err(e) if e.kind() == ErrorKind::Unsupported => made_and_unlinked(dir),
        other => other,
    }
}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn unnamed(dir: &Path) -> io::Result<fs::File> {
    use nix::libc::{EISDIR, ENOENT, EOPNOTSUPP, O_TMPFILE};
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(O_TMPFILE).mode(0o600);
    options.open(dir).map_err(|e| match e.raw_os_error() {
        // The file system can't, or a kernel that ignores the flag tries to open the directory.
        Some(EOPNOTSUPP | EISDIR | ENOENT) => ErrorKind::Unsupported.into(),
        _ => e,
    })
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
fn unnamed(_: &Path) -> io::Result<fs::File> {
    Err(ErrorKind::Unsupported.into())
}

fn made_and_unlinked(dir: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // A counter: only its distinctness matters.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("{SCRATCH}{}-{number}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Turns O_DIRECT on; false if the file system has no such thing.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
pub(in crate::io) fn set_direct(file: &fs::File) -> io::Result<bool> {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let set = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    match fcntl(file, FcntlArg::F_SETFL(set | OFlag::O_DIRECT)) {
        Ok(_) => Ok(true),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(target_os = "linux")]
fn copies_on_write(dir: &Path) -> io::Result<bool> {
    const BTRFS: i64 = 0x9123_683e;
    const BCACHEFS: i64 = 0xca45_1a4e;
    const ZFS: i64 = 0x2fc1_2fc1;
    const NILFS: i64 = 0x3434;
    Ok([BTRFS, BCACHEFS, ZFS, NILFS].map(Some).contains(&magic(dir)?))
}

/// Whether a server in user space does the work (virtiofs too). There O_DIRECT on a ring is not
/// what it is elsewhere (seen on Linux 6.18): a write that is to be durable comes to the server as
/// a flag that few look at, and no sync follows; what a server writes short the kernel completes at
/// the wrong offset, and reports as whole. Behind the server is another page cache anyway.
#[cfg(target_os = "linux")]
fn is_fuse(dir: &Path) -> io::Result<bool> {
    Ok(magic(dir)? == Some(0x6573_5546))
}

#[cfg(not(target_os = "linux"))]
fn is_fuse(_: &Path) -> io::Result<bool> {
    Ok(false)
}

/// What kind of file system it is; its type differs between C libraries.
#[cfg(target_os = "linux")]
fn magic(dir: &Path) -> io::Result<Option<i64>> {
    Ok(widened(nix::sys::statfs::statfs(dir)?.filesystem_type().0))
}

#[cfg(target_os = "linux")]
fn widened(kind: impl TryInto<i64>) -> Option<i64> {
    kind.try_into().ok()
}

/// APFS overwrites in place unless a snapshot or a clone shares the blocks, which is not seen here.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
fn copies_on_write(dir: &Path) -> io::Result<bool> {
    Ok(nix::sys::statfs::statfs(dir)?.filesystem_type_name() == "zfs")
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple", target_os = "freebsd")))]
fn copies_on_write(_: &Path) -> io::Result<bool> {
    Ok(false)
}
