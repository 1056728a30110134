//! A disk that kills its own process at the n-th call of one kind, just before or just after it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use nix::sys::signal::{Signal, raise};
use prkdb_core::io::{
    Access, Buf, Completion, Disk, Entry, FileRef, LockGuard, Op, OpId, Queue, Until,
};

/// Kinds of calls. `new-..` is of a segment that has no number yet.
pub const STEPS: [&str; 14] = [
    "create-dir",
    "lock",
    "create",
    "rename",
    "unlink",
    "sync-dir",
    "meta-write",
    "meta-sync",
    "new-write",
    "new-sync",
    "frame",
    "footer",
    "segment-sync",
    "queue",
];

/// Where the process is to end, and how far it is.
#[derive(Debug)]
pub struct Steps {
    step: String,
    before: bool,
    /// The call that is the last.
    n: u64,
    calls: Mutex<BTreeMap<(&'static str, bool), u64>>,
}

impl Steps {
    pub fn new(step: &str, before: bool, n: u64) -> Steps {
        Steps { step: step.into(), before, n, calls: Mutex::default() }
    }

    fn meet(&self, step: &'static str, before: bool) {
        let mut calls = self.calls.lock().unwrap();
        let count = calls.entry((step, before)).or_default();
        *count += 1;
        if step == self.step && before == self.before && *count == self.n {
            raise(Signal::SIGKILL).unwrap();
        }
    }

    /// How many calls of each kind there were.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|((_, before), _)| !before).map(|((s, _), n)| (*s, *n)).collect()
    }

    fn around<T>(&self, step: &'static str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.meet(step, true);
        let done = call();
        self.meet(step, false);
        done
    }
}

#[derive(Debug)]
pub struct Stepping {
    pub disk: Arc<dyn Disk>,
    pub steps: Arc<Steps>,
}

impl Disk for Stepping {
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef> {
        self.disk.open(path, access)
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef> {
        self.steps.around("create", || self.disk.create(path, size))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.steps.around("create-dir", || self.disk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.steps.around("rename", || self.disk.rename(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.steps.around("unlink", || self.disk.unlink(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.steps.around("sync-dir", || self.disk.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        self.steps.around("lock", || self.disk.lock(path))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_locked(path)
    }

    fn space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.space(dir)
    }

    fn block_size(&self) -> usize {
        self.disk.block_size()
    }

    fn direct(&self) -> bool {
        self.disk.direct()
    }

    fn queue(&self, depth: usize, register: &[Buf]) -> io::Result<Box<dyn Queue>> {
        let inner = self.steps.around("queue", || self.disk.queue(depth, register))?;
        let (steps, asked) = (Arc::clone(&self.steps), Vec::new());
        Ok(Box::new(SteppingQueue { inner, steps, asked }))
    }

    fn name(&self) -> &'static str {
        self.disk.name()
    }
}

struct SteppingQueue {
    inner: Box<dyn Queue>,
    steps: Arc<Steps>,
    /// What is in flight.
    asked: Vec<(OpId, &'static str)>,
}

/// The kind of a request; none of a read.
fn step(op: &Op) -> Option<&'static str> {
    let (file, end) = match op {
        Op::Write { file, at, buf, .. } => (file, Some(at + buf.len() as u64)),
        Op::Sync { file } => (file, None),
        Op::Read { .. } => return None,
    };
    let name = file.path().file_name().unwrap().to_str().unwrap();
    Some(match (name, end) {
        ("META" | "META.tmp", Some(_)) => "meta-write",
        ("META" | "META.tmp", None) => "meta-sync",
        // The footer is the last block.
        (_, Some(end)) if name.ends_with(".seg") => match file.size() {
            Ok(size) if size == end => "footer",
            _ => "frame",
        },
        (_, None) if name.ends_with(".seg") => "segment-sync",
        (_, Some(_)) => "new-write",
        (_, None) => "new-sync",
    })
}

impl Queue for SteppingQueue {
    fn submit(&mut self, op: Op) -> OpId {
        let step = step(&op);
        if let Some(step) = step {
            self.steps.meet(step, true);
        }
        let id = self.inner.submit(op);
        self.asked.extend(step.map(|step| (id, step)));
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        let old = out.len();
        let reaped = self.inner.reap(out, until);
        for answer in &out[old..] {
            if let Some(at) = self.asked.iter().position(|(id, _)| *id == answer.id) {
                let (_, step) = self.asked.swap_remove(at);
                self.steps.meet(step, false);
            }
        }
        reaped
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn release(&mut self, file: &FileRef) {
        self.inner.release(file);
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}
