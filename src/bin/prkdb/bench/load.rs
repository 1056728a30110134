//! Running one workload once: callers on threads, counters looked at where the window begins and
//! ends.
//!
//! ```text
//! callers  ---append--wait---append--wait---append--wait---> answers in the window count;
//!                                                   latency is of all that began in it
//! look at CPU time, groups, system calls   |<--- window --->|
//! ```
//!
//! Invariant: when a run returned nothing of it is in flight, and the log is durable, so that the
//! next contestant finds a disk at rest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prkdb_core::Durability;

use crate::outcome::Stop;
use crate::yardstick::cpu::Usage;
use crate::yardstick::{self, Load, Means, RawFile, Window};

use super::log::Log;
use super::reading;
use super::workload::Workload;

/// How long a contestant runs, and what counts of it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Unmeasured time before each window.
    pub lead_in: Duration,
    /// The window.
    pub length: Duration,
}

/// The raw loop's file, and how it gets to the disk.
#[derive(Debug)]
pub struct Raw {
    /// The file.
    pub file: RawFile,
    /// Ring or threads.
    pub means: Means,
}

/// What one run in one window gave.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Length of the window.
    pub seconds: f64,
    /// Batches, or raw writes, answered in it.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// From call to answer, nanoseconds.
    pub latencies_ns: Vec<u64>,
    /// From the first look at the counters to the second: the window, and what a thread that is to
    /// wake may be late.
    pub looked: f64,
    /// What the CPU did for the process, between the looks.
    pub cpu: Usage,
    /// Groups written, where there are groups.
    pub groups: Option<u64>,
    /// `io_uring_enter` calls, where there is a ring.
    pub enters: Option<u64>,
    /// System calls of the I/O layer, where they are counted.
    pub calls: Option<u64>,
}

/// The counters at one moment.
#[derive(Clone, Copy)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// What the CPU did for the process.
    pub cpu: Usage,
    groups: u64,
    enters: Option<u64>,
    calls: Option<u64>,
}

/// Runs `body` on so many threads; gives what each gave, and the counters at both ends.
pub fn watch<T: Send>(
    window: &Window<'_>,
    callers: usize,
    log: Option<&Log>,
    body: impl Fn() -> Result<T, Stop> + Sync,
) -> Result<(Vec<T>, Look, Look), Stop> {
    let failed = |e| Stop::Failed(format!("starting a thread: {e}"));
    std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, &body).map_err(failed);
        let threads: Result<Vec<_>, Stop> = (0..callers).map(start).collect();
        sleep_until(window.from, window.stop);
        let before = look(log);
        sleep_until(window.until, window.stop);
        let after = look(log);
        let panicked = || Stop::Failed("a thread of the bench panicked".into());
        let outcomes = threads?.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(panicked())));
        Ok((outcomes.collect::<Result<Vec<T>, Stop>>()?, before?, after?))
    })
}

fn look(log: Option<&Log>) -> Result<Look, Stop> {
    let cpu = Usage::now().map_err(|e| Stop::Failed(format!("CPU time: {e}")))?;
    let at = Instant::now();
    let Some(log) = log else { return Ok(Look { at, cpu, groups: 0, enters: None, calls: None }) };
    let metrics = log.metrics();
    let enters = metrics.calls.map(|calls| calls.enters).filter(|_| log.has_ring());
    let calls = metrics.calls.map(|calls| calls.total());
    Ok(Look { at, cpu, groups: metrics.groups, enters, calls })
}

/// Sleeps until `when`, looking now and then whether the work was ended.
fn sleep_until(when: Instant, stop: &AtomicBool) {
    const NAP: Duration = Duration::from_millis(50);
    while !stop.load(Ordering::Relaxed) {
        let left = when.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(NAP));
    }
}

fn grown(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

/// Runs a workload on a log once.
pub fn on_log(
    log: &Log,
    workload: &Workload,
    records: &[Vec<u8>],
    pace: Pace,
    stop: &AtomicBool,
) -> Result<Sample, Stop> {
    let Some(durability) = workload.durability() else {
        return reading::run(log, workload, records, pace, stop);
    };
    let window = Window::after(pace.lead_in, pace.length, stop);
    let caller = || append(log, workload, durability, records, &window);
    let (counts, before, after) = watch(&window, workload.callers, Some(log), caller)?;
    log.settle()?;
    let (answered, latencies): (Vec<u64>, Vec<Vec<u64>>) = counts.into_iter().unzip();
    let (batches, latencies_ns) = (answered.iter().sum(), latencies.concat());
    Ok(Sample {
        seconds: window.length().as_secs_f64(),
        batches,
        records: batches * workload.batch as u64,
        latencies_ns,
        looked: (after.at - before.at).as_secs_f64(),
        cpu: after.cpu.since(before.cpu),
        groups: Some(after.groups - before.groups),
        enters: grown(before.enters, after.enters),
        calls: grown(before.calls, after.calls),
    })
}

/// One caller: appends, looks at the oldest ticket when enough are out; gives how many batches were
/// answered in the window, and the latencies of those that began in it, also if their answer came
/// after its end: the slow ones must not be the ones that are left out.
pub fn append(
    log: &Log,
    workload: &Workload,
    durability: Durability,
    records: &[Vec<u8>],
    window: &Window<'_>,
) -> Result<(u64, Vec<u64>), Stop> {
    let cost = workload.batch_bytes();
    let (mut tickets, mut latencies, mut batches) = (VecDeque::new(), Vec::new(), 0);
    let mut answered = |since: Instant| {
        let now = Instant::now();
        batches += u64::from(window.contains(now));
        if window.contains(since) {
            latencies.push(nanos(now - since));
        }
    };
    loop {
        let since = Instant::now();
        if window.is_over(since) {
            break;
        }
        tickets.push_back((since, log.append(durability, records, cost)?));
        while let Some((since, ticket)) = tickets.front_mut() {
            let Some(outcome) = ticket.try_wait() else { break };
            outcome?;
            answered(*since);
            tickets.pop_front();
        }
        if tickets.len() >= workload.tickets
            && let Some((since, ticket)) = tickets.pop_front()
        {
            ticket.wait()?;
            answered(since);
        }
    }
    for (since, ticket) in tickets {
        ticket.wait()?;
        answered(since);
    }
    Ok((batches, latencies))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs the raw loop that belongs to a workload once.
pub fn raw_loop(
    raw: &Raw,
    workload: &Workload,
    load: Load,
    pace: Pace,
    stop: &AtomicBool,
) -> Result<Sample, Stop> {
    let window = Window::after(pace.lead_in, pace.length, stop);
    let body = || {
        yardstick::raw(raw.means, &raw.file, load, &window)
            .map_err(|e| Stop::Failed(format!("the raw loop, {}: {e}", load.method.name())))
    };
    let (mut counts, before, after) = watch(&window, 1, None, body)?;
    raw.file.settle().map_err(|e| Stop::Failed(format!("the raw loop's file: {e}")))?;
    let count = counts.pop().unwrap_or_default();
    Ok(Sample {
        seconds: window.length().as_secs_f64(),
        batches: count.writes,
        records: count.writes * workload.batch as u64,
        latencies_ns: count.latencies_ns,
        looked: (after.at - before.at).as_secs_f64(),
        cpu: after.cpu.since(before.cpu),
        groups: Some(count.writes),
        enters: count.enters,
        calls: Some(count.calls),
    })
}
