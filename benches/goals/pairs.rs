//! Two things measured in turn, and what one is of the other.
//!
//! ```text
//! ours other | other ours | ours other | ...  --> a ratio for each pair --> median, 95 % interval
//! ```
//!
//! Before each the machine settles: what one of them left to be written is not the other's.
//!
//! Invariant: a goal is met by the far end of the interval, with a tolerance of 0.05, and missed by
//! the near one, not by the median: a machine that is shared makes a median of anything. An
//! interval that lies on both sides of the goal decides nothing, and the row says so. So it is with
//! a difference, of the same pairs, where the goal is a ratio or a difference.

use std::path::Path;
use std::time::Duration;

use crate::ROOT;
use crate::numbers::{self, Ratio};
use crate::outcome::{Stop, print};
use crate::yardstick::calm;

/// What a goal is.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The ratio is to be at least this.
    AtLeast(f64),
    /// The ratio is to be at most this.
    AtMost(f64),
    /// The ratio is to be at most this, or ours at most so many microseconds more than the other.
    AtMostOr(f64, f64),
    /// Nothing: the figure is told beside others.
    Told,
}

/// How a figure is counted.
#[derive(Clone, Copy)]
pub enum Unit {
    /// More is better.
    PerSecond(&'static str),
    /// Less is better.
    Micros,
}

/// A row of the table: what is held against what.
pub struct Pair {
    /// Its name, by which it is asked for.
    pub name: &'static str,
    /// What is measured, and the yardstick.
    pub what: String,
    /// What the ratio is to be.
    pub goal: Goal,
    /// Of both figures.
    pub unit: Unit,
}

/// How long and how often.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Pairs.
    pub pairs: usize,
    /// A window.
    pub window: Duration,
    /// Before each; none in a trial.
    pub rest: Duration,
}

impl Pace {
    fn settle(self) -> Result<(), Stop> {
        if self.rest.is_zero() {
            return Ok(());
        }
        let settled = calm::settle(Path::new(ROOT), self.rest);
        settled.map_err(|e| Stop::Failed(format!("a sync below {ROOT}: {e}")))
    }
}

/// What the tolerance of an interval's end is.
const TOLERANCE: f64 = 0.05;

impl Pair {
    /// Measures both in turn and prints the row.
    pub fn run(
        &self,
        pace: Pace,
        ours: impl FnMut(Duration) -> Result<f64, Stop>,
        other: impl FnMut(Duration) -> Result<f64, Stop>,
    ) -> Result<(), Stop> {
        self.tell(&in_turn(pace, ours, other)?)
    }

    /// Prints the row of what was measured.
    pub fn tell(&self, pairs: &[(f64, f64)]) -> Result<(), Stop> {
        let (over, under): (Vec<_>, Vec<_>) =
            pairs.iter().map(|(a, b)| (Some(*a), Some(*b))).unzip();
        let more: Vec<_> = pairs.iter().map(|(ours, other)| Some(ours - other)).collect();
        let figures = (self.unit.spread(&over), self.unit.spread(&under));
        print(&self.row(numbers::ratio(&over, &under), &more, figures))
    }

    /// `more` is what ours is more than the other, pair by pair.
    fn row(
        &self,
        ratio: Option<Ratio>,
        more: &[Option<f64>],
        (ours, other): (String, String),
    ) -> String {
        let (mut goal, mut reached) = (String::from("-"), told(ratio));
        match self.goal {
            Goal::AtLeast(least) => goal = format!(">= {least}"),
            Goal::AtMost(most) => goal = format!("<= {most}"),
            Goal::AtMostOr(most, us) => {
                goal = format!("<= {most} or + {us} us");
                if let Some((low, high)) = numbers::interval(more) {
                    let median = numbers::median(more).unwrap_or(f64::NAN);
                    reached += &format!("; {median:+.0} us ({low:+.0} - {high:+.0})");
                }
            }
            Goal::Told => {}
        }
        let verdict = self.verdict(ratio, more);
        format!(
            "| {} | {} | {goal} | {reached} | {ours} | {other} | {verdict} |",
            self.name, self.what
        )
    }

    /// Nothing where nothing is to be, or where there are too few pairs.
    fn verdict(&self, ratio: Option<Ratio>, more: &[Option<f64>]) -> &'static str {
        let Some((low, high)) = ratio.and_then(|ratio| ratio.interval) else { return "" };
        let (met, missed) = match self.goal {
            Goal::AtLeast(least) => (low >= least - TOLERANCE, high < least),
            Goal::AtMost(most) => (high <= most + TOLERANCE, low > most),
            Goal::AtMostOr(most, us) => {
                let (least, greatest) = numbers::interval(more).unwrap_or((f64::NAN, f64::NAN));
                (high <= most + TOLERANCE || greatest <= us, low > most && least > us)
            }
            Goal::Told => return "",
        };
        match (met, missed) {
            (true, _) => "met",
            (false, true) => "missed",
            (false, false) => "not decided",
        }
    }
}

/// Measures both in turn; what each gave, pair by pair.
pub fn in_turn<T>(
    pace: Pace,
    mut ours: impl FnMut(Duration) -> Result<T, Stop>,
    mut other: impl FnMut(Duration) -> Result<T, Stop>,
) -> Result<Vec<(T, T)>, Stop> {
    let mut ours = || pace.settle().and_then(|()| ours(pace.window));
    let mut other = || pace.settle().and_then(|()| other(pace.window));
    let pair = |pair: usize| {
        if pair.is_multiple_of(2) {
            let first = ours()?;
            return Ok((first, other()?));
        }
        let first = other()?;
        Ok((ours()?, first))
    };
    (0..pace.pairs).map(pair).collect()
}

/// A ratio for people.
pub fn told(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "-".into(),
        Some(Ratio { median, interval: None }) => format!("{median:.2} (few pairs)"),
        Some(Ratio { median, interval: Some((low, high)) }) => {
            format!("{median:.2} ({low:.2} - {high:.2})")
        }
    }
}

impl Unit {
    /// A figure for people.
    pub fn figure(self, figure: Option<f64>) -> String {
        let Some(figure) = figure else { return "-".into() };
        let Scale { unit, decimals, name } = self.scale(figure);
        format!("{:.decimals$} {name}", figure / unit)
    }

    /// The median of figures, and the lowest and the highest of them.
    fn spread(self, figures: &[Option<f64>]) -> String {
        let median = numbers::median(figures);
        let Scale { unit, decimals, .. } = self.scale(median.unwrap_or(0.0));
        let known = || figures.iter().flatten().map(|figure| figure / unit);
        let (low, high) = (known().fold(f64::NAN, f64::min), known().fold(f64::NAN, f64::max));
        format!("{} ({low:.decimals$} - {high:.decimals$})", self.figure(median))
    }

    /// How figures of this size are written.
    fn scale(self, figure: f64) -> Scale {
        let (unit, decimals, name) = match self {
            Unit::Micros => (1.0, 0, "us".into()),
            Unit::PerSecond(of) if figure >= 1e9 => (1e9, 2, format!("G{of}/s")),
            Unit::PerSecond(of) if figure >= 1e6 => (1e6, 2, format!("M{of}/s")),
            Unit::PerSecond(of) if figure >= 1e4 => (1e3, 1, format!("k{of}/s")),
            Unit::PerSecond(of) => (1.0, 0, format!("{}/s", of.trim_start())),
        };
        Scale { unit, decimals, name }
    }
}

/// In what figures are told, to how many decimals, and what stands behind them.
struct Scale {
    unit: f64,
    decimals: usize,
    name: String,
}
