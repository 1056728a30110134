//! One request on its way through the ring: what it asks for next, and what an answer means.
//!
//! ```text
//!   Write ------ direct: with RWF_DSYNC if durable -------------------> answer
//!         \----- through the page cache: full length --> Sync --------> answer
//!   Read  --> short, not at the end of the file --> the rest, Read --> answer
//!   Sync  --> ECANCELED: no worker could be had --> fdatasync(2) ----> answer
//! ```

use std::io;

use io_uring::{opcode, squeue, types};
use nix::libc;

use super::buffers::Registered;
use super::files::Place;
use crate::io::os::OsFile;
use crate::io::threads::own;
use crate::io::{Buf, FileRef, OpId};

/// The most bytes of one entry: its result is an `i32`.
const MOST_BYTES: usize = 1 << 30;

/// What a request is about to do, or doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Writing; with `dsync` it is answered when durable.
    Write { dsync: bool },
    /// Reading what comes after the first `done` bytes.
    Read { done: usize },
    /// Syncing; `answer` bytes were written by it before.
    Sync { answer: usize },
}

/// A request from `submit` to its answer.
pub(super) struct Request {
    pub(super) id: OpId,
    /// A file of a real disk: `submit` answers others at once.
    pub(super) file: FileRef,
    pub(super) at: u64,
    pub(super) buf: Option<Buf>,
    pub(super) stage: Stage,
    pub(super) place: Place,
}

/// Builds an entry for a file by slot or by descriptor: two types to the crate.
macro_rules! entry {
    ($place:expr, |$fd:ident| $op:expr) => {
        match $place {
            Place::Slot(slot) => {
                let $fd = types::Fixed(slot);
                $op.build()
            }
            Place::Plain(fd) => {
                let $fd = types::Fd(fd);
                $op.build()
            }
        }
    };
}

impl Request {
    pub(super) fn file(&self) -> &OsFile {
        own(&self.file).expect("seen by submit")
    }

    /// The file's serial number, if this is a sync through the page cache, which must wait for its
    /// turn.
    pub(super) fn sync_through_cache(&self) -> Option<u64> {
        let file = self.file();
        let waits = matches!(self.stage, Stage::Sync { .. }) && !file.is_direct();
        waits.then(|| file.serial())
    }

    /// The entry for the present stage.
    pub(super) fn prepare(&mut self, buffers: &Registered) -> squeue::Entry {
        let (place, at, direct) = (self.place, self.at, self.file().is_direct());
        match (self.stage, &mut self.buf) {
            (Stage::Write { dsync }, Some(buf)) => {
                let (start, len) = (buf.bytes().as_ptr(), entry_len(buf.len()));
                let flags = if dsync && direct { libc::RWF_DSYNC } else { 0 };
                match buffers.index(buf) {
                    Some(index) => entry!(place, |fd| {
                        opcode::WriteFixed::new(fd, start, len, index).offset(at).rw_flags(flags)
                    }),
                    None => entry!(place, |fd| {
                        opcode::Write::new(fd, start, len).offset(at).rw_flags(flags)
                    }),
                }
            }
            (Stage::Read { done }, Some(buf)) => {
                let rest = &mut buf.bytes_mut().expect("alone, seen by submit")[done..];
                let (start, len) = (rest.as_mut_ptr(), entry_len(rest.len()));
                let at = at + done as u64;
                entry!(place, |fd| opcode::Read::new(fd, start, len).offset(at))
            }
            (Stage::Sync { .. }, _) => {
                let flags = types::FsyncFlags::DATASYNC;
                entry!(place, |fd| opcode::Fsync::new(fd).flags(flags))
            }
            (Stage::Write { .. } | Stage::Read { .. }, None) => unreachable!("both carry a buffer"),
        }
    }

