//! Queues of a simulated world: requests complete one at a time, in an order drawn by seed.
//!
//! ```text
//! submit --> staged --reap, or end of a step--> started --complete--> ready --reap--> caller
//!                                                          |
//!                                                faults; sectors land
//! ```
//!
//! A request may not start before `reap`, as the trait says, so that a caller who forgets to reap
//! is found. Requests of a dropped queue that have started land all the same.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::disk::SimFile;
use super::plan::CrashKind;
use super::request::{Kind, Request};
use super::scheduler::advance;
use super::state::{Shared, State};
use crate::io::{Completion, FileRef, Op, OpId, Queue, Until};

/// The longest that a late request takes, as a power of two of microseconds.
const LATE_BITS: u64 = 17;

/// What ends a wait. `Release` and `Acquire` hand over whatever the waker's user left for the
/// machine.
pub(super) struct Bell(AtomicBool);

impl Bell {
    pub(super) fn rung(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A queue as the world sees it.
pub(super) struct QueueState {
    pub(super) bell: Arc<Bell>,
    pub(super) waker: Waker,
    pub(super) in_flight: usize,
    /// It answers nothing any more.
    pub(super) broken: bool,
    /// Answers not yet handed out, each with the inode and the write that it answers.
    pub(super) ready: Vec<(Completion, Option<(u64, u64)>)>,
}

impl State {
    /// Whether a request could complete now.
    pub(super) fn is_due(&self, request: &Request) -> bool {
        request.started && request.due <= self.now
    }

    /// Lets the staged requests of a queue begin.
    pub(super) fn start_requests(&mut self, queue: u64) {
        for request in &mut self.requests {
            request.started |= request.queue == queue;
        }
    }

    /// Breaks a queue: nobody hears what becomes of its requests. What is done of them is done all
    /// the same: a sync that is asked for from now on covers it.
    pub(super) fn break_queue(&mut self, queue: u64) {
        let (ours, others): (Vec<Request>, _) =
            mem::take(&mut self.requests).into_iter().partition(|r| r.queue == queue);
        self.requests = others;
        let mut done = Vec::new();
        for request in ours.iter().filter(|request| request.started) {
            if self.rng.chance(500) {
                let write = self.land_in_part(request, CrashKind::Kill);
                done.extend(write.map(|write| (request.inode, write)));
            }
        }
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.broken = true;
            done.extend(queue.ready.drain(..).filter_map(|(_, mark)| mark));
        }
        for (inode, write) in done {
            if let Some(inode) = self.inodes.get_mut(&inode) {
                inode.answer(write, self.ops);
            }
        }
        self.note(&[queue]);
    }

    /// Hands the answers of a queue out, in the order of completion; gives whether there were any.
    fn deliver(&mut self, queue: u64, out: &mut Vec<Completion>) -> bool {
        let Some(queue) = self.queues.get_mut(&queue) else { return false };
        let ready = mem::take(&mut queue.ready);
        queue.in_flight -= ready.len();
        let any = !ready.is_empty();
        for (completion, mark) in ready {
            if let Some((inode, write)) = mark
                && let Some(inode) = self.inodes.get_mut(&inode)
            {
                inode.answer(write, self.ops);
            }
            out.push(completion);
        }
        any
    }
}

/// A queue as its machine sees it.
pub(super) struct SimQueue {
    shared: Arc<Shared>,
    life: u64,
    id: u64,
    depth: usize,
    next: u64,
    bell: Arc<Bell>,
}

impl SimQueue {
    pub(super) fn new(shared: &Arc<Shared>, life: u64, depth: usize) -> SimQueue {
        let mut state = shared.lock();
        let id = state.fresh_id();
        let bell = Arc::new(Bell(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&bell));
        let ready = Vec::new();
        let queue = QueueState { bell: bell.clone(), waker, in_flight: 0, broken: false, ready };
        state.queues.insert(id, queue);
        drop(state);
        SimQueue { shared: Arc::clone(shared), life, id, depth, next: 0, bell }
    }

    fn stage(&mut self, state: &mut State, file: &SimFile, kind: Kind) {
        // After the end nothing is staged: `reap` says that the queue broke.
        let Ok(failing) = state.tick(self.life) else { return };
        assert_eq!(file.life(), self.life, "a file of an earlier life of this disk");
        let kind = match kind {
            Kind::Sync { .. } => Kind::Sync { start: state.ops, again: false },
            other => other,
        };
        let due = if state.rng.chance(state.faults.late) {
            let bits = state.rng.below(LATE_BITS);
            state.now + (1 << bits)
        } else {
            0
        };
        let queue = state.queues.get_mut(&self.id).expect("kept until this is dropped");
        assert!(queue.in_flight < self.depth, "more requests than the queue's depth");
        if queue.broken {
            return;
        }
        queue.in_flight += 1;
        state.requests.push(Request {
            queue: self.id,
            id: OpId(self.next),
            started: false,
            due,
            failing,
            inode: file.inode(),
            _open: file.token(),
            access: file.access(),
            kind,
        });
    }
}

impl SimQueue {
    /// Answers a request for a file of another disk.
    fn refuse(&mut self, state: &mut State, kind: Kind) {
        let buf = match kind {
            Kind::Write { buf, .. } | Kind::Read { buf, .. } => Some(buf),
            Kind::Sync { .. } => None,
        };
        let foreign = io::Error::new(io::ErrorKind::InvalidInput, "a file of another disk");
        let queue = state.queues.get_mut(&self.id).expect("kept until this is dropped");
        queue.in_flight += 1;
        queue.ready.push((Completion { id: OpId(self.next), result: Err(foreign), buf }, None));
    }
}

impl Queue for SimQueue {
    fn submit(&mut self, op: Op) -> OpId {
        self.next += 1;
        let (file, kind) = match op {
            Op::Write { file, at, buf, dsync } => (file, Kind::Write { at, buf, dsync }),
            Op::Read { file, at, buf } => (file, Kind::Read { at, buf }),
            Op::Sync { file } => (file, Kind::Sync { start: 0, again: false }),
        };
        let shared = Arc::clone(&self.shared);
        match file.as_any().downcast_ref::<SimFile>() {
            Some(sim) => self.stage(&mut shared.lock(), sim, kind),
            None => self.refuse(&mut shared.lock(), kind),
        }
        OpId(self.next)
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        let mut deadline = None;
        loop {
            let mut state = self.shared.lock();
            state.alive(self.life)?;
            if state.queues.get(&self.id).is_some_and(|queue| queue.broken) {
                return Err(io::Error::other("simulated queue broke"));
            }
            state.start_requests(self.id);
            if let (Until::For(time), None) = (until, deadline) {
                deadline = Some(state.now.saturating_add(micros(time)));
            }
            // Both, always: a bell that stays rung would end a later wait for nothing.
            let (any, woken) = (state.deliver(self.id, out), self.bell.take());
            let late = deadline.is_some_and(|time| time <= state.now);
            if any || woken || late || until == Until::Now {
                return Ok(());
            }
            drop(state);
            advance(&self.shared, self.life, deadline);
        }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    fn release(&mut self, _file: &FileRef) {}

    fn in_flight(&self) -> usize {
        self.shared.lock().queues.get(&self.id).map_or(0, |queue| queue.in_flight)
    }
}

impl Drop for SimQueue {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if !state.crashed {
            state.requests.retain(|r| r.queue != self.id || r.started);
        }
        let queue = state.queues.remove(&self.id);
        drop(state);
        drop(queue);
    }
}

/// A duration in the clock's unit, rounded up so that a wait is never too short.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}
