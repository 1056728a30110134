//! Ranges of LSNs: half-open, sorted, apart. What was removed, what is missing.

use crate::lsn::Lsn;

pub(crate) type Span = (Lsn, Lsn);

/// All that lies in one of them or in the other, which need not be sorted.
pub(crate) fn union(ranges: &[Span], others: &[Span]) -> Vec<Span> {
    let mut all: Vec<Span> = ranges.iter().chain(others).copied().collect();
    all.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(all.len());
    for (from, to) in all.into_iter().filter(|(from, to)| from < to) {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// What lies in `ranges` and not in `gone`.
pub(crate) fn subtract(ranges: &[Span], gone: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    for (from, to) in ranges.iter().copied() {
        let mut at = from;
        for (start, end) in within(gone, from, to) {
            if at < start {
                left.push((at, start));
            }
            at = end;
        }
        if at < to {
            left.push((at, to));
        }
    }
    left
}

/// What of `ranges` lies in `from .. to`.
pub(crate) fn within(ranges: &[Span], from: Lsn, to: Lsn) -> impl Iterator<Item = Span> {
    let start = ranges.partition_point(|(_, end)| *end <= from);
    let inside = ranges[start..].iter().take_while(move |(start, _)| *start < to);
    inside.map(move |(start, end)| ((*start).max(from), (*end).min(to)))
}

/// Takes out what lies below `first`.
pub(crate) fn drop_below(ranges: &mut Vec<Span>, first: Lsn) {
    ranges.retain_mut(|(from, to)| {
        *from = (*from).max(first);
        *from < *to
    });
}

/// How many LSNs lie in them.
pub(crate) fn count(ranges: impl IntoIterator<Item = Span>) -> u64 {
    ranges.into_iter().map(|(from, to)| to.get() - from.get()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(plain: &[(u64, u64)]) -> Vec<Span> {
        plain.iter().map(|(from, to)| (Lsn::new(*from), Lsn::new(*to))).collect()
    }

    #[test]
    fn they_stay_sorted_and_apart() {
        let some = ranges(&[(10, 12), (3, 5), (20, 21), (5, 6), (11, 20), (1, 2), (7, 7)]);
        let all = union(&some, &[]);
        assert_eq!(all, ranges(&[(1, 2), (3, 6), (10, 21)]));
        assert_eq!(
            union(&all, &ranges(&[(2, 3), (30, 31)])),
            ranges(&[(1, 6), (10, 21), (30, 31)])
        );
        let left = subtract(&all, &ranges(&[(4, 5), (6, 12), (20, 40)]));
        assert_eq!(left, ranges(&[(1, 2), (3, 4), (5, 6), (12, 20)]));
        assert_eq!(subtract(&all, &[]), all);
        let inside: Vec<_> = within(&all, Lsn::new(4), Lsn::new(11)).collect();
        assert_eq!(inside, ranges(&[(4, 6), (10, 11)]));
        assert_eq!(count(all.iter().copied()), 1 + 3 + 11);
        let mut above = all.clone();
        drop_below(&mut above, Lsn::new(5));
        assert_eq!(above, ranges(&[(5, 6), (10, 21)]));
    }
}
