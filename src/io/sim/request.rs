//! What requests do to a simulated disk when they complete: the faults, and which sectors land.
//!
//! Invariant: what an answer promises is done before the answer can be reaped; what a failed
//! request has done is drawn by seed, from nothing to all.

use std::io;
use std::sync::Arc;

use super::image::BLOCK;
use super::inode::{Landing, draw_rate};
use super::plan::CrashKind;
use super::state::{State, eio};
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
    Sync { start: u64 },
}

/// What a request comes to.
struct Outcome {
    result: io::Result<usize>,
    buf: Option<Buf>,
    /// The write that is answered by it.
    write: Option<u64>,
}

impl State {
    /// Completes one request: the only place where a living world changes what files hold.
    pub(super) fn complete(&mut self, index: usize) {
        let Ok(failing) = self.tick(self.life) else { return };
        let mut request = self.requests.swap_remove(index);
        request.failing |= failing;
        let (queue, id, inode) = (request.queue, request.id, request.inode);
        let Outcome { result, buf, write } = self.carry_out(request);
        let done = result.as_ref().map_or(u64::MAX, |n| *n as u64);
        self.note(&[queue, id.0, inode, done]);
        if let Some(queue) = self.queues.get_mut(&queue) {
            let mark = write.map(|write| (inode, write));
            queue.ready.push((Completion { id, result, buf }, mark));
        }
    }

    fn carry_out(&mut self, request: Request) -> Outcome {
        let (inode, failing) = (request.inode, request.failing);
        match request.kind {
            Kind::Write { at, buf, dsync } => {
                if request.access != Access::Write {
                    let e = io::Error::new(io::ErrorKind::PermissionDenied, "not for writing");
                    return Outcome { result: Err(e), buf: Some(buf), write: None };
                }
                let (result, write) = self.carry_out_write(inode, at, &buf, dsync, failing);
                Outcome { result, buf: Some(buf), write }
            }
            Kind::Read { at, mut buf } => {
                let result = self.carry_out_read(inode, request.access, at, &mut buf, failing);
                Outcome { result, buf: Some(buf), write: None }
            }
            Kind::Sync { start } => {
                let result = self.carry_out_sync(inode, start, failing);
                Outcome { result, buf: None, write: None }
            }
        }
    }

    fn carry_out_write(
        &mut self,
        inode: u64,
        at: u64,
        buf: &Buf,
        dsync: bool,
        failing: bool,
    ) -> (io::Result<usize>, Option<u64>) {
        if !aligned(at, buf) {
            return (Err(unaligned()), None);
        }
        let failing = failing || self.rng.chance(self.faults.write_eio);
        if !failing && self.rng.chance(self.faults.interrupted) {
            return (Err(self.interruption()), None);
        }
        let mut len = buf.len();
        if !failing && len > BLOCK && self.rng.chance(self.faults.short_write) {
            len = BLOCK * (1 + self.rng.index(len / BLOCK - 1));
        }
        let growth = (at + len as u64).saturating_sub(self.inodes[&inode].size);
        if growth > 0 && growth > self.space() {
            return (Err(io::ErrorKind::StorageFull.into()), None);
        }
        let (write, model, rng) = (self.fresh_id(), &self.model, &mut self.rng);
        let rate = if failing { draw_rate(rng) } else { 1000 };
        let shown = !failing || rng.chance(500);
        let file = self.inodes.get_mut(&inode).expect("an open file is kept");
        let landing = Landing { rate, shown, model, rng };
        let crc = file.land(write, at, &buf.bytes()[..len], landing);
        if dsync && !failing {
            file.settle_last(model);
        }
        self.note(&[at, len as u64, u64::from(crc), u64::from(dsync)]);
        (if failing { Err(eio("write")) } else { Ok(len) }, Some(write))
    }

    fn carry_out_read(
        &mut self,
        inode: u64,
        access: Access,
        at: u64,
        buf: &mut Buf,
        failing: bool,
    ) -> io::Result<usize> {
        if access != Access::Cached && !aligned(at, buf) {
            return Err(unaligned());
        }
        if failing || self.rng.chance(self.faults.read_eio) {
            return Err(eio("read"));
        }
        if self.rng.chance(self.faults.interrupted) {
            return Err(self.interruption());
        }
        let Some(bytes) = buf.bytes_mut() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a shared buffer"));
        };
        let past_cache = self.model.reads_past_cache(access);
        Ok(self.inodes[&inode].read(at, bytes, past_cache))
    }

    fn carry_out_sync(&mut self, inode: u64, start: u64, failing: bool) -> io::Result<usize> {
        let file = self.inodes.get_mut(&inode).expect("an open file is kept");
        if !failing && !self.rng.chance(self.faults.sync_eio) {
            file.sync(start);
            return Ok(0);
        }
        file.fail_sync(&self.model, &mut self.rng);
        // Through the page cache one of two concurrent syncs takes the other's error; a device
        // that lost its cache fails them all.
        if self.model.direct {
            for other in self.requests.iter_mut().filter(|r| r.inode == inode) {
                other.failing |= matches!(other.kind, Kind::Sync { .. });
            }
        }
        Err(eio("sync"))
    }

    fn interruption(&mut self) -> io::Error {
        self.rng.pick(&[io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock]).into()
    }

    /// Lands what a crash may leave of a request under way; the power cut itself loses more of it.
    pub(super) fn land_in_part(&mut self, request: &Request, kind: CrashKind) {
        let Kind::Write { at, buf, .. } = &request.kind else { return };
        let fits = request.access == Access::Write && aligned(*at, buf);
        let write = self.fresh_id();
        let (model, rng) = (&self.model, &mut self.rng);
        let rate = if kind == CrashKind::Kill { draw_rate(rng) } else { 1000 };
        let landing = Landing { rate, shown: false, model, rng };
        if let Some(file) = self.inodes.get_mut(&request.inode).filter(|_| fits) {
            file.land(write, *at, buf.bytes(), landing);
        }
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
