//! Sealed segments that were written side by side: have they, taken together, every record?
//!
//! ```text
//! footer a: 1 to 9, 5 records ---+
//! footer b: 3 to 12, 4 records --+-- 1 to 12 are 12 records, 5 + 4 + 3 are there: none is missing
//! scan   c: 2, 8, 11, 13 --------'   (13 lies beyond)
//! ```
//!
//! A footer says how many records its segment has, not which. Each LSN is given once in an epoch,
//! so where the counts over a stretch add up to its length nothing of it is missing, and no frame
//! has to be read. Where they don't, or where the start of the log or a cut goes through a segment,
//! the headers of its frames are read. All of a sealed segment's stretch was promised: what can't
//! be read of it counts as there, to fail when it is read, as rot in any sealed segment does.

use crate::error::{Error, Result};
use crate::format::Bad;
use crate::format::footer::Footer;
use crate::format::frame::Tag;
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::segment::{Cursor, Run, Step};

use super::inspect::Survey;
use super::merge::live_runs;
use super::segment::WINDOW;
use super::{Found, State};

/// Learns the runs of the segments whose footers leave doubt.
pub(super) fn weave(disk: &dyn Disk, survey: &mut Survey) -> Result<()> {
    loop {
        let meta = &survey.meta.meta;
        let pieces: Vec<Piece<'_>> = survey.found.iter().map(Piece::of).collect();
        let doubtful = doubtful(meta.first_lsn, &meta.removed, &pieces);
        if doubtful.is_empty() {
            return Ok(());
        }
        for i in doubtful {
            let f = &mut survey.found[i];
            f.runs = walk(disk, f, meta.first_lsn)?;
            f.walked = true;
            f.cut(meta);
        }
    }
}

/// A segment as it is counted.
struct Piece<'a> {
    epoch: u64,
    runs: &'a [Run],
    /// Its stretch and how many records of it it has, where `runs` is no more than that.
    sparse: Option<(Run, u64)>,
}

impl Piece<'_> {
    fn of(f: &Found) -> Piece<'_> {
        let sparse = match &f.state {
            State::Sealed(footer) if f.is_sparse() && !f.walked => {
                let stretch = Run { first: footer.first_lsn, last: footer.last_lsn };
                Some((stretch, footer.records))
            }
            _ => None,
        };
        Piece { epoch: f.file.id.epoch, runs: &f.runs, sparse }
    }
}

