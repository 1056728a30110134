//! Two things measured in turn, and what one is of the other.
//!
//! ```text
//! ours other | other ours | ours other | ...  --> a ratio for each pair --> median, 95 % interval
//! ```
//!
//! Invariant: a goal is met by the far end of the interval, with a tolerance of 0.05, not by the
//! median: a machine that is shared makes a median of anything.

use std::time::Duration;

use crate::numbers::{self, Ratio};
use crate::outcome::{Stop, print};

/// What a goal is.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The ratio is to be at least this.
    AtLeast(f64),
    /// The ratio is to be at most this, or ours at most so much more than the other.
    AtMost(f64, f64),
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
}

/// What the tolerance of an interval's end is.
const TOLERANCE: f64 = 0.05;

impl Pair {
    /// Measures both in turn and prints the row.
    pub fn run(
        &self,
        pace: Pace,
        mut ours: impl FnMut(Duration) -> Result<f64, Stop>,
        mut other: impl FnMut(Duration) -> Result<f64, Stop>,
    ) -> Result<(), Stop> {
        let (mut over, mut under) = (Vec::new(), Vec::new());
        for pair in 0..pace.pairs {
            if pair % 2 == 0 {
                over.push(Some(ours(pace.window)?));
                under.push(Some(other(pace.window)?));
            } else {
                under.push(Some(other(pace.window)?));
                over.push(Some(ours(pace.window)?));
            }
        }
        let figures = (numbers::median(&over), numbers::median(&under));
        let ratio = numbers::ratio(&over, &under);
        print(&self.row(ratio, figures))
    }

    fn row(&self, ratio: Option<Ratio>, (ours, other): (Option<f64>, Option<f64>)) -> String {
        let told = match ratio {
            None => "-".into(),
            Some(Ratio { median, interval: None }) => format!("{median:.2} (few pairs)"),
            Some(Ratio { median, interval: Some((low, high)) }) => {
                format!("{median:.2} ({low:.2} - {high:.2})")
            }
        };
        let goal = match self.goal {
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::AtMost(most, more) => format!("<= {most} or + {more} us"),
            Goal::Told => "-".into(),
        };
        let verdict = match self.is_met(ratio, ours, other) {
            None => "",
            Some(true) => "met",
            Some(false) => "missed",
        };
        let (ours, other) = (self.figure(ours), self.figure(other));
        format!(
            "| {} | {} | {goal} | {told} | {ours} | {other} | {verdict} |",
            self.name, self.what
        )
    }

    fn is_met(&self, ratio: Option<Ratio>, ours: Option<f64>, other: Option<f64>) -> Option<bool> {
        let (low, high) = ratio?.interval?;
        match self.goal {
            Goal::AtLeast(least) => Some(low >= least - TOLERANCE),
            Goal::AtMost(most, more) => Some(high <= most + TOLERANCE || ours? <= other? + more),
            Goal::Told => None,
        }
    }

    fn figure(&self, figure: Option<f64>) -> String {
        let Some(figure) = figure else { return "-".into() };
        match self.unit {
            Unit::Micros => format!("{figure:.0} us"),
            Unit::PerSecond(of) if figure >= 1e9 => format!("{:.2} G{of}/s", figure / 1e9),
            Unit::PerSecond(of) if figure >= 1e6 => format!("{:.2} M{of}/s", figure / 1e6),
            Unit::PerSecond(of) if figure >= 1e4 => format!("{:.1} k{of}/s", figure / 1e3),
            Unit::PerSecond(of) => format!("{figure:.0} {}/s", of.trim_start()),
        }
    }
}
