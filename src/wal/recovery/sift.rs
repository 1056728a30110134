//! What is kept of segments that were swept, and what is missing. Pure.
//!
//! Where a segment of a later epoch begins, all of earlier epochs from there on was given up or cut
//! before. That is known only while its beginning is: a segment that has lost it, and may have
//! followed a cut that META does not tell of (any more), casts doubt on the one before it.

use crate::format::meta::{Cut, Meta};
use crate::lsn::Lsn;
use crate::segment::Run;

use super::loss::Unusable;
use super::merge::skip_removed;
use super::ranges::{Span, subtract};
use super::sweep::Swept;
use super::{Found, State};

/// A segment as it is sifted.
#[derive(Debug)]
pub(super) struct View {
    pub(super) epoch: u64,
    /// Where it began, as far as that is known: nothing of an earlier epoch counts from there on.
    pub(super) start: Option<Lsn>,
    pub(super) runs: Vec<Run>,
}

/// A segment of which nobody knows where it began.
struct Doubt {
    number: u64,
    /// The least and the greatest epoch it may have.
    epochs: (u64, u64),
}

/// The segments as they are sifted, in the order of `found`; then those that can't be used and of
/// which it is known all the same where they began.
pub(super) fn views(
    found: &[Found],
    swept: &[Swept],
    unusable: &[Unusable],
    meta: &Meta,
) -> Vec<View> {
    let oldest = meta.cuts.first().copied();
    let in_doubt = |(g, s): (&Found, &Swept)| {
        let (number, epoch) = (g.file.id.number, g.file.id.epoch);
        s.starts_in_doubt(g).then_some(Doubt { number, epochs: (epoch, epoch) })
    };
    let mut doubts: Vec<Doubt> = found.iter().zip(swept).filter_map(in_doubt).collect();
    let lost = unusable.iter().filter(|u| u.start.is_none() && !u.is_empty);
    doubts.extend(lost.map(|u| Doubt { number: u.number, epochs: u.epochs(found) }));
    // It began behind the beginning of all that is older: that would have gone otherwise.
    let end = |doubt: &Doubt| {
        let older = found.iter().zip(swept).filter(|(g, _)| g.file.id.number < doubt.number);
        let starts = older.filter_map(|(g, s)| s.start(g).or(s.runs.first().map(|r| r.first)));
        starts.max().unwrap_or(Lsn::NONE).next()
    };
    let ends: Vec<Lsn> = doubts.iter().map(end).collect();
    let view = |(f, s): (&Found, &Swept)| {
        let (number, epoch) = (f.file.id.number, f.file.id.epoch);
        let mut runs = s.runs.clone();
        // What a later life gave up is not known where its beginning is lost as well. A segment of
        // an earlier life had a footer, which told.
        let was_ended = matches!(f.state, State::Open(_)) && epoch + 1 < meta.next_epoch;
        if was_ended && doubts.iter().any(|doubt| doubt.epochs.1 > epoch) {
            clip(&mut runs, s.durable.next());
        }
        for (doubt, end) in doubts.iter().zip(&ends) {
            if number < doubt.number && doubt.may_hide_a_cut(epoch, oldest) {
                clip(&mut runs, *end);
            }
        }
        View { epoch, start: s.start(f), runs }
    };
    let mut views: Vec<View> = found.iter().zip(swept).map(view).collect();
    let known = |u: &Unusable| Some(View { epoch: u.epoch?, start: u.start, runs: Vec::new() });
    views.extend(unusable.iter().filter(|u| u.start.is_some()).filter_map(known));
    views
}

impl Doubt {
    /// Whether a cut of records of `epoch` may be known from its beginning alone: one before the
    /// oldest that META has.
    fn may_hide_a_cut(&self, epoch: u64, oldest: Option<Cut>) -> bool {
        let (least, most) = self.epochs;
        oldest.is_some_and(|oldest| least.max(epoch + 1) <= most.min(oldest.epoch - 1))
    }
}

/// Takes out what lies at `from` and beyond.
pub(super) fn clip(runs: &mut Vec<Run>, from: Lsn) {
    runs.retain_mut(|run| {
        run.last = run.last.min(from.prev());
        run.first <= run.last
    });
}

/// What is kept, segment by segment, and what is missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sifted {
    pub(super) kept: Vec<Vec<Run>>,
    pub(super) holes: Vec<Span>,
    pub(super) next: Lsn,
}

/// Merges what is whole, from `first` on, over holes up to `promised`.
pub(super) fn sift(first: Lsn, removed: &[Span], views: &[View], promised: Lsn) -> Sifted {
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
            holes.extend(subtract(&[(next, to)], removed));
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
        holes.extend(subtract(&[(next, promised.next())], removed));
        next = skip_removed(promised.next(), removed);
    }
    Sifted { kept, holes, next }
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
        assert_eq!(holes(&[], &log(), u64::MAX), [(5, 7), (10, 11), (15, u64::MAX)]);
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

    #[test]
    fn only_a_cut_before_the_oldest_known_can_be_hidden() {
        let oldest = |epoch| Some(Cut { lsn: Lsn::FIRST, epoch });
        let doubt = |epochs| Doubt { number: 2, epochs };
        assert!(!doubt((1, 9)).may_hide_a_cut(1, None));
        assert!(!doubt((1, 2)).may_hide_a_cut(1, oldest(2)), "META has that one");
        assert!(doubt((1, 3)).may_hide_a_cut(1, oldest(3)));
        assert!(!doubt((3, 5)).may_hide_a_cut(1, oldest(3)), "it is of a later time");
        assert!(!doubt((1, 1)).may_hide_a_cut(1, oldest(3)), "it is of the same life");
        assert!(!doubt((1, 3)).may_hide_a_cut(2, oldest(3)), "only a known one came after");
    }
}
