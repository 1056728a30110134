//! A disk on which a test hears of each call before and after it is made.
#![allow(dead_code, reason = "each test uses its own part")]

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use prkdb_core::io::{
    Access, Buf, Completion, Disk, Entry, File, FileRef, LockGuard, Op, OpId, Queue, Until,
};

/// What a test does around a call; it may sleep, panic or end the process.
pub trait Hook: Send + Sync {
    /// `open`, `create`, `create-dir`, `rename`, `unlink`, `sync-dir`, `lock` or `queue` is called.
    fn before(&self, _call: &'static str, _path: &Path) {}

    /// Whether that call fails instead of being made; asked for `list`, `is-locked`, `holds` too.
    fn fails(&self, _call: &'static str, _path: &Path) -> bool {
        false
    }

    /// It was, or what `submit` gave this name was answered.
    fn after(&self, _call: &'static str) {}

    /// A request is submitted. If it gets a name, its answer is told under that.
    fn submit(&self, _op: &Op) -> Option<&'static str> {
        None
    }

    /// What a request is answered instead of being made.
    fn answer(&self, _op: &Op) -> Option<io::Result<usize>> {
        None
    }

    /// How long a file that is open for reading only says it is.
    fn size(&self, _path: &Path, real: u64) -> u64 {
        real
    }

    /// A file that is open for reading only is read there; what this says is its answer.
    fn read(&self, _path: &Path, _at: u64, _len: usize) -> io::Result<()> {
        Ok(())
    }

    /// It is said of a file that so many bytes of it will be read soon.
    fn will_need(&self, _path: &Path, _at: u64, _len: u64) {}

    /// The names in a directory are asked for.
    fn list(&self, _dir: &Path) {}

    /// Answers are asked for.
    fn reap(&self) {}

    /// Whether answers of this name are held back.
    fn holds(&self, _name: &'static str) -> bool {
        false
    }

    /// Whether the answer that just came is: asked once of each.
    fn keeps(&self, name: &'static str) -> bool {
        self.holds(name)
    }

    /// So many read files at the same time.
    fn readers(&self, _real: usize) -> usize {
        1
    }

    /// What the disk is called.
    fn name(&self, real: &'static str) -> &'static str {
        real
    }

    /// The block of the disk is that large.
    fn block_size(&self, real: usize) -> usize {
        real
    }
}

/// Hears of each file before it is opened.
pub struct Opens<F>(pub F);

impl<F: Fn(&Path) + Send + Sync> Hook for Opens<F> {
    fn before(&self, call: &'static str, path: &Path) {
        if call == "open" {
            (self.0)(path);
        }
    }
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

/// Asks `hook` around each call.
pub struct Through<H> {
    disk: Arc<dyn Disk>,
    hook: Arc<H>,
}

impl<H> Through<H> {
    pub fn new(disk: Arc<dyn Disk>, hook: &Arc<H>) -> Through<H> {
        Through { disk, hook: Arc::clone(hook) }
    }
}

impl<H: Hook> Through<H> {
    fn around<T>(
        &self,
        name: &'static str,
        path: &Path,
        call: impl FnOnce(&dyn Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        self.hook.before(name, path);
        let done = self.denied(name, path).and_then(|()| call(&*self.disk));
        self.hook.after(name);
        done
    }

    fn denied(&self, name: &'static str, path: &Path) -> io::Result<()> {
        match self.hook.fails(name, path) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(()),
        }
    }
}

impl<H> fmt::Debug for Through<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl<H: Hook + 'static> Disk for Through<H> {
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef> {
        let file = self.around("open", path, |disk| disk.open(path, access))?;
        match access {
            Access::Write => Ok(file),
            _ => Ok(Arc::new(WatchedFile { file, hook: Arc::clone(&self.hook) })),
        }
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef> {
        self.around("create", path, |disk| disk.create(path, size))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.around("create-dir", path, |disk| disk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.denied("rename-from", from)?;
        self.around("rename", to, |disk| disk.rename(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.around("unlink", path, |disk| disk.unlink(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.hook.list(dir);
        self.denied("list", dir)?;
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.around("sync-dir", dir, |disk| disk.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        self.around("lock", path, |disk| disk.lock(path))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.denied("is-locked", path)?;
        self.disk.is_locked(path)
    }

    fn holds(&self, path: &Path) -> io::Result<bool> {
        self.denied("holds", path)?;
        self.disk.holds(path)
    }

    fn space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.space(dir)
    }

    fn block_size(&self) -> usize {
        self.hook.block_size(self.disk.block_size())
    }

    fn direct(&self) -> bool {
        self.disk.direct()
    }

    fn writes_direct(&self) -> bool {
        self.disk.writes_direct()
    }

    fn readers(&self) -> usize {
        self.hook.readers(self.disk.readers())
    }

    fn queue(&self, depth: usize, register: &[Buf]) -> io::Result<Box<dyn Queue>> {
        let queue = self.around("queue", Path::new(""), |disk| disk.queue(depth, register))?;
        Ok(Box::new(Watched {
            queue,
            hook: Arc::clone(&self.hook),
            named: Vec::new(),
            held: Vec::new(),
            answered: Vec::new(),
        }))
    }

    fn name(&self) -> &'static str {
        self.hook.name(self.disk.name())
    }
}

struct WatchedFile<H> {
    file: FileRef,
    hook: Arc<H>,
}

impl<H> fmt::Debug for WatchedFile<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl<H: Hook + 'static> File for WatchedFile<H> {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.hook.size(self.file.path(), self.file.size()?))
    }

    fn links(&self) -> io::Result<u64> {
        self.file.links()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.hook.read(self.file.path(), at, buf.len())?;
        self.file.read_at(at, buf)
    }

    fn will_need(&self, at: u64, len: u64) {
        self.hook.will_need(self.file.path(), at, len);
        self.file.will_need(at, len);
    }

    fn wont_need(&self) {
        self.file.wont_need();
    }

    fn as_any(&self) -> &dyn Any {
        self.file.as_any()
    }
}

struct Watched<H> {
    queue: Box<dyn Queue>,
    hook: Arc<H>,
    /// What is in flight.
    named: Vec<(OpId, &'static str)>,
    held: Vec<(&'static str, Completion)>,
    /// Answers to what was never made, under names that no queue gives.
    answered: Vec<Completion>,
}

/// How often it is asked again whether an answer is still held back.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl<H: Hook> Queue for Watched<H> {
    fn submit(&mut self, op: Op) -> OpId {
        let name = self.hook.submit(&op);
        let id = match self.hook.answer(&op) {
            None => self.queue.submit(op),
            Some(result) => {
                static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
                let id = OpId(NEXT.fetch_add(1, Ordering::Relaxed));
                let buf = if let Op::Write { buf, .. } = op { Some(buf) } else { None };
                self.answered.push(Completion { id, result, buf });
                id
            }
        };
        self.named.extend(name.map(|name| (id, name)));
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        self.hook.reap();
        let mut answers = Vec::new();
        let free = self.held.extract_if(.., |(name, _)| !self.hook.holds(name));
        out.extend(free.map(|(_, answer)| answer));
        let until = match until {
            _ if !out.is_empty() || !self.answered.is_empty() => Until::Now,
            Until::For(time) if !self.held.is_empty() => Until::For(time.min(LOOK_AGAIN)),
            Until::Forever if !self.held.is_empty() => Until::For(LOOK_AGAIN),
            until => until,
        };
        let reaped = self.queue.reap(&mut answers, until);
        answers.append(&mut self.answered);
        for answer in answers {
            let at = self.named.iter().position(|(id, _)| *id == answer.id);
            let name = at.map(|at| self.named.swap_remove(at).1);
            if let Some(name) = name {
                self.hook.after(name);
            }
            match name.filter(|name| self.hook.keeps(name)) {
                Some(name) => self.held.push((name, answer)),
                None => out.push(answer),
            }
        }
        reaped
    }

    fn waker(&self) -> Waker {
        self.queue.waker()
    }

    fn release(&mut self, file: &FileRef) {
        self.queue.release(file);
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight() + self.held.len() + self.answered.len()
    }
}
