//! Taking segments out of the directory, once META says that they are cut.
//!
//! ```text
//! N.seg -- rename --> pool/N.free   full size, read by nobody, a place in the pool; or to be wiped
//!       -- unlink                   any other
//!       -- neither works: `stuck`, tried again with the next cut and when space is short
//! then both directories are synced, and only then may a file be written again
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::{Access, Flow};
use crate::segment::{SegmentFile, free_name, pool_dir, sync_pool};

use super::super::catalog::Segment;
use super::super::metrics::add;
use super::{Maker, Retired};

impl Maker {
    /// Takes the names of segments away; `spare` is a file in the pool that lost its own. An error
    /// means that a directory could not be synced: then nobody knows which names the device holds,
    /// and no file may be used again.
    pub(super) async fn retire_all(
        &self,
        flow: &Flow,
        segments: Vec<Arc<Segment>>,
        spare: Option<PathBuf>,
    ) -> Result<()> {
        let shared = &self.shared;
        let mut waiting = std::mem::take(&mut self.stock().stuck);
        let known = waiting.len();
        waiting.extend(segments);
        if let Err(error) = shared.expect_ours("retire segments") {
            // As below: the cut is durable without it.
            tracing::warn!(%error, "segments below the cut were not removed");
            self.stock().stuck = waiting;
            return Ok(());
        }
        let (mut retired, mut stuck) = (Vec::new(), Vec::new());
        let mut reusable = self.stock().reusable() + spare.iter().len();
        for (at, segment) in waiting.into_iter().enumerate() {
            match self.retire(&segment, reusable < shared.config.pool_segments()) {
                Ok(gone) => {
                    add(&shared.meters.segments_retired, 1);
                    reusable += usize::from(gone.as_ref().is_some_and(|gone| gone.reusable));
                    retired.extend(gone);
                }
                // The cut is durable without it. It is tried again with the next cut, and when
                // space is short; at last the next open finds the file and removes it.
                Err(error) => {
                    if at >= known {
                        tracing::warn!(%error, "a segment below the cut could not be removed");
                    }
                    stuck.push(segment);
                }
            }
        }
        self.stock().stuck = stuck;
        let (disk, dir) = (&*shared.world.disk, &shared.dir);
        let failed = |dir: &Path, e| Error::io("retire segments", dir, None, e);
        disk.sync_dir(dir).map_err(|e| failed(dir, e))?;
        sync_pool(disk, dir).map_err(|e| failed(&pool_dir(dir), e))?;
        // Only now may one of them be written again: its old name is durably gone.
        self.stock().free.extend(spare);
        self.put_away(flow, retired).await;
        Ok(())
    }

    /// Tries again to remove what could not be; tells whether there was anything.
    pub(super) async fn retire_stuck(&self, flow: &Flow) -> Result<bool> {
        let any = self.has_stuck();
        if any {
            self.retire_all(flow, Vec::new(), None).await?;
        }
        Ok(any)
    }

    /// Takes a segment's name away; gives the new one if the file is still needed. Done by somebody
    /// else it is done as well.
    fn retire(&self, segment: &Arc<Segment>, wanted: bool) -> Result<Option<Retired>> {
        let disk = &self.shared.world.disk;
        let path = &segment.file.path;
        let full = segment.file.geometry.size == self.shared.config.segment_bytes;
        // It left the catalog: whoever does not hold it now never will.
        let unpinned = Arc::strong_count(segment) == 1;
        let reusable = full && unpinned && wanted;
        let gone = if reusable || self.shared.config.wipe_retired {
            let to = pool_dir(&self.shared.dir).join(free_name(segment.file.id.number));
            match self.in_pool(|| disk.rename(path, &to)) {
                Err(e) if disk.open(&to, Access::Cached).is_err() => {
                    // There is no place for it; without a name it takes none.
                    let wiped_first = self.shared.config.wipe_retired;
                    if wiped_first { Err(e) } else { disk.unlink(path).map(|()| None) }
                }
                // It may also have been moved by an attempt that was called failed.
                _ => Ok(Some(Retired { path: to, reusable })),
            }
        } else {
            disk.unlink(path).map(|()| None)
        };
        match gone {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            gone => gone.map_err(|e| Error::io("retire segment", path, None, e)),
        }
    }

    /// Takes out what was below the start of the log when it still lacked its footer.
    pub(super) async fn retire_late(&self, flow: &Flow) {
        let gone = self.shared.catalog.remove_before(self.shared.catalog.first());
        if let Err(error) = self.retire_all(flow, gone, None).await {
            self.shared.latch.set(error);
            self.shared.bell.ring();
        }
        self.shared.mailbox.space_came_back();
    }

    /// Puts a segment that was made and never used back into the pool, from where it gets another
    /// identity; none if it is too small for that.
    pub(super) fn spare(&self, segment: &SegmentFile) -> Option<PathBuf> {
        let to = pool_dir(&self.shared.dir).join(free_name(segment.id.number));
        let full = segment.geometry.size == self.shared.config.segment_bytes;
        let kept = full && self.stock().reusable() < self.shared.config.pool_segments();
        let ours = self.shared.expect_ours("put a segment back").is_ok();
        if kept && ours && self.shared.world.disk.rename(&segment.path, &to).is_ok() {
            return Some(to);
        }
        self.discard(&segment.path);
        None
    }
}
