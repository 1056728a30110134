//! Requests on an io_uring: one system call submits what is there and reaps what is done.
//!
//! ```text
//!  submit: slab slot (owns file, buffer) -> ready -+     +--> kernel: registered files, buffers
//!                                                  v     |
//!  reap:   arm the waker's read, fill the ring, io_uring_enter, drain --> answers
//!                 ^                                              |
//!  waker: write(eventfd) --> completes that read                 +--> a next stage of the same
//!                                                                     request (sync, rest)
//! ```
//!
//! Invariants:
//! 1. The ring belongs to the thread that made it; the kernel is told so where it can be.
//! 2. What the kernel may touch (files, buffers, the waker's word) is owned by the slab until its
//!    completion is reaped. If that can't happen any more, ring, slab and locks are leaked.
//! 3. No links: a short write breaks a link. Order comes from waiting.
//! 4. Entries once prepared are never prepared again; what `enter` left in the ring stays there.
//! 5. The log's lock is a registered file: it outlives every request, also of a killed process.
//! 6. Through the page cache at most one sync per file is in flight, and none after one failed.
//!
//! Source: io_uring_enter(2), io_uring_setup(2), io_uring_register(2).

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::buf::ForkGuard;
use super::calls::Counter;
use super::lock::LockFile;
use super::threads::{own, shared_buffer};
use super::{Buf, Completion, FileRef, Op, OpId, Queue, Until};
use buffers::Registered;
use files::Files;
use request::{Request, Stage};
use ring::Ring;
use wake::Alarm;

mod buffers;
mod files;
mod request;
mod ring;
mod wake;

/// Marks the waker's read among the completions; no slab has so many slots.
const WAKE: u64 = u64::MAX;

/// A queue on an io_uring.
pub(super) struct UringQueue {
    /// Dropped by hand: leaked if the kernel may still write to what it refers to.
    kernel: ManuallyDrop<Kernel>,
    /// Slots whose next stage is to be put into the ring, oldest first.
    ready: VecDeque<usize>,
    /// Answers not yet given to the caller.
    answers: VecDeque<Completion>,
    in_flight: usize,
    next_id: u64,
    broken: bool,
    fork: ForkGuard,
}

/// Everything that the kernel refers to.
struct Kernel {
    ring: Ring,
    slab: Vec<Option<Request>>,
    free: Vec<usize>,
    files: Files,
    buffers: Registered,
    alarm: Alarm,
    locks: Vec<Arc<LockFile>>,
    /// Files with a sync through the page cache in flight, by serial number.
    syncing: Vec<u64>,
    /// Slots whose sync waits for its turn.
    waiting: VecDeque<usize>,
}

impl UringQueue {
    /// A ring for `depth` requests that keeps `locks` held while requests are in flight.
    pub(super) fn new(
        depth: usize,
        register: &[Buf],
        locks: Vec<Arc<LockFile>>,
        counter: Arc<Counter>,
    ) -> io::Result<UringQueue> {
        // One entry more for the waker's read.
        let ring = Ring::new(depth + 1, Arc::clone(&counter))?;
        let mut kernel = Kernel {
            files: Files::new(&ring, &locks)?,
            buffers: Registered::new(&ring, register)?,
            ring,
            slab: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            alarm: Alarm::new(counter)?,
            locks,
            syncing: Vec::with_capacity(depth),
            waiting: VecDeque::with_capacity(depth),
        };
        kernel.ring.start()?;
        Ok(UringQueue {
            kernel: ManuallyDrop::new(kernel),
            ready: VecDeque::with_capacity(depth),
            answers: VecDeque::with_capacity(depth),
            in_flight: 0,
            next_id: 0,
            broken: false,
            fork: ForkGuard::new(),
        })
    }

    /// Whether `fill` could put something into the ring.
    fn can_fill(&mut self) -> bool {
        !self.ready.is_empty() && self.kernel.ring.has_room()
    }

    /// Puts what is ready into the ring, as far as it has room for entries and for completions.
    fn fill(&mut self) {
        while self.can_fill() {
            let Some(slot) = self.ready.pop_front() else { return };
            let kernel = &mut *self.kernel;
            let request = kernel.slab[slot].as_mut().expect("a ready slot is in use");
            if let Some(serial) = request.sync_through_cache() {
                if kernel.syncing.contains(&serial) {
                    kernel.waiting.push_back(slot);
                    continue;
                }
                if let Err(first) = request.file().syncs().check() {
                    self.answer(slot, Err(first));
                    continue;
                }
                kernel.syncing.push(serial);
            }
            let entry = request.prepare(&kernel.buffers).user_data(slot as u64);
            // SAFETY: file and buffer are the slab's until the completion is reaped (`settle`),
            // else leaked (`drop`); `submit` let no read in whose memory another handle knows.
            #[expect(unsafe_code, reason = "the kernel is handed raw addresses")]
            unsafe {
                kernel.ring.push(&entry);
            }
        }
    }

    /// Takes every completion out of the ring; true if the waker's was among them.
    fn drain(&mut self) -> io::Result<bool> {
        let mut woken = false;
        while let Some((user, result)) = self.kernel.ring.next() {
            if user == WAKE {
                woken = true;
                self.kernel.alarm.rang(result)?;
            } else {
                self.settle(crate::cast::len(user), result);
            }
        }
        Ok(woken)
    }

