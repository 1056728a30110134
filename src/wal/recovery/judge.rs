//! The verdict on what was found: what is missing against what was promised. Pure.
//!
//! ```text
//! n = first LSN missing:  n <= promised              Corrupt: acknowledged, a header proves it
//!                         n > promised, more beyond  Torn: in flight, nobody was promised this
//!                         n > promised, nothing      End: never written, or of a former life
//! ```

use std::path::Path;

use crate::bugs::{self, Bug};
use crate::cast::round_up;
use crate::error::{Error, Result};
use crate::format::MOST_NEXT_LSN;
use crate::format::meta::Meta;
use crate::format::segment::{LEFT_NUMBERS, MAX_NUMBER};
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::{Run, file_name};

use super::super::meta::{self, META};
use super::inspect::Survey;
use super::merge::merge;
use super::{Found, GivenUp, Plan, RecoveryReport, Scan, State, Verdict};

/// Why a log is not opened, and what was found of it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// The first record that is damaged or missing.
    pub(crate) missing: Lsn,
    /// The greatest watermark found anywhere.
    pub(crate) promised: Lsn,
    pub(crate) found: Vec<Found>,
}

/// The table of verdicts: what is missing against what was promised.
pub(crate) fn judge(
    dir: &Path,
    survey: Survey,
    policy: RecoveryPolicy,
) -> std::result::Result<Plan, Refused> {
    let Survey { meta, mut found, upto, .. } = survey;
    let views: Vec<(u64, &[Run])> =
        found.iter().map(|f| (f.file.id.epoch, f.runs.as_slice())).collect();
    let merged = merge(meta.meta.first_lsn, &meta.meta.removed, &views);
    for (f, kept) in found.iter_mut().zip(merged.kept) {
        f.kept = kept;
    }
    let seen = promised(&meta, &found);
    let promised = seen.min(upto);
    let next = merged.next;
    let beyond = merged.beyond || found.iter().any(|f| seen_beyond(f, next));
    let verdict = match (next <= promised, beyond) {
        (true, _) if !bugs::on(Bug::MidLogDamageCut) => {
            let error = damage(dir, &found, next, promised);
            return Err(Refused { error, missing: next, promised: seen, found });
        }
        (_, true) => Verdict::Torn,
        (_, false) if meta.meta.clean => Verdict::Clean,
        (_, false) => Verdict::End,
    };
    let given_up: Vec<GivenUp> = found.iter().filter_map(|f| given_up(f, next)).collect();
    if policy == RecoveryPolicy::Strict
        && let Some(torn) = given_up.first()
    {
        let why =
            format!("{} bytes of a torn tail; RecoveryPolicy::TornTail cuts them", torn.bytes);
        let error = Error::corrupt("open", &torn.path, torn.offset, why);
        return Err(Refused { error, missing: next, promised: seen, found });
    }
    let raised = u64::from(!bugs::on(Bug::EpochNotRaised));
    let epochs = found.iter().map(|f| f.file.id.epoch + raised);
    let numbers = found.iter().map(|f| f.file.id.number);
    Ok(Plan {
        epoch: epochs.max().unwrap_or(0).max(meta.meta.next_epoch - (1 - raised)),
        highest_number: numbers.max().unwrap_or(0).max(meta.meta.highest_number),
        time_us: found.iter().map(last_time).max().unwrap_or(0),
        report: RecoveryReport {
            verdict,
            kept_through: before_holes(next, &meta.meta.removed).prev(),
            given_up,
            holes: meta.meta.removed.iter().map(|(from, to)| *from..*to).collect(),
        },
        meta,
        found,
        next,
        promised,
    })
}

/// Refuses numbers that only a forger reaches: they leave no record, segment or epoch to go on
/// with. Who only reads does not mind, nor does a repair to a new log, which gives its own.
pub(crate) fn can_go_on(dir: &Path, meta: &Meta, found: &[Found], next: Lsn) -> Result<()> {
    let most = MAX_NUMBER - LEFT_NUMBERS;
    let ends = |f: &&Found| f.kept_last() >= next.prev();
    let numbered = |f: &&Found| f.file.id.number.max(f.file.id.epoch) > most;
    let suspect = match next > MOST_NEXT_LSN {
        true => found.iter().find(ends),
        false => found.iter().find(numbered),
    };
    if next <= MOST_NEXT_LSN
        && suspect.is_none()
        && meta.highest_number.max(meta.next_epoch) <= most
    {
        return Ok(());
    }
    let path = suspect.map_or(dir.join(META), |f| f.file.path.clone());
    let why = "it says that all LSNs, numbers or epochs are taken: none is left to go on with; \
               `repair_to` takes over what is whole";
    Err(Error::corrupt("open", &path, 0, why))
}

pub(super) fn promised(meta: &meta::Loaded, found: &[Found]) -> Lsn {
    let of = |f: &Found| match &f.state {
        State::Sealed(footer) => footer.durable_upto,
        State::Open(scan) => scan.evidence.durable_upto,
    };
    let recorded = match bugs::on(Bug::MetaWatermarkIgnored) {
        true => Lsn::NONE,
        false => meta.meta.durable_upto,
    };
    found.iter().map(of).max().unwrap_or(Lsn::NONE).max(recorded)
}

pub(super) fn last_time(f: &Found) -> u64 {
    match &f.state {
        State::Sealed(footer) => footer.last_time_us,
        State::Open(scan) => scan.summary.last_time_us(),
    }
}

fn seen_beyond(f: &Found, next: Lsn) -> bool {
    match &f.state {
        State::Sealed(_) => false,
        State::Open(scan) => scan.evidence.last_lsn >= next,
    }
}

