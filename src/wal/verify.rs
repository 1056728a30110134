//! Reading everything a log holds and naming what is wrong, without changing it.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::Tag;
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::segment::{Cursor, Step};

use super::meta::META;
use super::readonly::{ReadOnlyWal, disk_of, look};
use super::recovery::{Found, Plan, State};

/// Bytes `verify` reads at a time.
const WINDOW: u64 = 1 << 20;

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindingKind {
    /// A slot of META is damaged; the other one serves.
    Meta,
    /// A footer is damaged; the frames serve.
    Footer,
    /// Promised bytes are damaged or missing.
    Corrupt,
    /// Bytes behind the end of the log that nobody was promised.
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
    /// Whether it is damage: everything but a torn tail.
    pub fn is_damage(&self) -> bool {
        self.kind != FindingKind::Torn
    }
}

/// How much was read, and how much of it was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Whole frames.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Findings that are damage.
    pub damaged: u64,
    /// Torn tails.
    pub torn: u64,
}

impl ReadOnlyWal {
    /// Reads all of the log in `dir`, telling each finding and now and then the bytes done, of how
    /// many.
    ///
    /// # Errors
    /// `Invalid`: no log there. `Io`, `Unsupported`. Damage is a finding, not an error.
    pub fn verify(
        dir: impl AsRef<Path>,
        found: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifySummary> {
        let dir = dir.as_ref();
        verify(&*disk_of(dir)?, dir, found, progress)
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
        verify(disk, dir.as_ref(), found, progress)
    }
}

fn verify(
    disk: &dyn Disk,
    dir: &Path,
    found: &mut dyn FnMut(Finding),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifySummary> {
    let mut summary = VerifySummary::default();
    let mut tell = |finding: Finding, summary: &mut VerifySummary| {
        let count = if finding.is_damage() { &mut summary.damaged } else { &mut summary.torn };
        *count += 1;
        found(finding);
    };
    let plan = match look(disk, dir) {
        Ok((plan, live)) => {
            notes(dir, &plan, live, &mut |finding| tell(finding, &mut summary));
            plan
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tell(finding_of(dir, &error), &mut summary);
            return Ok(summary);
        }
        Err(error) => return Err(error),
    };
    let total: u64 = plan.found.iter().map(end_of).sum();
    let mut done = 0;
    for f in &plan.found {
        let mut counts = VerifySummary::default();
        let bad = read_segment(disk, f, &mut counts, &mut |at| progress(done + at, total))?;
        summary.frames += counts.frames;
        summary.records += counts.records;
        summary.bytes += counts.bytes;
        if let Some(finding) = bad {
            tell(finding, &mut summary);
        }
        done += end_of(f);
        progress(done, total);
    }
    Ok(summary)
}

/// What the look at headers, footers and META already told.
fn notes(dir: &Path, plan: &Plan, live: bool, tell: &mut dyn FnMut(Finding)) {
    if let Some(offset) = plan.meta.bad_slot
        && !live
    {
        let detail = "this slot is damaged; the other one serves".into();
        tell(Finding { path: dir.join(META), offset, kind: FindingKind::Meta, lsn: None, detail });
    }
    for f in &plan.found {
        if let State::Open(scan) = &f.state
            && let Some(why) = &scan.bad_footer
            && !live
        {
            let (path, offset) = (f.file.path.clone(), f.file.geometry.frames_end());
            let detail = format!("the footer is damaged ({why}); the frames serve");
            tell(Finding { path, offset, kind: FindingKind::Footer, lsn: None, detail });
        }
    }
    if live {
        return;
    }
    for gone in &plan.report.given_up {
        tell(Finding {
            path: gone.path.clone(),
            offset: gone.offset,
            kind: FindingKind::Torn,
            lsn: Some(plan.next),
            detail: format!("{} bytes that nobody was promised", gone.bytes),
        });
    }
}

fn finding_of(dir: &Path, error: &Error) -> Finding {
    Finding {
        path: error.path().unwrap_or(dir).to_path_buf(),
        offset: error.offset().unwrap_or(0),
        kind: FindingKind::Corrupt,
        lsn: None,
        detail: error.to_string(),
    }
}

/// Where the frames of a segment that are part of the log end.
fn end_of(f: &Found) -> u64 {
    match &f.state {
        State::Sealed(footer) => footer.end,
        State::Open(scan) => scan.summary.end(),
    }
}

/// Reads every frame of a segment; gives the first thing that is wrong.
fn read_segment(
    disk: &dyn Disk,
    f: &Found,
    counts: &mut VerifySummary,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Finding>> {
    let path = &f.file.path;
    let failed = |at, e| Error::io("verify", path, at, e);
    let file = disk.open(path, Access::Direct).map_err(|e| failed(None, e))?;
    let (start, end) = (f.file.geometry.frames_start(), end_of(f));
    let mut cursor = Cursor::new(file, f.file.id, f.file.geometry, start, WINDOW);
    let mut next = None;
    let bad = |offset, lsn, detail: String| {
        let (path, kind) = (path.clone(), FindingKind::Corrupt);
        Ok(Some(Finding { path, offset, kind, lsn, detail }))
    };
    while cursor.at() < end {
        let step = cursor.step().map_err(|e| failed(Some(cursor.at()), e))?;
        match step {
            Step::Frame(frame) => {
                counts.frames += 1;
                counts.bytes += frame.header.frame_len();
                progress(frame.end());
                if frame.header.tag == Tag::Mark {
                    continue;
                }
                let first = frame.header.first_lsn;
                if next.is_some_and(|next| next > first) {
                    return bad(frame.offset, Some(first), "its LSN was used before".into());
                }
                next = Some(frame.header.last_lsn().next());
                counts.records += u64::from(frame.header.count);
            }
            Step::Bad { offset, why, header } => {
                let lsn = header.map(|header| header.first_lsn).or(next);
                return bad(offset, lsn, why.to_string());
            }
            Step::End => return bad(cursor.at(), next, "the frames end too early".into()),
        }
    }
    let expected = f.runs.last().map(|run| run.last.next());
    if next != expected {
        return bad(end, next, "the footer promises other records".into());
    }
    Ok(None)
}
