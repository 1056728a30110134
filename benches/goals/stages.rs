//! Where the time of an append goes, stage by stage, of callers who wait for each.
//!
//! ```text
//! caller: |-- append_batch: room, encode, checksum, queue --|            |-- wake --| returns
//! writer:                     |-- wake, take, place --|-- write --|-- answer --|
//! ```
//!
//! Means, which add up: `placed`, `write`, `answer` and `wake` are all of `whole`; `call` is what
//! the caller works in the time of `placed`, while the writer wakes. The hand-off is what there is
//! beside the disk, `placed` and `wake`: of an append, and shared by its records. Where 64 callers
//! share groups, and two cores, it is mostly that they wait for each other; what `write` takes is
//! told of an append there too, its sync and answer included, for metrics have it of groups only.
//! All of it is from the log's own metrics and two looks at the clock. What `call` is made of
//! (room, encoding and checksums, ticket and queue) has no clocks of its own, for one costs as much
//! as some of these parts: `perf` shows it, as `benches/README.md` says.

use std::time::{Duration, Instant};

use prkdb_core::{Backend, Durability, Histogram, Metrics, probe};

use crate::appends::{self, config, warm};
use crate::bench::load::watch;
use crate::bench::log::Log;
use crate::bench::workload::Workload;
use crate::numbers;
use crate::outcome::{Stop, print};
use crate::yardstick::Window;
use crate::{Run, workload};

/// The hand-off's cost: with a device, and without one.
pub fn run(run: &Run) -> Result<(), Stop> {
    if !run.wants("stages") {
        return Ok(());
    }
    print(
        "\n| Stage by stage | call ns | placed ns | write us | answer us | wake ns | whole us \
         | hand-off, ns an append | ns a record |",
    )?;
    print("|---|---|---|---|---|---|---|---|---|")?;
    let works = [
        ("1 x 100 B", "single-1"),
        ("1 x 100 B by 64 callers", "single-64"),
        ("1000 x 100 B", "batch-1000x100-wait"),
    ];
    let length = 2 * run.pace.window;
    for (name, work) in works {
        let (folder, work) = (run.folder()?, workload(work));
        let log = appends::on_null(&folder.path().join("null"))?;
        row(&format!("{name}, null disk"), &log, work, length)?;
        log.close()?;
        for backend in [Backend::Uring, Backend::Mmap, Backend::Pwrite] {
            if probe(run.dir.path(), backend).is_err() {
                continue;
            }
            let log = warm(backend.name(), config(&folder.path().join(backend.name()), backend))?;
            row(&format!("{name}, {backend}"), &log, work, length)?;
            log.close()?;
        }
    }
    Ok(())
}

/// What callers saw: nanoseconds of all appends, until the call returned and until the answer.
#[derive(Default)]
struct Seen {
    appends: u64,
    call_ns: u64,
    whole_ns: u64,
}

/// All callers of the workload, each waiting for its answers.
fn wait_for_each(log: &Log, workload: &Workload, length: Duration) -> Result<Seen, Stop> {
    let (records, window) = (workload.records(), appends::window(length));
    let caller = || wait(log, workload, &records, &window);
    let (callers, ..) = watch(&window, workload.callers, None, caller)?;
    let sum = |all: Seen, one: Seen| Seen {
        appends: all.appends + one.appends,
        call_ns: all.call_ns + one.call_ns,
        whole_ns: all.whole_ns + one.whole_ns,
    };
    Ok(callers.into_iter().fold(Seen::default(), sum))
}

fn wait(
    log: &Log,
    workload: &Workload,
    records: &[Vec<u8>],
    window: &Window<'_>,
) -> Result<Seen, Stop> {
    let mut seen = Seen::default();
    loop {
        let called = Instant::now();
        if window.is_over(called) {
            return Ok(seen);
        }
        let ticket = log.append(Durability::Sync, records, workload.batch_bytes())?;
        seen.call_ns += nanos(called.elapsed());
        ticket.wait()?;
        seen.whole_ns += nanos(called.elapsed());
        seen.appends += 1;
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One row: the means of what is appended in `length`, nanoseconds.
fn row(what: &str, log: &Log, workload: &Workload, length: Duration) -> Result<(), Stop> {
    // The spinning has learnt by then how long answers take.
    wait_for_each(log, workload, length / 4)?;
    let before = log.metrics();
    let seen = wait_for_each(log, workload, length)?;
    let after = log.metrics();
    let each = |ns: u64| numbers::float(ns) / numbers::float(seen.appends);
    let mean = |of: fn(&Metrics) -> &Histogram| each(of(&after).sum() - of(&before).sum());
    let placed = mean(|m| &m.room_ns) + mean(|m| &m.queue_ns);
    let answered = mean(|m| &m.answer_ns);
    let (call, whole) = (each(seen.call_ns), each(seen.whole_ns));
    let (behind, wake) = (answered - placed, whole - answered);
    let (write, answer) = match workload.callers {
        1 => {
            let write = mean(|m| &m.write_ns);
            // The clock of a step may be a moment behind the next one's.
            (write, format!("{:.1}", (behind - write).max(0.0) / 1e3))
        }
        _ => (behind, "-".into()),
    };
    let (hand_off, records) = (placed + wake, numbers::float(workload.batch as u64));
    print(&format!(
        "| {what} | {call:.0} | {placed:.0} | {:.1} | {answer} | {wake:.0} | {:.1} | {hand_off:.0} \
         | {:.1} |",
        write / 1e3,
        whole / 1e3,
        hand_off / records
    ))
}
