//! The maker: segments made ahead of their use, retired ones recycled, META kept.
//!
//! ```text
//! writer --need(bytes)--> Mailbox --+--> make:  pool or zeros -> header -> N.seg --> ready
//!                                   |      | no room on disk: cut the oldest
//!                                   |      | calibrate: forced writes or syncs, once
//! caller --Job----------> Mailbox --+--> chores: META first, then whole segments are retired
//!                                          | retire: their names go, some come back into the pool
//!                                          ^ retain: what is old or too much goes
//!                                          ^ wipe: what was cut is overwritten, if asked for
//!                                          ^ tell: the file METRICS, now and then
//! ```
//!
//! Two flows on one queue: a long write of zeros never delays a truncation. Invariants: a segment
//! is handed out only when its name and blocks are durable; a sync that fails poisons; a full disk
//! is met here, before LSNs are given out; META says that a segment is cut before its file goes; a
//! file that a reader holds or that has a second name is never used again.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::error::{Error, ErrorKind};
use crate::format::LogId;
use crate::io::Flow;
use crate::segment::pool_dir;

use super::catalog::Segment;
use super::meta::MetaFile;
use super::metrics::file::Teller;
use super::shared::{Shared, poisoned};

mod calibrate;
mod chores;
mod make;
mod retain;
mod retire;
mod wipe;

/// The maker's own state, used by both flows between awaits.
pub(crate) struct Maker {
    shared: Arc<Shared>,
    log_id: LogId,
    stock: Mutex<Stock>,
    teller: Teller,
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
    /// Segments that an earlier life retired and did not wipe.
    pub(crate) unwiped: Vec<Retired>,
    /// Segments that were cut and could not be removed yet: to cut more would free nothing.
    pub(crate) stuck: Vec<Arc<Segment>>,
}

impl Stock {
    /// How many retired segments are, or will be once they are wiped, there to be used again.
    fn reusable(&self) -> usize {
        self.free.len() + self.unwiped.iter().filter(|left| left.reusable).count()
    }
}

/// A segment that was taken out of the log, under its name in the pool.
#[derive(Clone, Debug)]
pub(crate) struct Retired {
    pub(crate) path: PathBuf,
    /// Whether it may become another segment.
    pub(crate) reusable: bool,
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
        Maker { shared, log_id, stock: Mutex::new(stock), teller: Teller::default() }
    }

    fn has_stuck(&self) -> bool {
        !self.stock().stuck.is_empty()
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

    /// What a failure in making or wiping means to the log. A sync that failed poisons it, whatever
    /// it was for: a disk that could not flush its cache may have lost what the writer wrote, and
    /// says so once.
    fn heed(&self, error: Error) -> Error {
        if !error.is_failed_sync() {
            return error;
        }
        let poison = poisoned("make segment", &error);
        self.shared.latch.set(error);
        self.shared.bell.ring();
        poison
    }

    /// Removes a file that nothing needs; tells whether it did. If that fails it is found and
    /// removed at the next open.
    fn discard(&self, path: &Path) -> bool {
        // What has that name may be another log's by now.
        if self.shared.expect_ours("remove").is_err() {
            return false;
        }
        let removed = self.shared.world.disk.unlink(path);
        if let Err(error) = &removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "can't remove an unused file");
        }
        removed.is_ok()
    }

    /// Does what needs the pool. Somebody may have removed that, for its space: it is made again.
    fn in_pool<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let done = act();
        let missing = done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if !missing || self.shared.expect_ours("make the pool").is_err() {
            return done;
        }
        self.shared.world.disk.create_dir(&pool_dir(&self.shared.dir))?;
        act()
    }

    fn sizes(&self) -> (u64, u64) {
        let stock = self.stock();
        (stock.highest_number, stock.growth_bytes)
    }
}
