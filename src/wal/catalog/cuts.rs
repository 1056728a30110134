//! Where records were taken out from the end: as much as a reader must know, in bounded memory.
//!
//! ```text
//! change      3   5   9       a reader that knows of change 4 asks for the lowest cut since:
//! cut from   20  50  80       50. Push 30 at change 12: 20 at 3, 30 at 12 - no later cut is asked
//!                             for without the lower one that came after it.
//! ```
//!
//! Invariants: changes and cuts rise together from entry to entry; there are at most `MOST`.

use std::collections::VecDeque;

use crate::lsn::Lsn;

/// So many are told apart, of 16 bytes each. Only a log that is cut higher and higher has many.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Cuts {
    entries: VecDeque<(u64, Lsn)>,
}

impl Cuts {
    /// What readers got from `cut` on is no more, since `change`.
    pub(super) fn push(&mut self, change: u64, cut: Lsn) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < change));
        while self.entries.back().is_some_and(|(_, higher)| *higher >= cut) {
            self.entries.pop_back();
        }
        if self.entries.len() == MOST
            && let (Some((_, lowest)), Some(next)) =
                (self.entries.pop_front(), self.entries.front_mut())
        {
            // Who knew of the lower one and not of the other may hear of it again: too much is
            // taken from him then, never too little.
            next.1 = lowest;
        }
        self.entries.push_back((change, cut));
    }

    /// The lowest cut of those after the change `known`.
    pub(super) fn lowest_since(&self, known: u64) -> Option<Lsn> {
        let at = self.entries.partition_point(|(change, _)| *change <= known);
        self.entries.get(at).map(|(_, cut)| *cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowest(cuts: &Cuts, known: u64) -> Option<u64> {
        cuts.lowest_since(known).map(Lsn::get)
    }

    #[test]
    fn a_reader_hears_of_the_lowest_cut_since_it_looked() {
        let mut cuts = Cuts::default();
        assert_eq!(lowest(&cuts, 0), None);
        for (change, cut) in [(3, 20), (5, 50), (9, 80), (12, 30)] {
            cuts.push(change, Lsn::new(cut));
        }
        let heard: Vec<_> = [0, 2, 3, 5, 9, 11, 12, 13].map(|k| lowest(&cuts, k)).into();
        let (twenty, thirty) = (Some(20), Some(30));
        assert_eq!(heard, [twenty, twenty, thirty, thirty, thirty, thirty, None, None]);
        cuts.push(13, Lsn::new(20));
        assert_eq!(cuts.entries, [(13, Lsn::new(20))]);
    }

    #[test]
    fn a_cut_where_one_was_before_takes_its_place() {
        let mut cuts = Cuts::default();
        (1..1_000_000).for_each(|change| cuts.push(change, Lsn::new(7)));
        assert_eq!(cuts.entries.len(), 1);
        assert_eq!((lowest(&cuts, 999_998), lowest(&cuts, 999_999)), (Some(7), None));
    }

    #[test]
    fn a_reader_that_slept_through_more_than_is_kept_hears_too_much_and_never_too_little() {
        let (mut cuts, many) = (Cuts::default(), 3 * MOST as u64);
        for change in 1..=many {
            cuts.push(change, Lsn::new(10 * change));
            assert!(cuts.entries.len() <= MOST);
        }
        assert!(cuts.entries.iter().zip(cuts.entries.iter().skip(1)).all(|(a, b)| a < b));
        let forgotten = many - MOST as u64;
        for known in 0..=many {
            let right = (known < many).then_some(10 * (known + 1));
            let said = lowest(&cuts, known);
            match known <= forgotten {
                true => assert_eq!(said, Some(10), "the lowest of all"),
                false => assert_eq!(said, right),
            }
        }
    }
}
