//! A trial of io_uring: a scratch file is written, synced and read back through a queue on it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::libc;

use super::refusal::{Evidence, Refusal, of_ring};
use super::{BackendReason, Tried, is_full};
use crate::error::{Error, Result};
use crate::io::os::{OsDisk, OsFile, Volume, Way, nearest_directory, scratch, set_direct};
use crate::io::threads::own;
use crate::io::{Buf, Completion, Disk, FileRef, Op, Queue, Until};

/// What kept a step of the trial from working.
enum Trouble {
    /// The ring itself, by this errno.
    Ring(io::Error),
    /// The file under it.
    File(io::Error),
}

/// Makes a queue of `way` and sends a scratch file in `dir`, or in its nearest parent, through it.
pub(super) fn attempt(way: Way, dir: &Path, volume: &Volume) -> Result<Tried> {
    let failed = |e| Error::io("probe", dir, None, e);
    let file = match nearest_directory(dir).and_then(|dir| scratch(&dir)) {
        Ok(file) => Some(file),
        Err(e) if is_full(&e) => None,
        Err(e) => return Err(failed(e)),
    };
    let file = match file {
        None => None,
        Some(file) => {
            if volume.takes_direct {
                set_direct(&file).map_err(failed)?;
            }
            let direct = volume.takes_direct.then_some(volume.block);
            let file: FileRef = Arc::new(OsFile::around(dir, file, direct, &Arc::default()));
            Some(file)
        }
    };
    match round_trip(way, volume, file.as_ref()) {
        Ok(()) => Ok(Ok(way)),
        Err(Trouble::File(e)) if is_full(&e) => Ok(Ok(way)),
        Err(Trouble::File(e)) => Err(failed(e)),
        Err(Trouble::Ring(e)) => match e.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Err(failed(e)),
            // Said without a ring too: it is the file system's word.
            Some(code) if file.is_some_and(|f| positional(&f, volume) == Some(code)) => {
                let remedy = format!("put the log on a file system that takes such writes ({e})");
                Ok(Err(Refusal::new(BackendReason::Filesystem, remedy)))
            }
            _ => Ok(Err(of_ring(&e, &Evidence::gather()))),
        },
    }
}

/// Write, sync and read through a ring; without a file, only what wakes it.
fn round_trip(
    way: Way,
    volume: &Volume,
    file: Option<&FileRef>,
) -> std::result::Result<(), Trouble> {
    const BYTE: u8 = 0xa5;
    let mut buf = Buf::zeroed(volume.block, volume.block);
    buf.bytes_mut().expect("just made").fill(BYTE);
    let disk = OsDisk::new(way, volume.clone());
    let mut queue = disk.queue(1, std::slice::from_ref(&buf)).map_err(Trouble::Ring)?;
    queue.waker().wake();
    queue.reap(&mut Vec::new(), Until::Forever).map_err(Trouble::Ring)?;
    let Some(file) = file else { return Ok(()) };
    let mut step = |op| one(&mut *queue, op);
    let written = step(Op::Write { file: Arc::clone(file), at: 0, buf, dsync: true })?;
    let len = written.result.map_err(sort)?;
    step(Op::Sync { file: Arc::clone(file) })?.result.map_err(sort)?;
    let buf = Buf::zeroed(volume.block, volume.block);
    let read = step(Op::Read { file: Arc::clone(file), at: 0, buf })?;
    let same = read.result.map_err(sort)? == len
        && read.buf.is_some_and(|b| b.bytes()[..len].iter().all(|&byte| byte == BYTE));
    if same {
        return Ok(());
    }
    Err(Trouble::File(io::Error::other("what was written was not read back")))
}

/// The errno of the same write and sync by plain calls; none if they work.
fn positional(file: &FileRef, volume: &Volume) -> Option<i32> {
    let buf = Buf::zeroed(volume.block, volume.block);
    let done = own(file).and_then(|f| f.write_once(0, buf.bytes(), true).and_then(|_| f.sync()));
    done.err()?.raw_os_error()
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
