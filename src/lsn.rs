//! Log sequence numbers: the place of a record in the log.
//!
//! LSNs are dense from 1. One is given anew only after its record was cut from the end of the log,
//! or was never promised. 0 is no record's LSN; in a watermark it means "none yet". Watermarks are
//! inclusive, ranges half-open.

use std::fmt;

/// The place of a record in the log: dense from 1, one counter for the whole log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// No record: the value of a watermark before anything reached it.
    pub const NONE: Lsn = Lsn(0);
    /// The first record of a log.
    pub const FIRST: Lsn = Lsn(1);
    /// The greatest LSN there can be; no record has it.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The LSN with this number.
    pub const fn new(number: u64) -> Lsn {
        Lsn(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The LSN of the record after this one; `MAX` stays.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// The LSN of the record before this one; `NONE` before the first.
    #[must_use]
    pub const fn prev(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// The LSN `count` records later, `MAX` at most.
    #[must_use]
    pub const fn plus(self, count: u64) -> Lsn {
        Lsn(self.0.saturating_add(count))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Lsn {
    fn from(number: u64) -> Lsn {
        Lsn(number)
    }
}

/// The LSNs of one batch: `first .. end`, half-open and never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LsnRange {
    first: Lsn,
    count: u32,
}

impl LsnRange {
    pub(crate) const fn new(first: Lsn, count: u32) -> LsnRange {
        debug_assert!(count > 0);
        LsnRange { first, count }
    }

    /// The LSN of the batch's first record.
    pub const fn first(&self) -> Lsn {
        self.first
    }

    /// The LSN of the batch's last record.
    pub const fn last(&self) -> Lsn {
        Lsn(self.first.0 + self.count as u64 - 1)
    }

    /// The LSN after the batch's last record.
    pub const fn end(&self) -> Lsn {
        Lsn(self.first.0 + self.count as u64)
    }

    /// How many records the batch has, at least 1.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The LSNs in the order of the batch's records.
    pub fn iter(&self) -> impl Iterator<Item = Lsn> + use<> {
        (self.first.0..self.end().0).map(Lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_half_open_and_dense() {
        let range = LsnRange::new(Lsn::new(7), 3);
        assert_eq!(range.last(), Lsn::new(9));
        assert_eq!(range.end(), Lsn::new(10));
        assert_eq!(range.iter().map(Lsn::get).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(Lsn::NONE.prev(), Lsn::NONE);
        assert_eq!((Lsn::MAX.next(), Lsn::new(7).plus(u64::MAX)), (Lsn::MAX, Lsn::MAX));
    }
}
