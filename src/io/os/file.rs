//! An open regular file of a real directory tree, and the one way in which it is opened.
//!
//! Where the file system takes O_DIRECT a file opened for writing has one descriptor for plain
//! writes, reads and syncs; the `pwrite` backend adds one opened O_DSYNC as well, because a
//! positional write can't ask for it request by request as a ring can. Elsewhere a durable write is
//! a write and then a sync, and each I/O thread has an open file description of its own: of two
//! syncs at once on one description one takes the other's error.
//!
//! Invariant: at most one sync is in flight per open file description (`Lane::turn`); a ring, which
//! can't wait for a turn, holds to it by itself and has its files to itself.

use std::any::Any;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::{Volume, Way};
use crate::io::pwrite::THREADS;
use crate::io::{Access, File};

/// An open file description, and the right to sync through it.
#[derive(Debug)]
struct Lane {
    file: fs::File,
    turn: Mutex<()>,
}

/// An open regular file.
#[derive(Debug)]
pub(in crate::io) struct OsFile {
    path: PathBuf,
    /// Never given to another file of this process, unlike a descriptor or an address.
    serial: u64,
    /// The unit of offsets and lengths, where the page cache is bypassed.
    direct: Option<usize>,
    /// Never empty; the first serves all but the I/O threads' syncs.
    lanes: Vec<Lane>,
    dsync: Option<fs::File>,
}

impl OsFile {
    pub(super) fn open(
        path: &Path,
        access: Access,
        way: Way,
        volume: &Volume,
    ) -> io::Result<OsFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(access == Access::Write);
        let direct = volume.takes_direct && access != Access::Cached;
        let main = open_regular(path, &mut options, direct_flag(direct))?;
        let file = OsFile::around(path, main, direct.then_some(volume.block));
        if access == Access::Write { file.equipped(way) } else { Ok(file) }
    }

    pub(super) fn create(path: &Path, way: Way, volume: &Volume) -> io::Result<OsFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let direct = volume.takes_direct;
        let main = open_regular(path, &mut options, direct_flag(direct))?;
        OsFile::around(path, main, direct.then_some(volume.block)).equipped(way)
    }

    /// The file behind `main`, with `direct` as the unit if it was opened O_DIRECT.
    pub(in crate::io) fn around(path: &Path, main: fs::File, direct: Option<usize>) -> OsFile {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        OsFile {
            path: path.to_path_buf(),
            // A counter: only its distinctness matters.
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            direct,
            lanes: vec![Lane { file: main, turn: Mutex::new(()) }],
            dsync: None,
        }
    }

    /// Adds the descriptors that `way` writes through. At once, because later the file may have
    /// another name.
    fn equipped(mut self, way: Way) -> io::Result<OsFile> {
        if way != Way::Pwrite {
            return Ok(self);
        }
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        if self.direct.is_some() {
            let flags = direct_flag(true) | libc::O_DSYNC;
            self.dsync = Some(self.again(&mut options, flags)?);
            return Ok(self);
        }
        while self.lanes.len() < THREADS {
            let file = self.again(&mut options, 0)?;
            self.lanes.push(Lane { file, turn: Mutex::new(()) });
        }
        Ok(self)
    }

    /// Another open file description of this very file.
    fn again(&self, options: &mut fs::OpenOptions, flags: i32) -> io::Result<fs::File> {
        let file = open_regular(&self.path, options, flags)?;
        let (ours, theirs) = (self.main().metadata()?, file.metadata()?);
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(file);
        }
        Err(io::Error::other("the file was replaced while it was opened"))
    }

    pub(super) fn set_size(&self, size: u64) -> io::Result<()> {
        self.main().set_len(size)
    }

    /// The descriptor for plain writes and for reads.
    pub(in crate::io) fn main(&self) -> &fs::File {
        &self.lanes[0].file
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
        lane: usize,
        at: u64,
        bytes: &[u8],
        dsync: bool,
    ) -> io::Result<usize> {
        match (&self.dsync, dsync) {
            (Some(file), true) => file.write_at(bytes, at),
            (_, false) => self.main().write_at(bytes, at),
            (None, true) => {
                let written = self.lane(lane).file.write_at(bytes, at)?;
                if written == bytes.len() {
                    self.sync(lane)?;
                }
                Ok(written)
            }
        }
    }

    /// Makes durable what was written before, on an I/O thread.
    pub(in crate::io) fn sync(&self, lane: usize) -> io::Result<()> {
        let lane = self.lane(lane);
        let _turn = lane.turn.lock().unwrap_or_else(PoisonError::into_inner);
        lane.file.sync_data()
    }

    fn lane(&self, lane: usize) -> &Lane {
        &self.lanes[lane % self.lanes.len()]
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
            match self.main().read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

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
