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
//! above every LSN that may have been promised.

use std::path::{Path, PathBuf};

use crate::cast::round_down;
use crate::error::{Error, Result};
use crate::format::segment::SegmentHeader;
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::options::{MAX_NUM_SEGMENTS, RecoveryPolicy};
use crate::segment::{Cursor, Geometry, Run, parse_name};

use super::inspect::{Survey, WINDOW, read_block};
use super::judge::promised;
use super::merge::skip_removed;
use super::sweep::{Swept, sweep, trace};
use super::{Found, State};

/// The most records that a byte of a segment can stand for: what Zstandard makes of empty ones.
const RECORDS_PER_BYTE: u64 = 4096;

/// A segment that can't be read at all.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) why: String,
}

/// What is lost and what is kept. The lists go by segment, as the survey has them.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) swept: Vec<Swept>,
    pub(crate) kept: Vec<Vec<Run>>,
    /// Promised records that are lost: sorted, apart.
    pub(crate) holes: Vec<(Lsn, Lsn)>,
    /// Everything from here on is given up.
    pub(crate) cut: Option<Lsn>,
    /// The LSN after the last record that is kept, holes included.
    pub(crate) next: Lsn,
    /// Everything up to here may have been promised.
    pub(crate) promised: Lsn,
    pub(crate) unusable: Vec<Unusable>,
    /// Segments without a footer that have kept frames behind bytes which are none: with a footer
    /// they are read as they are.
    pub(crate) unsealed: Vec<usize>,
}

