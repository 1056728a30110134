//! What of a log is lost to damage, and what is kept of it: the judgement of `PointInTime` and
//! `Salvage`, from a sweep over all segments. Changes nothing.
//!
//! ```text
//! whole frames     1-4      7-9    11-14      watermark 12
//! holes               5-6      10             below the watermark: promised, and lost
//! Salvage          1-4  ..  7-9 ..  11-14     goes on at 15
//! PointInTime      1-4  ................      goes on at 15: no LSN from 5 on is given again
//! ```
//!
//! What is missing above the watermark is a torn tail: it ends the log here as everywhere.
//! Invariants: a hole holds no kept record and lies outside the removed ranges; the log goes on
//! above every LSN that may have been promised; what may have been promised is no proof that it is
//! on the device.

use std::path::{Path, PathBuf};

use crate::cast::round_down;
use crate::error::{Error, Result};
use crate::format::MOST_NEXT_LSN;
use crate::format::segment::SegmentHeader;
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::{Cursor, Geometry, Run, parse_name};

use super::super::meta::META;
use super::inspect::Survey;
use super::judge::promised;
use super::ranges::{Span, count, within};
use super::segment::{WINDOW, read_block};
use super::sift::{Sifted, clip, sift, views};
use super::sweep::{Swept, sweep};
use super::trace::trace;
use super::{Found, State};

/// The most records that a byte of a segment can stand for: what Zstandard makes of empty ones.
const RECORDS_PER_BYTE: u64 = 4096;

/// A segment that can't be read at all.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) why: String,
    /// What its name says.
    pub(super) number: u64,
    /// It never held a frame.
    pub(super) is_empty: bool,
    /// Its first record and its epoch, if a frame still proves that.
    pub(crate) start: Option<Lsn>,
    pub(super) epoch: Option<u64>,
    /// The greatest LSN or watermark in what is left of it,
    seen: Lsn,
    /// and in all of it; none if there may have been any.
    upto: Option<Lsn>,
}

/// What is lost and what is kept. The lists go by segment, as the survey has them.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) swept: Vec<Swept>,
    pub(crate) kept: Vec<Vec<Run>>,
    /// Promised records that are lost: sorted, apart.
    pub(crate) holes: Vec<Span>,
    /// Everything from here on is given up.
    pub(crate) cut: Option<Lsn>,
    /// The LSN after the last record that is kept, holes included.
    pub(crate) next: Lsn,
    /// Everything up to here was promised, as a watermark says.
    pub(crate) proven: Lsn,
    pub(crate) unusable: Vec<Unusable>,
    /// Segments without a footer that have kept frames behind bytes which are none: with a footer
    /// they are read as they are.
    pub(crate) unsealed: Vec<usize>,
}

impl Loss {
    /// How many records are kept, of a log that begins at `first`.
    pub(crate) fn records(&self, first: Lsn, removed: &[Span]) -> u64 {
        let gone = |ranges| count(within(ranges, first, self.next));
        self.next.get().saturating_sub(first.get()) - gone(removed) - gone(&self.holes)
    }

    /// Whether there is anything that only these policies can do.
    pub(crate) fn is_some(&self) -> bool {
        !(self.holes.is_empty() && self.unusable.is_empty() && self.unsealed.is_empty())
    }
}

