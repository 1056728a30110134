//! Making the next segment: recycled, or new and as large as it is time for and space allows.

use crate::bugs::{self, Bug};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SegmentId;
use crate::io::{Access, Flow};
use crate::options::MIN_SEGMENT_BYTES;
use crate::segment::{
    Geometry, Made, NewSegment, file_name, fill_with_zeros, install, making_name, pool_dir,
};

use super::super::metrics::add;
use super::super::shared::poisoned;
use super::Maker;
use super::retain::Admission;

impl Maker {
    pub(super) async fn make_segments(&self, flow: &Flow) {
        let mailbox = &self.shared.mailbox;
        while let Some(need) = flow.until(|| mailbox.wanted()).await {
            let epoch = self.stock().epoch;
            let outcome = self.make(flow, need).await.map_err(|e| self.heed(e));
            if self.stock().epoch != epoch {
                // The log was cut meanwhile: what this one would hold, the cut would take.
                if let Ok(made) = outcome {
                    self.discard(&made.segment.path);
                }
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
        self.shared.expect_ours("make segment")?;
        let full = self.shared.config.segment_bytes;
        let least = Geometry::size_for(need, self.shared.block).max(MIN_SEGMENT_BYTES);
        let mut size = self.stock().growth_bytes.max(least).min(full);
        let space = self.shared.world.disk.space(&self.shared.dir).unwrap_or(u64::MAX);
        let short = size > space;
        while size > space && halved(size) >= least {
            size = halved(size);
        }
        loop {
            if let Some(cause) = self.shared.latch.get() {
                return Err(poisoned("make segment", &cause));
            }
            // Where a new one would be small for want of space, one that is there takes none.
            if (short || size == full)
                && let Some(made) = self.recycle(flow).await?
            {
                return Ok(made);
            }
            let outcome = match self.admit(flow, size).await? {
                Admission::Fits => self.make_fresh(flow, size).await,
                // There may be a file to use again now.
                Admission::MadeRoom => continue,
                Admission::Refused(error) => Err(error),
            };
            match outcome {
                Ok(made) => {
                    let mut stock = self.stock();
                    if stock.epoch == made.segment.id.epoch {
                        stock.growth_bytes = (size * 4).min(full).max(stock.growth_bytes);
                    }
                    return Ok(made);
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    if !self.shared.mailbox.is_enough()
                        && let Some(made) = self.recycle(flow).await?
                    {
                        return Ok(made);
                    }
                    if self.clear_stuck(flow, size).await? {
                        continue;
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
            let created = self.in_pool(|| disk.create(&path, size));
            let file = created.map_err(|e| Error::io("make segment", &path, None, e))?;
            let mailbox = &self.shared.mailbox;
            let may_write = |done| match self.overtaken(new.id.epoch) {
                Some(error) => Some(Err(error)),
                None => mailbox.may_write(done, size),
            };
            let pace = |done| flow.until(move || may_write(done));
            let made = async {
                fill_with_zeros(flow, &file, new.geometry, 0, pace).await?;
                self.calibrate(flow, &file, new.geometry).await?;
                self.overtaken(new.id.epoch).map_or(Ok(()), Err)?;
                self.shared.expect_ours("make segment")?;
                install(flow, new, &file, &path, true).await
            };
            let made = made.await;
            add(&self.shared.meters.segments_made, u64::from(made.is_ok()));
            if bugs::on(Bug::HandleKept) {
                std::mem::forget(std::sync::Arc::clone(&file));
            }
            flow.release(&file);
            made
        };
        let outcome = outcome.await;
        if outcome.is_err() && !bugs::on(Bug::TempFileLeft) {
            self.discard(&path);
            self.discard(&self.shared.dir.join(file_name(new.id.number)));
        }
        outcome
    }

    /// Why a segment of `epoch` is not to be finished; none if it is.
    fn overtaken(&self, epoch: u64) -> Option<Error> {
        let cut = || Error::new(ErrorKind::Closed, "make segment", "the log was cut meanwhile");
        let cause = self.shared.latch.get();
        let poison = cause.map(|cause| poisoned("make segment", &cause));
        poison.or_else(|| (self.stock().epoch != epoch).then(cut))
    }

    /// A retired segment under a new name and nonce; none if there is none fit for it.
    async fn recycle(&self, flow: &Flow) -> Result<Option<Made>> {
        loop {
            // It may have been long since it was looked at.
            self.shared.expect_ours("make segment")?;
            let Some(path) = self.stock().free.pop() else { return Ok(None) };
            let disk = &self.shared.world.disk;
            let fit = disk.open(&path, Access::Write).ok().filter(|file| {
                let full = self.shared.config.segment_bytes;
                // A checkpoint may share the file by a second name.
                let alone = file.links().is_ok_and(|n| n == 1) || bugs::on(Bug::LinkedFileReused);
                alone && file.size().is_ok_and(|n| n == full)
            });
            let Some(file) = fit else {
                self.discard(&path);
                continue;
            };
            // Readers had it in the page cache.
            file.wont_need();
            let new = self.next_segment(self.shared.config.segment_bytes)?;
            if let Some(error) = self.overtaken(new.id.epoch) {
                self.stock().free.push(path);
                return Err(error);
            }
            let made = install(flow, new, &file, &path, false).await;
            add(&self.shared.meters.segments_recycled, u64::from(made.is_ok()));
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
}

/// Half of a segment's size, in whole MiB.
fn halved(size: u64) -> u64 {
    (size / 2) & !((1 << 20) - 1)
}