    /// Takes one completion: its request goes on to its next stage, or is answered.
    fn settle(&mut self, slot: usize, result: i32) {
        let kernel = &mut *self.kernel;
        let request = kernel.slab[slot].as_mut().expect("completions are of requests in flight");
        let syncs = request.sync_through_cache();
        if let Some(serial) = syncs {
            kernel.syncing.retain(|&s| s != serial);
            // All of them: those of the same file find their turn taken, and wait again.
            self.ready.extend(kernel.waiting.drain(..));
        }
        let Some(result) = request.advance(result) else {
            self.ready.push_back(slot);
            return;
        };
        if let (Some(_), Err(e)) = (syncs, &result) {
            request.file().syncs().fail(e);
        }
        self.answer(slot, result);
    }

    /// Gives a request's answer, and its slot to the next one.
    fn answer(&mut self, slot: usize, result: io::Result<usize>) {
        let kernel = &mut *self.kernel;
        let request = kernel.slab[slot].take().expect("in use, seen above");
        kernel.files.unpin(request.place);
        kernel.free.push(slot);
        self.answers.push_back(Completion { id: request.id, result, buf: request.buf });
    }

    /// One turn: what is there is taken in, what is ready goes out, and unless something was found
    /// the ring is waited for. True if the waker was used.
    fn turn(&mut self, until: Until, deadline: Option<Instant>) -> io::Result<bool> {
        let woken = self.drain()?;
        let mut wait = until != Until::Now && !woken && self.answers.is_empty();
        if wait {
            let kernel = &mut *self.kernel;
            // A full ring has no place for the alarm; then a completion is sure to come.
            wait = kernel.alarm.arm(&mut kernel.ring) || kernel.ring.owed() > 0;
        }
        self.fill();
        // Filling may have answered some: a sync after one that failed.
        wait &= self.answers.is_empty();
        if !wait && !self.kernel.ring.wants_enter() {
            return Ok(woken);
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        self.kernel.ring.enter(wait, left)?;
        Ok(self.drain()? || woken)
    }

    fn turns(&mut self, until: Until) -> io::Result<()> {
        let deadline = match until {
            Until::For(wait) => Instant::now().checked_add(wait),
            Until::Now | Until::Forever => None,
        };
        let mut woken = false;
        loop {
            let found = woken || !self.answers.is_empty();
            woken |= self.turn(if found { Until::Now } else { until }, deadline)?;
            // A next stage that became ready must not wait for the caller to come again. Entries
            // that the kernel refused must: no answer is held back for them.
            if self.can_fill() {
                continue;
            }
            let over = deadline.is_some_and(|d| Instant::now() >= d);
            if woken || over || until == Until::Now || !self.answers.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits for everything that the kernel owes, the waker's read too.
    fn finish(&mut self) -> io::Result<()> {
        self.kernel.alarm.disarm();
        loop {
            self.drain()?;
            self.fill();
            if self.kernel.ring.owed() == 0 {
                return Ok(());
            }
            self.kernel.ring.enter(true, None)?;
        }
    }
}

impl Queue for UringQueue {
    fn submit(&mut self, op: Op) -> OpId {
        let kernel = &mut *self.kernel;
        assert!(self.in_flight < kernel.slab.len(), "more requests than the queue was made for");
        let id = OpId(self.next_id);
        self.next_id += 1;
        self.in_flight += 1;
        let (file, at, mut buf, stage) = match op {
            Op::Write { file, at, buf, dsync } => (file, at, Some(buf), Stage::Write { dsync }),
            Op::Read { file, at, buf } => (file, at, Some(buf), Stage::Read { done: 0 }),
            Op::Sync { file } => (file, 0, None, Stage::Sync { answer: 0 }),
        };
        let reads = matches!(stage, Stage::Read { .. });
        let shared = reads && buf.as_mut().is_some_and(|b| b.bytes_mut().is_none());
        let place = match own(&file) {
            Ok(_) if shared => Err(shared_buffer()),
            Ok(own) => Ok(kernel.files.pin(&kernel.ring, own)),
            Err(e) => Err(e),
        };
        match place {
            Ok(place) => {
                let slot = kernel.free.pop().expect("fewer are in flight than there are slots");
                kernel.slab[slot] = Some(Request { id, file, at, buf, stage, place });
                self.ready.push_back(slot);
            }
            Err(e) => self.answers.push_back(Completion { id, result: Err(e), buf }),
        }
        id
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the ring broke before"));
        }
        let result = self.turns(until);
        self.broken = result.is_err();
        // What was answered before a ring broke counts.
        self.in_flight -= self.answers.len();
        out.extend(self.answers.drain(..));
        result
    }

    fn waker(&self) -> Waker {
        self.kernel.alarm.waker()
    }

    fn release(&mut self, file: &FileRef) {
        let kernel = &mut *self.kernel;
        if let Ok(file) = own(file) {
            kernel.files.release(&kernel.ring, file);
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        if self.fork.is_child() {
            // Ring and requests are the parent's; the mapping is not even here.
            return;
        }
        if !self.broken
            && let Err(error) = self.finish()
        {
            tracing::error!(%error, "a ring broke while it was closed");
            self.broken = true;
        }
        let ring = &mut self.kernel.ring;
        // What the kernel never took is safe to free, as where a filter forbids every call.
        if self.broken && ring.owed() > ring.unsubmitted() {
            // Requests may still land: their memory stays, and so does the lock.
            self.kernel.locks.iter().for_each(|lock| lock.pin());
            return;
        }
        // A ring is torn down some milliseconds after it is closed: what it holds is let go now.
        if let Err(error) = ring.release_all() {
            tracing::debug!(%error, "a closed ring keeps its files a little longer");
        }
        // SAFETY: dropped only here; the kernel took nothing that it has not answered, so it refers
        // to nothing.
        #[expect(unsafe_code, reason = "otherwise it is leaked")]
        unsafe {
            ManuallyDrop::drop(&mut self.kernel);
        }
    }
}
