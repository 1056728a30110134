//! Reading everything a log holds and naming what is wrong, without changing it.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Bad;
use crate::format::codec::Decoder;
use crate::format::frame::{Codec, Tag, check_records, decode_body};
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::{Cursor, Frame, Step};

use super::meta::META;
use super::readonly::{ReadOnlyWal, disk_of, look};
use super::recovery::{Found, LOCK, Plan, Refused, State, judge, survey};

/// Bytes `verify` reads at a time.
const WINDOW: u64 = 1 << 20;

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
            FindingKind::Meta | FindingKind::Torn => false,
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
}

impl ReadOnlyWal {
    /// Reads all of the log in `dir`, telling each finding and now and then the bytes done, of how
    /// many. Beside a living writer it reads what that writer has promised.
    ///
    /// # Errors
    /// `Invalid`: no log there. `Unsupported`: a newer format, or a batch under a codec that this
    /// build lacks. `Io`. Damage is a finding, not an error.
    pub fn verify(
        dir: impl AsRef<Path>,
        found: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifySummary> {
        let dir = dir.as_ref();
        let mut tally = Tally { found, summary: VerifySummary::default() };
        match disk_of(dir) {
            Ok(disk) => verify(&*disk, dir, &mut tally, progress)?,
            Err(error) if error.kind() == ErrorKind::Corrupt => tally.tell_error(dir, &error, None),
            Err(error) => return Err(error),
        }
        Ok(tally.summary)
    }

    /// As [`ReadOnlyWal::verify`], on a disk of one's own.
    ///
    /// # Errors
    /// As [`ReadOnlyWal::verify`].
    pub fn verify_on(
        disk: &dyn Disk,
        dir: impl AsRef<Path>,
        found: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifySummary> {
        let mut tally = Tally { found, summary: VerifySummary::default() };
        verify(disk, dir.as_ref(), &mut tally, progress)?;
        Ok(tally.summary)
    }
}

/// Tells findings and counts them.
struct Tally<'a> {
    found: &'a mut dyn FnMut(Finding),
    summary: VerifySummary,
}

impl Tally<'_> {
    fn tell(&mut self, finding: Finding) {
        let summary = &mut self.summary;
        let count = if finding.is_damage() { &mut summary.damaged } else { &mut summary.torn };
        *count += 1;
        (self.found)(finding);
    }

    fn tell_corrupt(&mut self, path: &Path, offset: u64, lsn: Option<Lsn>, detail: String) {
        let (path, kind) = (path.to_path_buf(), FindingKind::Corrupt);
        self.tell(Finding { path, offset, kind, lsn, detail });
    }

    fn tell_error(&mut self, dir: &Path, error: &Error, lsn: Option<Lsn>) {
        let (path, offset) = (error.path().unwrap_or(dir), error.offset().unwrap_or(0));
        self.tell_corrupt(path, offset, lsn, error.to_string());
    }
}

