//! What goes by itself: old records, records beyond the window on disk; and the cap.
//!
//! ```text
//! time:  now - window > time of a segment's newest record  -> its records are cut
//! size:  used + next segment > window + one segment        -> the oldest sealed one is cut first
//! cap:   used + next segment > cap                         -> `StorageFull`
//! ```
//!
//! `used` is what the log's own files take, counted by their sizes, when a segment is to be
//! made: between two such moments a log does not grow. Records go in whole segments.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::io::Flow;
use crate::lsn::Lsn;
use crate::options::CompactionPolicy;

use super::super::disk_use::disk_use;
use super::super::mailbox::Job;
use super::super::meta::MetaFile;
use super::super::shared::poisoned;
use super::super::ticket::pair;
use super::Maker;

/// How often the age of records is looked at: not more often, and at least, for the wall clock may
/// be set.
const LOOK_AGAIN: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);

/// Whether a new segment may be made.
pub(super) enum Admission {
    /// It fits.
    Fits,
    /// Something was cut for it: ask again.
    MadeRoom,
    /// It would be more than the log may take.
    Refused(Error),
}

impl Maker {
    /// Milliseconds a record is kept.
    fn window_ms(&self) -> Option<u64> {
        let config = &self.shared.config;
        let policy = match config.compaction {
            CompactionPolicy::TimeWindow(ms) => Some(ms),
            CompactionPolicy::None | CompactionPolicy::SizeWindow(_) => None,
        };
        [config.retention_ms, policy].into_iter().flatten().min()
    }

    /// When, on the host's clock, the start of the log is too old; none if nothing ever is.
    pub(super) fn expiry(&self) -> Option<Duration> {
        let window_us = self.window_ms()?.saturating_mul(1000);
        if self.shared.latch.get().is_some() {
            return None;
        }
        let host = &self.shared.world.host;
        let now_us = host.wall_us();
        let newest = self.shared.catalog.newest_at_start();
        // A segment that comes later expires later.
        let expires_us = newest.unwrap_or(now_us).saturating_add(window_us).saturating_add(1);
        let left = Duration::from_micros(expires_us.saturating_sub(now_us));
        Some(host.now() + left.clamp(*LOOK_AGAIN.start(), *LOOK_AGAIN.end()))
    }

    /// Cuts what is due, in the background; a failure of META is latched, anything else passes.
    pub(super) async fn retain(&self, flow: &Flow, meta: &mut MetaFile) {
        if self.shared.latch.get().is_some() {
            // It was due when the log was well; now nothing is written until somebody resumes it.
            return;
        }
        let sized = matches!(self.shared.config.compaction, CompactionPolicy::SizeWindow(_));
        let used = if sized { self.used_bytes() } else { Ok(0) };
        let outcome = match used {
            Ok(used) => self.compact(flow, meta, used).await.map(drop),
            Err(error) => {
                tracing::warn!(%error, "what is too much has to wait");
                self.cut_aged(flow, meta).await.map(drop)
            }
        };
        if let Err(error) = outcome {
            self.shared.latch.set(error);
            self.shared.bell.ring();
        }
    }

    /// Cuts what the policies cut from a log that takes `used` bytes; gives the first record that
    /// is kept.
    pub(super) async fn compact(&self, flow: &Flow, meta: &mut MetaFile, used: u64) -> Result<Lsn> {
        let changed = self.cut_aged(flow, meta).await? || self.retire_stuck(flow).await?;
        if let CompactionPolicy::SizeWindow(window) = self.shared.config.compaction {
            match if changed { self.used_bytes() } else { Ok(used) } {
                Ok(used) => self.shrink(flow, meta, used, window).await?,
                Err(error) => tracing::warn!(%error, "what is too much has to wait"),
            }
        }
        Ok(self.shared.catalog.first())
    }

    /// Cuts what is too old; tells whether anything was.
    async fn cut_aged(&self, flow: &Flow, meta: &mut MetaFile) -> Result<bool> {
        let Some(ms) = self.window_ms() else { return Ok(false) };
        let (host, catalog) = (&self.shared.world.host, &self.shared.catalog);
        let keep = catalog.older_than(host.wall_us().saturating_sub(ms.saturating_mul(1000)));
        if keep <= catalog.first() {
            return Ok(false);
        }
        self.truncate_before(flow, meta, keep).await?;
        Ok(true)
    }

    /// Gives up files of the pool, then the oldest records, until `window` bytes hold the log.
    async fn shrink(
        &self,
        flow: &Flow,
        meta: &mut MetaFile,
        mut used: u64,
        window: u64,
    ) -> Result<()> {
        while used > window {
            if let Some(free) = self.drop_pooled() {
                used = used.saturating_sub(free);
            } else if !self.has_stuck()
                && let Some((size, _)) = self.shared.catalog.oldest_sealed()
            {
                self.cut_oldest(flow, meta).await?;
                if self.stock().free.is_empty() {
                    used = used.saturating_sub(size);
                }
            } else {
                break;
            }
        }
        Ok(())
    }

    /// What `make_room` waits for; tells whether to look again. What was done since it asked may be
    /// enough: then no record goes for it.
    pub(super) async fn give_room(
        &self,
        flow: &Flow,
        meta: &mut MetaFile,
        size: u64,
    ) -> Result<bool> {
        let tried = self.retire_stuck(flow).await?;
        // If that can't be told nothing is cut; who asked looks again, and hears why.
        let fits = self.used_bytes().map_or(true, |used| self.fits(used, size));
        let windowed = self.size_window().is_some();
        if fits || windowed && !self.stock().free.is_empty() {
            return Ok(true);
        }
        if !windowed || self.has_stuck() {
            return Ok(false);
        }
        Ok(self.cut_oldest(flow, meta).await? || tried)
    }

