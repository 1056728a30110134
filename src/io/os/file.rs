//! An open regular file of a real directory tree, and the one way in which it is opened.
//!
//! | backend | opened for writing | equipped with |
//! |---|---|---|
//! | `uring` | O_DIRECT where it can be | - |
//! | `pwrite`, `tokio-uring` | O_DIRECT where it can be | a second descriptor, O_DSYNC |
//! | `pwrite`, no O_DIRECT | through the page cache | - |
//! | `mmap` | through the page cache | a mapping |
//!
//! Through the page cache one sync is in flight at a time: I/O threads join (`group_sync`), a ring
//! and a runtime hold to it by themselves.

use std::any::Any;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::{Volume, Way, uninterrupted};
use crate::io::calls::{Call, Counter};
use crate::io::mmap::{Mapping, POPULATES};
use crate::io::pwrite::Descriptors;
use crate::io::{Access, File};

/// An open regular file.
#[derive(Debug)]
pub(in crate::io) struct OsFile {
    path: PathBuf,
    /// Never given to another file of this process, unlike a descriptor or an address.
    #[cfg_attr(
        not(all(target_os = "linux", not(prkdb_portable))),
        expect(dead_code, reason = "rings alone know files by it")
    )]
    serial: u64,
    /// The unit of offsets and lengths, where the page cache is bypassed.
    direct: Option<usize>,
    descriptors: Descriptors,
    mapping: Option<Mapping>,
    counter: Arc<Counter>,
}

