//! What the log makes of the processor and of the device, against memory and the bare ring.

use std::sync::Arc;
use std::time::Duration;

use prkdb_core::{Backend, Wal, WalConfig};

use crate::appends::{self, config, on_log, p50, rate, raw, warm};
use crate::bench::log::Log;
use crate::bench::workload::{Kind, Workload};
use crate::outcome::Stop;
use crate::pairs::{Goal, Pair, Unit};
use crate::yardstick::Method;
use crate::{RECORDS, Run, deep, workload};

/// Everything but the device.
pub fn processor(run: &Run) -> Result<(), Stop> {
    let batches = workload("batch-1000x100-tickets");
    let pair = Pair {
        name: "P1a",
        what: "`Queued` batches of 1000 x 100 B on a null disk; copied and checksummed".into(),
        goal: Goal::AtLeast(0.5),
        unit: RECORDS,
    };
    if run.wants(pair.name) {
        let folder = run.folder()?;
        let log = appends::on_null(&folder.path().join("log"))?;
        let ours = |window| appends::queued(&log, batches, window);
        pair.run(run.pace, ours, |window| Ok(appends::memory(batches, window)))?;
        log.close()?;
    }
    Ok(())
}

/// With tickets outstanding.
pub fn rows(run: &Run) -> Result<(), Stop> {
    let row = |name, what: &str, goal| Pair { name, what: what.into(), goal, unit: RECORDS };
    let rows = [
        (
            row(
                "P1b",
                "`Written`, 16 tickets, 10 MiB of buffers; unsynced bare ring, 8 deep",
                Goal::AtLeast(0.9),
            ),
            workload("unsynced-1000x100"),
            true,
        ),
        (
            row(
                "P2",
                "durable, 16 tickets, 10 MiB of buffers; bare ring, 8 deep",
                Goal::AtLeast(0.9),
            ),
            workload("batch-1000x100-tickets"),
            true,
        ),
        (
            row("P2-default", "the same with default buffers", Goal::Told),
            workload("batch-1000x100-tickets"),
            false,
        ),
    ];
    for (pair, work, is_deep) in rows {
        if !run.wants(pair.name) {
            continue;
        }
        let folder = run.folder()?;
        let file = appends::raw_file(folder.path())?;
        let config = config(&folder.path().join("log"), Backend::Uring);
        let log = warm("uring", if is_deep { deep(config) } else { config })?;
        let depths = [work.raw_depth()];
        let mut means = appends::calibrated(&file, work, &depths, run.pace.window)?;
        if work.kind == Kind::Unsynced {
            means.method = Method::Unsynced;
        }
        let ours = |window| Ok(rate(&on_log(&log, work, window)?));
        pair.run(run.pace, ours, |window| Ok(rate(&raw(&file, work, means, window)?)))?;
        log.close()?;
    }
    deepest(run)?;
    fresh(run)
}

/// Both as deep as the bare ring does most: what the default leaves on the table.
fn deepest(run: &Run) -> Result<(), Stop> {
    let name = "P2-deep";
    if !run.wants(name) {
        return Ok(());
    }
    let work = workload("batch-1000x100-tickets");
    let folder = run.folder()?;
    let file = appends::raw_file(folder.path())?;
    let means = appends::calibrated(&file, work, &[4, 8, 16, 32], run.pace.window)?;
    let (depth, method) = (means.depth, means.method.name());
    let what = format!("the same, both {depth} deep, where the bare ring ({method}) does most");
    let pair = Pair { name, what, goal: Goal::AtLeast(0.9), unit: RECORDS };
    let config = deep(config(&folder.path().join("log"), Backend::Uring));
    let log = warm("uring", WalConfig { depth, ..config })?;
    let work = Workload { tickets: 2 * depth, ..*work };
    let ours = |window| Ok(rate(&on_log(&log, &work, window)?));
    pair.run(run.pace, ours, |window| Ok(rate(&raw(&file, &work, means, window)?)))?;
    log.close()
}

/// Segments that are written for the first time: a log of its own for each window.
fn fresh(run: &Run) -> Result<(), Stop> {
    let work = workload("batch-1000x100-tickets");
    let pair = Pair {
        name: "P2-fresh",
        what: "the same, segments never written before, for a fifth of the time".into(),
        goal: Goal::Told,
        unit: RECORDS,
    };
    if !run.wants(pair.name) {
        return Ok(());
    }
    let folder = run.folder()?;
    let file = appends::raw_file(folder.path())?;
    let means = appends::calibrated(&file, work, &[work.raw_depth()], run.pace.window)?;
    let ours = |window: Duration| {
        let folder = run.folder()?;
        let wal = Wal::open(config(&folder.path().join("log"), Backend::Uring))?;
        let rate = appends::uncut(&wal, work, window / 5)?;
        wal.close()?;
        Ok(rate)
    };
    pair.run(run.pace, ours, |window| Ok(rate(&raw(&file, work, means, window / 5)?)))
}

/// Each append waited for.
pub fn waiting(run: &Run) -> Result<(), Stop> {
    let goal = Goal::AtMostOr(1.15, 15.0);
    let row = |name, what: &str| Pair { name, what: what.into(), goal, unit: Unit::Micros };
    let rows = [
        (row("P3-1", "p50 of a durable record that is waited for; bare ring"), "single-1"),
        (row("P3-1000", "p50 of 1000 x 100 B; bare ring"), "batch-1000x100-wait"),
    ];
    for (pair, name) in rows.into_iter().filter(|(pair, _)| run.wants(pair.name)) {
        let (work, folder) = (workload(name), run.folder()?);
        let file = appends::raw_file(folder.path())?;
        let log = warm("uring", config(&folder.path().join("log"), Backend::Uring))?;
        let depths = [work.raw_depth()];
        let means = appends::calibrated(&file, work, &depths, run.pace.window)?;
        let ours = |window| Ok(p50(&mut on_log(&log, work, window)?));
        pair.run(run.pace, ours, |window| Ok(p50(&mut raw(&file, work, means, window)?)))?;
        log.close()?;
    }
    let pair = Pair {
        name: "P8",
        what: "durable records by 10,000 tasks; by 64 threads".into(),
        goal: Goal::AtLeast(0.8),
        unit: RECORDS,
    };
    if run.wants(pair.name) {
        let (work, folder) = (workload("single-64"), run.folder()?);
        let log = warm("uring", config(&folder.path().join("log"), Backend::Uring))?;
        let log = Arc::new(log);
        let ours = |window| appends::tasks(&log, work, window);
        pair.run(run.pace, ours, |window| Ok(rate(&on_log(&log, work, window)?)))?;
        Arc::into_inner(log).map_or(Ok(()), Log::close)?;
    }
    Ok(())
}
