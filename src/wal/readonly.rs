//! Reading a log without changing it, also beside the process that writes it.
//!
//! If no writer lives it serves exactly what recovery would keep. Beside a living one it serves
//! what that writer has provably promised: up to the greatest watermark on disk, which trails the
//! last append by at most a second once the log is idle.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::format::meta::{Cut, Meta};
use crate::format::{FORMAT_VERSION, LogId};
use crate::io::{Disk, open_disk};
use crate::lsn::Lsn;
use crate::options::{Backend, RecoveryPolicy};

use super::catalog::{Catalog, Listing, Segment};
use super::disk_use::disk_use;
use super::meta::META;
use super::metrics::{self, Metrics};
use super::reader::{ReadLevel, Reader};
use super::record::Record;
use super::recovery::{
    LOCK, Plan, Progress, RecoveryReport, before_holes, catalog_of, classify, inspect,
    inspect_beside,
};
use super::sync_choice::SyncChoice;

/// How often a log is looked at until it is seen as it was at one moment,
pub(super) const LOOKS: u32 = 64;
/// and how long nobody looks meanwhile: the longer, the more often its writer changed it.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// A log open for reading only, also beside the process that writes it: no lock is held, no file is
/// changed.
///
/// - Shape: a snapshot, taken by [`open`](ReadOnlyWal::open) and anew by
///   [`refresh`](ReadOnlyWal::refresh); in between nothing is noticed, but that a file which the
///   writer removed or used again is `Truncated` to whoever reads it. Its readers live on over a
///   refresh and see what it brought.
/// - Durability: beside a writer it serves what he has provably promised, up to the greatest
///   watermark on disk, which trails his last append by at most about a second once the log is
///   idle. Without one it serves what recovery would keep: behind
///   [`promised_lsn`](ReadOnlyWal::promised_lsn) that is written, and promised to nobody. A power
///   cut can take it until a writer has opened the log, and other records come in its place then.
/// - Cuts: a reader that is beyond a cut from the end hears `Truncated` once a refresh saw it. Of
///   more than 512 cuts since the last look, and where META was lost that told of one, each reader
///   hears it that is beyond the first record of all.
/// - Source: `examples/follow.rs`.
#[derive(Debug)]
pub struct ReadOnlyWal {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    catalog: Arc<Catalog>,
    report: RecoveryReport,
    stat: LogStat,
    user_state: Vec<u8>,
    /// The greatest watermark that was found, of what is served.
    promised: Lsn,
    seen: Seen,
}

/// What META said of the log and of cuts at the last look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    log_id: LogId,
    /// The last one.
    cut: Option<Cut>,
    /// That of the next one, or a lower one.
    next_epoch: u64,
}

impl Seen {
    pub(super) fn of(meta: &Meta) -> Seen {
        let Meta { log_id, next_epoch, .. } = *meta;
        Seen { log_id, cut: meta.cuts.last().copied(), next_epoch }
    }

    /// From where on records that were served after this look are no more, if `now` is a later one.
    pub(super) fn cut_since(&self, now: &Meta) -> Option<Lsn> {
        if now.log_id != self.log_id || now.next_epoch < self.next_epoch {
            // Another log stands there now, or an older copy of this one: of none of its records
            // is it known that they are those which were served.
            return Some(Lsn::FIRST);
        }
        match now.cut_since(self.next_epoch) {
            // Nothing takes a cut back: META was rebuilt, and knows nothing of those before.
            None if now.cuts.last() != self.cut.as_ref() => Some(Lsn::FIRST),
            cut => cut,
        }
    }
}

/// Facts about a log on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStat {
    /// The backend that wrote it last: `uring`, `pwrite`, ...
    pub last_backend: &'static str,
    /// The sync method: `dsync` or `fdatasync` as configured; `auto: dsync` or `auto: fdatasync` as
    /// measured; `auto` if it was not measured yet.
    pub sync_method: &'static str,
    /// The first record; none if it holds none.
    pub first_lsn: Option<Lsn>,
    /// The LSN after the last record that is served; none if it holds none.
    pub next_lsn: Option<Lsn>,
    /// The last record that is served; none if it holds none. See [`ReadOnlyWal::promised_lsn`].
    pub durable_lsn: Option<Lsn>,
    /// The last of those that is known to be promised; none if none is.
    pub promised_lsn: Option<Lsn>,
    /// Segment files, empty ones too.
    pub segments: u64,
    /// Bytes of segments, META, METRICS and the pool.
    pub size_bytes: u64,
    /// The format's version.
    pub format_version: u32,
}