impl OsFile {
    pub(super) fn open(
        path: &Path,
        access: Access,
        way: Way,
        volume: &Volume,
        counter: &Arc<Counter>,
    ) -> io::Result<OsFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(access == Access::Write);
        let direct = match access {
            Access::Cached => false,
            Access::Direct => volume.takes_direct,
            Access::Write => volume.takes_direct && way.writes_direct(),
        };
        let main = open_regular(path, &mut options, direct_flag(direct))?;
        let file = OsFile::around(path, main, direct.then_some(volume.block), counter);
        if access == Access::Write { file.equipped(way, volume, true) } else { Ok(file) }
    }

    pub(super) fn create(
        path: &Path,
        size: u64,
        way: Way,
        volume: &Volume,
        counter: &Arc<Counter>,
    ) -> io::Result<OsFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let direct = volume.takes_direct && way.writes_direct();
        let main = open_regular(path, &mut options, direct_flag(direct))?;
        let direct = direct.then_some(volume.block);
        let made = main.set_len(size).and_then(|()| {
            // Elsewhere than on Linux this is where a full disk is met.
            #[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
            super::allocate(&main, size)?;
            OsFile::around(path, main, direct, counter).equipped(way, volume, POPULATES)
        });
        if made.is_err() {
            // The name is ours, made a moment ago; the first error is the one worth telling.
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "an unfinished file stays");
            }
        }
        made
    }

    /// The file behind `main`, with `direct` as the unit if it was opened O_DIRECT.
    pub(in crate::io) fn around(
        path: &Path,
        main: fs::File,
        direct: Option<usize>,
        counter: &Arc<Counter>,
    ) -> OsFile {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        OsFile {
            path: path.to_path_buf(),
            // A counter: only its distinctness matters.
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            direct,
            descriptors: Descriptors::of(main),
            mapping: None,
            counter: Arc::clone(counter),
        }
    }

    /// Adds what `way` writes through, a mapping if it `may_map`. At once, because later the file
    /// may have another name.
    fn equipped(mut self, way: Way, volume: &Volume, may_map: bool) -> io::Result<OsFile> {
        let by_threads = matches!(way, Way::Pwrite | Way::Mmap);
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        let by_threads = by_threads || way == Way::TokioUring;
        if by_threads && self.direct.is_some() {
            let forced = self.again(direct_flag(true) | libc::O_DSYNC)?;
            self.descriptors.set_forced(forced);
        }
        if way == Way::Mmap && may_map && !volume.copies_on_write {
            self.mapping = Mapping::of(self.main(), &self.counter).unwrap_or_else(|error| {
                // No address space, as a rule.
                tracing::debug!(%error, path = %self.path.display(), "written by position");
                None
            });
        }
        Ok(self)
    }

    /// Another open file description of this very file.
    fn again(&self, flags: i32) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        let file = open_regular(&self.path, options.read(true).write(true), flags)?;
        let (ours, theirs) = (self.main().metadata()?, file.metadata()?);
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(file);
        }
        Err(io::Error::other("the file was replaced while it was opened"))
    }

    /// The descriptor for plain writes and for reads.
    pub(in crate::io) fn main(&self) -> &fs::File {
        self.descriptors.main()
    }

    /// The descriptor whose writes are durable when they return, if there is one.
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    pub(in crate::io) fn forced(&self) -> Option<&fs::File> {
        self.descriptors.forced()
    }

    /// What came of syncs so far: the first failure is final.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(in crate::io) fn syncs(&self) -> &crate::io::group_sync::GroupSync {
        self.descriptors.syncs()
    }

    /// Distinct for each open file of this process, for good.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(in crate::io) fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether reads and writes bypass the page cache.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(in crate::io) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Whether a read that got `len` bytes so far can only have ended at the end of the file: a
    /// direct read can't even be continued there.
    pub(in crate::io) fn ends_at(&self, len: usize) -> bool {
        self.direct.is_some_and(|unit| !len.is_multiple_of(unit))
    }

    /// One write on an I/O thread, durable if `dsync` and its whole length came back.
    pub(in crate::io) fn write_once(
        &self,
        at: u64,
        bytes: &[u8],
        dsync: bool,
    ) -> io::Result<usize> {
        let counter = &*self.counter;
        let Some(mapping) = &self.mapping else {
            return self.descriptors.write(at, bytes, dsync, counter);
        };
        if !mapping.store(at, bytes, counter) {
            let written = self.descriptors.write(at, bytes, false, counter)?;
            if written < bytes.len() {
                return Ok(written);
            }
        }
        if dsync {
            self.sync()?;
        }
        Ok(bytes.len())
    }

    /// Makes durable what was written before.
    pub(in crate::io) fn sync(&self) -> io::Result<()> {
        let counter = &*self.counter;
        let flush = || self.mapping.as_ref().map_or(Ok(()), |mapping| mapping.flush(counter));
        self.descriptors.sync(flush, counter)
    }
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> io::Result<u64> {
        self.main().metadata().map(|m| m.len())
    }

    fn links(&self) -> io::Result<u64> {
        self.main().metadata().map(|m| m.nlink())
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() && !self.ends_at(done) {
            self.counter.add(Call::Read);
            match uninterrupted(|| self.main().read_at(&mut buf[done..], at + done as u64))? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn will_need(&self, at: u64, len: u64) {
        if self.direct.is_none() {
            will_need(self.main(), at, len);
        }
    }

    fn wont_need(&self) {
        if self.direct.is_some() {
            wont_need(self.main());
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn will_need(file: &fs::File, at: u64, len: u64) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    // Of one request the kernel reads no more than the device takes at once or its readahead is,
    // whichever is more, and drops the rest: 128 KiB is the least that either usually is.
    const PIECE: u64 = 128 << 10;
    for from in (at..at.saturating_add(len)).step_by(crate::cast::len(PIECE)) {
        let count = PIECE.min(at + len - from);
        let (Ok(from), Ok(count)) = (i64::try_from(from), i64::try_from(count)) else { return };
        // Advice that is not taken costs time and nothing else.
        posix_fadvise(file, from, count, PosixFadviseAdvice::POSIX_FADV_WILLNEED).ok();
    }
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
fn will_need(_file: &fs::File, _at: u64, _len: u64) {}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn wont_need(file: &fs::File) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    // All of it: a length of 0 is the rest of the file.
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).ok();
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
fn wont_need(_file: &fs::File) {}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn direct_flag(direct: bool) -> i32 {
    if direct { libc::O_DIRECT } else { 0 }
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
fn direct_flag(_: bool) -> i32 {
    0
}

/// Opens a regular file and nothing else: no link is followed, a FIFO does not block.
pub(in crate::io) fn open_regular(
    path: &Path,
    options: &mut fs::OpenOptions,
    flags: i32,
) -> io::Result<fs::File> {
    let refused = || io::Error::new(ErrorKind::InvalidInput, "not a regular file");
    let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match options.custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) => {
            let odd = [libc::ELOOP, libc::EMLINK, libc::ENXIO, libc::EISDIR, libc::ENODEV];
            let is_odd = e.raw_os_error().is_some_and(|errno| odd.contains(&errno));
            return Err(if is_odd { refused() } else { e });
        }
    };
    if !file.metadata()?.is_file() {
        return Err(refused());
    }
    // Its work is done; on a regular file some kernels take it as "fail rather than wait".
    let set = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(set - OFlag::O_NONBLOCK))?;
    Ok(file)
}
