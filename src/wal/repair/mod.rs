//! Repair: a log that can't be opened, or has damage, made whole in its place or somewhere else.
//!
//! ```text
//! META, if it is gone: from the segments' headers     (rebuild)
//! in place:  `RecoveryPolicy::Salvage`, then closed    nothing that is damaged is overwritten
//! to NEW:    every whole frame copied, LSNs kept       the source is only read   (transfer)
//! ```
//!
//! Invariants: a healthy log is not changed; no file of the source is lost: what can't be used gets
//! a name beside its own; no LSN of a lost record is given again.

use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Flow, LockGuard, ThreadHost, World, block_on, open_disk};
use crate::lsn::Lsn;
use crate::options::{Backend, RecoveryPolicy};

use super::engine::{CHORES_DEPTH, take_lock};
use super::meta;
use super::recovery::{
    Contents, GivenUp, LOCK, Loss, State, Survey, after, assess, can_go_on, classify, count,
    places, survey_with, union,
};

mod in_place;
mod rebuild;
mod transfer;

use in_place::{CARRY_OUT_PASSES, carry_out, meta_given_up};
use rebuild::rebuild;

/// What a repair found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Whether anything was written: false of a healthy log that is repaired in place.
    pub changed: bool,
    /// What was given up: which file, where in it, which records, and why.
    pub given_up: Vec<GivenUp>,
    /// The LSNs of all records that were lost, now or before.
    pub holes: Vec<Range<Lsn>>,
    /// Records that are there.
    pub records_kept: u64,
    /// Records that were promised and were found lost by this repair.
    pub records_lost: u64,
    /// The LSN at which the log begins: where META was rebuilt, that of the first record found.
    /// Whether those before it were cut, or are lost with their segments, nothing tells then.
    pub first_lsn: Lsn,
    /// The LSN that the next record gets.
    pub next_lsn: Lsn,
}

