//! Counts and quotients, where a figure that has nothing to stand on is none.

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
}
