//! From rounds to rows: medians, ratios paired by round with their interval, percentiles over all.
//!
//! Invariant: a figure that has no meaning, or nothing to stand on, is none; it is never a zero or
//! a guess.

use std::time::Duration;

use crate::contest::{Round, Series};
use crate::drive;
use crate::numbers::{Ratio, float, median, quotient, ratio};
use crate::peer::OURS;
use crate::workload::{Kind, Workload};

/// One measurement.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who.
    pub name: &'static str,
    /// Whether it is another log.
    pub is_peer: bool,
    /// When it acknowledges, if that is too early for the workload.
    pub early: Option<&'static str>,
    /// What is wrong with it, and in how many rounds.
    pub flaw: Option<(String, usize)>,
    /// Rounds.
    pub rounds: usize,
    /// Median of the rounds.
    pub records_per_s: Option<f64>,
    /// Over all rounds.
    pub p50_us: Option<f64>,
    /// Over all rounds.
    pub p99_us: Option<f64>,
    /// Median time to open the log, where that is measured.
    pub open_ms: Option<f64>,
    /// Over all rounds.
    pub cpu_ns_per_record: Option<f64>,
    /// Ours over it.
    pub ours_over: Option<Ratio>,
}

impl Row {
    /// Whether its figure means what the workload asks for.
    pub fn is_sound(&self) -> bool {
        self.flaw.is_none() && self.early.is_none()
    }
}

/// The rows of a workload.
pub fn rows(workload: &Workload, series: &[Series]) -> Vec<Row> {
    let ours = series.iter().find(|series| series.contestant.name() == OURS);
    let ours = ours.map(rates).unwrap_or_default();
    series.iter().map(|series| row(workload, series, &ours)).collect()
}

fn row(workload: &Workload, series: &Series, ours: &[Option<f64>]) -> Row {
    let flaws = || series.rounds.iter().filter_map(flaw);
    let early = series.contestant.early(workload);
    let rates = rates(series);
    let sound = early.is_none() && flaws().next().is_none();
    let is_ours = series.contestant.name() == OURS;
    let mut latencies = drive::latencies();
    let (mut cpu_ns, mut records, mut opens) = (0.0, 0, Vec::new());
    for round in &series.rounds {
        match round {
            Round::Written(sample) | Round::Flawed(Some(sample), _) => {
                // Both have the same bounds.
                latencies.add(&sample.latencies).ok();
                cpu_ns += nanos(sample.cpu) * sample.seconds / sample.looked.max(f64::EPSILON);
                records += sample.records;
            }
            Round::Read(read) => {
                cpu_ns += nanos(read.cpu);
                records += read.records;
                opens.push(Some(read.open.as_secs_f64() * 1e3));
            }
            Round::Flawed(None, _) => {}
        }
    }
    let latency_us = |share| {
        let known = !latencies.is_empty() && workload.kind != Kind::ReadBack;
        known.then(|| float(latencies.value_at_quantile(share)) / 1e3)
    };
    let known: Vec<_> = rates.iter().copied().filter(Option::is_some).collect();
    Row {
        name: series.contestant.name(),
        is_peer: series.contestant.is_peer(),
        early,
        flaw: flaws().next().map(|why| (why.to_string(), flaws().count())),
        rounds: series.rounds.len(),
        records_per_s: median(&known),
        p50_us: latency_us(0.5),
        p99_us: latency_us(0.99),
        open_ms: median(&opens),
        cpu_ns_per_record: quotient(Some(cpu_ns), Some(float(records))),
        ours_over: (sound && !is_ours).then(|| ratio(ours, &rates)).flatten(),
    }
}

fn flaw(round: &Round) -> Option<&str> {
    match round {
        Round::Flawed(_, why) => Some(why),
        Round::Written(_) | Round::Read(_) => None,
    }
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Records a second, round by round.
fn rates(series: &Series) -> Vec<Option<f64>> {
    let rate = |round: &Round| match round {
        Round::Written(sample) | Round::Flawed(Some(sample), _) => {
            quotient(Some(float(sample.records)), Some(sample.seconds))
        }
        Round::Read(read) => {
            // Some read while they open: the rate is over both.
            let seconds = (read.open + read.read).as_secs_f64();
            quotient(Some(float(read.records)), Some(seconds))
        }
        Round::Flawed(None, _) => None,
    };
    series.rounds.iter().map(rate).collect()
}
