//! What requests do to a simulated disk when they complete: the faults, and which sectors land.
//!
//! Invariant: what an answer promises is done before the answer can be reaped; what a failed
//! request has done is drawn by seed, from nothing to all.

use std::io;
use std::sync::Arc;

use super::faults::Failure;
use super::image::BLOCK;
use super::inode::{Landing, draw_rate};
use super::met::FaultClass;
use super::plan::CrashKind;
use super::state::{State, eio};
use super::wrong::Place;
use crate::bugs::{self, Bug};
use crate::io::{Access, Buf, Completion, OpId};

/// A request that has not completed.
pub(super) struct Request {
    pub(super) queue: u64,
    pub(super) id: OpId,
    pub(super) started: bool,
    /// The time before which it does not complete.
    pub(super) due: u64,
    pub(super) failing: bool,
    pub(super) inode: u64,
    /// Keeps the file while its request is under way.
    pub(super) _open: Arc<()>,
    pub(super) access: Access,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Write { at: u64, buf: Buf, dsync: bool },
    Read { at: u64, buf: Buf },
    Sync { start: u64, again: bool },
}

/// What a request comes to.
struct Outcome {
    result: io::Result<usize>,
    buf: Option<Buf>,
    /// The file and the write in it that are answered by it.
    write: Option<(u64, u64)>,
}