/// The segments that must be walked before it is known whether a record is missing.
fn doubtful(first: Lsn, removed: &[(Lsn, Lsn)], pieces: &[Piece<'_>]) -> Vec<usize> {
    if pieces.iter().all(|piece| piece.sparse.is_none()) {
        return Vec::new();
    }
    let segments: Vec<(u64, &[Run])> = pieces.iter().map(|p| (p.epoch, p.runs)).collect();
    let mut live = live_runs(&segments);
    live.retain(|(run, _)| run.last >= first);
    live.sort_by_key(|(run, _)| run.first);
    let (sparse, exact): (Vec<_>, Vec<_>) =
        live.into_iter().partition(|(_, i)| pieces[*i].sparse.is_some());
    // A part of its records counts, and the footer knows no parts.
    let is_cut = |(run, i): &&(Run, usize)| {
        let apart = |(from, to): &(Lsn, Lsn)| *from <= run.last && run.first < *to;
        let whole = pieces[*i].sparse.is_some_and(|(stretch, _)| stretch == *run);
        run.first < first || !whole || removed.iter().any(apart)
    };
    let cut: Vec<usize> = sparse.iter().filter(is_cut).map(|(_, i)| *i).collect();
    if !cut.is_empty() {
        return cut;
    }
    let mut doubtful = Vec::new();
    let mut rest = &sparse[..];
    while let Some((run, _)) = rest.first() {
        let (from, mut to, mut count) = (run.first, run.last, 0);
        while let Some((run, _)) = rest.get(count).filter(|(run, _)| run.first <= to) {
            to = to.max(run.last);
            count += 1;
        }
        let (stretch, after) = rest.split_at(count);
        rest = after;
        let counts = stretch.iter().filter_map(|(_, i)| pieces[*i].sparse);
        // A forged footer may say any number.
        let footers: u128 = counts.map(|(_, records)| u128::from(records)).sum();
        let span = u128::from(to.get() - from.get()) + 1;
        if footers + records_within(&exact, from, to) != span {
            doubtful.extend(stretch.iter().map(|(_, i)| *i));
        }
    }
    doubtful
}

/// How many LSNs between `from` and `to`, inclusive, lie in `runs`, which are sorted and, unless
/// one was damaged, apart.
fn records_within(runs: &[(Run, usize)], from: Lsn, to: Lsn) -> u128 {
    let start = runs.partition_point(|(run, _)| run.last < from);
    let within = runs[start..].iter().take_while(|(run, _)| run.first <= to);
    let count = |run: &Run| {
        u128::from((run.last.min(to).get() + 1).saturating_sub(run.first.max(from).get()))
    };
    within.map(|(run, _)| count(run)).sum()
}

/// Reads the headers of a sealed segment's frames, those from `first` on at least.
fn walk(disk: &dyn Disk, f: &Found, first: Lsn) -> Result<Vec<Run>> {
    let State::Sealed(footer) = &f.state else { unreachable!("only footers leave doubt") };
    let path = &f.file.path;
    let failed = |at, e| Error::io("open", path, at, e);
    let file = disk.open(path, Access::Direct).map_err(|e| failed(None, e))?;
    let before = footer.index.partition_point(|entry| entry.lsn <= first);
    let start = before.checked_sub(1).map_or(f.file.geometry.frames_start(), |i| {
        // The footer proved itself: what it points at is in the file.
        footer.index[i].offset
    });
    let mut cursor = Cursor::new(file, f.file.id, f.file.geometry, start, WINDOW);
    let (mut runs, mut lost) = (Runs::default(), false);
    while cursor.at() < footer.end {
        match cursor.peek().map_err(|e| failed(Some(cursor.at()), e))? {
            Step::Frame(frame) => {
                cursor.skip(&frame.header);
                if frame.header.tag == Tag::Batch {
                    let (first, last) = (frame.header.first_lsn, frame.header.last_lsn());
                    runs.add(
                        if std::mem::take(&mut lost) { runs.next(footer) } else { first },
                        last,
                    );
                }
            }
            Step::Bad { offset, why: why @ (Bad::Version(_) | Bad::Codec(_)), .. } => {
                return Err(Error::unsupported("open", path, offset, &why));
            }
            Step::Bad { .. } | Step::End => {
                lost = true;
                cursor.skip_block();
            }
        }
    }
    if lost {
        runs.add(runs.next(footer), footer.last_lsn);
    }
    Ok(runs.0)
}

/// Runs in the making.
#[derive(Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn add(&mut self, first: Lsn, last: Lsn) {
        match self.0.last_mut() {
            Some(run) if run.last.next() >= first => run.last = run.last.max(last),
            _ => self.0.push(Run { first, last }),
        }
    }

    /// The LSN after those that were added: from there on what can't be read counts as there.
    fn next(&self, footer: &Footer) -> Lsn {
        self.0.last().map_or(footer.first_lsn, |run| run.last.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> Run {
        Run { first: Lsn::new(first), last: Lsn::new(last) }
    }

    /// A segment by epoch, runs, and the count of a footer that leaves doubt.
    fn piece(epoch: u64, runs: &[Run], sparse: Option<u64>) -> Piece<'_> {
        Piece { epoch, runs, sparse: sparse.map(|records| (runs[0], records)) }
    }

    fn walked(first: u64, pieces: &[Piece<'_>]) -> Vec<usize> {
        doubtful(Lsn::new(first), &[], pieces)
    }

    #[test]
    fn counts_that_add_up_spare_the_frames() {
        let (a, b) = ([run(1, 9)], [run(3, 12)]);
        let c = [run(2, 2), run(8, 8), run(11, 11), run(13, 13)];
        let log = |of_b| {
            walked(1, &[piece(1, &a, Some(5)), piece(1, &b, Some(of_b)), piece(1, &c, None)])
        };
        assert!(log(4).is_empty());
        assert_eq!(log(3), [0, 1]);
        assert!(walked(1, &[piece(1, &a, None), piece(1, &[run(10, 11)], None)]).is_empty());
    }

    #[test]
    fn forged_counts_add_up_to_nothing() {
        let (a, b, c) = ([run(1, u64::MAX - 1)], [run(2, u64::MAX - 1)], [run(5, 7)]);
        let forged = u64::MAX - 2;
        let log = [piece(1, &a, Some(forged)), piece(1, &b, Some(forged)), piece(1, &c, None)];
        assert_eq!(walked(1, &log), [0, 1]);
    }

    #[test]
    fn only_the_stretch_with_a_lost_file_is_walked() {
        let (a, b, c, d) = ([run(1, 9)], [run(2, 10)], [run(11, 19)], [run(20, 20)]);
        let whole = [piece(1, &a, Some(5)), piece(1, &b, Some(5))];
        let lost = [piece(1, &c, Some(5)), piece(1, &d, None)];
        let all: Vec<Piece<'_>> = whole.into_iter().chain(lost).collect();
        assert_eq!(walked(1, &all), [2]);
    }

    #[test]
    fn what_begins_below_the_start_of_the_log_is_walked_first() {
        let (a, b) = ([run(1, 9)], [run(6, 12)]);
        let pieces = [piece(1, &a, Some(5)), piece(1, &b, Some(5))];
        assert_eq!(walked(6, &pieces), [0]);
        assert!(walked(13, &pieces).is_empty());
    }

    #[test]
    fn what_a_later_epoch_cuts_is_walked_first() {
        let (a, b) = ([run(1, 9)], [run(8, 12)]);
        assert_eq!(walked(1, &[piece(1, &a, Some(5)), piece(2, &b, None)]), [0]);
        let cut = Piece { sparse: Some((run(1, 12), 7)), ..piece(1, &a, None) };
        assert_eq!(walked(1, &[cut]), [0]);
    }
}