    /// Takes the present stage's result: the answer, or none if there is a next stage.
    pub(super) fn advance(&mut self, result: i32) -> Option<io::Result<usize>> {
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        let len = self.buf.as_ref().map_or(0, Buf::len);
        match (self.stage, result) {
            (Stage::Write { dsync: true }, Ok(n)) if n == len && !self.file().is_direct() => {
                self.stage = Stage::Sync { answer: n };
                None
            }
            (Stage::Read { done }, Ok(n)) => {
                let all = done + n;
                if n == 0 || all >= len || self.file().ends_at(all) {
                    return Some(Ok(all));
                }
                self.stage = Stage::Read { done: all };
                None
            }
            (Stage::Sync { answer }, Ok(_)) => Some(Ok(answer)),
            // Nothing was synced yet, so this is no second try.
            (Stage::Sync { answer }, Err(e)) if e.raw_os_error() == Some(libc::ECANCELED) => {
                Some(self.file().sync().map(|()| answer))
            }
            (_, result) => Some(result),
        }
    }
}

/// The length of an entry for `len` bytes; what it leaves is a short count.
fn entry_len(len: usize) -> u32 {
    u32::try_from(len.min(MOST_BYTES)).expect("a limit below 4 GiB")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::io::calls::Counter;

    /// A sync of `file` after a write of 4096 bytes, as the kernel answers when it has no worker.
    fn canceled(file: &FileRef) -> io::Result<usize> {
        let (stage, place) = (Stage::Sync { answer: 4096 }, Place::Slot(0));
        let id = OpId(1);
        let mut request = Request { id, file: Arc::clone(file), at: 0, buf: None, stage, place };
        request.advance(-libc::ECANCELED).expect("there is no stage after it")
    }

    fn opened(path: &Path) -> (FileRef, Arc<Counter>) {
        let file = fs::File::options().read(true).write(true).open(path).expect("it is there");
        let counter = Arc::default();
        (Arc::new(OsFile::around(path, file, None, &counter)), counter)
    }

    #[test]
    fn a_sync_that_found_no_worker_is_one_plain_sync() {
        let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
        let (file, counter) = opened(scratch.path());
        assert_eq!(canceled(&file).expect("a file syncs"), 4096);
        assert_eq!(counter.calls().syncs, 1);
    }

    #[test]
    fn a_plain_sync_that_fails_is_never_believed_later() {
        // Nothing syncs there (EINVAL).
        let (file, counter) = opened(Path::new("/dev/null"));
        let failed = canceled(&file).expect_err("it can't be synced");
        assert_eq!(failed.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(counter.calls().syncs, 1, "a failed sync is not tried again");
        // From now on its descriptor is one of a file that syncs.
        let healthy = tempfile::tempfile().expect("a scratch file");
        let ours = own(&file).expect("made above").main().as_raw_fd();
        // SAFETY: `ours` stays open and owned by `file`; only what it refers to changes.
        #[expect(unsafe_code, reason = "a file is replaced below its owner")]
        let replaced = unsafe { libc::dup2(healthy.as_raw_fd(), ours) };
        assert_eq!(replaced, ours);
        nix::unistd::fdatasync(own(&file).expect("made above").main()).expect("it syncs now");
        let again = canceled(&file).expect_err("the first failure is final");
        assert_eq!(again.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(counter.calls().syncs, 1, "a sync after a failed one proves nothing");
    }

    #[test]
    fn any_other_failure_of_a_sync_is_the_answer() {
        let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
        let (file, counter) = opened(scratch.path());
        for errno in [libc::EIO, libc::ENOSPC, libc::EINTR] {
            let (stage, place) = (Stage::Sync { answer: 0 }, Place::Slot(0));
            let (id, file) = (OpId(1), Arc::clone(&file));
            let mut request = Request { id, file, at: 0, buf: None, stage, place };
            let answer = request.advance(-errno).expect("there is no stage after it");
            assert_eq!(answer.expect_err("it failed").raw_os_error(), Some(errno));
        }
        assert_eq!(counter.calls().syncs, 0);
    }
}