/// Repairs the log in `dir` in its place: gives up what is damaged, keeps everything else.
///
/// - Shape: blocks, and reads every frame, more than once if there is anything to repair;
///   `progress` gets the bytes read so far, of how many that can be: on the caller's thread, then
///   on one that writes. Nothing of the log is deleted (what lies in `pool/` is no part of it) and
///   no damaged byte overwritten: they stay in their segment, which readers pass over there, and a
///   file that can't be used at all (a segment without a header, META) is renamed to
///   `NAME.given-up`. A log that is healthy and was closed stays as it is. A missing or unreadable
///   META is rebuilt from the segments: the user slot, earlier cuts and earlier holes are gone with
///   it.
/// - Durability: when it returns `Ok` the repaired log survives power loss; after a crash in
///   between it can be run again. But for this: where META was lost, a sync had failed before, and
///   the disk can't be read past the page cache, what the cache shows is taken for what the device
///   holds; [`repair_to`] writes all of it anew.
///
/// # Errors
/// `Invalid`: no log there; or more holes than META has room for. `Locked`: it has a writer.
/// `Corrupt`: neither META nor any segment can be used; or the file of a segment has another length
/// than its header says, which is [`Error::right_length`](crate::Error::right_length): give it that
/// one first, as `truncate -s` does, for what it holds counts again then ([`repair_to`] gives it
/// up). `Unsupported`, `StorageFull`, `Io`: a read error is no damage, nothing is given up for it.
pub fn repair(
    dir: impl AsRef<Path>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<RepairReport> {
    repair_in(world_of(dir.as_ref())?, dir, progress)
}

/// As [`repair`], on a disk and threads of one's own.
///
/// # Errors
/// As [`repair`].
pub fn repair_in(
    world: World,
    dir: impl AsRef<Path>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<RepairReport> {
    let dir = dir.as_ref();
    let lock = take_lock(&world, dir)?;
    let (survey, rebuilt) = look(&world, dir)?;
    if let Some(error) = survey.unusable.iter().find(|error| error.right_length().is_some()) {
        // What it holds counts again once it has its own; what is given up never does.
        return Err(error.clone());
    }
    let read = bytes(&survey);
    // There is something to do to the very end, whatever was read.
    let total = (read * (1 + CARRY_OUT_PASSES)).max(1);
    let first = &mut |done, _| progress(done, total);
    let loss = assess(&*world.disk, &survey, RecoveryPolicy::Salvage, first)?;
    can_go_on(dir, &survey.meta.meta, &survey.found, loss.next)?;
    let mut report = report(&survey, &loss);
    if rebuilt.is_some() || is_ailing(&survey, &loss) {
        let (mut outcome, meta) = (None, &survey.meta.meta);
        let (slot, world) = (&mut outcome, &world);
        // Recovery counts also what can't be read.
        let rest = &mut |done: u64, of: u64| progress(share(done, of, read..total - 1), total);
        let job = || *slot = Some(carry_out(world, dir, meta, rebuilt.as_deref(), rest));
        let failed = |e| Error::io("repair", dir, None, e);
        world.host.run("prkdb-repair", Box::new(job)).map_err(failed)?;
        report.given_up = outcome.expect("the job ran to its end")?;
        report.changed = true;
    }
    progress(total, total);
    drop(lock);
    Ok(report)
}

/// Writes what is whole in the log in `dir` to a new log in `to`, which must not exist or be empty.
///
/// - Shape: as [`repair`], but the source is only read, and may be on a read-only file system.
///   Records keep their LSN and time, lost ones leave the same holes; the user slot comes along if
///   META is readable. While it is read its LOCK is held, where that can be written. What was
///   written is counted: a record that is neither there nor in a hole is an error.
/// - Durability: the new log is complete and durable when it returns `Ok`. After a crash in between
///   it is no log yet: remove the directory and begin anew.
///
/// # Errors
/// As [`repair`]; `Invalid` also if `to` holds anything, or lies inside `dir`; `Corrupt` also if
/// the source changes while it is read.
pub fn repair_to(
    dir: impl AsRef<Path>,
    to: impl AsRef<Path>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<RepairReport> {
    let (dir, to) = (dir.as_ref(), to.as_ref());
    let inside = |to: &Path| {
        let known = to.ancestors().find_map(|above| above.canonicalize().ok());
        dir.canonicalize().is_ok_and(|dir| known.is_some_and(|known| known.starts_with(dir)))
    };
    // A relative name of one part has the empty path above it.
    let full = std::path::absolute(to).map_err(|e| Error::io("repair", to, None, e))?;
    if inside(&full) {
        let why = "the new log would lie inside the damaged one; name another directory";
        return Err(Error::invalid("repair", why).at(to, None));
    }
    let source = world_of(dir)?;
    let (disk, _) = open_disk(to, Backend::Pwrite)?;
    let target = World { disk, host: Arc::clone(&source.host) };
    repair_to_in(source, dir, target, to, progress)
}

/// As [`repair_to`], on disks and threads of one's own.
///
/// # Errors
/// As [`repair_to`].
pub fn repair_to_in(
    source: World,
    dir: impl AsRef<Path>,
    target: World,
    to: impl AsRef<Path>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<RepairReport> {
    let (dir, to) = (dir.as_ref(), to.as_ref());
    let still = hold_still(&source, dir)?;
    let failed = |e| Error::io("repair", to, None, e);
    match target.disk.list(to) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            if let Some(entry) = entries.map_err(failed)?.first() {
                let why = format!("{} is in it; name a new directory", entry.name);
                return Err(Error::invalid("repair", why).at(to, None));
            }
        }
    }
    let (survey, rebuilt) = look(&source, dir)?;
    let (read, total) = (bytes(&survey), (2 * bytes(&survey)).max(1));
    let first = &mut |done, _| progress(done, total);
    let loss = assess(&*source.disk, &survey, RecoveryPolicy::Salvage, first)?;
    // Refused before anything is written, if it is.
    let meta = after(&survey, &loss, to)?;
    target.disk.create_dir(to).map_err(failed)?;
    let lock = take_lock(&target, to)?;
    let mut report = report(&survey, &loss);
    report.given_up = places(&*source.disk, dir, &survey, &loss)?;
    report.given_up.iter_mut().for_each(|gone| gone.kept_as = None);
    if let Some(why) = &rebuilt {
        report.given_up.insert(0, meta_given_up(dir, why, None));
    }
    report.changed = true;
    let mut outcome = None;
    let slot = &mut outcome;
    let (disk, target, survey, loss) = (&*source.disk, &target, &survey, &loss);
    let rest = &mut |done: u64| progress((read + done).min(total - 1), total);
    let job = || {
        let frames = transfer::Frames::new(disk, survey, loss, rest);
        *slot = Some(on_queue(target, to, |flow| async move {
            transfer::write(&flow, target, to, frames, meta, dir).await
        }));
    };
    target.host.run("prkdb-repair", Box::new(job)).map_err(failed)?;
    outcome.expect("the job ran to its end")?;
    progress(total, total);
    drop((lock, still));
    Ok(report)
}

/// Keeps writers out of a log that is read; nothing holds them where its LOCK can't be written.
fn hold_still(source: &World, dir: &Path) -> Result<Option<LockGuard>> {
    let denied = |e: &Error| {
        let denied = [ReadOnlyFilesystem, PermissionDenied];
        e.io_kind().is_some_and(|kind| denied.contains(&kind))
    };
    match take_lock(source, dir) {
        Err(e) if denied(&e) => {}
        lock => return lock.map(Some),
    }
    let live = source.disk.is_locked(&dir.join(LOCK));
    if live.map_err(|e| Error::io("repair", &dir.join(LOCK), None, e))? {
        let why = "another process writes this log; close it, or repair a copy";
        return Err(Error::new(ErrorKind::Locked, "repair", why).at(dir, None));
    }
    Ok(None)
}

/// The disk of a directory that holds a log, or what is left of one.
fn world_of(dir: &Path) -> Result<World> {
    let (disk, _) = open_disk(dir, Backend::Pwrite)?;
    let entries = match disk.list(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::invalid("repair", "there is no log here").at(dir, None));
        }
        entries => entries.map_err(|e| Error::io("repair", dir, None, e))?,
    };
    match classify(dir, &entries) {
        Ok(Contents::Log) => {}
        // Segments without META.
        Err(e) if e.kind() == ErrorKind::Corrupt => {}
        _ => {
            let why = "there is no log in this directory";
            return Err(Error::invalid("repair", why).at(dir, None));
        }
    }
    Ok(World { disk, host: Arc::new(ThreadHost::new()) })
}