/// Sweeps all segments and judges; `progress` gets bytes done, of how many.
pub(crate) fn assess(
    disk: &dyn Disk,
    survey: &Survey,
    policy: RecoveryPolicy,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Loss> {
    let (meta, found) = (&survey.meta.meta, &survey.found);
    let swept = sweep_all(disk, found, progress)?;
    let durable = swept.iter().map(|s| s.durable).max().unwrap_or(Lsn::NONE);
    let proven = promised(&survey.meta, found).max(durable);
    let highest = survey.highest_number();
    let look = |error| examine(disk, error, survey, highest);
    let unusable = survey.unusable.iter().map(look).collect::<Result<Vec<_>>>()?;
    let seen = swept.iter().map(|s| s.seen).max().unwrap_or(Lsn::NONE);
    let mut promised = proven.max(may_be_promised(survey, seen.max(durable), &unusable));
    let views = views(found, &swept, &unusable, meta);
    let Sifted { mut kept, mut holes, mut next } =
        sift(meta.first_lsn, &meta.removed, &views, promised);
    kept.truncate(found.len());
    let mut cut = None;
    if let (RecoveryPolicy::PointInTime, Some((from, _))) = (policy, holes.first().copied()) {
        promised = promised.max(seen);
        holes = vec![(from, promised.next())];
        kept.iter_mut().for_each(|runs| clip(runs, from));
        (cut, next) = (Some(from), promised.next());
    }
    if next > MOST_NEXT_LSN {
        let says = |(_, s): &(&Found, &Swept)| s.seen.max(s.durable) >= next.prev();
        let suspect = found.iter().zip(&swept).find(says).map(|(f, _)| &f.file.path);
        let place = suspect.or(unusable.first().map(|bad| &bad.path));
        let why = "it says of all LSNs that they were promised: none is left to go on with";
        return Err(Error::corrupt("recover", place.map_or(Path::new(META), |p| p), 0, why));
    }
    let unsealed = (0..found.len()).filter(|i| is_unsealed(&found[*i], &kept[*i])).collect();
    Ok(Loss { swept, kept, holes, cut, next, proven, unusable, unsealed })
}

fn sweep_all(
    disk: &dyn Disk,
    found: &[Found],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Swept>> {
    let total = found.iter().map(|f| f.file.geometry.size).sum();
    let (mut swept, mut done) = (Vec::new(), 0);
    for f in found {
        swept.push(sweep(disk, f, &mut |at| progress(done + at, total))?);
        done += f.file.geometry.size;
        progress(done, total);
    }
    Ok(swept)
}

/// The greatest LSN that may have been promised by what can't be read. LSNs are dense: those above
/// all that are known otherwise stood in there.
///
/// META's watermark is no base for that: a recovery that was cut short has raised it already.
fn may_be_promised(survey: &Survey, seen: Lsn, unusable: &[Unusable]) -> Lsn {
    let meta = &survey.meta.meta;
    let removed = meta.removed.last().map_or(Lsn::NONE, |(_, to)| to.prev());
    let known = unusable.iter().filter_map(|u| u.upto).max().unwrap_or(Lsn::NONE);
    let left = unusable.iter().map(|u| u.seen).max().unwrap_or(Lsn::NONE);
    let base = seen.max(known).max(left).max(meta.first_lsn.prev()).max(removed);
    let written = survey.found.iter().filter(|f| !f.runs.is_empty());
    let written: Vec<(u64, u64)> = written.map(id).collect();
    let unknown = unusable.iter().filter(|u| u.upto.is_none());
    let all: Vec<(u64, u64)> = survey.found.iter().map(id).collect();
    let unknown = unknown.filter(|u| !is_of_former_life(u.number, &all, &written));
    // A file that is short now was longer.
    let bytes: u64 = unknown.map(|u| u.bytes.max(meta.segment_bytes)).sum();
    match bytes {
        0 => known,
        bytes => base.plus(bytes.saturating_mul(RECORDS_PER_BYTE)),
    }
}

fn id(f: &Found) -> (u64, u64) {
    (f.file.id.number, f.file.id.epoch)
}

/// Whether a later life than that of segment `number` has records, of numbers and epochs of `all`
/// segments and those that are `written`. In one life several are open at a time, for any time.
fn is_of_former_life(number: u64, all: &[(u64, u64)], written: &[(u64, u64)]) -> bool {
    let own = all.iter().filter(|(n, _)| *n > number).map(|(_, epoch)| *epoch).min();
    own.is_some_and(|own| written.iter().any(|(n, epoch)| *n > number && *epoch > own))
}

/// The number in a segment's name.
pub(super) fn number(path: &Path) -> u64 {
    path.file_name().and_then(|name| parse_name(&name.to_string_lossy())).unwrap_or(0)
}

fn is_unsealed(f: &Found, kept: &[Run]) -> bool {
    let walked = f.runs.last().map_or(Lsn::NONE, |run| run.last);
    matches!(f.state, State::Open(_)) && kept.last().is_some_and(|run| run.last > walked)
}

/// Looks for what a segment that can't be used may have held. One that nothing in it proves to be
/// of this log is a stranger's where its number is above `highest`: the log has not got there.
pub(crate) fn examine(
    disk: &dyn Disk,
    error: &Error,
    survey: &Survey,
    highest: u64,
) -> Result<Unusable> {
    let path = error.path().unwrap_or(Path::new("")).to_path_buf();
    let failed = |e| Error::io("read", &path, None, e);
    let (meta, block) = (&survey.meta.meta, u64::from(survey.meta.meta.block_size));
    let file = disk.open(&path, Access::Direct).map_err(failed)?;
    let bytes = file.size().map_err(failed)?;
    let (number, why) = (number(&path), error.reason());
    let (is_empty, start, epoch, upto) = (false, None, None, meta.clean.then_some(Lsn::NONE));
    let seen = Lsn::NONE;
    let mut bad = Unusable { path, bytes, why, number, is_empty, start, epoch, seen, upto };
    let nothing = |bad| Unusable { is_empty: true, upto: Some(Lsn::NONE), ..bad };
    let size = round_down(bytes, block);
    if size < 3 * block {
        return Ok(if number > highest { nothing(bad) } else { bad });
    }
    let failed = |e| Error::io("read", &bad.path, None, e);
    let image = read_block(&file, 0, block).map_err(failed)?;
    let header = SegmentHeader::decode(image.bytes());
    let (id, claimed_size) = match &header {
        Ok(header) if header.log_id != meta.log_id => return Ok(nothing(bad)),
        Ok(header) => (header.id, header.size),
        Err(_) => SegmentHeader::claimed(image.bytes(), number),
    };
    // What stood behind the end of a file that was cut short, nobody knows.
    let is_short = !meta.clean && bytes < claimed_size;
    let geometry = Geometry { size, block };
    let cursor = || Cursor::new(file.clone(), id, geometry, geometry.frames_start(), WINDOW);
    if let Some(trace) = trace(cursor(), &bad.path)? {
        let cut = meta.cut_of(id.epoch).map_or(Lsn::MAX, Lsn::prev);
        (bad.start, bad.epoch, bad.seen) = (trace.start, Some(id.epoch), trace.seen.min(cut));
        bad.upto = if is_short { None } else { Some(bad.seen) };
    } else if header.is_err() && number > highest {
        return Ok(nothing(bad));
    } else if !is_short && cursor().look_ahead().map_err(failed)?.used_end == 0 {
        (bad.is_empty, bad.upto) = (true, Some(Lsn::NONE));
    }
    Ok(bad)
}

impl Unusable {
    /// The least and the greatest epoch it may have: that of a segment never falls with its number.
    pub(super) fn epochs(&self, found: &[Found]) -> (u64, u64) {
        if let Some(epoch) = self.epoch {
            return (epoch, epoch);
        }
        let older = found.iter().map(id).filter(|(n, _)| *n < self.number).map(|(_, epoch)| epoch);
        let newer = found.iter().map(id).filter(|(n, _)| *n > self.number).map(|(_, epoch)| epoch);
        (older.max().unwrap_or(0), newer.min().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_former_life_held_none_of_the_last_records() {
        let all: Vec<(u64, u64)> = (1..100).map(|n| (n, 1)).collect();
        assert!(!is_of_former_life(1, &all, &all), "a lane may be open for any time");
        assert!(!is_of_former_life(1, &[(2, 2), (3, 2)], &[(3, 2)]), "it may be of their life");
        assert!(is_of_former_life(1, &[(2, 1), (3, 2)], &[(3, 2)]));
        assert!(!is_of_former_life(1, &[(2, 1), (3, 2)], &[(2, 1)]), "the later life is empty");
        assert!(!is_of_former_life(4, &[(2, 1), (3, 2)], &[(3, 2)]));
    }
}
