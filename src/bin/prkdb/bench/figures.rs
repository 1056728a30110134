//! From samples to rows: medians over rounds, ratios paired by round, percentiles over all.
//!
//! Invariant: a figure that has no meaning, or nothing to stand on, is none; it is never a zero or
//! a guess.

use hdrhistogram::Histogram;

use crate::outcome::Stop;

use super::load::Sample;
use super::numbers::{Ratio, float, median, quotient, ratio};
use super::workload::Workload;

/// Latencies from a nanosecond to an hour, in steps of a thousandth.
const LONGEST_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// What all rounds of one contestant in one workload gave.
#[derive(Debug)]
pub struct Series {
    /// Who.
    pub backend: String,
    /// Batches, or raw writes, that may be unanswered.
    pub outstanding: usize,
    samples: Vec<Sample>,
    latencies: Histogram<u64>,
}

impl Series {
    /// Nothing yet.
    pub fn new(backend: &str, outstanding: usize) -> Result<Series, Stop> {
        let latencies = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
            .map_err(|e| Stop::Failed(format!("latencies: {e}")))?;
        Ok(Series { backend: backend.into(), outstanding, samples: Vec::new(), latencies })
    }

    /// Adds a round.
    pub fn push(&mut self, mut sample: Sample) {
        for nanos in std::mem::take(&mut sample.latencies_ns) {
            self.latencies.saturating_record(nanos);
        }
        self.samples.push(sample);
    }

    fn rates(&self, count: impl Fn(&Sample) -> u64) -> Vec<Option<f64>> {
        self.samples.iter().map(|s| Some(float(count(s)) / s.seconds)).collect()
    }

    fn groups_per_s(&self) -> Vec<Option<f64>> {
        let rate = |s: &Sample| quotient(s.groups.map(float), Some(s.looked));
        self.samples.iter().map(rate).collect()
    }

    /// CPU time as if it had been looked at for as long as records were counted.
    fn cpu_ns(&self) -> f64 {
        let in_window = |s: &Sample| s.cpu.time.as_secs_f64() * 1e9 * s.seconds / s.looked;
        self.samples.iter().map(in_window).sum()
    }

    fn sum(&self, count: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        self.samples.iter().map(count).sum::<Option<u64>>().map(float)
    }

    /// The latency that this share of batches, 0 to 1, stayed at or below, microseconds.
    pub fn latency_us(&self, share: f64) -> Option<f64> {
        let nanos = self.latencies.value_at_quantile(share);
        (!self.latencies.is_empty()).then(|| float(nanos) / 1e3)
    }

    /// How many latencies there are.
    pub fn answers(&self) -> u64 {
        self.latencies.len()
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub workload: &'static Workload,
    /// Who.
    pub backend: String,
    /// Batches that may be unanswered.
    pub outstanding: usize,
    /// Rounds.
    pub rounds: usize,
    /// Median.
    pub records_per_s: Option<f64>,
    /// Median.
    pub batches_per_s: Option<f64>,
    /// Median.
    pub groups_per_s: Option<f64>,
    /// Over all rounds.
    pub p50_us: Option<f64>,
    /// Over all rounds.
    pub p99_us: Option<f64>,
    /// Over all rounds.
    pub enters_per_group: Option<f64>,
    /// Over all rounds.
    pub syscalls_per_group: Option<f64>,
    /// Over all rounds.
    pub cpu_ns_per_record: Option<f64>,
    /// Records a second over the yardstick's.
    pub raw_ratio: Option<Ratio>,
}

/// The row of `series`, held against `raw` of the same rounds.
pub fn row(workload: &'static Workload, series: &Series, raw: &Series) -> Row {
    let records = series.rates(|s| s.records);
    let per_group =
        |count: fn(&Sample) -> Option<u64>| quotient(series.sum(count), series.sum(|s| s.groups));
    let has_latency = workload.durability().is_some();
    Row {
        workload,
        backend: series.backend.clone(),
        outstanding: series.outstanding,
        rounds: series.samples.len(),
        raw_ratio: ratio(&records, &raw.rates(|s| s.records)),
        records_per_s: median(&records),
        batches_per_s: median(&series.rates(|s| s.batches)),
        groups_per_s: median(&series.groups_per_s()),
        p50_us: series.latency_us(0.5).filter(|_| has_latency),
        p99_us: series.latency_us(0.99).filter(|_| has_latency),
        enters_per_group: per_group(|s| s.enters),
        syscalls_per_group: per_group(|s| s.calls),
        cpu_ns_per_record: quotient(Some(series.cpu_ns()), series.sum(|s| Some(s.records))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::yardstick::cpu::Usage;

    use super::super::workload::ALL;
    use super::*;

    #[test]
    fn a_row_is_made_of_all_rounds_and_says_none_where_there_is_nothing() {
        let sample = |records: u64, groups| Sample {
            seconds: 0.5,
            looked: 0.5,
            batches: records / 1000,
            records,
            latencies_ns: vec![10_000, 20_000, 30_000],
            cpu: Usage { time: Duration::from_nanos(records), switches: 0 },
            groups,
            ..Sample::default()
        };
        let (mut raw, mut log) = (Series::new("raw", 1).unwrap(), Series::new("log", 1).unwrap());
        for records in [4000, 2000, 8000] {
            raw.push(sample(2 * records, Some(4)));
            log.push(Sample { enters: Some(3), ..sample(records, Some(2)) });
        }
        let row = row(&ALL[0], &log, &raw);
        assert_eq!((row.rounds, row.records_per_s), (3, Some(8000.0)));
        assert_eq!((row.batches_per_s, row.groups_per_s), (Some(8.0), Some(4.0)));
        assert_eq!(row.raw_ratio, Some(Ratio { median: 0.5, interval: None }));
        assert_eq!((row.enters_per_group, row.syscalls_per_group), (Some(1.5), None));
        assert_eq!(row.cpu_ns_per_record, Some(1.0));
        let p50 = row.p50_us.unwrap();
        assert!((19.9..20.1).contains(&p50), "{p50}");
        let reading = ALL.iter().find(|workload| workload.name == "read-back").unwrap();
        assert_eq!(super::row(reading, &log, &raw).p50_us, None);
        let nothing = super::row(&ALL[0], &Series::new("log", 1).unwrap(), &raw);
        assert!(nothing.records_per_s.is_none() && nothing.p99_us.is_none());
        assert!(nothing.raw_ratio.is_none() && nothing.cpu_ns_per_record.is_none());
    }
}
