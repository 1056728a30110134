//! Reading everything a log holds and naming what is wrong, without changing it.
//!
//! ```text
//! survey, judge -> segments --(threads, at most so many at once)--> findings, in file order
//! ```
//!
//! Memory is bounded whatever the size of the log: a window and a frame for each thread, and so
//! many findings of segments whose turn has not come.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::format::meta::Meta;
use crate::io::Disk;
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;

use super::meta::META;
use super::readonly::{ReadOnlyWal, disk_of, look};
use super::recovery::{
    Found, LOCK, Plan, Progress, Refused, Span, State, assess, count, judge, survey, within,
};

mod segment;
mod threads;

use segment::{Context, corrupt, end_of, read_segment};
use threads::side_by_side;

/// Threads that `verify` reads with at most, unless it is told.
const THREADS: usize = 4;

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindingKind {
    /// A slot of META is damaged, or a crash came while it was written; the other one serves, and
    /// the next `open` writes both.
    Meta,
    /// A footer is damaged; the frames serve.
    Footer,
    /// Promised bytes are damaged or missing.
    Corrupt,
    /// No damage any more: records that were lost to damage and given up (`PointInTime`, `Salvage`,
    /// repair), or bytes between frames that hold none. Readers pass over them.
    GivenUp,
    /// What a crash leaves: bytes behind the end of the log that nobody was promised, or a footer
    /// that was being written; the frames serve.
    Torn,
}

impl std::fmt::Display for FindingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FindingKind::Meta => "meta",
            FindingKind::Footer => "footer",
            FindingKind::Corrupt => "corrupt",
            FindingKind::GivenUp => "given-up",
            FindingKind::Torn => "torn",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Where in it, bytes.
    pub offset: u64,
    /// What.
    pub kind: FindingKind,
    /// The record it is about, if that is known.
    pub lsn: Option<Lsn>,
    /// More, for people.
    pub detail: String,
}

impl Finding {
    /// Whether it is damage, and not what a crash may leave.
    pub fn is_damage(&self) -> bool {
        match self.kind {
            FindingKind::Footer | FindingKind::Corrupt => true,
            FindingKind::Meta | FindingKind::GivenUp | FindingKind::Torn => false,
        }
    }
}

/// How much was read, and how much of it was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifySummary {
    /// Whole frames.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Findings that are damage.
    pub damaged: u64,
    /// Findings that a crash may have left.
    pub torn: u64,
    /// Holes: places where records were given up, or where nothing is missing.
    pub given_up: u64,
}

impl ReadOnlyWal {
    /// Reads all of the log in `dir`, telling each finding and now and then the bytes done, of how
    /// many. Beside a living writer it reads what that writer has promised.
    ///
    /// - Shape: as many threads as the machine runs at once, four at most; findings come in the
    ///   order of the files all the same, on the calling thread. Memory does not grow with the log.
    ///
    /// # Errors
    /// `Invalid`: no log there. `Unsupported`: a newer format, or a batch under a codec that this
    /// build lacks. `Io`. Damage is a finding, not an error.
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
        match disk_of(dir) {
            Ok(disk) => verify(&*disk, dir, threads, &mut tally, progress)?,
            Err(error) if error.kind() == ErrorKind::Corrupt => tally.tell_error(dir, &error, None),
            Err(error) => return Err(error),
        }
        Ok(tally.summary)
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
        Ok(tally.summary)
    }
}

/// Tells findings and counts them.
struct Tally<'a> {
    found: &'a mut dyn FnMut(Finding),
    summary: VerifySummary,
    /// A place, and whether a finding named it.
    watch: Option<(PathBuf, u64)>,
    met: bool,
}

impl Tally<'_> {
    fn new(found: &mut dyn FnMut(Finding)) -> Tally<'_> {
        Tally { found, summary: VerifySummary::default(), watch: None, met: false }
    }

    fn tell(&mut self, finding: Finding) {
        let summary = &mut self.summary;
        *match finding.kind {
            FindingKind::GivenUp => &mut summary.given_up,
            _ if finding.is_damage() => &mut summary.damaged,
            _ => &mut summary.torn,
        } += 1;
        if let Some((path, offset)) = &self.watch {
            self.met |= *path == finding.path && *offset == finding.offset;
        }
        (self.found)(finding);
    }

    fn tell_corrupt(&mut self, path: &Path, offset: u64, lsn: Option<Lsn>, detail: String) {
        self.tell(corrupt(path, offset, lsn, detail));
    }

    /// Adds what was read of a segment.
    fn count(&mut self, read: VerifySummary) {
        self.summary.frames += read.frames;
        self.summary.records += read.records;
        self.summary.bytes += read.bytes;
    }

    fn tell_error(&mut self, dir: &Path, error: &Error, lsn: Option<Lsn>) {
        let (path, offset) = (error.path().unwrap_or(dir), error.offset().unwrap_or(0));
        self.tell_corrupt(path, offset, lsn, error.to_string());
    }
}