impl State {
    /// Completes one request: the only place where a living world changes what files hold.
    pub(super) fn complete(&mut self, index: usize) {
        let Ok(failing) = self.tick(self.life) else { return };
        if self.faults.break_at.is_some_and(|at| self.ops >= at) {
            self.faults.break_at = None;
            return self.break_queue(self.requests[index].queue);
        }
        self.age();
        let mut request = self.requests.swap_remove(index);
        self.note_lateness(&request);
        request.failing |= failing;
        let (queue, id, inode) = (request.queue, request.id, request.inode);
        if self.cancels(&mut request) {
            self.note(&[queue, id.0, inode]);
            self.requests.push(request);
            return;
        }
        let Outcome { result, buf, write } = self.carry_out(request);
        let done = result.as_ref().map_or(u64::MAX, |n| *n as u64);
        self.note(&[queue, id.0, inode, done]);
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.ready.push((Completion { id, result, buf }, write));
        }
    }

    fn note_lateness(&mut self, request: &Request) {
        let before = |other: &Request| other.queue == request.queue && other.id.0 < request.id.0;
        let is_late = request.due > 0 || self.requests.iter().any(before);
        self.met.note_if(FaultClass::Late, is_late);
    }

    /// Whether a sync could not be started: the queue sends a plain one in its place, once.
    fn cancels(&mut self, request: &mut Request) -> bool {
        let Kind::Sync { again: again @ false, .. } = &mut request.kind else { return false };
        *again = self.rng.chance(self.faults.canceled);
        self.met.note_if(FaultClass::Passing, *again);
        *again && !bugs::on(Bug::CanceledSyncBelieved)
    }

    fn carry_out(&mut self, request: Request) -> Outcome {
        let inode = request.inode;
        let failure = request.failing.then_some(self.faults.fail_as);
        match request.kind {
            Kind::Write { at, buf, dsync } => {
                if request.access != Access::Write {
                    let e = io::Error::new(io::ErrorKind::PermissionDenied, "not for writing");
                    return Outcome { result: Err(e), buf: Some(buf), write: None };
                }
                let (result, write) = self.carry_out_write((inode, at), &buf, dsync, failure);
                Outcome { result, buf: Some(buf), write }
            }
            Kind::Read { at, mut buf } => {
                let result = self.carry_out_read(inode, request.access, at, &mut buf, failure);
                Outcome { result, buf: Some(buf), write: None }
            }
            Kind::Sync { again: true, .. } if bugs::on(Bug::CanceledSyncBelieved) => {
                Outcome { result: Ok(0), buf: None, write: None }
            }
            Kind::Sync { start, .. } => {
                let result = self.carry_out_sync(inode, start, failure);
                Outcome { result, buf: None, write: None }
            }
        }
    }

    fn carry_out_write(
        &mut self,
        right: Place,
        buf: &Buf,
        dsync: bool,
        failure: Option<Failure>,
    ) -> (io::Result<usize>, Option<(u64, u64)>) {
        let (inode, at) = right;
        if !aligned(at, buf) {
            return (Err(unaligned()), None);
        }
        let short = failure == Some(Failure::Short);
        let failure = failure.filter(|_| !short).or_else(|| self.draw_failure());
        if let Some(failure) = failure {
            self.met.note(FaultClass::of(failure));
        }
        if let Some(failure) = failure.filter(|failure| failure.did_nothing()) {
            return (Err(failure.error("write")), None);
        }
        if failure.is_none() && self.rng.chance(self.faults.interrupted) {
            return (Err(self.interruption()), None);
        }
        let mut len = buf.len();
        if short {
            len = len.min(BLOCK);
        } else if failure.is_none() && len > BLOCK && self.rng.chance(self.faults.short_write) {
            len = BLOCK * (1 + self.rng.index(len / BLOCK - 1));
        }
        self.met.note_if(FaultClass::ShortWrite, len < buf.len());
        let growth = (at + len as u64).saturating_sub(self.inodes[&inode].size);
        if growth > 0 && growth > self.space() {
            self.met.note(FaultClass::NoSpace);
            return (Err(io::ErrorKind::StorageFull.into()), None);
        }
        let place = if failure.is_none() { self.landing_place(right, len) } else { right };
        let (write, model, rng) = (self.fresh_id(), &self.model, &mut self.rng);
        let rate = if failure.is_some() { draw_rate(rng) } else { 1000 };
        let shown = failure.is_none() || rng.chance(500);
        let bytes = &buf.bytes()[..len];
        if place != right {
            let file = self.inodes.get_mut(&inode).expect("an open file is kept");
            file.show(at, bytes);
        }
        let file = self.inodes.get_mut(&place.0).expect("an open file is kept");
        let crc = file.land(write, place.1, bytes, Landing { rate, shown, model, rng });
        if dsync && failure.is_none() {
            file.settle_last(model);
        }
        self.note(&[at, len as u64, u64::from(crc), u64::from(dsync)]);
        (failure.map_or(Ok(len), |failure| Err(failure.error("write"))), Some((place.0, write)))
    }

    /// How a write fails, if it does.
    fn draw_failure(&mut self) -> Option<Failure> {
        let (faults, rng) = (&self.faults, &mut self.rng);
        if rng.chance(faults.write_eio) {
            return Some(Failure::Device);
        }
        if rng.chance(faults.write_full) {
            return Some(rng.pick(&[Failure::Full, Failure::Quota]));
        }
        if rng.chance(faults.efbig) {
            return Some(Failure::TooLarge);
        }
        rng.chance(faults.canceled).then_some(Failure::Canceled)
    }

    fn carry_out_read(
        &mut self,
        inode: u64,
        access: Access,
        at: u64,
        buf: &mut Buf,
        failure: Option<Failure>,
    ) -> io::Result<usize> {
        if access != Access::Cached && !aligned(at, buf) {
            return Err(unaligned());
        }
        if let Some(failure) = failure.filter(|failure| *failure != Failure::Short) {
            return Err(failure.error("read"));
        }
        if self.rng.chance(self.faults.read_eio) {
            return Err(eio("read"));
        }
        if self.rng.chance(self.faults.canceled) {
            self.met.note(FaultClass::Passing);
            return Err(Failure::Canceled.error("read"));
        }
        if self.rng.chance(self.faults.interrupted) {
            return Err(self.interruption());
        }
        let Some(bytes) = buf.bytes_mut() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a shared buffer"));
        };
        let past_cache = self.model.reads_past_cache(access);
        let len = self.inodes[&inode].read(at, bytes, past_cache);
        self.spoil(inode, at, &mut bytes[..len]);
        Ok(len)
    }

    fn carry_out_sync(
        &mut self,
        inode: u64,
        start: u64,
        failure: Option<Failure>,
    ) -> io::Result<usize> {
        let file = self.inodes.get_mut(&inode).expect("an open file is kept");
        let failure = failure.filter(|failure| !failure.is_passing());
        if let Some(failure) = failure.filter(|failure| failure.did_nothing()) {
            self.met.note(FaultClass::of(failure));
            return Err(failure.error("sync"));
        }
        if failure.is_none() && !self.rng.chance(self.faults.sync_eio) {
            file.sync(start, &self.model);
            return Ok(0);
        }
        self.met.note(FaultClass::SyncFailed);
        file.fail_sync(&self.model, &mut self.rng);
        // Through the page cache one of two concurrent syncs takes the other's error; a device
        // that lost its cache fails them all.
        if self.model.direct {
            for other in self.requests.iter_mut().filter(|r| r.inode == inode) {
                other.failing |= matches!(other.kind, Kind::Sync { .. });
            }
        }
        Err(failure.unwrap_or_default().error("sync"))
    }

    fn interruption(&mut self) -> io::Error {
        self.met.note(FaultClass::Passing);
        self.rng.pick(&[io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock]).into()
    }

    /// Lands what a crash may leave of a request under way; the power cut itself loses more of it.
    /// Gives the number of its write.
    pub(super) fn land_in_part(&mut self, request: &Request, kind: CrashKind) -> Option<u64> {
        let Kind::Write { at, buf, .. } = &request.kind else { return None };
        let fits = request.access == Access::Write && aligned(*at, buf);
        let write = self.fresh_id();
        let (model, rng) = (&self.model, &mut self.rng);
        let rate = if kind == CrashKind::Kill { draw_rate(rng) } else { 1000 };
        let landing = Landing { rate, shown: false, model, rng };
        if let Some(file) = self.inodes.get_mut(&request.inode).filter(|_| fits) {
            file.land(write, *at, buf.bytes(), landing);
        }
        Some(write)
    }
}

fn aligned(at: u64, buf: &Buf) -> bool {
    let unit = BLOCK as u64;
    let whole = at.is_multiple_of(unit) && (buf.len() as u64).is_multiple_of(unit);
    whole && !buf.is_empty() && buf.bytes().as_ptr().align_offset(BLOCK) == 0
}

pub(super) fn unaligned() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "offset, length or address not aligned")
}
