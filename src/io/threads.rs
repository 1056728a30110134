//! Requests on a few I/O threads that call and wait: the queue of the backends `pwrite` and `mmap`.
//!
//! ```text
//!  submit --> [ bounded channel ] --> prkdb-io-0 .. prkdb-io-7: one request each, to its end,
//!                                          |        as the file is written (`os::OsFile`)
//!  reap  <-- [ answers ] <-----------------+
//! ```
//!
//! Invariants: the channel holds `depth` requests, so `submit` never blocks; an I/O thread lets go
//! of the file before it answers; dropping the queue waits for all that was submitted, except in a
//! forked child, where its threads don't exist.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::answers::{Alarm, Answers};
use super::buf::ForkGuard;
use super::host::no_thread;
use super::os::OsFile;
use super::{Completion, File, FileRef, Op, OpId, Queue, Until};

/// The most I/O threads of a queue.
const THREADS: usize = 8;

/// A queue of reads, writes and syncs on threads of its own.
pub(super) struct ThreadQueue {
    /// None in a forked child, and while dropped.
    pool: Option<Pool>,
    answers: Arc<Answers>,
    depth: usize,
    in_flight: usize,
    next_id: u64,
    fork: ForkGuard,
}

struct Pool {
    jobs: Sender<(OpId, Op)>,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadQueue {
    pub(super) fn new(depth: usize) -> io::Result<ThreadQueue> {
        let (jobs, work) = bounded(depth);
        let mut queue = ThreadQueue {
            pool: None,
            answers: Answers::new(depth),
            depth,
            in_flight: 0,
            next_id: 0,
            fork: ForkGuard::new(),
        };
        // In the queue from the start: if a thread can't be had, its drop ends those before.
        let pool = queue.pool.insert(Pool { jobs, threads: Vec::new() });
        for number in 0..THREADS.min(depth) {
            let (answers, work) = (Arc::clone(&queue.answers), work.clone());
            let thread = std::thread::Builder::new().name(format!("prkdb-io-{number}"));
            let thread = thread.spawn(move || serve(&work, answers));
            pool.threads.push(thread.map_err(no_thread)?);
        }
        Ok(queue)
    }
}

impl Queue for ThreadQueue {
    fn submit(&mut self, op: Op) -> OpId {
        assert!(self.in_flight < self.depth, "more requests than the queue was made for");
        let id = OpId(self.next_id);
        self.next_id += 1;
        self.in_flight += 1;
        let pool = self.pool.as_ref().expect("only drop takes it");
        if pool.jobs.send((id, op)).is_err() {
            self.answers.fail();
        }
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        self.in_flight -= self.answers.take(out, until)?;
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.answers))
    }

    fn release(&mut self, _: &FileRef) {
        // The I/O threads let go of a file with each request.
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for ThreadQueue {
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

/// An I/O thread: one request after the other, until the queue is dropped.
fn serve(work: &Receiver<(OpId, Op)>, answers: Arc<Answers>) {
    super::signal::block_file_size_signal();
    let alarm = Alarm(answers);
    while let Ok((id, op)) = work.recv() {
        alarm.0.push(perform(id, op));
    }
}

fn perform(id: OpId, op: Op) -> Completion {
    match op {
        Op::Write { file, at, buf, dsync } => {
            let result = own(&file).and_then(|f| f.write_once(at, buf.bytes(), dsync));
            Completion { id, result, buf: Some(buf) }
        }
        Op::Read { file, at, mut buf } => {
            let result =
                own(&file).and_then(|f| f.read_at(at, buf.bytes_mut().ok_or_else(shared_buffer)?));
            Completion { id, result, buf: Some(buf) }
        }
        Op::Sync { file } => {
            let result = own(&file).and_then(|f| f.sync()).map(|()| 0);
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
