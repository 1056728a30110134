//! The rounds: every workload by every contestant in turn, and the choice of the raw loop's method.
//!
//! ```text
//! calibrate: dsync, fdatasync | fdatasync, dsync ... -> a method for each size and depth
//! round 1:   raw uring mmap pwrite | raw uring mmap pwrite | ...
//! round 2:   pwrite mmap uring raw | pwrite mmap uring raw | ...
//! ```
//!
//! Invariants: contestants of one workload run next to each other, so that their ratio is taken
//! over the same minute; the method is chosen before the rounds, not as the best of them.
//! Reading comes when all rounds of writing are over: a file whose pages are cached is slower to
//! write past the cache.

use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use prkdb_core::Durability;

use crate::outcome::Stop;
use crate::progress;
use crate::yardstick::{self, Load, Means, Method, RawFile, Window};

use super::figures::Series;
use super::folder::Interrupt;
use super::load::{self, Pace, Raw, Sample};
use super::log::Log;
use super::numbers;
use super::reading;
use super::workload::{Kind, Workload};

/// Size of the raw loop's file: about what a log under test holds and uses again.
pub const RAW_BYTES: u64 = 128 << 20;
/// Cuts after which a log writes into segments that it wrote before.
const WARM_CUTS: u64 = 2;
/// The calibration: pairs of windows, the longest window, and what is no noise.
const CALIBRATION_PAIRS: usize = 4;
const CALIBRATION: Duration = Duration::from_millis(80);
const CLEARLY_BETTER: f64 = 1.1;

/// Everything that takes part.
#[derive(Debug)]
pub struct Contest<'a> {
    /// The yardstick's disk.
    pub raw: Raw,
    /// The logs.
    pub logs: Vec<Log>,
    /// What is measured.
    pub workloads: Vec<&'static Workload>,
    /// The raw loop's load for each of the workloads; none where it is memory.
    pub loads: Vec<Option<Load>>,
    /// How long each runs.
    pub pace: Pace,
    /// Ends it early.
    pub interrupt: &'a Interrupt,
}

/// Makes the raw loop's file in `folder`.
pub fn raw(folder: &Path) -> Result<Raw, Stop> {
    let failed = |e| Stop::Failed(format!("the raw loop's file: {e}"));
    let file = RawFile::create(&folder.join("raw"), RAW_BYTES, true).map_err(failed)?;
    let means = Means::of(&file);
    Ok(Raw { file, means })
}