/// A log as it was at one moment.
pub(super) struct Look {
    pub(super) plan: Plan,
    /// What is kept, ready to be read.
    listed: Vec<Arc<Segment>>,
    /// There is a living writer.
    live: bool,
}

/// Whether somebody writes a log, and the state that META has: each that gets as far as to mark the
/// log open, or gives something of it up, leaves another one.
#[derive(PartialEq, Eq)]
pub(super) struct Presence {
    pub(super) live: bool,
    state: Option<(LogId, u64)>,
}

impl Presence {
    pub(super) fn of(disk: &dyn Disk, dir: &Path) -> Result<Presence> {
        // What is wrong with META is for others to say. It is read first: who changes it after
        // that, and then names, is seen by his lock, or by META the next time.
        let meta = super::meta::load(disk, dir).ok().flatten();
        let lock = dir.join(LOCK);
        let live = disk.is_locked(&lock).map_err(|e| Error::io("open", &lock, None, e))?;
        Ok(Presence { live, state: meta.map(|loaded| (loaded.meta.log_id, loaded.meta.sequence)) })
    }
}

/// Looks at a log; where a writer is, or was meanwhile, again, until it is seen as it was at one
/// moment.
pub(super) fn look(disk: &dyn Disk, dir: &Path) -> Result<Look> {
    // Where the last look met damage, and what those beside a writer keep.
    let (mut met, mut known) = (None, None);
    for look in 1.. {
        let before = Presence::of(disk, dir)?;
        let looked = match before.live {
            true => inspect_beside(disk, dir, &mut known),
            false => inspect(disk, dir, RecoveryPolicy::TornTail, &Progress::default()),
        };
        // Open segments are opened once more here, and may be gone by then.
        let looked = looked.and_then(|plan| Ok((catalog_of(disk, &plan.found)?, plan)));
        // A writer may have come since, and even gone: what he has not promised yet is not told
        // from what a dead one left.
        let came = !before.live && Presence::of(disk, dir).is_ok_and(|now| now != before);
        let live = before.live || came;
        let error = match looked {
            Ok(_) if came && look < LOOKS => {
                std::thread::sleep((PAUSE * look).min(LONGEST_PAUSE));
                continue;
            }
            Ok((listed, plan)) => {
                let listed = listed.into_values().collect();
                return Ok(Look { plan, listed, live });
            }
            Err(error) => error,
        };
        let gone = error.io_kind() == Some(io::ErrorKind::NotFound);
        let damage = error.kind() == ErrorKind::Corrupt;
        // Beside a writer a segment may go, or grow between two reads; damage stays where it is.
        let place = (error.path().map(Path::to_path_buf), error.offset());
        if !(live && (gone || damage)) || look >= LOOKS || met.as_ref() == Some(&place) {
            return Err(error);
        }
        met = damage.then_some(place);
        std::thread::sleep((PAUSE * look).min(LONGEST_PAUSE));
    }
    unreachable!("the last look returns")
}