impl Loss {
    /// How many records are kept, of a log that begins at `first`.
    pub(crate) fn records(&self, first: Lsn, removed: &[(Lsn, Lsn)]) -> u64 {
        let within = |(from, to): &(Lsn, Lsn)| {
            to.get().min(self.next.get()).saturating_sub(from.get().max(first.get()))
        };
        let gone: u64 = removed.iter().chain(&self.holes).map(within).sum();
        self.next.get().saturating_sub(first.get()) - gone
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
    let total = found.iter().map(|f| f.file.geometry.size).sum();
    let (mut swept, mut done) = (Vec::new(), 0);
    for f in found {
        swept.push(sweep(disk, f, &mut |at| progress(done + at, total))?);
        done += f.file.geometry.size;
        progress(done, total);
    }
    let durable = swept.iter().map(|s| s.durable).max().unwrap_or(Lsn::NONE);
    let mut promised = promised(&survey.meta, found).max(durable);
    let mut unusable = Vec::new();
    for error in &survey.unusable {
        let path = error.path().unwrap_or(Path::new("")).to_path_buf();
        let held = held(disk, &path, survey)?;
        let number = number(&path);
        let newer = |(f, s): (&Found, &Swept)| {
            f.file.id.number >= number + MAX_NUM_SEGMENTS as u64 && !s.runs.is_empty()
        };
        promised = match held.upto {
            Some(upto) => promised.max(upto),
            // Younger records are there: it held none of the last.
            None if found.iter().zip(&swept).any(newer) => promised,
            None => promised.plus(held.bytes.saturating_mul(RECORDS_PER_BYTE)),
        };
        unusable.push(Unusable { path, bytes: held.bytes, why: error.to_string() });
    }
    let views: Vec<View> =
        found.iter().zip(&swept).map(|(f, s)| View::of(f, s, found, &swept)).collect();
    let Sifted { mut kept, mut holes, mut next } =
        sift(meta.first_lsn, &meta.removed, &views, promised);
    let mut cut = None;
    if let (RecoveryPolicy::PointInTime, Some((from, _))) = (policy, holes.first().copied()) {
        let seen = swept.iter().map(|s| s.seen).max().unwrap_or(Lsn::NONE);
        promised = promised.max(seen);
        holes = vec![(from, promised.next())];
        kept.iter_mut().for_each(|runs| clip(runs, from));
        (cut, next) = (Some(from), promised.next());
    }
    let unsealed = (0..found.len()).filter(|i| is_unsealed(&found[*i], &kept[*i])).collect();
    Ok(Loss { swept, kept, holes, cut, next, promised, unusable, unsealed })
}

/// The number in a segment's name.
pub(super) fn number(path: &Path) -> u64 {
    path.file_name().and_then(|name| parse_name(&name.to_string_lossy())).unwrap_or(0)
}

/// Takes out what lies at `from` and beyond.
fn clip(runs: &mut Vec<Run>, from: Lsn) {
    runs.retain_mut(|run| {
        run.last = run.last.min(from.prev());
        run.first <= run.last
    });
}

fn is_unsealed(f: &Found, kept: &[Run]) -> bool {
    let walked = f.runs.last().map_or(Lsn::NONE, |run| run.last);
    matches!(f.state, State::Open(_)) && kept.last().is_some_and(|run| run.last > walked)
}

/// What a segment that can't be read may have held.
struct Held {
    bytes: u64,
    /// The greatest LSN it proves; none if it may have held any.
    upto: Option<Lsn>,
}

fn held(disk: &dyn Disk, path: &Path, survey: &Survey) -> Result<Held> {
    let failed = |e| Error::io("read", path, None, e);
    let (meta, block) = (&survey.meta.meta, u64::from(survey.meta.meta.block_size));
    let file = disk.open(path, Access::Direct).map_err(failed)?;
    let bytes = file.size().map_err(failed)?;
    let size = round_down(bytes, block);
    let nothing = Held { bytes, upto: Some(Lsn::NONE) };
    if size < 3 * block {
        return Ok(nothing);
    }
    let image = read_block(&file, 0, block).map_err(failed)?;
    let id = match SegmentHeader::decode(image.bytes()) {
        Ok(header) if header.log_id != meta.log_id => return Ok(nothing),
        Ok(header) => header.id,
        Err(_) => SegmentHeader::claimed(image.bytes(), number(path)),
    };
    let geometry = Geometry { size, block };
    let cursor = || Cursor::new(file.clone(), id, geometry, geometry.frames_start(), WINDOW);
    let seen = trace(cursor(), path)?;
    if seen != Lsn::NONE || meta.clean {
        // After a clean close META knows all that was promised.
        return Ok(Held { bytes, upto: Some(seen) });
    }
    let empty = cursor().look_ahead().map_err(failed)?.used_end == 0;
    Ok(Held { bytes, upto: empty.then_some(Lsn::NONE) })
}

/// A segment as it is sifted.
#[derive(Debug)]
struct View {
    epoch: u64,
    /// Where it began, as far as that is known: nothing of an earlier epoch counts from there on.
    start: Option<Lsn>,
    runs: Vec<Run>,
}

impl View {
    fn of(f: &Found, s: &Swept, found: &[Found], swept: &[Swept]) -> View {
        let epoch = f.file.id.epoch;
        let mut runs = s.runs.clone();
        if let State::Open(_) = &f.state {
            // What a later life gave up is not known where its beginning is lost as well.
            let later = |(g, s): (&Found, &Swept)| g.file.id.epoch > epoch && s.starts_in_doubt(g);
            if found.iter().zip(swept).any(later) {
                clip(&mut runs, s.durable.next());
            }
        }
        View { epoch, start: s.start(f), runs }
    }
}

/// What is kept, segment by segment, and what is missing.
#[derive(Debug, PartialEq, Eq)]
struct Sifted {
    kept: Vec<Vec<Run>>,
    holes: Vec<(Lsn, Lsn)>,
    next: Lsn,
}

/// Merges what is whole, from `first` on, over holes up to `promised`.
fn sift(first: Lsn, removed: &[(Lsn, Lsn)], views: &[View], promised: Lsn) -> Sifted {
    let mut runs = Vec::new();
    for (i, view) in views.iter().enumerate() {
        let later = views.iter().filter(|other| other.epoch > view.epoch);
        let starts = later.filter_map(|o| o.start.or(o.runs.first().map(|run| run.first)));
        let mut live = view.runs.clone();
        if let Some(cut) = starts.min() {
            clip(&mut live, cut);
        }
        runs.extend(live.into_iter().map(|run| (run, i)));
    }
    runs.sort_by_key(|(run, _)| (run.first, run.last));
    let mut kept = vec![Vec::new(); views.len()];
    let (mut holes, mut next) = (Vec::new(), first);
    for (run, i) in runs.into_iter().filter(|(run, _)| run.last >= first) {
        next = skip_removed(next, removed);
        let to = run.first.min(promised.next());
        if to > next {
            missing(next, to, removed, &mut holes);
            next = skip_removed(to, removed);
        }
        if run.first > next {
            break;
        }
        kept[i].push(Run { first: run.first.max(first), last: run.last });
        next = next.max(run.last.next());
    }
    next = skip_removed(next, removed);
    if next <= promised {
        missing(next, promised.next(), removed, &mut holes);
        next = skip_removed(promised.next(), removed);
    }
    Sifted { kept, holes, next }
}

/// Adds what of `from .. to` lies outside the removed ranges.
fn missing(from: Lsn, to: Lsn, removed: &[(Lsn, Lsn)], holes: &mut Vec<(Lsn, Lsn)>) {
    let mut at = from;
    for (start, end) in removed.iter().filter(|(start, end)| *end > from && *start < to) {
        if *start > at {
            holes.push((at, *start));
        }
        at = at.max(*end);
    }
    if at < to {
        holes.push((at, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> Run {
        Run { first: Lsn::new(first), last: Lsn::new(last) }
    }

    fn view(epoch: u64, runs: &[Run]) -> View {
        View { epoch, start: runs.first().map(|run| run.first), runs: runs.to_vec() }
    }

    fn holes(removed: &[(u64, u64)], views: &[View], promised: u64) -> Vec<(u64, u64)> {
        let removed: Vec<_> =
            removed.iter().map(|(from, to)| (Lsn::new(*from), Lsn::new(*to))).collect();
        let sifted = sift(Lsn::FIRST, &removed, views, Lsn::new(promised));
        sifted.holes.iter().map(|(from, to)| (from.get(), to.get())).collect()
    }

    #[test]
    fn what_is_missing_below_the_watermark_is_a_hole() {
        let log = || [view(1, &[run(1, 4), run(7, 9)]), view(1, &[run(11, 14)])];
        assert_eq!(holes(&[], &log(), 12), [(5, 7), (10, 11)]);
        assert_eq!(holes(&[(5, 7)], &log(), 12), [(10, 11)]);
        assert_eq!(holes(&[(6, 7)], &log(), 12), [(5, 6), (10, 11)]);
        // Above it is a torn tail: the log ends there.
        assert_eq!(holes(&[], &log(), 8), [(5, 7)]);
        assert_eq!(holes(&[], &log(), 4), []);
        assert_eq!(holes(&[], &log(), 20), [(5, 7), (10, 11), (15, 21)]);
    }

    #[test]
    fn a_torn_tail_is_kept_as_far_as_nothing_is_missing() {
        let kept = |promised| {
            let views = [view(1, &[run(1, 4), run(7, 9), run(11, 14)])];
            sift(Lsn::FIRST, &[], &views, Lsn::new(promised)).kept.remove(0)
        };
        assert_eq!(kept(8), [run(1, 4), run(7, 9)]);
        assert_eq!(kept(5), [run(1, 4)]);
    }

    #[test]
    fn what_an_earlier_life_gave_up_stays_given_up() {
        // Its first frame is lost, but known.
        let later = View { start: Some(Lsn::new(5)), ..view(2, &[run(7, 9)]) };
        assert_eq!(holes(&[], &[view(1, &[run(1, 8)]), later], 9), [(5, 7)]);
    }
}
