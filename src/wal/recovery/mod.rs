//! Recovery: from what a crash left to a log that keeps its promises, or a refusal.
//!
//! ```text
//! inspect: META, headers, footers; scan what has no footer      (reads only)
//! weave:   do footers of segments written side by side add up?   (walks them if not)
//! merge:   frames by LSN, higher epoch first; n = first missing  (pure)
//! judge:   n <= promised: Corrupt | frames at n or beyond: Torn | else End
//! mend:    PointInTime, Salvage: give up what is damaged first   (sweep: reads every frame)
//! apply:   sync, copy what the device may not hold, footers, META, then serve
//! ```
//!
//! Invariants: nothing is changed before the judgement; every step can crash and be run again; what
//! was served once is found again; nothing is written into a segment that holds frames but its
//! footer, save after a clean close. `open`, `open_read_only`, `resume` and `verify` use it.

use std::ops::Range;
use std::path::PathBuf;

use crate::format::footer::Footer;
use crate::format::meta::Meta;
use crate::lsn::Lsn;
use crate::segment::{Evidence, Run, SegmentFile, Summary};

use super::meta::Loaded;

mod apply;
mod classify;
mod copy;
mod create;
mod footers;
mod inspect;
mod judge;
mod listing;
mod loss;
mod mend;
mod merge;
mod pool;
mod progress;
mod ranges;
mod reserve;
mod segment;
mod side_by_side;
mod sift;
mod site;
mod sweep;
mod told;
mod trace;
mod weave;

pub(crate) use apply::recover;
pub(crate) use classify::{Contents, LOCK, classify};
pub(crate) use inspect::{Survey, inspect, inspect_beside, survey, survey_with};
pub(crate) use judge::{Refused, before_holes, can_go_on, judge};
pub(crate) use listing::catalog_of;
pub(crate) use loss::{Loss, assess, examine};
pub(crate) use mend::{after, spare_name};
pub(crate) use merge::skip_removed;
pub(crate) use pool::set_apart;
pub(crate) use progress::Progress;
pub(crate) use ranges::{Span, count, drop_below, union, within};
pub(crate) use reserve::RESERVE;
pub(crate) use segment::{identity, read_block};
pub(crate) use site::{Recovered, Wanted};
pub(crate) use sweep::{Met, Sweep, inside, kept_run, sweep};
pub(crate) use told::places;

/// How the end of the log looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The log was closed, or is new: nothing can be missing.
    Clean,
    /// It was not closed; behind its last record nothing valid was found.
    End,
    /// It was not closed; frames that nobody was promised lie behind a gap or a damaged one.
    Torn,
    /// Promised records were damaged or missing, and the policy gave them up.
    Damaged,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Clean => "clean",
            Verdict::End => "end",
            Verdict::Torn => "torn",
            Verdict::Damaged => "damaged",
        })
    }
}

/// Bytes that recovery did not keep: behind the end of the log or, where the policy allows that,
/// damaged ones before it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// The segment they are in; they stay there until it is retired. The log's directory, if
    /// nothing is left that held them.
    pub path: PathBuf,
    /// Where they start.
    pub offset: u64,
    /// How many, up to the last that was not zero or belonged to a valid frame.
    pub bytes: u64,
    /// The promised records that were lost with them; none if nobody was promised any.
    pub lsns: Option<Range<Lsn>>,
    /// Why they were not kept, for people.
    pub why: String,
    /// The name that the file has now, if it was taken out of the log whole; nothing removes it.
    pub kept_as: Option<PathBuf>,
}

/// What the last `open` or `resume` found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// How the end looked.
    pub verdict: Verdict,
    /// The last record that is served; `Lsn::NONE` of an empty log.
    pub kept_through: Lsn,
    /// What was given up now: unpromised bytes only, unless the policy says more.
    pub given_up: Vec<GivenUp>,
    /// The LSNs of all records that were lost to damage, now or before: holes in the log.
    pub holes: Vec<Range<Lsn>>,
}

/// One segment as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: SegmentFile,
    /// Its content before use was zeros: what is not zero was written in this life.
    pub(crate) zeroed: bool,
    pub(crate) state: State,
    /// Its frames, by stretches of consecutive LSNs. Of a sealed segment that was written beside
    /// others at first only the stretch they lie in: all of that was promised.
    pub(crate) runs: Vec<Run>,
    /// Those of them that are part of the log.
    pub(crate) kept: Vec<Run>,
    /// Its frames were read for that, not only its footer.
    pub(crate) walked: bool,
    /// Records from here on were taken out of the log; `runs` and watermarks know it already.
    pub(crate) cut_at: Option<Lsn>,
}

