//! What `verify` tells: a finding for each thing that is wrong, and their count.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::lsn::Lsn;

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
    /// The device could not read here; what stands behind in this segment was not looked at.
    Unreadable,
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
            FindingKind::Unreadable => "unreadable",
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
            FindingKind::Footer | FindingKind::Corrupt | FindingKind::Unreadable => true,
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

/// Tells findings and counts them.
pub(super) struct Tally<'a> {
    found: &'a mut dyn FnMut(Finding),
    pub(super) summary: VerifySummary,
    /// A place, and whether a finding named it.
    pub(super) watch: Option<(PathBuf, u64)>,
    pub(super) met: bool,
    /// A place that can't be read, told at the end if nothing else tells of it.
    kept: Option<Finding>,
    /// Segments that were gone, or others, when their turn came.
    pub(super) gone: Vec<PathBuf>,
}

impl Tally<'_> {
    pub(super) fn new(found: &mut dyn FnMut(Finding)) -> Tally<'_> {
        Tally {
            found,
            summary: VerifySummary::default(),
            watch: None,
            met: false,
            kept: None,
            gone: Vec::new(),
        }
    }

    /// Keeps the finding of a place that can't be read, which the walk through its file may meet
    /// again, and then tells in its order.
    pub(super) fn keep(&mut self, finding: Finding) {
        self.kept = Some(finding);
    }

    /// All that was found, once all was looked at.
    pub(super) fn finish(mut self) -> VerifySummary {
        if let Some(finding) = self.kept.take() {
            self.tell(finding);
        }
        self.summary
    }

    pub(super) fn tell(&mut self, finding: Finding) {
        let summary = &mut self.summary;
        *match finding.kind {
            FindingKind::GivenUp => &mut summary.given_up,
            _ if finding.is_damage() => &mut summary.damaged,
            _ => &mut summary.torn,
        } += 1;
        let same = |kept: &mut Finding| (kept.kind, &kept.path) == (finding.kind, &finding.path);
        self.kept.take_if(same);
        if let Some((path, offset)) = &self.watch {
            self.met |= *path == finding.path && *offset == finding.offset;
        }
        (self.found)(finding);
    }

    pub(super) fn tell_corrupt(
        &mut self,
        path: &Path,
        offset: u64,
        lsn: Option<Lsn>,
        detail: String,
    ) {
        self.tell(corrupt(path, offset, lsn, detail));
    }

    /// Adds what was read of the segment in the file `path`; none if it was gone.
    pub(super) fn count(&mut self, path: &Path, read: Option<VerifySummary>) {
        let Some(read) = read else { return self.gone.push(path.to_path_buf()) };
        self.summary.frames += read.frames;
        self.summary.records += read.records;
        self.summary.bytes += read.bytes;
    }

    pub(super) fn tell_error(&mut self, dir: &Path, error: &Error, lsn: Option<Lsn>) {
        let (path, offset) = (error.path().unwrap_or(dir), error.offset().unwrap_or(0));
        self.tell_corrupt(path, offset, lsn, error.reason());
    }
}

/// A finding that is damage.
pub(super) fn corrupt(path: &Path, offset: u64, lsn: Option<Lsn>, detail: String) -> Finding {
    Finding { path: path.to_path_buf(), offset, kind: FindingKind::Corrupt, lsn, detail }
}