/// The disk a log is read from, once the directory is known to hold one.
pub(super) fn disk_of(dir: &Path) -> Result<Arc<dyn Disk>> {
    let none = |why: &str| Err(Error::invalid("open", why).at(dir, None));
    let (disk, _) = open_disk(dir, Backend::Pwrite)?;
    match disk.list(dir) {
        Ok(entries) if entries.iter().any(|entry| entry.name == META) => Ok(disk),
        Ok(entries) => match classify(dir, &entries) {
            Err(e) if e.kind() == ErrorKind::Corrupt => Err(e),
            _ => none("there is no log in this directory"),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => none("there is no log here"),
        Err(e) => Err(Error::io("open", dir, None, e)),
    }
}

impl ReadOnlyWal {
    /// Opens the log in `dir` for reading: as it is at this moment, until `refresh`.
    ///
    /// - Shape: reads the headers and footers of all segments and the frames of those that are
    ///   open; beside a writer again, if he changes something meanwhile, up to 64 times.
    ///
    /// # Errors
    /// `Invalid`: no log there. `Corrupt`: promised records are missing. `Unsupported`: as
    /// [`Wal::open`](super::Wal::open). `Io`; with `NotFound` in it a writer removed segments
    /// faster than they could be looked at: try again.
    pub fn open(dir: impl AsRef<Path>) -> Result<ReadOnlyWal> {
        // Wherever the process changes to before `refresh`.
        let dir = super::absolute(dir.as_ref())?;
        ReadOnlyWal::open_on(disk_of(&dir)?, dir)
    }

    /// Opens a log on a disk of one's own.
    ///
    /// # Errors
    /// As [`ReadOnlyWal::open`].
    pub fn open_on(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<ReadOnlyWal> {
        let dir = dir.as_ref().to_path_buf();
        let look = look(&*disk, &dir)?;
        let catalog = Arc::new(Catalog::following());
        let stat = stat_of(&*disk, &dir, &look.plan)?;
        let report = look.plan.report.clone();
        let (user_state, seen) = (Vec::new(), Seen::of(&look.plan.meta.meta));
        let promised = Lsn::NONE;
        let mut log = ReadOnlyWal { dir, disk, catalog, report, stat, user_state, promised, seen };
        log.serve(look);
        Ok(log)
    }

    fn serve(&mut self, look: Look) {
        let Look { plan, listed, live } = look;
        let first = plan.meta.meta.first_lsn;
        let cut = self.seen.cut_since(&plan.meta.meta);
        // Nothing was cut, and no recovery ended: what was served and promised still is. A writer
        // who recovers has not judged yet, and a footer that said more may be gone with its file.
        let stays = cut.is_none() && self.seen.next_epoch == plan.meta.meta.next_epoch;
        let (served, known) =
            if stays { (self.catalog.next(), self.promised) } else { (Lsn::NONE, Lsn::NONE) };
        let promised = plan.promised.max(known).next();
        let next = match live {
            true => plan.next.min(promised.max(served)),
            false => plan.next,
        };
        let next = next.max(first);
        let empty = next == first;
        let promised = promised.min(next);
        self.promised = before_holes(promised, &plan.meta.meta.removed).prev();
        self.stat.promised_lsn = (!empty && self.promised >= first).then_some(self.promised);
        self.stat.first_lsn = (!empty).then_some(first);
        self.stat.next_lsn = (!empty).then_some(next);
        self.stat.durable_lsn = (!empty).then_some(next.prev());
        self.seen = Seen::of(&plan.meta.meta);
        self.user_state = plan.meta.meta.user_state;
        self.report = plan.report;
        self.report.kept_through = before_holes(next, &plan.meta.meta.removed).prev();
        if live {
            // What lies behind the end is being written, not given up.
            self.report.given_up.clear();
        }
        // They hold what was found and no more: a reader that is through lets go of them.
        listed.iter().for_each(|segment| segment.stop());
        let (segments, holes) = (listed, plan.meta.meta.removed);
        self.catalog.refresh(Listing { segments, first, next, holes }, cut);
    }

    /// Looks again; true if records are served that lie beyond all that were before.
    ///
    /// - Shape: costs what `open` costs. A log that was only cut is `false` and news all the same:
    ///   ask a reader that was at its end, or it hears of the cut when there is more.
    /// - Cuts: as on [`ReadOnlyWal`].
    ///
    /// # Errors
    /// As [`ReadOnlyWal::open`]; what was served before still is.
    pub fn refresh(&mut self) -> Result<bool> {
        let before = self.durable_lsn();
        let look = look(&*self.disk, &self.dir)?;
        self.stat = stat_of(&*self.disk, &self.dir, &look.plan)?;
        self.serve(look);
        Ok(self.durable_lsn() > before)
    }

    /// The first record; none if the log holds none.
    pub fn first_lsn(&self) -> Option<Lsn> {
        self.stat.first_lsn
    }

    /// The LSN after the last record that is served.
    pub fn next_lsn(&self) -> Lsn {
        self.catalog.next()
    }

    /// The last record that is served; inclusive, 0 = none.
    pub fn durable_lsn(&self) -> Lsn {
        self.catalog.durable()
    }

    /// The last record served that is known to be promised; inclusive. Before the first one, or 0,
    /// if none is. Less than
    /// `durable_lsn` only where a writer died and no other came, or where the log ends in a hole:
    /// act on nothing beyond if that must outlive a power cut.
    pub fn promised_lsn(&self) -> Lsn {
        self.promised
    }

    /// Reads records from `from` on, in LSN order; after a `refresh` also what that brought.
    ///
    /// # Errors
    /// `Truncated`: `from` was cut. `Invalid`: it is `Lsn::NONE`.
    pub fn reader(&self, from: Lsn) -> Result<Reader> {
        let (catalog, disk) = (Arc::clone(&self.catalog), Arc::clone(&self.disk));
        Reader::new(catalog, disk, from, ReadLevel::Durable)
    }

    /// Reads one record.
    ///
    /// # Errors
    /// `Invalid`: it is not served. `Truncated`. `Corrupt` with file and offset. `Lost`.
    /// `Io`.
    pub fn read(&self, lsn: Lsn) -> Result<Record> {
        Reader::one(Arc::clone(&self.catalog), Arc::clone(&self.disk), lsn)
    }

    /// The user slot, as of the last look; empty if it was never set.
    pub fn user_state(&self) -> Vec<u8> {
        self.user_state.clone()
    }

    /// The LSNs of records that were lost to damage and given up: readers say `Lost` there.
    pub fn holes(&self) -> Vec<std::ops::Range<Lsn>> {
        self.catalog.holes().into_iter().map(|(from, to)| from..to).collect()
    }

    /// What recovery would find and give up.
    pub fn recovery(&self) -> RecoveryReport {
        self.report.clone()
    }

    /// The metrics that the last process to write the log left in its directory, as of
    /// [`Metrics::at_us`]: at its clean close, or now and then while it runs. None if there are
    /// none, or if what is there is damaged.
    pub fn last_metrics(&self) -> Option<Metrics> {
        metrics::file::load(&*self.disk, &self.dir)
    }

    /// Facts about the log, as of the last look.
    pub fn stat(&self) -> LogStat {
        self.stat.clone()
    }
}

fn stat_of(disk: &dyn Disk, dir: &Path, plan: &Plan) -> Result<LogStat> {
    let meta = &plan.meta.meta;
    let names = ["none", "uring", "pwrite", "mmap", "tokio-uring", "sim"];
    Ok(LogStat {
        last_backend: names.get(usize::from(meta.last_backend)).copied().unwrap_or("other"),
        sync_method: SyncChoice::name(meta.sync_method),
        first_lsn: None,
        next_lsn: None,
        durable_lsn: None,
        promised_lsn: None,
        segments: plan.found.len() as u64,
        size_bytes: disk_use(disk, dir)?,
        format_version: FORMAT_VERSION,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Wal;
    use super::*;
    use crate::options::WalConfig;

    #[test]
    fn a_look_tells_what_is_served_and_what_of_it_is_promised() {
        let root = tempfile::tempdir().unwrap();
        let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(root.path()) };
        let wal = Wal::open(config.clone()).unwrap();
        wal.append_batch(["one", "two"]).unwrap().wait().unwrap();
        wal.close().unwrap();
        let mut log = ReadOnlyWal::open(root.path()).unwrap();
        let told = |log: &ReadOnlyWal| {
            let stat = log.stat();
            assert_eq!(stat.promised_lsn, Some(log.promised_lsn()));
            (log.promised_lsn().get(), stat.next_lsn.map(Lsn::get))
        };
        assert_eq!(told(&log), (2, Some(3)));
        let wal = Wal::open(config).unwrap();
        wal.append_batch(["three"]).unwrap().wait().unwrap();
        wal.close().unwrap();
        assert!(log.refresh().unwrap());
        assert_eq!(told(&log), (3, Some(4)));
    }
}
