//! Histograms of fixed size: eight buckets to each power of two, recorded without a lock.
//!
//! ```text
//! value   0 1 2 .. 15 | 16 18 20 .. 30 | 32 36 40 .. 60 | 64 72 ..
//! width   1 1 1     1 |  2  2  2     2 |  4  4  4     4 |  8  8
//! ```
//!
//! Invariants: every value has a bucket; a bucket is at most an eighth of its lower bound wide and
//! its middle stands for it, so a quantile is off by a sixteenth at most; below 16 it is exact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets to a power of two, as a power of two.
const FINE: u32 = 3;
const PER_POWER: usize = 1 << FINE;
/// So many hold every `u64`.
pub(super) const BUCKETS: usize = (64 - FINE as usize + 1) * PER_POWER;

const _: () = assert!(bucket_of(u64::MAX) == BUCKETS - 1);

/// The bucket of a value.
const fn bucket_of(value: u64) -> usize {
    if value < PER_POWER as u64 {
        return crate::cast::len(value);
    }
    let shift = 63 - value.leading_zeros() - FINE;
    (shift as usize + 1) * PER_POWER + crate::cast::len(value >> shift) % PER_POWER
}

/// The value that stands for a bucket: its middle.
fn middle_of(bucket: usize) -> u64 {
    if bucket < PER_POWER {
        return bucket as u64;
    }
    let shift = bucket / PER_POWER - 1;
    let lower = ((PER_POWER + bucket % PER_POWER) as u64) << shift;
    lower + (1 << shift) / 2
}

/// How often which values were seen, as of one moment.
///
/// - Shape: plain data; histograms of several logs can be merged.
/// - Units: those of its name (`queue_ns`: nanoseconds). A quantile is off by a sixteenth of the
///   value at most; count, mean and maximum are exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Counts by bucket, up to the last that is not zero.
    buckets: Vec<u64>,
    sum: u64,
    max: u64,
}

impl Histogram {
    /// Of counts by bucket.
    pub(super) fn of(mut buckets: Vec<u64>, sum: u64, max: u64) -> Histogram {
        let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        buckets.truncate(used);
        Histogram { buckets, sum, max }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |all, count| all.saturating_add(*count))
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Their mean; 0 if there are none.
    #[expect(clippy::cast_precision_loss, reason = "a mean is for people")]
    pub fn mean(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            count => self.sum as f64 / count as f64,
        }
    }

    /// The greatest; 0 if there are none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share `q` of them, 0 to 1, does not exceed: 0.99 for the 99th percentile. 0
    /// if there are none.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a rank")]
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 or more")]
    pub fn quantile(&self, q: f64) -> u64 {
        let count = self.count();
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        if rank >= count {
            return self.max;
        }
        let mut seen = 0u64;
        let found = self.buckets.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        found.map_or(0, |bucket| middle_of(bucket).min(self.max))
    }

    /// Takes in the values of another one.
    pub fn merge(&mut self, other: &Histogram) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to = to.saturating_add(*from);
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Buckets that are not empty, and their counts.
    pub(super) fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        self.buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }
}

/// A histogram that is being recorded.
///
/// One thread at a time records, the log's writer, so that no addition has to be atomic; anybody
/// may look. Relaxed: each number stands for itself, and a look beside a record may see half of it.
pub(crate) struct Recorder {
    buckets: Box<[AtomicU64; BUCKETS]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Recorder {
        let buckets = Box::new([const { AtomicU64::new(0) }; BUCKETS]);
        Recorder { buckets, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl Recorder {
    /// Records one value; the caller is the only thread that does.
    pub(crate) fn record(&self, value: u64) {
        let add = |to: &AtomicU64, more| to.store(to.load(Relaxed).wrapping_add(more), Relaxed);
        add(&self.buckets[bucket_of(value)], 1);
        add(&self.sum, value);
        if value > self.max.load(Relaxed) {
            self.max.store(value, Relaxed);
        }
    }

    /// What was recorded so far.
    pub(super) fn look(&self) -> Histogram {
        let buckets = self.buckets.iter().map(|count| count.load(Relaxed)).collect();
        Histogram::of(buckets, self.sum.load(Relaxed), self.max.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram {
        let recorder = Recorder::default();
        values.into_iter().for_each(|value| recorder.record(value));
        recorder.look()
    }

    #[test]
    fn a_bucket_is_off_by_a_sixteenth_at_most() {
        let powers = (0..64).flat_map(|shift| (0..64).map(move |i| (1u64 << shift) | (i << 40)));
        let edges = powers.flat_map(|v| [v.saturating_sub(1), v, v.saturating_add(1)]);
        for value in (0..100_000).chain(edges).chain([u64::MAX]) {
            let middle = middle_of(bucket_of(value));
            assert!(middle.abs_diff(value) <= value / 16, "{value} is told as {middle}");
        }
    }

    #[test]
    fn the_example_of_the_format_holds() {
        let told = histogram([1000, 1001, 5]);
        assert_eq!(told.filled().collect::<Vec<_>>(), [(5, 1), (63, 2)]);
        assert_eq!((told.sum(), told.max(), told.quantile(0.5)), (2006, 1001, 992));
    }

    #[test]
    fn buckets_rise_with_their_values() {
        let middles: Vec<u64> = (0..BUCKETS).map(middle_of).collect();
        assert!(middles.windows(2).all(|pair| pair[0] < pair[1]));
        assert!((0..BUCKETS).all(|bucket| bucket_of(middles[bucket]) == bucket));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        // 1 to 100,000 in a scattered order.
        let all = histogram((0..100_000u64).map(|i| i * 77_777 % 100_000 + 1));
        assert_eq!((all.count(), all.max(), all.sum()), (100_000, 100_000, 5_000_050_000));
        assert!((all.mean() - 50_000.5).abs() < 1e-6);
        for (q, exact) in [(0.0, 1), (0.5, 50_000), (0.99, 99_000), (0.999, 99_900), (1.0, 100_000)]
        {
            assert!(all.quantile(q).abs_diff(exact) <= exact / 16, "{q}: {}", all.quantile(q));
        }
        assert!(all.quantile(f64::NAN) <= all.max());
        let none = Histogram::default();
        assert_eq!((none.count(), none.max(), none.quantile(0.5)), (0, 0, 0));
        assert!(none.mean() == 0.0);
    }

    #[test]
    fn merged_is_as_if_recorded_in_one() {
        let (small, large) = (0..1000, (5..60).map(|shift| 3 << shift));
        let all = histogram(small.clone().chain(large.clone()));
        let mut merged = histogram(small.clone());
        merged.merge(&histogram(large.clone()));
        assert_eq!(merged, all);
        let mut other_way = histogram(large);
        other_way.merge(&histogram(small));
        other_way.merge(&Histogram::default());
        assert_eq!(other_way, all);
    }
}
