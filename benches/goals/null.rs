//! A disk that swallows writes: what is left of an append is what the CPU does.
//!
//! ```text
//! writes, syncs --> answered at the next reap     reads, names, waiting --> the disk beneath
//! ```
//!
//! Files are made and have their sizes, but nothing is ever in them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use prkdb_core::io::{
    Access, Buf, Completion, Disk, Entry, FileRef, LockGuard, Op, OpId, Queue, Until,
};

/// Swallows what is written to `0`.
#[derive(Debug)]
pub struct Null(pub Arc<dyn Disk>);

impl Disk for Null {
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef> {
        self.0.open(path, access)
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef> {
        self.0.create(path, size)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(dir)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        self.0.lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.0.is_locked(path)
    }

    fn space(&self, dir: &Path) -> io::Result<u64> {
        self.0.space(dir)
    }

    fn block_size(&self) -> usize {
        self.0.block_size()
    }

    fn direct(&self) -> bool {
        self.0.direct()
    }

    fn queue(&self, depth: usize, register: &[Buf]) -> io::Result<Box<dyn Queue>> {
        let beneath = self.0.queue(depth, register)?;
        Ok(Box::new(Swallowing { beneath, answers: Vec::new(), last: OURS }))
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }
}

/// Ids from here on are not of the queue beneath.
const OURS: u64 = 1 << 63;

struct Swallowing {
    beneath: Box<dyn Queue>,
    answers: Vec<Completion>,
    last: u64,
}

impl Queue for Swallowing {
    fn submit(&mut self, op: Op) -> OpId {
        let (result, buf) = match op {
            Op::Read { .. } => return self.beneath.submit(op),
            Op::Write { buf, .. } => (Ok(buf.len()), Some(buf)),
            Op::Sync { .. } => (Ok(0), None),
        };
        self.last += 1;
        let id = OpId(self.last);
        self.answers.push(Completion { id, result, buf });
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        if self.answers.is_empty() {
            return self.beneath.reap(out, until);
        }
        out.append(&mut self.answers);
        match self.beneath.in_flight() {
            0 => Ok(()),
            _ => self.beneath.reap(out, Until::Now),
        }
    }

    fn waker(&self) -> Waker {
        self.beneath.waker()
    }

    fn release(&mut self, file: &FileRef) {
        self.beneath.release(file);
    }

    fn in_flight(&self) -> usize {
        self.answers.len() + self.beneath.in_flight()
    }
}
