//! The backend `tokio-uring`: the same requests as tasks of that runtime, for comparison.
//!
//! ```text
//!  submit --> [ channel ] --> prkdb-tokio: one task a request --> the runtime's own ring
//!  reap  <-- [ answers ] <---------- push ----'
//! ```
//!
//! What it shows is the price of a runtime between the writer and the ring: a channel there, a
//! condition variable back, a wake-up each. It is not a backend to choose: the runtime registers
//! neither files nor buffers, so the log's lock does not outlive requests of a killed process, and
//! it keeps to itself when its ring breaks.
//!
//! Invariants: a task owns file and buffer until it has answered; dropping the queue waits for all
//! tasks, except in a forked child; through the page cache at most one sync per file is in flight.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::Waker;
use std::thread::JoinHandle;

use nix::libc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs;

use super::answers::{Alarm, Answers};
use super::buf::{ForkGuard, Lent};
use super::host::no_thread;
use super::os::OsFile;
use super::threads::{own, shared_buffer};
use super::{Buf, Completion, FileRef, Op, OpId, Queue, Until};

/// A queue on a tokio-uring runtime.
pub(super) struct TokioQueue {
    /// None while dropped.
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    answers: Arc<Answers>,
    depth: usize,
    in_flight: usize,
    next_id: u64,
    fork: ForkGuard,
}

enum Job {
    Request(OpId, Op),
    /// Lets go of the file with this serial number.
    Release(u64),
}

impl TokioQueue {
    /// Starts a runtime with a ring for `depth` requests.
    pub(super) fn new(depth: usize) -> io::Result<TokioQueue> {
        let (jobs, work) = unbounded_channel();
        let (made, outcome) = channel();
        let answers = Answers::new(depth);
        let thread = {
            let answers = Arc::clone(&answers);
            let thread = std::thread::Builder::new().name("prkdb-tokio".into());
            thread.spawn(move || run(depth, work, answers, &made)).map_err(no_thread)?
        };
        outcome
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the runtime died at its start")))?;
        Ok(TokioQueue {
            jobs: Some(jobs),
            thread: Some(thread),
            answers,
            depth,
            in_flight: 0,
            next_id: 0,
            fork: ForkGuard::new(),
        })
    }

    fn send(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("only drop takes it");
        if jobs.send(job).is_err() {
            self.answers.fail();
        }
    }
}

impl Queue for TokioQueue {
    fn submit(&mut self, op: Op) -> OpId {
        assert!(self.in_flight < self.depth, "more requests than the queue was made for");
        let id = OpId(self.next_id);
        self.next_id += 1;
        self.in_flight += 1;
        self.send(Job::Request(id, op));
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        self.in_flight -= self.answers.take(out, until)?;
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.answers))
    }

    fn release(&mut self, file: &FileRef) {
        if let Ok(file) = own(file) {
            self.send(Job::Release(file.serial()));
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for TokioQueue {
    fn drop(&mut self) {
        let (jobs, thread) = (self.jobs.take(), self.thread.take());
        if self.fork.is_child() {
            // The thread is the parent's, and so are the locks it held.
            std::mem::forget((jobs, thread));
            return;
        }
        drop(jobs);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a tokio-uring runtime panicked");
        }
    }
}

/// The thread of the runtime.
fn run(
    depth: usize,
    work: UnboundedReceiver<Job>,
    answers: Arc<Answers>,
    made: &Sender<io::Result<()>>,
) {
    super::signal::block_file_size_signal();
    let _alarm = Alarm(Arc::clone(&answers));
    let entries = u32::try_from(depth.next_power_of_two()).unwrap_or(u32::MAX);
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(entries));
    let (runtime, outcome) = match runtime {
        Ok(runtime) => (Some(runtime), Ok(())),
        Err(e) => (None, Err(e)),
    };
    // Whoever makes the queue waits for this.
    made.send(outcome).ok();
    let Some(runtime) = runtime else { return };
    runtime.block_on(serve(work, answers));
}