impl Contest<'_> {
    /// Writes each log until its segments are used again.
    pub fn warm_up(&self, bar: &ProgressBar) -> Result<(), Stop> {
        let [workload, ..] = &super::workload::ALL;
        let records = workload.records();
        for log in &self.logs {
            bar.set_message(format!("warming up {}", log.name));
            while log.cuts() < WARM_CUTS {
                self.interrupt.check()?;
                log.append(Durability::Written, &records, workload.batch_bytes())?.wait()?;
            }
            log.settle()?;
        }
        Ok(())
    }

    /// Chooses the raw loop's method for each workload.
    pub fn calibrate(&mut self, bar: &ProgressBar) -> Result<(), Stop> {
        bar.set_message("choosing the raw loop's method");
        let mut loads: Vec<Option<Load>> = Vec::new();
        for workload in &self.workloads {
            let (write_bytes, depth) = (workload.batch_bytes(), workload.raw_depth());
            let known = loads.iter().flatten().find(|load| {
                (load.write_bytes, load.depth) == (write_bytes, depth)
                    && load.method != Method::Unsynced
            });
            let load = match (workload.kind, known) {
                (Kind::ReadBack | Kind::ReadBatches, _) => None,
                (Kind::Unsynced, _) => Some(Load { write_bytes, depth, method: Method::Unsynced }),
                (Kind::Durable, Some(load)) => Some(*load),
                (Kind::Durable, None) => Some(self.fastest(write_bytes, depth)?),
            };
            loads.push(load);
        }
        self.loads = loads;
        Ok(())
    }

    /// The durable method that makes more of these writes: the first, unless the second is clearly
    /// better in the median of pairs.
    fn fastest(&self, write_bytes: usize, depth: usize) -> Result<Load, Stop> {
        let load = |method| Load { write_bytes, depth, method };
        let [first, rest @ ..] = Method::DURABLE else { unreachable!("there is a durable method") };
        let mut best = *first;
        for other in rest {
            let mut ratios = Vec::new();
            for pair in 0..CALIBRATION_PAIRS {
                let mut writes = [0; 2];
                for step in [pair % 2, 1 - pair % 2] {
                    writes[step] = self.try_out(load([best, *other][step]))?;
                }
                ratios.push(numbers::per(writes[1], writes[0]));
            }
            let ratio = numbers::median(&ratios);
            best = if ratio.is_some_and(|r| r > CLEARLY_BETTER) { *other } else { best };
        }
        Ok(load(best))
    }

    /// Writes that a load makes in a short window.
    fn try_out(&self, load: Load) -> Result<u64, Stop> {
        self.interrupt.check()?;
        let length = self.pace.length.min(CALIBRATION);
        let window = Window::after(self.pace.lead_in, length, self.interrupt.flag());
        let count = yardstick::raw(self.raw.means, &self.raw.file, load, &window);
        let failed = |e| Stop::Failed(format!("the raw loop, {}: {e}", load.method.name()));
        Ok(count.map_err(failed)?.writes)
    }

    /// Which methods the raw loop uses, for people.
    pub fn method_line(&self) -> String {
        let way = if self.raw.file.is_direct() { "direct" } else { "buffered" };
        let durable = self.loads.iter().flatten().filter(|l| l.method != Method::Unsynced);
        let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
        for load in durable {
            let (name, size) = (load.method.name(), size_and_depth(load));
            match groups.iter_mut().find(|(method, _)| *method == name) {
                Some((_, sizes)) if sizes.contains(&size) => {}
                Some((_, sizes)) => sizes.push(size),
                None => groups.push((name, vec![size])),
            }
        }
        let told = match &groups[..] {
            [] => "unsynced".to_string(),
            [(method, _)] => (*method).to_string(),
            several => several
                .iter()
                .map(|(method, sizes)| format!("{method} at {}", sizes.join(", ")))
                .collect::<Vec<_>>()
                .join("; "),
        };
        format!("{}, {way}, {told}", self.raw.means.name())
    }

    /// Runs all rounds; a list of series for each workload, the raw one first.
    pub fn run(&self, rounds: usize, bar: &ProgressBar) -> Result<Vec<Vec<Series>>, Stop> {
        let mut board = self.board()?;
        let steps = rounds * self.workloads.len() * (1 + self.logs.len());
        progress::over_steps(bar, steps as u64);
        for reading in [false, true] {
            for round in 0..rounds {
                for (at, series) in board.iter_mut().enumerate() {
                    let workload = self.workloads[at];
                    if workload.kind.reads() == reading {
                        self.turn(at, round, series, bar)?;
                    }
                }
            }
        }
        Ok(board)
    }

    fn board(&self) -> Result<Vec<Vec<Series>>, Stop> {
        let row = |(at, workload): (usize, &&Workload)| {
            let depth = self.loads[at].map_or(1, |load| load.depth);
            let raw = std::iter::once(Series::new("raw", depth));
            let outstanding = workload.callers * workload.tickets;
            raw.chain(self.logs.iter().map(|log| Series::new(log.name, outstanding))).collect()
        };
        self.workloads.iter().enumerate().map(row).collect()
    }

    /// One workload by all contestants, in every second round backwards.
    fn turn(
        &self,
        at: usize,
        round: usize,
        series: &mut [Series],
        bar: &ProgressBar,
    ) -> Result<(), Stop> {
        let records = self.workloads[at].records();
        for step in 0..series.len() {
            let who = if round.is_multiple_of(2) { step } else { series.len() - 1 - step };
            bar.set_message(format!("{} {}", self.workloads[at].name, series[who].backend));
            let sample = self.sample(at, who, &records)?;
            self.interrupt.check()?;
            series[who].push(sample);
            bar.inc(1);
        }
        Ok(())
    }

    fn sample(&self, at: usize, who: usize, records: &[Vec<u8>]) -> Result<Sample, Stop> {
        let (workload, pace, stop) = (self.workloads[at], self.pace, self.interrupt.flag());
        match (who.checked_sub(1), self.loads[at]) {
            (Some(log), _) => {
                let log = &self.logs[log];
                load::on_log(log, workload, records, pace, stop).map_err(|stop| named(log, stop))
            }
            (None, Some(load)) => load::raw_loop(&self.raw, workload, load, pace, stop),
            (None, None) => reading::memory(workload, records, pace, stop),
        }
    }
}

/// A failure of a log, with its backend.
fn named(log: &Log, stop: Stop) -> Stop {
    match stop {
        Stop::Failed(why) => Stop::Failed(format!("{}: {why}", log.name)),
        Stop::PipeClosed => Stop::PipeClosed,
    }
}

fn size_and_depth(load: &Load) -> String {
    format!("{} KiB x {}", load.write_bytes >> 10, load.depth)
}
