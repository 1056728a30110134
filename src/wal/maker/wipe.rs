//! Overwriting what was cut, if `wipe_retired` asks for it.
//!
//! ```text
//! N.seg -> pool/N.free, both directories synced -> zeros behind the header -> sync
//!     -> used again, or removed
//! ```
//!
//! A cut wipes what it took out before it returns. What a crash left of that is wiped by the next
//! life, a segment at a time, whenever there is no job; a close leaves the rest to the one after.
//!
//! The header stays: it holds no record, and should the device after all know the file by its old
//! name, it is found there as a segment without frames, below the start that META tells.

use std::path::Path;

use crate::cast::round_up;
use crate::error::{Error, Result};
use crate::io::{Access, Flow};
use crate::segment::{Geometry, fill_with_zeros};

use super::{Maker, Retired};

impl Maker {
    /// Makes retired segments ready for what comes next: those that can be used again get into the
    /// stock, the others go. Their old names are durably gone.
    pub(super) async fn put_away(&self, flow: &Flow, retired: Vec<Retired>) {
        for Retired { path, reusable } in retired {
            let ready = match self.shared.config.wipe_retired {
                true => self.wipe(flow, &path).await,
                false => Ok(true),
            };
            let ready = ready.map_err(|e| self.heed(e));
            if let Err(error) = &ready {
                tracing::warn!(%error, "a retired segment could not be wiped, and is removed");
            }
            if reusable && matches!(ready, Ok(true)) {
                self.stock().free.push(path);
            } else {
                self.discard(&path);
            }
        }
    }

    /// Zeros over all frames and the footer, durably; false if the file has a second name.
    async fn wipe(&self, flow: &Flow, path: &Path) -> Result<bool> {
        let failed = |e| Error::io("wipe segment", path, None, e);
        let file = self.shared.world.disk.open(path, Access::Write).map_err(failed)?;
        self.shared.expect_ours("wipe segment")?;
        if file.links().map_err(failed)? > 1 {
            // A checkpoint shares the file, and wants what is in it.
            return Ok(false);
        }
        let block = self.shared.block;
        let size = round_up(file.size().map_err(failed)?, block);
        let geometry = Geometry { size, block };
        let start = geometry.frames_start();
        if size <= start {
            // A crash came before the file got its size.
            return Ok(true);
        }
        let outcome =
            fill_with_zeros(flow, &file, geometry, start, |_| std::future::ready(Ok(()))).await;
        flow.release(&file);
        outcome.map(|()| true)
    }

    /// Whether an earlier life of the log left something that is not wiped yet.
    pub(super) fn has_leftovers(&self) -> bool {
        !self.stock().unwiped.is_empty()
    }

    /// Wipes one segment that an earlier life left; it counts as left until then.
    pub(super) async fn wipe_next(&self, flow: &Flow) {
        let next = self.stock().unwiped.last().cloned();
        self.put_away(flow, next.into_iter().collect()).await;
        self.stock().unwiped.pop();
        if !self.has_leftovers() {
            // The other flow may wait for it.
            self.shared.mailbox.space_came_back();
        }
    }
}