/// Turns each request into a task, until the queue is dropped; then waits for the tasks.
async fn serve(mut work: UnboundedReceiver<Job>, answers: Arc<Answers>) {
    let mut open: HashMap<u64, Rc<Open>> = HashMap::new();
    let mut tasks = JoinSet::new();
    while let Some(job) = work.recv().await {
        while tasks.try_join_next().is_some() {}
        match job {
            Job::Release(serial) => drop(open.remove(&serial)),
            Job::Request(id, op) => match find(&mut open, &op) {
                Ok(open) => {
                    let alarm = Alarm(Arc::clone(&answers));
                    tasks.spawn_local(async move { alarm.0.push(open.perform(id, op).await) });
                }
                Err(e) => answers.push(Completion { id, result: Err(e), buf: into_buf(op) }),
            },
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn into_buf(op: Op) -> Option<Buf> {
    match op {
        Op::Write { buf, .. } | Op::Read { buf, .. } => Some(buf),
        Op::Sync { .. } => None,
    }
}

/// The runtime's view of the file of `op`, made when it is first met.
fn find(open: &mut HashMap<u64, Rc<Open>>, op: &Op) -> io::Result<Rc<Open>> {
    let (Op::Write { file, .. } | Op::Read { file, .. } | Op::Sync { file }) = op;
    let file = own(file)?;
    if let Some(known) = open.get(&file.serial()) {
        return Ok(Rc::clone(known));
    }
    let of = |file: &std::fs::File| file.try_clone().map(fs::File::from_std);
    let forced = file.forced().map(of).transpose()?;
    let made = Open { main: of(file.main())?, forced, turn: tokio::sync::Mutex::new(()) };
    Ok(Rc::clone(open.entry(file.serial()).or_insert(Rc::new(made))))
}

/// A file as the runtime knows it: its own descriptors of the same open file descriptions.
struct Open {
    main: fs::File,
    forced: Option<fs::File>,
    /// The right to sync through the page cache.
    turn: tokio::sync::Mutex<()>,
}

impl Open {
    async fn perform(&self, id: OpId, op: Op) -> Completion {
        match op {
            Op::Write { file, at, buf, dsync } => {
                let (result, buf) = self.write(&file, at, buf, dsync).await;
                Completion { id, result, buf: Some(buf) }
            }
            Op::Read { file, at, buf } => {
                let (result, buf) = self.read(&file, at, buf).await;
                Completion { id, result, buf: Some(buf) }
            }
            Op::Sync { file } => {
                let result = self.sync(&file).await.map(|()| 0);
                Completion { id, result, buf: None }
            }
        }
    }

    async fn write(
        &self,
        file: &FileRef,
        at: u64,
        buf: Buf,
        dsync: bool,
    ) -> (io::Result<usize>, Buf) {
        let (to, synced) = match &self.forced {
            Some(forced) if dsync => (forced, true),
            _ => (&self.main, false),
        };
        let (mut result, lent) = to.write_at(Lent::to_be_read(buf), at).submit().await;
        let buf = lent.into_buf();
        if dsync && !synced && result.as_ref().is_ok_and(|n| *n == buf.len()) {
            result = self.sync(file).await.map(|()| buf.len());
        }
        (result, buf)
    }

    async fn read(&self, file: &FileRef, at: u64, buf: Buf) -> (io::Result<usize>, Buf) {
        let len = buf.len();
        let mut lent = match Lent::to_be_written(buf) {
            Ok(lent) => lent,
            Err(shared) => return (Err(shared_buffer()), shared),
        };
        let ends_at = |done| own(file).is_ok_and(|file: &OsFile| file.ends_at(done));
        let mut done = 0;
        while done < len && !ends_at(done) {
            let (result, slice) = self.main.read_at(lent.slice(done..), at + done as u64).await;
            lent = slice.into_inner();
            match result {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) => return (Err(e), lent.into_buf()),
            }
        }
        (Ok(done), lent.into_buf())
    }

    async fn sync(&self, file: &FileRef) -> io::Result<()> {
        let (_turn, file) = (self.turn.lock().await, own(file)?);
        file.syncs().check()?;
        match self.main.sync_data().await {
            // No worker could be had: nothing was synced yet, so this is no second try.
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => file.sync(),
            other => other.inspect_err(|e| file.syncs().fail(e)),
        }
    }
}
