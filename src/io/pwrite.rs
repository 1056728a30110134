//! Requests on a few I/O threads by positional system calls: the portable backend, and the
//! reference for all others.
//!
//! ```text
//!  submit --> [ bounded channel ] --> prkdb-io-0 .. prkdb-io-7: one system call a request
//!                                          |
//!  reap  <-- [ answers; condition variable ] <--+      waker: sets `woken` under the same lock
//! ```
//!
//! Invariants: the channel holds `depth` requests, so `submit` never blocks; an I/O thread lets go
//! of the file before it answers; dropping the queue waits for all that was submitted, except in a
//! forked child, where its threads don't exist.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::buf::ForkGuard;
use super::os::OsFile;
use super::{Completion, File, FileRef, Op, OpId, Queue, Until};

/// The most I/O threads of a queue.
pub(super) const THREADS: usize = 8;

/// A queue of positional reads, writes and syncs.
pub(super) struct PwriteQueue {
    /// None in a forked child, and while dropped.
    pool: Option<Pool>,
    shared: Arc<Shared>,
    depth: usize,
    in_flight: usize,
    next_id: u64,
    fork: ForkGuard,
}

struct Pool {
    jobs: Sender<(OpId, Op)>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Answers>,
    changed: Condvar,
}

#[derive(Default)]
struct Answers {
    done: VecDeque<Completion>,
    woken: bool,
    /// An I/O thread panicked: its request will never be answered.
    broken: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.lock().woken = true;
        self.changed.notify_one();
    }
}

impl PwriteQueue {
    pub(super) fn new(depth: usize) -> io::Result<PwriteQueue> {
        let shared = Arc::new(Shared::default());
        shared.lock().done.reserve(depth);
        let (jobs, work) = bounded(depth);
        let mut queue = PwriteQueue {
            pool: None,
            shared,
            depth,
            in_flight: 0,
            next_id: 0,
            fork: ForkGuard::new(),
        };
        // In the queue from the start: if a thread can't be had, its drop ends those before.
        let pool = queue.pool.insert(Pool { jobs, threads: Vec::new() });
        for lane in 0..THREADS.min(depth) {
            let (shared, work) = (Arc::clone(&queue.shared), work.clone());
            let thread = std::thread::Builder::new().name(format!("prkdb-io-{lane}"));
            pool.threads.push(thread.spawn(move || serve(lane, &work, &shared))?);
        }
        Ok(queue)
    }
}

impl Queue for PwriteQueue {
    fn submit(&mut self, op: Op) -> OpId {
        assert!(self.in_flight < self.depth, "more requests than the queue was made for");
        let id = OpId(self.next_id);
        self.next_id += 1;
        self.in_flight += 1;
        let pool = self.pool.as_ref().expect("only drop takes it");
        if pool.jobs.send((id, op)).is_err() {
            self.shared.lock().broken = true;
        }
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        let deadline = match until {
            Until::For(wait) => Instant::now().checked_add(wait),
            Until::Now | Until::Forever => None,
        };
        let mut state = self.shared.lock();
        while state.done.is_empty() && !state.woken && !state.broken && until != Until::Now {
            let changed = &self.shared.changed;
            state = match deadline {
                None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let rest = deadline.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        break;
                    }
                    changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        // Whoever woke us changed something before, which our caller looks at next.
        state.woken = false;
        self.in_flight -= state.done.len();
        out.extend(state.done.drain(..));
        if state.broken {
            return Err(io::Error::other("an I/O thread of the log died"));
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.shared))
    }

    fn release(&mut self, _: &FileRef) {
        // The I/O threads let go of a file with each request.
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for PwriteQueue {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        if self.fork.is_child() {
            // The threads are the parent's; a lock they held when it forked is held for ever.
            std::mem::forget(pool);
            return;
        }
        drop(pool.jobs);
        for thread in pool.threads {
            if thread.join().is_err() {
                tracing::error!("an I/O thread of the log panicked");
            }
        }
    }
}

/// Tells the queue when its thread unwinds.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().broken = true;
            self.0.changed.notify_one();
        }
    }
}

/// An I/O thread: one request after the other, until the queue is dropped.
fn serve(lane: usize, work: &Receiver<(OpId, Op)>, shared: &Shared) {
    super::signal::block_file_size_signal();
    let _alarm = Alarm(shared);
    while let Ok((id, op)) = work.recv() {
        let answer = perform(lane, id, op);
        shared.lock().done.push_back(answer);
        shared.changed.notify_one();
    }
}

fn perform(lane: usize, id: OpId, op: Op) -> Completion {
    match op {
        Op::Write { file, at, buf, dsync } => {
            let result = own(&file).and_then(|f| f.write_once(lane, at, buf.bytes(), dsync));
            Completion { id, result, buf: Some(buf) }
        }
        Op::Read { file, at, mut buf } => {
            let result =
                own(&file).and_then(|f| f.read_at(at, buf.bytes_mut().ok_or_else(shared_buffer)?));
            Completion { id, result, buf: Some(buf) }
        }
        Op::Sync { file } => {
            let result = own(&file).and_then(|f| f.sync(lane)).map(|()| 0);
            Completion { id, result, buf: None }
        }
    }
}

/// The file as one of a real disk.
pub(super) fn own(file: &FileRef) -> io::Result<&OsFile> {
    let other = || io::Error::new(ErrorKind::InvalidInput, "a file of another disk");
    file.as_any().downcast_ref().ok_or_else(other)
}

/// What a read into memory that somebody else holds is answered with.
pub(super) fn shared_buffer() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "a read into a buffer that is shared")
}
