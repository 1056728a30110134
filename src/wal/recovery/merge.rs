//! Merging the frames of all segments into one order: the pure part of recovery.
//!
//! An epoch begins at the LSN where the recovery before it cut the log. So where a segment of a
//! later epoch starts, everything at or above in earlier epochs was given up then, and must stay
//! given up, whatever its checksums say.

use crate::bugs::{self, Bug};
use crate::lsn::Lsn;
use crate::segment::Run;

/// The log as one order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// The first LSN that is missing.
    pub(super) next: Lsn,
    /// For each segment the runs that are part of the log.
    pub(super) kept: Vec<Vec<Run>>,
    /// Some segment has valid frames at or beyond `next`.
    pub(super) beyond: bool,
}

/// Merges `segments` (epoch and runs each), starting at `first`, passing over `removed`.
pub(super) fn merge(first: Lsn, removed: &[(Lsn, Lsn)], segments: &[(u64, &[Run])]) -> Merged {
    let mut runs = live_runs(segments);
    runs.sort_by_key(|(run, _)| (run.first, run.last));
    let mut kept = vec![Vec::new(); segments.len()];
    let mut next = skip_removed(first, removed);
    let mut beyond = false;
    for (run, segment) in runs {
        if run.last < first {
            continue;
        }
        next = skip_removed(next, removed);
        if run.first > next && !bugs::on(Bug::ResynchronisingScan) {
            beyond = true;
        } else {
            // Within an epoch each LSN is given once: what overlaps is the stretch of a sealed
            // segment, all of it promised, and what others have of it.
            kept[segment].push(Run { first: run.first.max(first), last: run.last });
            next = next.max(run.last.next());
        }
    }
    Merged { next: skip_removed(next, removed), kept, beyond }
}

/// The runs, each cut where a later epoch begins.
pub(super) fn live_runs(segments: &[(u64, &[Run])]) -> Vec<(Run, usize)> {
    // Where segments start (their runs rise), by epoch: then the lowest from each of them on.
    let start = |(epoch, runs): &(u64, &[Run])| runs.first().map(|run| (*epoch, run.first));
    let mut starts: Vec<(u64, Lsn)> = segments.iter().filter_map(start).collect();
    starts.sort_unstable();
    for i in (1..starts.len()).rev() {
        starts[i - 1].1 = starts[i - 1].1.min(starts[i].1);
    }
    let mut live = Vec::new();
    for (i, (epoch, runs)) in segments.iter().enumerate() {
        let later = starts.partition_point(|(other, _)| other <= epoch);
        let cut = starts.get(later).map(|(_, first)| *first);
        for run in *runs {
            let last = cut.map_or(run.last, |cut| run.last.min(cut.prev()));
            if last >= run.first {
                live.push((Run { first: run.first, last }, i));
            }
        }
    }
    live
}

/// The first LSN from `lsn` on that was not given up.
pub(crate) fn skip_removed(lsn: Lsn, removed: &[(Lsn, Lsn)]) -> Lsn {
    let at = removed.partition_point(|(_, to)| *to <= lsn);
    removed.get(at).filter(|(from, _)| *from <= lsn).map_or(lsn, |(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> Run {
        Run { first: Lsn::new(first), last: Lsn::new(last) }
    }

    fn next(segments: &[(u64, &[Run])]) -> (u64, bool) {
        let merged = merge(Lsn::FIRST, &[], segments);
        (merged.next.get(), merged.beyond)
    }

    #[test]
    fn segments_join_by_lsn() {
        assert_eq!(next(&[(1, &[run(11, 20)]), (1, &[run(1, 10)])]), (21, false));
        assert_eq!(next(&[]), (1, false));
    }

    #[test]
    fn a_hole_ends_the_log_and_what_is_beyond_is_seen() {
        assert_eq!(next(&[(1, &[run(1, 4), run(6, 9)])]), (5, true));
    }

    #[test]
    fn several_open_segments_interleave() {
        let (a, b) = ([run(1, 2), run(5, 6)], [run(3, 4), run(7, 8)]);
        assert_eq!(next(&[(1, &a), (1, &b)]), (9, false));
    }

    #[test]
    fn a_hole_in_one_of_them_ends_all() {
        let (a, b) = ([run(1, 2), run(5, 6)], [run(4, 4), run(7, 8)]);
        let merged = merge(Lsn::FIRST, &[], &[(1, &a), (1, &b)]);
        assert_eq!((merged.next, merged.beyond), (Lsn::new(3), true));
        assert_eq!(merged.kept, [vec![run(1, 2)], vec![]]);
    }

    #[test]
    fn the_stretch_of_a_sealed_segment_covers_and_takes_nothing_away() {
        let (a, b, c) = ([run(1, 9)], [run(3, 12)], [run(2, 2), run(8, 8), run(13, 13)]);
        let merged = merge(Lsn::FIRST, &[], &[(1, &a), (1, &b), (1, &c)]);
        assert_eq!((merged.next, merged.beyond), (Lsn::new(14), false));
        assert_eq!(merged.kept, [a.to_vec(), b.to_vec(), c.to_vec()]);
    }

    #[test]
    fn what_an_earlier_recovery_gave_up_stays_given_up() {
        // Epoch 1 lost 90..=91; epoch 2 wrote 90..=91 anew and then crashed.
        let old = [run(1, 89), run(92, 100)];
        let merged = merge(Lsn::FIRST, &[], &[(1, &old), (2, &[run(90, 91)])]);
        assert_eq!((merged.next, merged.beyond), (Lsn::new(92), false));
        assert_eq!(merged.kept[0], [run(1, 89)]);
    }

    #[test]
    fn removed_ranges_are_no_holes() {
        let removed = [(Lsn::new(3), Lsn::new(7))];
        let merged = merge(Lsn::FIRST, &removed, &[(1, &[run(1, 2), run(7, 9)])]);
        assert_eq!(merged.next, Lsn::new(10));
    }

    #[test]
    fn the_log_starts_where_it_was_truncated() {
        let merged = merge(Lsn::new(6), &[], &[(1, &[run(1, 3)]), (1, &[run(4, 9)])]);
        assert_eq!(merged.next, Lsn::new(10));
        assert_eq!(merged.kept, [vec![], vec![run(6, 9)]]);
        assert_eq!(merge(Lsn::new(6), &[], &[(1, &[run(1, 5)])]).next, Lsn::new(6));
    }
}