fn verify(
    disk: &dyn Disk,
    dir: &Path,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let live = disk.is_locked(&dir.join(LOCK));
    if live.map_err(|e| Error::io("verify", &dir.join(LOCK), None, e))? {
        let plan = look(disk, dir)?.plan;
        return read_all(disk, &plan.found, false, tally, progress).map(drop);
    }
    let mut survey = match survey(disk, dir) {
        Ok(survey) => survey,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tally.tell_error(dir, &error, None);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let unusable = std::mem::take(&mut survey.unusable);
    let explained = !unusable.is_empty();
    unusable.iter().for_each(|error| tally.tell_error(dir, error, None));
    if let Some(offset) = survey.meta.bad_slot {
        let (path, kind) = (dir.join(META), FindingKind::Meta);
        let detail = "this slot is damaged or half written; the other one serves".into();
        tally.tell(Finding { path, offset, kind, lsn: None, detail });
    }
    match judge(dir, survey, RecoveryPolicy::TornTail) {
        Ok(plan) => {
            notes(&plan, tally);
            read_all(disk, &plan.found, false, tally, progress).map(drop)
        }
        Err(Refused { error, missing, found, .. }) => {
            let told = read_all(disk, &found, true, tally, progress)?;
            let place = (error.path().map(Path::to_path_buf), error.offset());
            // What is missing was in a segment that can't be used, or is a frame that was found
            // bad; a whole file that is gone nothing else tells.
            if !explained && !told.iter().any(|(path, at)| place == (Some(path.clone()), Some(*at)))
            {
                tally.tell_error(dir, &error, Some(missing));
            }
            Ok(())
        }
    }
}

/// Reads every frame of every segment; gives the places of what is wrong.
fn read_all(
    disk: &dyn Disk,
    found: &[Found],
    beyond: bool,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<(PathBuf, u64)>> {
    let total: u64 = found.iter().map(|f| end_of(f, beyond)).sum();
    let (mut done, mut told) = (0, Vec::new());
    // Then others hold what a segment leaves out: that all is there recovery found by counting.
    let woven = found.iter().any(|f| f.is_sparse() || f.runs.len() > 1);
    for f in found {
        let at = &mut |at| progress(done + at, total);
        let places = read_segment(disk, f, beyond, woven, tally, at)?;
        told.extend(places.into_iter().map(|at| (f.file.path.clone(), at)));
        done += end_of(f, beyond);
        progress(done, total);
    }
    Ok(told)
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

/// Where the frames of a segment end: those of the log, or all that are there.
fn end_of(f: &Found, beyond: bool) -> u64 {
    match &f.state {
        _ if f.cut_at.is_some() && f.runs.is_empty() => f.file.geometry.frames_start(),
        State::Sealed(footer) => footer.end,
        State::Open(scan) if beyond => scan.summary.end().max(scan.evidence.frames_end),
        State::Open(scan) => scan.summary.end(),
    }
}

/// Reads every frame of a segment, beyond damaged ones too; gives the offsets of what is wrong.
fn read_segment(
    disk: &dyn Disk,
    f: &Found,
    beyond: bool,
    woven: bool,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<u64>> {
    let path = &f.file.path;
    let failed = |at, e| Error::io("verify", path, at, e);
    let file = disk.open(path, Access::Direct).map_err(|e| failed(None, e))?;
    let (start, end) = (f.file.geometry.frames_start(), end_of(f, beyond));
    let mut cursor = Cursor::new(file, f.file.id, f.file.geometry, start, WINDOW);
    let (mut next, mut lost, mut places) = (None, false, Vec::new());
    let (mut decoder, before) = (Decoder::default(), tally.summary.records);
    let goes_on = beyond && matches!(f.state, State::Open(_));
    loop {
        let step = step_to(&mut cursor, end, goes_on);
        let Some(step) = step.map_err(|e| failed(Some(cursor.at()), e))? else { break };
        let (offset, lsn, detail) = match step {
            Step::Frame(frame) => {
                progress(frame.end().min(end));
                if f.cut_at.is_some_and(|cut| frame.header.first_lsn >= cut) {
                    break;
                }
                let was_lost = std::mem::take(&mut lost) || woven;
                let fault = match inside(&mut cursor, &mut decoder, &frame, path)? {
                    None => count(&mut tally.summary, &frame, f.cut_at, &mut next, was_lost),
                    fault => {
                        next = Some(after(&frame, f.cut_at));
                        fault
                    }
                };
                let Some(detail) = fault else { continue };
                (frame.offset, Some(frame.header.first_lsn), detail)
            }
            Step::Bad { offset, why, header } => {
                match &header {
                    Some(header) => cursor.skip(header),
                    None => cursor.skip_block(),
                }
                // Between a bad header and the next good one nothing can be told apart.
                let known = std::mem::replace(&mut lost, true);
                if known && header.is_none() {
                    continue;
                }
                let lsn = header.map(|header| header.first_lsn);
                (offset, lsn.or(next.filter(|_| !woven)), why.to_string())
            }
            Step::End => {
                let at = cursor.at();
                cursor.skip_block();
                if std::mem::replace(&mut lost, true) {
                    continue;
                }
                (at, next.filter(|_| !woven), "zeros where a frame should be".into())
            }
        };
        places.push(offset);
        tally.tell_corrupt(path, offset, lsn, detail);
    }
    let read = tally.summary.records - before;
    if places.is_empty() && holds_others(f, beyond, woven, read, next) {
        tally.tell_corrupt(path, end, next, "the footer promises other records".into());
    }
    Ok(places)
}

/// What stands at the cursor, up to `end`; where the log `goes_on` also the frames that follow
/// there: of a group that was seen by looking ahead only the first frame is known.
fn step_to(cursor: &mut Cursor, end: u64, goes_on: bool) -> io::Result<Option<Step>> {
    let past = cursor.at() >= end;
    if past && !goes_on {
        return Ok(None);
    }
    let step = cursor.step()?;
    Ok((!past || matches!(step, Step::Frame(_))).then_some(step))
}

/// Whether a segment of whole frames, with `read` records up to before `next`, is not what its
/// footer says.
fn holds_others(f: &Found, beyond: bool, woven: bool, read: u64, next: Option<Lsn>) -> bool {
    let fewer = match &f.state {
        State::Sealed(footer) => woven && f.cut_at.is_none() && footer.records != read,
        State::Open(_) => false,
    };
    let expected = f.runs.last().map(|run| run.last.next());
    // Of one that was cut beside others only a walk knows where it ends.
    let known = !f.is_sparse() || f.walked || f.cut_at.is_none();
    fewer || !beyond && known && next != expected
}

/// Looks into a compressed frame, further than its checksum; tells what is wrong with its body.
fn inside(
    cursor: &mut Cursor,
    decoder: &mut Decoder,
    frame: &Frame,
    path: &Path,
) -> Result<Option<String>> {
    let (header, offset) = (&frame.header, Some(frame.offset));
    if header.codec == Codec::None {
        return Ok(None);
    }
    let stored = cursor.stored(frame).map_err(|e| Error::io("verify", path, offset, e))?;
    let body = decode_body(decoder, header, stored);
    match body.and_then(|body| check_records(header, &body)) {
        Ok(()) => Ok(None),
        // Neither whole nor damaged, as far as this build can tell.
        Err(why @ Bad::Codec(_)) => {
            let error = Error::new(ErrorKind::Unsupported, "verify", why.to_string());
            Err(error.at(path, offset))
        }
        Err(why) => Ok(Some(why.to_string())),
    }
}

/// Counts a whole frame; tells what is wrong with its place in the order.
fn count(
    summary: &mut VerifySummary,
    frame: &Frame,
    cut_at: Option<Lsn>,
    next: &mut Option<Lsn>,
    lost: bool,
) -> Option<String> {
    summary.frames += 1;
    summary.bytes += frame.header.frame_len();
    if frame.header.tag == Tag::Mark {
        return None;
    }
    let first = frame.header.first_lsn;
    let after = after(frame, cut_at);
    summary.records += after.get() - first.get();
    let expected = next.replace(after);
    match expected {
        Some(expected) if first < expected => Some("its LSN was used before".into()),
        // What lies between was told already.
        Some(expected) if first > expected && !lost => {
            Some(format!("record {expected} is missing"))
        }
        _ => None,
    }
}

/// The LSN after a batch's last record. Of one that was cut in the middle the rest counts no more.
fn after(frame: &Frame, cut_at: Option<Lsn>) -> Lsn {
    let after = frame.header.last_lsn().next();
    cut_at.map_or(after, |cut| after.min(cut))
}
