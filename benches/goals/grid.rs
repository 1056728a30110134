//! The grid that defaults are chosen by: the log at every depth against the log at the default one,
//! and several open segments against one.
//!
//! ```text
//! batches with tickets | callers who wait        depth 1 | 2 | 4 | 8 | 16 | 32   over 8
//! batches | single records, with tickets         num_segments 1 | 4 | 32         over 1
//! ```
//!
//! More in flight make more commits, and each of them slower: so throughput, p50 and p99 stand
//! beside each other, all of the same windows. A value over itself is two logs of the same kind: a
//! difference no larger than that row's is none. Batches come with twice as many tickets as there
//! are groups in flight, or the caller would be what limits them; their latency counts the waiting
//! behind each other in. It takes seven minutes, so only who asks for it gets it (`-- grid`,
//! `-- grid-depth`, `-- grid-segments`).

use prkdb_core::{Backend, WalConfig, probe};

use crate::appends::{config, latency, on_log, p50, rate, warm};
use crate::bench::log::Log;
use crate::bench::workload::Workload;
use crate::numbers;
use crate::outcome::{Stop, print};
use crate::pairs::{Unit, in_turn, told};
use crate::{RECORDS, Run, deep, workload};

const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const SEGMENTS: [usize; 3] = [1, 4, 32];
/// Of a log whose segments are to limit it, not its depth.
const DEEPEST: usize = 32;
/// Windows in which the segments of a log must have been filled once.
const WARM_WINDOWS: usize = 64;

/// Both grids.
pub fn run(run: &Run) -> Result<(), Stop> {
    if probe(run.dir.path(), Backend::Uring).is_err() {
        // Said already.
        return Ok(());
    }
    depths(run)?;
    segments(run)
}

fn is_asked(run: &Run, name: &str) -> bool {
    // A trial goes everywhere.
    (!run.measures || !run.names.is_empty()) && run.wants(name)
}

fn head(of: &str, over: usize) -> Result<(), Stop> {
    let over = format!("over {over} (95 %)");
    print(&format!("\n| {of} | Durable | records/s | {over} | p50 | {over} | p99 | {over} |"))?;
    print("|---|---|---|---|---|---|---|---|")
}

fn depths(run: &Run) -> Result<(), Stop> {
    if !is_asked(run, "grid-depth") {
        return Ok(());
    }
    let WalConfig { depth: default, .. } = WalConfig::default();
    head("depth", default)?;
    let loads = [
        ("1000 x 100 B, twice as many tickets", "batch-1000x100-tickets"),
        ("records by 8 callers", "single-8"),
        ("records by 64 callers", "single-64"),
    ];
    for (what, load) in loads {
        let folder = run.folder()?;
        let open = |name: &str, depth| {
            let config = deep(config(&folder.path().join(name), Backend::Uring));
            warm("uring", WalConfig { depth, ..config })
        };
        let other = open("default", default)?;
        for depth in if run.measures { &DEPTHS[..] } else { &DEPTHS[..1] } {
            let ours = open(&depth.to_string(), *depth)?;
            row(
                run,
                &format!("{depth} | {what}"),
                (&ours, &with_tickets(load, *depth)),
                (&other, &with_tickets(load, default)),
            )?;
            ours.close()?;
        }
        other.close()?;
    }
    Ok(())
}

/// The workload, and if it has tickets twice as many as there are groups in flight.
fn with_tickets(name: &str, depth: usize) -> Workload {
    let Workload { tickets, .. } = *workload(name);
    let tickets = if tickets > 1 { 2 * depth } else { 1 };
    Workload { tickets, ..*workload(name) }
}

/// With tickets outstanding. Of those that are retired four are kept for use again, and where more
/// are open they are full at about the same time: that most are written anew then is a cost of
/// theirs, and counted in.
fn segments(run: &Run) -> Result<(), Stop> {
    if !is_asked(run, "grid-segments") {
        return Ok(());
    }
    head("num_segments", SEGMENTS[0])?;
    let loads = [
        ("1000 x 100 B, 64 tickets", "batch-1000x100-tickets"),
        ("records, 64 tickets", "single-1"),
    ];
    for (what, load) in loads {
        let work = Workload { tickets: 2 * DEEPEST, ..*workload(load) };
        let folder = run.folder()?;
        let open = |name: &str, num_segments| {
            let config = deep(config(&folder.path().join(name), Backend::Uring));
            let log = warm("uring", WalConfig { depth: DEEPEST, num_segments, ..config })?;
            fill(run, &log, num_segments)?;
            Ok::<Log, Stop>(log)
        };
        let other = open("one", SEGMENTS[0])?;
        for count in if run.measures { &SEGMENTS[..] } else { &SEGMENTS[..1] } {
            let ours = open(&count.to_string(), *count)?;
            row(run, &format!("{count} | {what}"), (&ours, &work), (&other, &work))?;
            ours.close()?;
        }
        other.close()?;
    }
    Ok(())
}

/// Writes until every segment that may be open was full once.
fn fill(run: &Run, log: &Log, num_segments: usize) -> Result<(), Stop> {
    let work = workload("unsynced-1000x100");
    let all = 2 * num_segments as u64;
    for _ in 0..WARM_WINDOWS {
        let metrics = log.metrics();
        if !run.measures || metrics.segments_made + metrics.segments_recycled >= all {
            break;
        }
        on_log(log, work, run.pace.window)?;
    }
    Ok(())
}

/// A log and what is done with it.
type Side<'a> = (&'a Log, &'a Workload);

/// One row: `ours` over `other`, and what ours made.
fn row(run: &Run, name: &str, ours: Side<'_>, other: Side<'_>) -> Result<(), Stop> {
    let of = |(log, work): &Side<'_>, window| {
        let mut sample = on_log(log, work, window)?;
        Ok([rate(&sample), p50(&mut sample), latency(&mut sample, 990)])
    };
    let pairs = in_turn(run.pace, |window| of(&ours, window), |window| of(&other, window))?;
    let mut line = format!("| {name} |");
    for (at, unit) in [RECORDS, Unit::Micros, Unit::Micros].into_iter().enumerate() {
        let (over, under): (Vec<_>, Vec<_>) =
            pairs.iter().map(|(ours, other)| (Some(ours[at]), Some(other[at]))).unzip();
        let ratio = told(numbers::ratio(&over, &under));
        line += &format!(" {} | {ratio} |", unit.figure(numbers::median(&over)));
    }
    print(&line)
}
