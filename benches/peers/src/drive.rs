//! One run of one contestant: callers on threads, CPU time looked at where the window begins and
//! ends.
//!
//! ```text
//! open, prepare, sync the disk | lead-in | <---- window ----> | answers, close
//!                                        look               look
//! ```
//!
//! Invariants: answers count in the window, latencies of all that began in it; every caller waits
//! for all its answers, so what it made is what was acknowledged. The window ends early when the
//! volume of the workload is appended.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::peer::{Adapter, Answer, Outcome, Peer};
use crate::peers::raw;
use crate::records::Stamped;
use crate::workload::Workload;
use crate::yardstick::{Window, calm, cpu};

/// Latencies from a nanosecond to an hour, in steps of a hundredth.
const LONGEST_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 2;
const NAP: Duration = Duration::from_millis(2);
const REST: Duration = Duration::from_millis(100);

/// An empty histogram of latencies.
///
/// # Panics
/// Never: its bounds are constants that fit.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("the bounds are in order")
}

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Length of the window.
    pub seconds: f64,
    /// Records answered in it.
    pub records: u64,
    /// From call to answer, nanoseconds.
    pub latencies: Histogram<u64>,
    /// Between the looks at the CPU time.
    pub looked: f64,
    /// CPU time of the process between the looks.
    pub cpu: Duration,
    /// Records that were acknowledged, also outside the window, of each caller.
    pub acked: Vec<u64>,
}

/// What ends a window before its time.
struct Bound {
    left: AtomicU64,
    ended: OnceLock<Instant>,
}

impl Bound {
    /// Counts a batch; whether it was within the volume.
    fn take(&self, bytes: u64, now: Instant) -> bool {
        // Relaxed: it bounds a volume and guards no memory.
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if !taken {
            self.ended.get_or_init(|| now);
        }
        taken
    }

    fn counts(&self, window: &Window<'_>, now: Instant) -> bool {
        window.contains(now) && self.ended.get().is_none_or(|end| now <= *end)
    }
}

/// What one caller saw.
struct Told {
    batches: u64,
    acked: u64,
    latencies: Histogram<u64>,
}

/// CPU time at one moment.
struct Look(Instant, Duration);

impl Look {
    fn now() -> Outcome<Look> {
        Ok(Look(Instant::now(), cpu::process_time()?))
    }
}

/// Makes what was prepared, or removed, durable and lets the disk rest, so that nobody writes it in
/// the window.
///
/// # Errors
/// The system's.
pub fn settle(dir: &Path) -> std::io::Result<()> {
    calm::settle(dir, REST)
}

/// Runs a log.
///
/// # Errors
/// The log's own; a panic of one of its callers.
pub fn log(
    adapter: &dyn Adapter,
    workload: &Workload,
    dir: &Path,
    (lead_in, length): (Duration, Duration),
) -> Outcome<Sample> {
    let peer = adapter.open(dir, workload)?;
    settle(dir)?;
    let (callers, outstanding) = workload.shape(adapter.has_tickets());
    let stop = AtomicBool::new(false);
    let window = Window::after(lead_in, length, &stop);
    let left = AtomicU64::new(workload.volume_bytes());
    let bound = Bound { left, ended: OnceLock::new() };
    let call = |number| call(&*peer, workload, number, outstanding, &window, &bound);
    let (told, before, after) = std::thread::scope(|scope| {
        let start = |number| {
            let call = &call;
            std::thread::Builder::new().spawn_scoped(scope, move || {
                let told = call(number);
                if told.is_err() {
                    // The others would wait for answers to come.
                    window.stop.store(true, Ordering::Relaxed);
                }
                told
            })
        };
        let threads = (0..callers).map(start).collect::<Result<Vec<_>, _>>()?;
        let before = look_at(window.from, &window, &bound)?;
        let after = look_at(window.until, &window, &bound)?;
        let panicked = || Err("a caller panicked".into());
        let told = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| panicked()));
        Outcome::Ok((told.collect::<Outcome<Vec<Told>>>()?, before, after))
    })?;
    peer.close()?;
    let end = bound.ended.get().map_or(window.until, |end| window.until.min(*end));
    let mut latencies = latencies();
    for told in &told {
        latencies.add(&told.latencies)?;
    }
    Ok(Sample {
        seconds: end.saturating_duration_since(window.from).as_secs_f64(),
        records: told.iter().map(|told| told.batches).sum::<u64>() * workload.batch as u64,
        latencies,
        looked: (after.0 - before.0).as_secs_f64(),
        cpu: after.1.saturating_sub(before.1),
        acked: told.iter().map(|told| told.acked).collect(),
    })
}