    /// Cuts the oldest sealed segment; false if there is none.
    async fn cut_oldest(&self, flow: &Flow, meta: &mut MetaFile) -> Result<bool> {
        let Some((_, next)) = self.shared.catalog.oldest_sealed() else { return Ok(false) };
        self.truncate_before(flow, meta, next).await?;
        Ok(true)
    }

    /// Removes a file from the pool; gives the space that came back, none if it holds no more.
    fn drop_pooled(&self) -> Option<u64> {
        let path = self.stock().free.pop()?;
        // Somebody may have removed it.
        Some(if self.discard(&path) { self.shared.config.segment_bytes } else { 0 })
    }

    /// What the log takes on disk, bytes.
    fn used_bytes(&self) -> Result<u64> {
        let used = disk_use(&*self.shared.world.disk, &self.shared.dir)?;
        // After the look, which went by names: they may have been another log's.
        self.shared.expect_ours("look at the log's size")?;
        Ok(used)
    }

    /// The same once nothing is left to be wiped: counted with that, records would be cut in its
    /// place.
    pub(super) async fn used_by_log(&self, flow: &Flow) -> Result<u64> {
        while self.has_leftovers() {
            self.wipe_next(flow).await;
            if let Some(cause) = self.shared.latch.get() {
                return Err(poisoned("compact", &cause));
            }
        }
        self.used_bytes()
    }

    /// What the log may take while it grows, if `compaction` bounds that: the window and a segment.
    fn size_window(&self) -> Option<u64> {
        let config = &self.shared.config;
        match config.compaction {
            CompactionPolicy::SizeWindow(window) => {
                Some(window.saturating_add(config.segment_bytes))
            }
            CompactionPolicy::None | CompactionPolicy::TimeWindow(_) => None,
        }
    }

    /// What the log may take, the next segment included, bytes.
    fn limit(&self) -> Option<u64> {
        [self.size_window(), self.shared.config.max_disk_bytes].into_iter().flatten().min()
    }

    /// Whether a log that takes `used` bytes may take `size` more.
    fn fits(&self, used: u64, size: u64) -> bool {
        self.limit().is_none_or(|limit| used.saturating_add(size) <= limit)
    }

    /// Whether a new file of `size` may be made now; cuts the oldest segment for it if that is
    /// what the policy says.
    pub(super) async fn admit(&self, flow: &Flow, size: u64) -> Result<Admission> {
        let Some(limit) = self.limit() else { return Ok(Admission::Fits) };
        let windowed = self.size_window().is_some();
        let before = self.used_bytes()?;
        if self.fits(before, size) {
            return Ok(Admission::Fits);
        }
        let full = size == self.shared.config.segment_bytes;
        if windowed && !full && self.drop_pooled().is_some() {
            // No file of the pool will become a smaller one.
            return Ok(Admission::MadeRoom);
        }
        let pooled = self.stock().free.len();
        let may_help = windowed || self.has_stuck() || self.has_leftovers();
        if may_help && self.make_room(flow, size).await? {
            let waits = self.has_leftovers() || self.stock().free.len() > pooled;
            if waits || self.used_bytes()? < before {
                return Ok(Admission::MadeRoom);
            }
        }
        // What was in the way may have been cut for its age while that was waited for.
        let used = self.used_bytes()?;
        if self.fits(used, size) {
            return Ok(Admission::Fits);
        }
        if self.has_stuck() {
            let why = "a segment that was cut could not be removed, so its space is not free; is \
                       the directory still writable?";
            let error = Error::new(ErrorKind::StorageFull, "make segment", why);
            return Ok(Admission::Refused(error.at(&self.shared.dir, None)));
        }
        let why = format!(
            "one more segment takes {size} bytes, and the log has {used} of the {limit} it may \
             take; truncate it, or raise max_disk_bytes"
        );
        Ok(Admission::Refused(Error::new(ErrorKind::StorageFull, "make segment", why)))
    }

    /// Tries once more to remove what was cut, for that may free what the disk lacks; tells whether
    /// all of it is gone now.
    pub(super) async fn clear_stuck(&self, flow: &Flow, size: u64) -> Result<bool> {
        Ok(self.has_stuck() && self.make_room(flow, size).await? && !self.has_stuck())
    }

    /// Has what was cut removed, or the oldest segment cut once there is one that is sealed; false
    /// if that does not help.
    async fn make_room(&self, flow: &Flow, size: u64) -> Result<bool> {
        let (catalog, mailbox) = (&self.shared.catalog, &self.shared.mailbox);
        if self.has_leftovers() {
            // They go by themselves: no record is cut in their place.
            let over = || self.shared.latch.get().is_some() || mailbox.is_enough();
            let gone = || (!self.has_leftovers() || over()).then_some(());
            flow.until(gone).await;
            if let Some(cause) = self.shared.latch.get() {
                return Err(poisoned("make segment", &cause));
            }
            return Ok(!self.has_leftovers());
        }
        let sealed = || match catalog.oldest_sealed() {
            Some(_) => Some(true),
            None if self.has_stuck() => Some(true),
            None => mailbox.nothing_to_seal().then_some(false),
        };
        if !flow.until(sealed).await {
            return Ok(false);
        }
        let (answer, mut ticket) = pair(&self.shared.world.host, "make room");
        if !mailbox.job_of_making(Job::MakeRoom(size, answer)) {
            return Ok(false);
        }
        flow.until(|| ticket.try_wait()).await
    }
}
