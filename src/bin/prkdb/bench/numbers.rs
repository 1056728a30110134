//! Counts, quotients and paired ratios, where a figure that has nothing to stand on is none.

/// A count as a factor.
#[expect(clippy::cast_precision_loss, reason = "a count of what happens in minutes is below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A quotient; none without both, or over nothing.
pub fn quotient(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under.filter(|n| *n > 0.0)?)
}

/// `over` for each `under`; none for no `under`.
pub fn per(over: u64, under: u64) -> Option<f64> {
    quotient(Some(float(over)), Some(float(under)))
}

/// The middle one, or the mean of the two in the middle; none if one is missing or there are none.
pub fn median(values: &[Option<f64>]) -> Option<f64> {
    let mut values: Vec<f64> = values.iter().copied().collect::<Option<_>>()?;
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => Some(values[middle]),
        _ => Some(f64::midpoint(*values.get(middle.checked_sub(1)?)?, values[middle])),
    }
}

/// Paired ratios: their median, and where it is with a probability of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median.
    pub median: f64,
    /// The ends of the interval; none for less than five pairs, which say little.
    pub interval: Option<(f64, f64)>,
}

/// Pairs that an interval needs.
const MIN_PAIRS: usize = 5;
/// Medians that it is taken from.
const RESAMPLES: usize = 10_000;

/// The ratios of what stands at the same place; a round in which one side did nothing has none, and
/// takes none from the others.
pub fn ratio(over: &[Option<f64>], under: &[Option<f64>]) -> Option<Ratio> {
    let pairs = over.iter().zip(under).map(|(over, under)| quotient(*over, *under));
    let pairs: Vec<_> = pairs.filter(Option::is_some).collect();
    Some(Ratio { median: median(&pairs)?, interval: interval(&pairs) })
}

/// What pairs gave, each by itself: where the median of that is with a probability of 95 %; none
/// for less than five pairs. By the bootstrap: the median of as many pairs, drawn with repetition,
/// lies in it 95 times out of 100. The same in every run.
pub fn interval(pairs: &[Option<f64>]) -> Option<(f64, f64)> {
    if pairs.len() < MIN_PAIRS {
        return None;
    }
    let mut draw = Draw(1);
    let resample =
        |_| median(&pairs.iter().map(|_| pairs[draw.below(pairs.len())]).collect::<Vec<_>>());
    let mut medians: Vec<f64> = (0..RESAMPLES).map(resample).collect::<Option<_>>()?;
    medians.sort_by(f64::total_cmp);
    Some((medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40]))
}

/// Numbers for the bootstrap. SplitMix64: Steele, Lea, Flood, OOPSLA 2014.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound as u64).expect("it is below an index")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&some(&[3.0, 1.0, 2.0])), Some(2.0));
        assert_eq!(median(&some(&[4.0, 1.0, 2.0, 3.0])), Some(2.5));
        assert_eq!(median(&some(&[7.0])), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[Some(1.0), None]), None);
    }

    #[test]
    fn ratios_are_paired_by_round_before_the_median_is_taken() {
        // The medians' own ratio would be 2 / 4; the pairs say 1, 1/4, 3/4.
        let found = ratio(&some(&[1.0, 2.0, 3.0]), &some(&[1.0, 8.0, 4.0]));
        assert_eq!(found, Some(Ratio { median: 0.75, interval: None }));
        assert_eq!(ratio(&some(&[1.0]), &some(&[0.0])), None, "no ratio to nothing");
        assert_eq!(ratio(&some(&[1.0]), &[None]), None);
        let found = ratio(&some(&[1.0, 2.0, 3.0]), &some(&[2.0, 0.0, 3.0]));
        assert_eq!(found, Some(Ratio { median: 0.75, interval: None }), "a stalled round");
    }

    #[test]
    fn an_interval_holds_the_median_and_not_the_one_round_that_went_wrong() {
        let mut rounds = vec![0.90, 0.92, 0.91, 0.93, 0.89, 0.90, 0.91, 0.92, 0.90];
        rounds.push(0.1);
        let found = ratio(&some(&rounds), &some(&[1.0; 10])).unwrap();
        let (low, high) = found.interval.unwrap();
        assert!(low >= 0.89 && high <= 0.92, "{found:?}");
        assert!(low < found.median && found.median < high, "{found:?}");
        assert_eq!(interval(&some(&rounds)), found.interval, "a ratio to one is itself");
        assert_eq!(interval(&some(&rounds[..4])), None, "of four pairs there is none");
        let same = ratio(&some(&[2.0; 5]), &some(&[1.0; 5])).unwrap();
        assert_eq!(same, Ratio { median: 2.0, interval: Some((2.0, 2.0)) });
    }
}
