//! Where the time of an append goes, stage by stage, of one caller who waits.
//!
//! ```text
//! caller: |-- append_batch: room, encode, checksum, queue --|            |-- wake --| returns
//! writer:                     |-- wake, take, place --|-- write --|-- answer --|
//! ```
//!
//! Means, which add up: `placed`, `write`, `answer` and `wake` are all of `whole`; `call` is what
//! the caller works in the time of `placed`, while the writer wakes. From the log's own metrics
//! and two looks at the clock.

use std::time::{Duration, Instant};

use prkdb_core::{Durability, Metrics};

use crate::bench::log::Log;
use crate::bench::workload::Workload;
use crate::numbers;
use crate::outcome::{Stop, print};

/// Begins the table.
pub fn head() -> Result<(), Stop> {
    print("\n| Stage by stage, microseconds | call | placed | write | answer | wake | whole |")?;
    print("|---|---|---|---|---|---|---|")
}

/// What the caller saw: nanoseconds of all appends, until the call returned and until the answer.
struct Caller {
    appends: u64,
    call_ns: u64,
    whole_ns: u64,
}

fn wait_for_each(log: &Log, workload: &Workload, length: Duration) -> Result<Caller, Stop> {
    let records = workload.records();
    let (end, mut caller) =
        (Instant::now() + length, Caller { appends: 0, call_ns: 0, whole_ns: 0 });
    loop {
        let called = Instant::now();
        if called >= end {
            return Ok(caller);
        }
        let ticket = log.append(Durability::Sync, &records, workload.batch_bytes())?;
        caller.call_ns += nanos(called.elapsed());
        ticket.wait()?;
        caller.whole_ns += nanos(called.elapsed());
        caller.appends += 1;
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One row: the means of what is appended in `length`.
pub fn row(what: &str, log: &Log, workload: &Workload, length: Duration) -> Result<(), Stop> {
    // The spinning has learnt by then how long answers take.
    wait_for_each(log, workload, length / 4)?;
    let before = log.metrics();
    let caller = wait_for_each(log, workload, length)?;
    let after = log.metrics();
    let each = |ns: u64| numbers::float(ns) / numbers::float(caller.appends) / 1e3;
    let mean = |of: fn(&Metrics) -> u64| each(of(&after) - of(&before));
    let room = mean(|m| m.room_ns.sum());
    let placed = room + mean(|m| m.queue_ns.sum());
    let write = mean(|m| m.write_ns.sum());
    let answered = mean(|m| m.answer_ns.sum());
    let (call, whole) = (each(caller.call_ns), each(caller.whole_ns));
    let (answer, wake) = (answered - placed - write, whole - answered);
    let figures = [call, placed, write, answer, wake, whole].map(|us| format!("{us:.1}"));
    print(&format!("| {what} | {} |", figures.join(" | ")))
}
