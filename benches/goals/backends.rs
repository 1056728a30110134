//! One backend against another, and what a commit costs on each.
//!
//! ```text
//! uring | mmap, uring | pwrite --> pairs --> a row of the table each
//!   '------- windows: CPU time, context switches, answers --> costs, a table behind that one
//! ```
//!
//! A commit is a durable append that was answered. CPU time and switches are of the whole process:
//! its callers, who may stay awake while they wait, and the kernel's workers for its rings are in
//! it, and so is the janitor that keeps the log small, the same on each side.

use std::time::Duration;

use prkdb_core::Backend;

use crate::appends::{config, on_log, rate, warm};
use crate::bench::load::Sample;
use crate::bench::log::Log;
use crate::bench::workload::Workload;
use crate::numbers::{self, float, quotient};
use crate::outcome::{Stop, print};
use crate::pairs::{Goal, Pair};
use crate::{RECORDS, Run, workload};

/// What a load cost on a backend, window by window.
pub struct Cost {
    backend: Backend,
    load: &'static str,
    /// Of a commit: microseconds of CPU time, and context switches.
    windows: Vec<[Option<f64>; 2]>,
}

/// The rows, and what they cost.
pub fn rows(run: &Run) -> Result<Vec<Cost>, Stop> {
    let rows = [
        ("P10-1", "durable records, 1 caller", 0.95, "single-1"),
        ("P10-8", "8 callers", 1.0, "single-8"),
        ("P10-64", "64 callers", 1.0, "single-64"),
        ("P10-tickets", "1000 x 100 B, 16 tickets", 1.0, "batch-1000x100-tickets"),
    ];
    let mut costs = Vec::new();
    for (name, load, least, work) in rows.into_iter().filter(|(name, ..)| run.wants(name)) {
        let (work, folder) = (workload(work), run.folder()?);
        let open = |backend: Backend| {
            warm(backend.name(), config(&folder.path().join(backend.name()), backend))
        };
        let cost = |backend| Cost { backend, load, windows: Vec::new() };
        let (ring, mut ring_cost) = (open(Backend::Uring)?, cost(Backend::Uring));
        for backend in [Backend::Mmap, Backend::Pwrite] {
            let (other, mut other_cost) = (open(backend)?, cost(backend));
            let what = format!("{load}: uring; {backend}");
            let pair = Pair { name, what, goal: Goal::AtLeast(least), unit: RECORDS };
            let ours = |window| ring_cost.of(&ring, work, window);
            pair.run(run.pace, ours, |window| other_cost.of(&other, work, window))?;
            other.close()?;
            costs.push(other_cost);
        }
        ring.close()?;
        costs.push(ring_cost);
    }
    Ok(costs)
}

impl Cost {
    /// Records a second in one window, of which the cost is noted.
    fn of(&mut self, log: &Log, work: &Workload, window: Duration) -> Result<f64, Stop> {
        let sample = on_log(log, work, window)?;
        self.windows.push(each(&sample));
        Ok(rate(&sample))
    }

    fn row(&self) -> String {
        let median = |at: usize, decimals| {
            // In a window that the disk stalled in there was no commit.
            let known = self.windows.iter().map(|window| window[at]).filter(Option::is_some);
            let median = numbers::median(&known.collect::<Vec<_>>());
            median.map_or("-".into(), |median| format!("{median:.decimals$}"))
        };
        format!("| {} | {} | {} | {} |", self.backend, self.load, median(0, 1), median(1, 2))
    }
}

/// Both costs of a commit. They were looked at for a little longer than commits were counted.
fn each(sample: &Sample) -> [Option<f64>; 2] {
    let share = sample.seconds / sample.looked;
    let cpu_us = sample.cpu.time.as_secs_f64() * 1e6;
    let of_each = |cost: f64| quotient(Some(cost * share), Some(float(sample.batches)));
    [of_each(cpu_us), of_each(float(sample.cpu.switches))]
}

/// Prints what was noted: medians of the windows.
pub fn tell(costs: &[Cost]) -> Result<(), Stop> {
    if costs.is_empty() {
        return Ok(());
    }
    print("\n| What a commit costs | Load | CPU us | Context switches |")?;
    print("|---|---|---|---|")?;
    costs.iter().try_for_each(|cost| print(&cost.row()))
}