/// Sleeps until `when` or until the volume is appended, then looks.
fn look_at(when: Instant, window: &Window<'_>, bound: &Bound) -> Outcome<Look> {
    while bound.ended.get().is_none() && !window.stop.load(Ordering::Relaxed) {
        let left = when.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(NAP));
    }
    Look::now()
}

/// One caller: appends until the window is over, then waits for what is outstanding.
fn call(
    peer: &dyn Peer,
    workload: &Workload,
    number: usize,
    outstanding: usize,
    window: &Window<'_>,
    bound: &Bound,
) -> Outcome<Told> {
    let mut batches = Stamped::new(workload, number);
    let mut told = Told { batches: 0, acked: 0, latencies: latencies() };
    let mut answered = |since: Instant| {
        let now = Instant::now();
        told.batches += u64::from(bound.counts(window, now));
        if window.contains(since) {
            told.latencies.saturating_record(nanos(now - since));
        }
    };
    let mut tickets = VecDeque::new();
    loop {
        let since = Instant::now();
        if window.is_over(since) || !bound.take(workload.batch_bytes() as u64, since) {
            break;
        }
        match peer.append(number, batches.batch())? {
            Answer::Now => answered(since),
            Answer::Later(ticket) => tickets.push_back((since, ticket)),
        }
        while let Some((since, ticket)) = tickets.front_mut() {
            let Some(outcome) = ticket.try_wait() else { break };
            outcome?;
            answered(*since);
            tickets.pop_front();
        }
        if tickets.len() >= outstanding
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
    told.acked = batches.count();
    Ok(told)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs the bare disk.
///
/// # Errors
/// The system's.
pub fn bare(
    workload: &Workload,
    dir: &Path,
    (lead_in, length): (Duration, Duration),
) -> Outcome<Sample> {
    let bare = raw::prepare(dir, workload)?;
    settle(dir)?;
    let stop = AtomicBool::new(false);
    let window = Window::after(lead_in, length, &stop);
    let bound = Bound { left: AtomicU64::new(0), ended: OnceLock::new() };
    let (count, before, after) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| bare.run(&window));
        let before = look_at(window.from, &window, &bound)?;
        let after = look_at(window.until, &window, &bound)?;
        let count = thread.join().unwrap_or_else(|_| Err("the raw loop panicked".into()))?;
        Outcome::Ok((count, before, after))
    })?;
    let mut latencies = latencies();
    count.latencies_ns.iter().for_each(|nanos| latencies.saturating_record(*nanos));
    Ok(Sample {
        seconds: length.as_secs_f64(),
        records: count.writes * workload.batch as u64,
        latencies,
        looked: (after.0 - before.0).as_secs_f64(),
        cpu: after.1.saturating_sub(before.1),
        acked: Vec::new(),
    })
}

/// Appends so many bytes of records in batches, one caller, for a reader.
///
/// # Errors
/// The log's own.
pub fn fill(adapter: &dyn Adapter, workload: &Workload, dir: &Path, bytes: u64) -> Outcome<u64> {
    let peer = adapter.open(dir, workload)?;
    let mut batches = Stamped::new(workload, 0);
    while batches.count() * (workload.record_bytes as u64) < bytes {
        if let Answer::Later(ticket) = peer.append(0, batches.batch())? {
            ticket.wait()?;
        }
    }
    peer.close()?;
    settle(dir)?;
    Ok(batches.count())
}