#[derive(Debug)]
pub(crate) enum State {
    Sealed(Footer),
    Open(Scan),
}

/// A walk over a segment that has no valid footer.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) summary: Summary,
    /// Where the walk stopped at something that is no frame, and what it was.
    pub(crate) stop: Option<(u64, String)>,
    /// The record that stands there, if that much can be read.
    pub(crate) stop_lsn: Option<Lsn>,
    /// Where each run ends: the offset after its last frame.
    pub(crate) ends: Vec<u64>,
    pub(crate) evidence: Evidence,
    /// Why its footer did not count, if it was not merely unused.
    pub(crate) bad_footer: Option<String>,
}

impl Found {
    fn new(file: SegmentFile, zeroed: bool, state: State, runs: Vec<Run>) -> Found {
        let walked = matches!(state, State::Open(_));
        Found { file, zeroed, state, runs, kept: Vec::new(), walked, cut_at: None }
    }

    /// Takes out what META says was cut.
    fn cut(&mut self, meta: &Meta) {
        let Some(cut) = meta.cut_of(self.file.id.epoch) else { return };
        let last = cut.prev();
        for run in &mut self.runs {
            run.last = run.last.min(last);
        }
        self.runs.retain(|run| run.first <= run.last);
        match &mut self.state {
            State::Sealed(footer) => footer.durable_upto = footer.durable_upto.min(last),
            State::Open(scan) => {
                let seen = &mut scan.evidence;
                seen.durable_upto = seen.durable_upto.min(last);
                seen.last_lsn = seen.last_lsn.min(last);
                scan.stop_lsn = scan.stop_lsn.filter(|lsn| *lsn <= last);
            }
        }
        self.cut_at = Some(cut);
    }

    /// The last LSN of it that is part of the log.
    pub(crate) fn kept_last(&self) -> Lsn {
        self.kept.last().map_or(Lsn::NONE, |run| run.last)
    }

    /// Whether its footer says that other segments hold records between its first and its last.
    pub(crate) fn is_sparse(&self) -> bool {
        let State::Sealed(footer) = &self.state else { return false };
        let span = footer.last_lsn.get() - footer.first_lsn.get() + 1;
        footer.frames > 0 && footer.records != span
    }

    /// Whether nothing in it is part of the log, or proof of anything, or was given up by this
    /// recovery: it can be retired. `recorded` is the watermark that META holds.
    fn is_spent(&self, recorded: Lsn) -> bool {
        match &self.state {
            State::Sealed(footer) => self.runs.is_empty() && footer.durable_upto <= recorded,
            State::Open(scan) => {
                let seen = &scan.evidence;
                let walked = scan.summary.end() > self.file.geometry.frames_start();
                // What fills a recycled segment before its first frame is of a former life.
                let used = self.zeroed && (seen.used_end > 0 || scan.stop.is_some());
                !walked && seen.frames_end == 0 && !used
            }
        }
    }

    /// Whether all of it lies below the start of the log or was cut from its end: truncated before
    /// the crash.
    fn is_cut(&self, first: Lsn) -> bool {
        match self.runs.last() {
            Some(run) => run.last < first,
            None => self.is_cut_whole(),
        }
    }

    /// Whether all that was ever in it was cut: not if its first frames are lost, and later ones
    /// were before the cut.
    pub(crate) fn is_cut_whole(&self) -> bool {
        let left = |cut| match &self.state {
            State::Open(scan) => (Lsn::FIRST..cut).contains(&scan.evidence.first_lsn),
            State::Sealed(_) => false,
        };
        self.runs.is_empty() && self.cut_at.is_some_and(|cut| !left(cut))
    }
}

/// All that recovery decided, before it changes anything.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) meta: Loaded,
    pub(crate) found: Vec<Found>,
    /// The LSN after the last record of the log.
    pub(crate) next: Lsn,
    /// The greatest watermark found anywhere.
    pub(crate) promised: Lsn,
    pub(crate) report: RecoveryReport,
    /// The greatest time in any frame, microseconds.
    pub(crate) time_us: u64,
    pub(crate) epoch: u64,
    pub(crate) highest_number: u64,
}
