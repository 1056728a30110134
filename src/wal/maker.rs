//! The maker: segments made ahead of their use, retired ones recycled, META kept.
//!
//! ```text
//! writer --need(bytes)--> Mailbox --+--> make:  pool or zeros -> header -> N.seg --> ready
//! caller --Job----------> Mailbox --+--> chores: META first, then whole segments are retired
//! ```
//!
//! Two flows on one queue: a long write of zeros never delays a truncation. Invariants: a segment
//! is handed out only when its name and blocks are durable; a full disk is met here, before LSNs
//! are given out; META says that a segment is cut before its file goes; a file that a reader holds
//! or that has a second name is never written again.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::error::{Error, ErrorKind, Result};
use crate::format::meta::{self, Meta};
use crate::format::{LogId, SegmentId};
use crate::io::{Access, Flow};
use crate::lsn::Lsn;
use crate::options::MIN_SEGMENT_BYTES;
use crate::segment::{
    Geometry, Made, NewSegment, file_name, fill_with_zeros, free_name, install, making_name,
    pool_dir,
};

use super::catalog::Segment;
use super::mailbox::{Cut, Job};
use super::meta::MetaFile;
use super::shared::Shared;
use super::ticket::Answer;

/// Retired segments that are kept for use again.
pub(crate) const POOL_SEGMENTS: usize = 4;

/// The maker's own state, used by both flows between awaits.
pub(crate) struct Maker {
    shared: Arc<Shared>,
    log_id: LogId,
    stock: Mutex<Stock>,
}

/// Numbers, sizes and files to come.
#[derive(Debug)]
pub(crate) struct Stock {
    /// Of the segments that are made from now on.
    pub(crate) epoch: u64,
    pub(crate) highest_number: u64,
    pub(crate) growth_bytes: u64,
    /// Retired segments of full size, in the pool.
    pub(crate) free: Vec<PathBuf>,
}

/// However the maker ends, also before its first step, the mailbox is closed behind it.
impl Drop for Maker {
    fn drop(&mut self) {
        if !self.shared.mailbox.close() {
            let why = "the thread that makes segments ended unexpectedly";
            self.shared.latch.set(Error::new(ErrorKind::Poisoned, "append", why));
        }
        self.shared.bell.ring();
    }
}

