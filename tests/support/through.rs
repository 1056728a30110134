//! A disk on which a test hears of what is asked of a queue before it is done.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Waker;

use prkdb_core::io::{
    Access, Buf, Completion, Disk, Entry, FileRef, LockGuard, Op, OpId, Queue, Until,
};

/// What a test does before a call; it may sleep or panic.
pub trait Hook: Send + Sync {
    /// A request is submitted.
    fn submit(&self, _op: &Op) {}

    /// Answers are asked for.
    fn reap(&self) {}
}

/// Panics on one thread of the log, when that asks for answers for the n-th time after `arm(n)`.
pub struct Panics {
    thread: &'static str,
    /// Below zero: it has, or is not to.
    left: AtomicI64,
}

impl Panics {
    pub fn on(thread: &'static str) -> Panics {
        Panics { thread, left: AtomicI64::new(-1) }
    }

    pub fn arm(&self, n: i64) {
        self.left.store(n, Ordering::Relaxed);
    }

    /// Since it was armed.
    pub fn has_panicked(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }
}

impl Hook for Panics {
    fn reap(&self) {
        let one_less = |n: i64| (n >= 0).then(|| n - 1);
        if std::thread::current().name() == Some(self.thread)
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) == Ok(0)
        {
            panic!("{} panics because a test wants it to", self.thread);
        }
    }
}

/// Asks `hook` before each call.
pub struct Through<H> {
    disk: Arc<dyn Disk>,
    hook: Arc<H>,
}

impl<H> Through<H> {
    pub fn new(disk: Arc<dyn Disk>, hook: &Arc<H>) -> Through<H> {
        Through { disk, hook: Arc::clone(hook) }
    }
}

impl<H> fmt::Debug for Through<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl<H: Hook + 'static> Disk for Through<H> {
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef> {
        self.disk.open(path, access)
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef> {
        self.disk.create(path, size)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        self.disk.lock(path)
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
        let queue = self.disk.queue(depth, register)?;
        Ok(Box::new(Watched { queue, hook: Arc::clone(&self.hook) }))
    }

    fn name(&self) -> &'static str {
        self.disk.name()
    }
}

struct Watched<H> {
    queue: Box<dyn Queue>,
    hook: Arc<H>,
}

impl<H: Hook> Queue for Watched<H> {
    fn submit(&mut self, op: Op) -> OpId {
        self.hook.submit(&op);
        self.queue.submit(op)
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        self.hook.reap();
        self.queue.reap(out, until)
    }

    fn waker(&self) -> Waker {
        self.queue.waker()
    }

    fn release(&mut self, file: &FileRef) {
        self.queue.release(file);
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }
}