/// What is there; and why META had to be rebuilt, if it had to.
fn look(world: &World, dir: &Path) -> Result<(Survey, Option<String>)> {
    let (loaded, rebuilt) = match meta::load(&*world.disk, dir) {
        Ok(Some(loaded)) => (loaded, None),
        Ok(None) => (rebuild(&*world.disk, dir)?, Some("it is missing".to_string())),
        Err(e) if e.kind() == ErrorKind::Corrupt => (rebuild(&*world.disk, dir)?, Some(e.reason())),
        Err(e) => return Err(e),
    };
    Ok((survey_with(&*world.disk, dir, loaded)?, rebuilt))
}

/// Whether the log has damage that an `open` would refuse, or mend by itself; or was not closed:
/// what is seen of it then need not be durable.
fn is_ailing(survey: &Survey, loss: &Loss) -> bool {
    let meta = &survey.meta.meta;
    let footer = survey.found.iter().zip(&loss.kept).any(|(f, kept)| {
        let State::Open(scan) = &f.state else { return false };
        // In a closed log only the segment with the last record has no footer.
        let before = kept.last().is_some_and(|run| run.last.next() < loss.next);
        scan.bad_footer.is_some() || meta.clean && before
    });
    loss.is_some() || footer || !meta.clean || !survey.meta.whole
}

fn report(survey: &Survey, loss: &Loss) -> RepairReport {
    let meta = &survey.meta.meta;
    let holes = union(&meta.removed, &loss.holes);
    RepairReport {
        changed: false,
        given_up: Vec::new(),
        holes: holes.into_iter().map(|(from, to)| from..to).collect(),
        records_kept: loss.records(meta.first_lsn, &meta.removed),
        records_lost: count(loss.holes.iter().copied()),
        first_lsn: meta.first_lsn,
        next_lsn: loss.next,
    }
}

/// The place in `range` that lies as far in as `done` lies in `of`.
fn share(done: u64, of: u64, range: Range<u64>) -> u64 {
    let long = u128::from(range.end.saturating_sub(range.start));
    let into = u128::from(done.min(of)) * long / u128::from(of.max(1));
    range.start + u64::try_from(into).expect("no further than the range is long")
}

/// Of all segments that can be read.
fn bytes(survey: &Survey) -> u64 {
    survey.found.iter().map(|f| f.file.geometry.size).sum()
}

/// Runs what writes on a queue of the world's disk.
fn on_queue<T, F>(world: &World, dir: &Path, body: impl FnOnce(Flow) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let queue = world.disk.queue(CHORES_DEPTH, &[]);
    let mut queue = queue.map_err(|e| Error::io("repair", dir, None, e))?;
    block_on(&mut *queue, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_of_a_log_of_any_size_rises_to_the_end() {
        const LOG: u64 = 1 << 50;
        let range = LOG..4 * LOG - 1;
        let mut told = (0..=3000_u64).map(|i| share(i * LOG / 1000, 3 * LOG, range.clone()));
        assert!(told.clone().is_sorted());
        assert_eq!((told.next(), told.next_back()), (Some(LOG), Some(4 * LOG - 1)));
        assert_eq!(share(0, 0, 0..0), 0);
    }
}