fn verify(
    disk: &dyn Disk,
    dir: &Path,
    threads: usize,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let live = disk.is_locked(&dir.join(LOCK));
    if live.map_err(|e| Error::io("verify", &dir.join(LOCK), None, e))? {
        let plan = look(disk, dir)?.plan;
        let removed = &plan.meta.meta.removed;
        let context = Context { disk, beyond: false, woven: false, removed, lost: &[] };
        return read_all(context, &plan.found, threads, tally, progress);
    }
    let mut survey = match survey(disk, dir, &Progress::default()) {
        Ok(survey) => survey,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tally.tell_error(dir, &error, None);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let removed = survey.meta.meta.removed.clone();
    // What stands in which of several lanes only a look at all of them can say.
    let mut lost = Vec::new();
    if !removed.is_empty() && survey.found.iter().any(|f| is_woven(f, &removed)) {
        match assess(disk, &survey, RecoveryPolicy::Salvage, &mut |_, _| {}) {
            Ok(loss) => lost = loss.holes,
            Err(error) if error.kind() == ErrorKind::Corrupt => tally.tell_error(dir, &error, None),
            Err(error) => return Err(error),
        }
    }
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
            read_all(context, &plan.found, threads, tally, progress)
        }
        Err(Refused { error, missing, found, .. }) => {
            tally.watch = error.path().map(Path::to_path_buf).zip(error.offset());
            read_all(Context { beyond: true, ..context }, &found, threads, tally, progress)?;
            // What is missing was in a segment that can't be used, or is a frame that was found
            // bad; a whole file that is gone nothing else tells.
            if !explained && !tally.met {
                tally.tell_error(dir, &error, Some(missing));
            }
            Ok(())
        }
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
            footer.records + known(footer.first_lsn, end) < span
        }
        // What lies behind its last run others may have had, or the cut took.
        State::Sealed(_) if f.is_sparse() => true,
        _ => f.runs.windows(2).any(|pair| {
            let (from, to) = (pair[0].last.next(), pair[1].first);
            from < to && known(from, to) < to.get() - from.get()
        }),
    }
}

/// Names the records that were given up and not cut since.
fn tell_holes(dir: &Path, meta: &Meta, tally: &mut Tally<'_>) {
    for (from, to) in meta.removed.iter().filter(|(_, to)| *to > meta.first_lsn) {
        let (path, kind) = (dir.join(META), FindingKind::GivenUp);
        let detail = format!("records {from} to {} were lost and given up", to.prev());
        tally.tell(Finding { path, offset: 0, kind, lsn: Some(*from), detail });
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
        tally.count(read);
        done += end_of(f, context.beyond);
        progress(done, total);
    }
    Ok(())
}

/// What the look at footers and the end of the log already told.
fn notes(plan: &Plan, tally: &mut Tally<'_>) {
    // Recovery has every footer on disk before its life makes a segment: only in the newest life a
    // crash can have torn one.
    let newest = plan.found.iter().map(|f| f.file.id.epoch).max();
    for f in &plan.found {
        // Only the segment with the last record is not sealed before a log is closed.
        let before = f.kept_last() < plan.next.prev();
        let missing = plan.meta.meta.clean && !f.kept.is_empty() && before;
        let missing = missing.then(|| "it is not this life's".to_string());
        if let State::Open(scan) = &f.state
            && let Some(why) = scan.bad_footer.as_ref().or(missing.as_ref())
        {
            let (path, offset) = (f.file.path.clone(), f.file.geometry.frames_end());
            let torn = !plan.meta.meta.clean && Some(f.file.id.epoch) == newest;
            let (kind, is) = match torn {
                true => (FindingKind::Torn, "half written"),
                false => (FindingKind::Footer, "damaged"),
            };
            let detail = format!("the footer is {is} ({why}); the frames serve");
            tally.tell(Finding { path, offset, kind, lsn: None, detail });
        }
    }
    for gone in &plan.report.given_up {
        tally.tell(Finding {
            path: gone.path.clone(),
            offset: gone.offset,
            kind: FindingKind::Torn,
            lsn: Some(plan.next),
            detail: format!("{} bytes that nobody was promised", gone.bytes),
        });
    }
}