impl Maker {
    pub(crate) fn new(shared: Arc<Shared>, log_id: LogId, stock: Stock) -> Maker {
        Maker { shared, log_id, stock: Mutex::new(stock) }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until the mailbox is stopped.
    pub(crate) async fn run(self, flow: Flow, meta: MetaFile) {
        let mut making = pin!(self.make_segments(&flow));
        let mut chores = pin!(self.do_jobs(&flow, meta));
        let (mut made, mut done) = (false, false);
        std::future::poll_fn(|cx| {
            made = made || making.as_mut().poll(cx).is_ready();
            done = done || chores.as_mut().poll(cx).is_ready();
            if made && done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn make_segments(&self, flow: &Flow) {
        let mailbox = &self.shared.mailbox;
        while let Some(need) = flow.until(|| mailbox.wanted()).await {
            let outcome = self.make(flow, need).await;
            if let Ok(made) = &outcome
                && made.segment.id.epoch < self.stock().epoch
            {
                // The log was cut meanwhile: what this one would hold, the cut would take.
                self.discard(&made.segment.path);
                continue;
            }
            let (wait, unused) = mailbox.put(outcome, need);
            if wait {
                self.shared.bell.ring();
            }
            if let Some(small) = unused {
                self.discard(&small.segment.path);
            }
        }
    }

    /// Makes one segment with room for `need` bytes, as large as it is time for and space allows.
    async fn make(&self, flow: &Flow, need: u64) -> Result<Made> {
        let full = self.shared.config.segment_bytes;
        let least = Geometry::size_for(need, self.shared.block).max(MIN_SEGMENT_BYTES);
        let mut size = self.stock().growth_bytes.max(least).min(full);
        if size == full
            && let Some(made) = self.recycle(flow).await?
        {
            return Ok(made);
        }
        let space = self.shared.world.disk.space(&self.shared.dir).unwrap_or(u64::MAX);
        while size > space && halved(size) >= least {
            size = halved(size);
        }
        loop {
            match self.make_fresh(flow, size).await {
                Ok(made) => {
                    let mut stock = self.stock();
                    stock.growth_bytes = (size * 4).min(full).max(stock.growth_bytes);
                    return Ok(made);
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    if let Some(made) = self.recycle(flow).await? {
                        return Ok(made);
                    }
                    if halved(size) < least || halved(size) == size {
                        return Err(error);
                    }
                    size = halved(size);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn make_fresh(&self, flow: &Flow, size: u64) -> Result<Made> {
        let (disk, dir) = (&self.shared.world.disk, &self.shared.dir);
        let new = self.next_segment(size)?;
        let path = pool_dir(dir).join(making_name(new.id.number));
        let outcome = async {
            let file =
                disk.create(&path, size).map_err(|e| Error::io("make segment", &path, None, e))?;
            let mailbox = &self.shared.mailbox;
            let pace = |done| flow.until(move || mailbox.may_write(done, size));
            let made = async {
                fill_with_zeros(flow, &file, new.geometry, pace).await?;
                install(flow, new, &file, &path, true).await
            };
            let made = made.await;
            flow.release(&file);
            made
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            self.discard(&path);
            self.discard(&self.shared.dir.join(file_name(new.id.number)));
        }
        outcome
    }

    /// A retired segment under a new name and nonce; none if there is none fit for it.
    async fn recycle(&self, flow: &Flow) -> Result<Option<Made>> {
        loop {
            let Some(path) = self.stock().free.pop() else { return Ok(None) };
            let disk = &self.shared.world.disk;
            let fit = disk.open(&path, Access::Write).ok().filter(|file| {
                let full = self.shared.config.segment_bytes;
                // A checkpoint may share the file by a second name.
                file.links().is_ok_and(|n| n == 1) && file.size().is_ok_and(|n| n == full)
            });
            let Some(file) = fit else {
                self.discard(&path);
                continue;
            };
            let new = self.next_segment(self.shared.config.segment_bytes)?;
            let made = install(flow, new, &file, &path, false).await;
            flow.release(&file);
            if made.is_err() {
                self.discard(&path);
                self.discard(&self.shared.dir.join(file_name(new.id.number)));
            }
            return made.map(Some);
        }
    }

    fn next_segment(&self, size: u64) -> Result<NewSegment<'_>> {
        let shared = &self.shared;
        let random = shared.world.host.random();
        let nonce = random.map_err(|e| Error::io("make segment", &shared.dir, None, e))?;
        let mut stock = self.stock();
        stock.highest_number += 1;
        Ok(NewSegment {
            disk: &*shared.world.disk,
            dir: &shared.dir,
            log_id: self.log_id,
            id: SegmentId { number: stock.highest_number, epoch: stock.epoch, nonce },
            geometry: Geometry { size, block: shared.block },
        })
    }

    /// Removes a file that nothing needs. If that fails it is found and removed at the next open.
    fn discard(&self, path: &std::path::Path) {
        if let Err(error) = self.shared.world.disk.unlink(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "can't remove an unused file");
        }
    }

    async fn do_jobs(&self, flow: &Flow, mut meta: MetaFile) {
        loop {
            let job = flow.until(|| self.shared.mailbox.next_job());
            let Some(job) = job.await else { return };
            match job {
                Job::TruncateBefore(lsn, answer) => {
                    self.answer(answer, self.truncate_before(flow, &mut meta, lsn).await);
                }
                Job::Cut(cut, answer) => {
                    self.answer(answer, self.cut(flow, &mut meta, cut).await);
                    // The writer waits for it.
                    self.shared.bell.ring();
                }
                Job::SetUserState(state, answer) => {
                    self.answer(answer, self.set_user_state(flow, &mut meta, state).await);
                }
                Job::MarkClean(answer) => {
                    self.answer(answer, self.mark_clean(flow, &mut meta).await);
                }
            }
        }
    }

    fn answer<T>(&self, answer: Answer<T>, outcome: Result<T>) {
        match outcome {
            Ok(value) => answer.ok(value),
            Err(error) => {
                if error.kind() != ErrorKind::Invalid {
                    // A write or sync of META failed: what it holds now is not known.
                    self.shared.latch.set(error.clone());
                    self.shared.bell.ring();
                }
                answer.fail(error);
            }
        }
    }

    async fn mark_clean(&self, flow: &Flow, meta: &mut MetaFile) -> Result<()> {
        let durable_upto = self.shared.catalog.durable();
        let (highest_number, growth_bytes) = self.sizes();
        let disk = &*self.shared.world.disk;
        let change = |m: &mut Meta| {
            m.clean = true;
            m.durable_upto = durable_upto;
            m.highest_number = highest_number;
            m.growth_bytes = growth_bytes;
        };
        meta.update(flow, disk, change).await
    }

    async fn set_user_state(&self, flow: &Flow, meta: &mut MetaFile, state: Vec<u8>) -> Result<()> {
        meta.update(flow, &*self.shared.world.disk, |m| m.user_state = state).await?;
        self.shared.set_user_state(meta.meta().user_state.clone());
        Ok(())
    }

    fn sizes(&self) -> (u64, u64) {
        let stock = self.stock();
        (stock.highest_number, stock.growth_bytes)
    }

    async fn truncate_before(&self, flow: &Flow, meta: &mut MetaFile, lsn: Lsn) -> Result<()> {
        let shared = &self.shared;
        let first = lsn.max(meta.meta().first_lsn);
        let durable_upto = shared.catalog.durable();
        if first.prev() > durable_upto {
            let why = format!("{first} is beyond the end: the log was cut there meanwhile");
            return Err(Error::invalid("truncate_before", why));
        }
        let (highest_number, growth_bytes) = self.sizes();
        let change = |m: &mut Meta| {
            m.first_lsn = first;
            m.durable_upto = durable_upto;
            m.highest_number = highest_number;
            m.growth_bytes = growth_bytes;
        };
        meta.update(flow, &*shared.world.disk, change).await?;
        shared.catalog.set_first(first);
        self.retire_all(shared.catalog.remove_before(first))?;
        shared.mailbox.space_came_back();
        Ok(())
    }

    /// Takes records out from the end; gives the LSN the log goes on with. The writer waits:
    /// nothing is in flight, and every segment has its footer.
    async fn cut(&self, flow: &Flow, meta: &mut MetaFile, cut: Cut) -> Result<Lsn> {
        let shared = &self.shared;
        let (next, from) = match cut {
            Cut::After(keep) => (keep.next(), keep.next()),
            Cut::Reset(next) => (next, Lsn::FIRST),
        };
        let epoch = meta.meta().next_epoch;
        // From here on segments are made for the time after the cut.
        let (highest_number, growth_bytes) = {
            let mut stock = self.stock();
            stock.epoch = epoch;
            (stock.highest_number, stock.growth_bytes)
        };
        let change = |m: &mut Meta| {
            m.cut = Some(meta::Cut { lsn: from, epoch });
            m.next_epoch = epoch + 1;
            m.durable_upto = next.prev();
            m.highest_number = highest_number;
            m.growth_bytes = growth_bytes;
            m.removed.retain_mut(|(start, end)| {
                *end = (*end).min(from);
                *start < *end
            });
            if let Cut::Reset(next) = cut {
                m.first_lsn = next;
            }
        };
        meta.update(flow, &*shared.world.disk, change).await?;
        let gone = match cut {
            Cut::After(_) => shared.catalog.cut_from(next),
            Cut::Reset(next) => shared.catalog.reset(next),
        };
        if let Some(made) = shared.mailbox.take_back() {
            self.discard(&made.segment.path);
        }
        self.retire_all(gone)?;
        shared.mailbox.space_came_back();
        Ok(next)
    }

    /// Takes the names of segments away. An error means that a directory could not be synced: then
    /// nobody knows which names the device holds, and no file may be used again.
    fn retire_all(&self, segments: Vec<Arc<Segment>>) -> Result<()> {
        let shared = &self.shared;
        let mut retired = Vec::new();
        for segment in segments {
            match self.retire(segment, retired.len()) {
                Ok(reusable) => retired.extend(reusable),
                // The cut is durable without it; the next open finds the file and removes it.
                Err(error) => {
                    tracing::warn!(%error, "a segment below the cut could not be removed");
                }
            }
        }
        for dir in [&shared.dir, &pool_dir(&shared.dir)] {
            let synced = shared.world.disk.sync_dir(dir);
            synced.map_err(|e| Error::io("retire segments", dir, None, e))?;
        }
        // Only now may one of them be written again: its old name is durably gone.
        self.stock().free.extend(retired);
        Ok(())
    }

    /// Takes a segment's name away; gives the new one if it can be used again.
    fn retire(&self, segment: Arc<Segment>, retired: usize) -> Result<Option<PathBuf>> {
        let disk = &self.shared.world.disk;
        let path = segment.file.path.clone();
        let full = segment.file.geometry.size == self.shared.config.segment_bytes;
        let kept = self.stock().free.len() + retired < POOL_SEGMENTS;
        // It left the catalog: whoever does not hold it now never will.
        let unpinned = Arc::strong_count(&segment) == 1;
        let failed = |e| Error::io("retire segment", &path, None, e);
        if !(full && unpinned && kept) {
            return disk.unlink(&path).map(|()| None).map_err(failed);
        }
        let to = pool_dir(&self.shared.dir).join(free_name(segment.file.id.number));
        disk.rename(&path, &to).map_err(failed)?;
        Ok(Some(to))
    }
}

/// Half of a segment's size, in whole MiB.
fn halved(size: u64) -> u64 {
    (size / 2) & !((1 << 20) - 1)
}