/// The error for a promised record that is missing: as near to the place as can be said.
pub(super) fn damage(dir: &Path, found: &[Found], next: Lsn, promised: Lsn) -> Error {
    let before = found.iter().find(|f| next > Lsn::FIRST && f.kept_last() == next.prev());
    let place = suspect(found, next).or(match before {
        Some(f) if matches!(f.state, State::Sealed(_)) => {
            likeliest(found, f.file.id.number + 1, next).or(before)
        }
        Some(_) => before,
        None => likeliest(found, 0, next),
    });
    let because = |why: &str| {
        format!(
            "record {next} is damaged or missing{why}; at least everything to {promised} was \
             promised; restore the file from a copy, or give up what is lost: \
             RecoveryPolicy::Salvage or PointInTime"
        )
    };
    match place.map(|f| (&f.file.path, f.file.id.number, &f.state)) {
        Some((path, _, State::Open(scan))) => {
            let (offset, why) = match &scan.stop {
                Some((offset, why)) => (*offset, because(&format!(" ({why})"))),
                None => (scan.summary.end(), because("")),
            };
            Error::corrupt("open", path, offset, why)
        }
        Some((path, number, State::Sealed(footer))) => {
            let after = file_name(number + 1);
            let lost =
                format!(" (the segment that should follow is missing: {after} or a later one)");
            Error::corrupt("open", path, footer.end, because(&lost))
        }
        None => {
            let first = found.iter().map(|f| f.file.id.number).min().map(file_name);
            let lost = first.map_or(" (its segment is missing)".into(), |first| {
                format!(" (its segment is missing: one before {first})")
            });
            Error::corrupt("open", &dir.join(META), 0, because(&lost))
        }
    }
}

/// The open segment that shows damage where record `next` should be: it stands there itself, or
/// could by the records before and behind.
fn suspect(found: &[Found], next: Lsn) -> Option<&Found> {
    let doubt = |f: &Found| {
        let State::Open(scan) = &f.state else { return None };
        let seen = &scan.evidence;
        let before = f.runs.last().is_none_or(|run| run.last < next);
        let behind = seen.first_lsn == Lsn::NONE || seen.first_lsn > next;
        match scan.stop_lsn {
            Some(lsn) => (lsn == next).then_some(0),
            None if !(before && behind) => None,
            None if seen.first_lsn > next => Some(1),
            None if scan.stop.is_some() && f.zeroed => Some(2),
            // Used before, it may just end there; an empty one certainly does.
            None => (scan.stop.is_some() && !f.runs.is_empty()).then_some(3),
        }
    };
    let doubts = found.iter().filter_map(|f| Some((doubt(f)?, f.file.id.number, f)));
    doubts.min_by_key(|(doubt, number, _)| (*doubt, *number)).map(|(_, _, f)| f)
}

/// The segment from number `from` on in which the missing record was: frames of its own behind the
/// place say so, else bytes that are no frame, else that it is open and was not begun after one
/// that holds later records.
fn likeliest(found: &[Found], from: u64, next: Lsn) -> Option<&Found> {
    let holds_later = |f: &&Found| f.runs.first().is_some_and(|run| run.first > next);
    let begun_later = found.iter().filter(holds_later).map(|f| f.file.id.number).min();
    let in_time = |f: &Found| begun_later.is_none_or(|number| f.file.id.number < number);
    let doubt = |f: &Found| match &f.state {
        State::Open(scan) if scan.evidence.frames_end > 0 => Some(0),
        State::Open(scan) if scan.stop.is_some() && f.zeroed => Some(1),
        State::Open(scan) if scan.stop.is_some() => Some(2),
        State::Open(_) => in_time(f).then_some(3),
        State::Sealed(_) => None,
    };
    let later = found.iter().filter(|f| f.file.id.number >= from);
    let doubts = later.filter_map(|f| doubt(f).map(|doubt| (doubt, f.file.id.number, f)));
    doubts.min_by_key(|(doubt, number, _)| (*doubt, *number)).map(|(_, _, f)| f)
}

fn given_up(f: &Found, next: Lsn) -> Option<GivenUp> {
    let State::Open(scan) = &f.state else { return None };
    let end = scan.summary.end();
    let whole = f.runs.last().is_none_or(|run| run.last < next && f.kept_last() == run.last);
    let offset = match &scan.stop {
        _ if !whole => end_of_kept(f, scan),
        Some((offset, _)) => *offset,
        None if end == f.file.geometry.frames_start() => end,
        None => round_up(end, f.file.geometry.block),
    };
    let seen = &scan.evidence;
    let used = if f.zeroed { seen.used_end.max(seen.frames_end) } else { seen.frames_end };
    let used = if whole { used } else { used.max(end) };
    (used > offset).then(|| GivenUp {
        path: f.file.path.clone(),
        offset,
        bytes: used - offset,
        lsns: None,
        why: "nobody was promised them".into(),
        kept_as: None,
    })
}

/// Where the log ends before `next`, if what lies between are holes.
pub(crate) fn before_holes(next: Lsn, removed: &[(Lsn, Lsn)]) -> Lsn {
    removed.iter().rev().fold(next, |end, (from, to)| if *to == end { *from } else { end })
}

/// Where the frames end that are kept, though others follow them.
fn end_of_kept(f: &Found, scan: &Scan) -> u64 {
    let last = f.runs.iter().position(|run| run.last == f.kept_last());
    match last.and_then(|i| scan.ends.get(i)) {
        // A run begins with a group, and that on a block.
        Some(end) => round_up(*end, f.file.geometry.block),
        None => f.file.geometry.frames_start(),
    }
}
