//! Reading everything a log holds and naming what is wrong, without changing it.
//!
//! ```text
//! survey, judge -> segments --(threads, at most so many at once)--> findings, in file order
//! ```
//!
//! Memory does not grow with the records: a window and a frame for each thread, so many findings of
//! segments whose turn has not come, and some 3 KiB a segment, for its footer's index.

use std::path::Path;

use crate::error::{ErrorKind, Result};
use crate::io::Disk;
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;

use super::meta::META;
use super::readonly::{LOOKS, Presence, ReadOnlyWal, disk_of, look};
use super::recovery::{
    Found, Plan, Progress, Refused, Span, State, Survey, assess, count, judge, survey, within,
};

mod finding;
mod notes;
mod segment;
mod threads;

pub use finding::{Finding, FindingKind, VerifySummary};

use finding::Tally;
use notes::{notes, tell_holes};
use segment::{Context, end_of, read_segment};
use threads::side_by_side;

/// Threads that `verify` reads with at most, unless it is told.
const THREADS: usize = 4;

impl ReadOnlyWal {
    /// Reads all of the log in `dir`, telling each finding and now and then the bytes done, of how
    /// many. Beside a living writer it reads what that writer has promised, and if he shows damage
    /// where he writes, names only that; segments he takes out meanwhile are passed over.
    ///
    /// - Shape: as many threads as the machine runs at once, four at most; findings come in the
    ///   order of the files all the same, on the calling thread. Memory does not grow with the log,
    ///   but for one of several lanes with a hole: that is read twice, with some bytes a group.
    ///
    /// # Errors
    /// `Invalid`: no log there. `Unsupported`: a newer format, or a batch under a codec that this
    /// build lacks. `Io`: a file can't be opened, or not even what says how the log ends can be
    /// read. Damage is a finding, not an error, and so is a place in the log that can't be read.
    pub fn verify(
        dir: impl AsRef<Path>,
        found: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifySummary> {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        ReadOnlyWal::verify_with(dir, most.min(THREADS), found, progress)
    }

    /// As [`ReadOnlyWal::verify`], with so many threads at most; none or one: on the caller's.
    ///
    /// # Errors
    /// As [`ReadOnlyWal::verify`].
    pub fn verify_with(
        dir: impl AsRef<Path>,
        threads: usize,
        found: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifySummary> {
        let dir = dir.as_ref();
        let mut tally = Tally::new(found);
        if let Some(disk) = unless_corrupt(disk_of(dir), dir, &mut tally)? {
            verify(&*disk, dir, threads, &mut tally, progress)?;
        }
        Ok(tally.finish())
    }

    /// As [`ReadOnlyWal::verify`], on a disk of one's own and the caller's thread.
    ///
    /// # Errors
    /// As [`ReadOnlyWal::verify`].
    pub fn verify_on(
        disk: &dyn Disk,
        dir: impl AsRef<Path>,
        found: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifySummary> {
        let mut tally = Tally::new(found);
        verify(disk, dir.as_ref(), 1, &mut tally, progress)?;
        Ok(tally.finish())
    }
}

fn verify(
    disk: &dyn Disk,
    dir: &Path,
    threads: usize,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let mut looks = 1;
    let (looked, seen) = loop {
        let before = Presence::of(disk, dir)?;
        let looked = (!before.live).then(|| survey(disk, dir, &Progress::default()));
        let now = Presence::of(disk, dir)?;
        match looked {
            Some(looked) if now == before || !now.live && looks == LOOKS => break (looked, now),
            // He came and went while it was looked at; of one who does so again and again what was
            // seen last has to do.
            Some(_) if !now.live => looks += 1,
            _ => return verify_beside(disk, dir, threads, tally, progress),
        }
    };
    let Some(mut survey) = unless_corrupt(looked, dir, tally)? else { return Ok(()) };
    let removed = survey.meta.meta.removed.clone();
    let lost = lost_in_lanes(disk, dir, &survey, tally)?;
    let unusable = std::mem::take(&mut survey.unusable);
    let explained = !unusable.is_empty();
    unusable.iter().for_each(|error| tally.tell_error(dir, error, None));
    if let Some(offset) = survey.meta.bad_slot {
        let (path, kind) = (dir.join(META), FindingKind::Meta);
        let detail = "this slot is damaged or half written; the other one serves".into();
        tally.tell(Finding { path, offset, kind, lsn: None, detail });
    }
    let (beyond, woven) = (false, false);
    let context = Context { disk, beyond, woven, removed: &removed, lost: &lost };
    tell_holes(dir, &survey.meta.meta, tally);
    match judge(dir, survey, RecoveryPolicy::TornTail) {
        Ok(plan) => {
            notes(&plan, tally);
            read_all(context, &plan.found, threads, tally, progress)?;
        }
        Err(Refused { error, missing, found, .. }) => {
            tally.watch = error.path().map(Path::to_path_buf).zip(error.offset());
            read_all(Context { beyond: true, ..context }, &found, threads, tally, progress)?;
            // What is missing was in a segment that can't be used, or is a frame that was found
            // bad; a whole file that is gone nothing else tells.
            if !explained && !tally.met {
                tally.tell_error(dir, &error, Some(missing));
            }
        }
    }
    if !tally.gone.is_empty() && Presence::of(disk, dir)? == seen {
        // No writer took them out.
        for path in std::mem::take(&mut tally.gone) {
            let detail = "the file is gone, or another one by now: not all of it was read".into();
            tally.tell_corrupt(&path, 0, None, detail);
        }
    }
    Ok(())
}

/// What was seen; none if it is damaged so that nothing more can be seen, which is told.
fn unless_corrupt<T>(looked: Result<T>, dir: &Path, tally: &mut Tally<'_>) -> Result<Option<T>> {
    match looked {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tally.tell_error(dir, &error, None);
            Ok(None)
        }
        looked => looked.map(Some),
    }
}

/// Verifies what a living writer has promised.
fn verify_beside(
    disk: &dyn Disk,
    dir: &Path,
    threads: usize,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let Some(look) = unless_corrupt(look(disk, dir), dir, tally)? else { return Ok(()) };
    let Plan { meta, found, next, promised, .. } = look.plan;
    let survey = Survey { meta, found, unusable: Vec::new(), upto: promised };
    let mut lost = lost_in_lanes(disk, dir, &survey, tally)?;
    // What he writes at this moment is in one lane already and not yet in another.
    lost.retain(|(from, _)| *from < next);
    let removed = &survey.meta.meta.removed;
    let context = Context { disk, beyond: false, woven: false, removed, lost: &lost };
    tell_holes(dir, &survey.meta.meta, tally);
    read_all(context, &survey.found, threads, tally, progress)
}

/// The records that are missing and were not given up, of a log where some were: what stood in
/// which of several lanes only a look at all of them can say.
fn lost_in_lanes(
    disk: &dyn Disk,
    dir: &Path,
    survey: &Survey,
    tally: &mut Tally<'_>,
) -> Result<Vec<Span>> {
    let removed = &survey.meta.meta.removed;
    if removed.is_empty() || !survey.found.iter().any(|f| is_woven(f, removed)) {
        return Ok(Vec::new());
    }
    match assess(disk, survey, RecoveryPolicy::Salvage, &mut |_, _| {}) {
        Ok(loss) => Ok(loss.holes),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tally.tell_error(dir, &error, None);
            Ok(Vec::new())
        }
        // Then any may be: no damage is passed over because others might have had its records.
        Err(error) if error.kind() == ErrorKind::Io && error.offset().is_some() => {
            let (path, offset) = (error.path().unwrap_or(dir), error.offset().unwrap_or(0));
            let (path, detail) = (path.to_path_buf(), error.reason());
            let kind = FindingKind::Unreadable;
            tally.keep(Finding { path, offset, kind, lsn: None, detail });
            Ok(vec![(Lsn::FIRST, Lsn::MAX)])
        }
        Err(error) => Err(error),
    }
}

/// Whether a segment leaves out records that were not given up.
fn is_woven(f: &Found, removed: &[Span]) -> bool {
    let known = |from, to| count(within(removed, from, to));
    match &f.state {
        // Its runs need not say so: those below the start of the log were left out of them.
        State::Sealed(footer) if f.is_sparse() && f.cut_at.is_none() => {
            let end = footer.last_lsn.next();
            let span = end.get() - footer.first_lsn.get();
            footer.records.saturating_add(known(footer.first_lsn, end)) < span
        }
        // What lies behind its last run others may have had, or the cut took.
        State::Sealed(_) if f.is_sparse() => true,
        _ => f.runs.windows(2).any(|pair| {
            let (from, to) = (pair[0].last.next(), pair[1].first);
            from < to && known(from, to) < to.get() - from.get()
        }),
    }
}

/// Reads every frame of every segment.
fn read_all(
    context: Context<'_>,
    found: &[Found],
    threads: usize,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let total: u64 = found.iter().map(|f| end_of(f, context.beyond)).sum();
    // Then others hold what a segment leaves out: that all is there recovery found by counting.
    let woven = found.iter().any(|f| is_woven(f, context.removed));
    let context = Context { woven, ..context };
    let of_total = &mut |done| progress(done, total);
    if threads > 1 && found.len() > 1 && side_by_side(context, found, threads, tally, of_total)? {
        return Ok(());
    }
    let mut done = 0;
    for f in found {
        let tell = &mut |finding| tally.tell(finding);
        let read = read_segment(context, f, tell, &mut |at| progress(done + at, total))?;
        tally.count(&f.file.path, read);
        done += end_of(f, context.beyond);
        progress(done, total);
    }
    Ok(())
}
