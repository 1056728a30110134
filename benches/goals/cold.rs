//! The rows of reading: from the page cache against memory, and with nothing cached against the
//! disk.
//!
//! The scan reads past the page cache, where a file system lets it: its row with everything cached
//! says what recovery is over memory, and not what a cache is worth to it.

use prkdb_core::Backend;

use crate::appends::{self, config, on_log, rate, warm};
use crate::fio::{self, Reads};
use crate::outcome::{Stop, say};
use crate::pairs::{Goal, Pair};
use crate::reads::{self, Cold};
use crate::{BYTES, RECORDS, Run, options, workload};

/// All of them.
pub fn rows(run: &Run) -> Result<(), Stop> {
    let row = |name, what: &str, least, unit| {
        let goal = Goal::AtLeast(least);
        Pair { name, what: what.into(), goal, unit }
    };
    options::index(run)?;
    let work = workload("read-back");
    for (name, what, reads) in [
        ("P9-cached", "reading records; copied and checksummed", "read-back"),
        ("P9-batches", "reading batches; copied and checksummed", "read-batches"),
    ] {
        let (pair, reads) = (row(name, what, 0.5, RECORDS), workload(reads));
        if run.wants(pair.name) {
            let folder = run.folder()?;
            let log = warm("uring", config(&folder.path().join("log"), Backend::Auto))?;
            let ours = |window| Ok(rate(&on_log(&log, reads, window)?));
            pair.run(run.pace, ours, |window| appends::many(work, window))?;
            log.close()?;
        }
    }
    scan_cached(run)?;
    let cold = [
        row("P9-scan", "cold, the scan of a killed log's open segments", 0.9, BYTES),
        row("P9-read", "cold, all records of a closed log", 0.9, BYTES),
        row("P9-read-batches", "cold, the same, batch by batch", 0.9, BYTES),
    ];
    for (at, pair) in cold.into_iter().enumerate().filter(|(_, pair)| run.wants(pair.name)) {
        if !run.measures {
            say(format_args!("SKIPPED, {}: the page cache stays as it is", pair.name));
            continue;
        }
        if !reads::can_be_cold() {
            say(format_args!("SKIPPED, {}: only root may empty the page cache", pair.name));
            continue;
        }
        let folder = run.folder()?;
        let log = match at {
            0 => Cold::killed(folder.path(), work)?,
            _ => Cold::sealed(folder.path(), work)?,
        };
        let ours = |_| match at {
            0 => log.scan_cold(),
            1 => log.records(),
            _ => log.batches(),
        };
        let over = |what: &str| Pair { what: format!("{}; {what}", pair.what), ..pair };
        over("a plain read").run(run.pace, ours, |_| log.plain())?;
        if fio::is_here(run, pair.name) {
            let file = Reads::new(folder.path(), log.bytes())?;
            over("fio's, direct, 8 of 1 MiB").run(run.pace, ours, |_| file.rate())?;
        }
    }
    Ok(())
}

/// The scan with nothing dropped from the page cache, over memory.
fn scan_cached(run: &Run) -> Result<(), Stop> {
    let pair = Pair {
        name: "P9-scan-cached",
        what: "the scan of a killed log's open segments, which reads past the page cache; copied \
               and checksummed"
            .into(),
        goal: Goal::AtLeast(0.5),
        unit: BYTES,
    };
    if !run.wants(pair.name) {
        return Ok(());
    }
    if !run.measures {
        say(format_args!("SKIPPED, {}: a trial fills no log of 600 MB", pair.name));
        return Ok(());
    }
    let (work, folder) = (workload("read-back"), run.folder()?);
    let log = Cold::killed(folder.path(), work)?;
    let bytes_a_record = work.batch_bytes() as f64 / work.batch as f64;
    let memory = |window| Ok(appends::many(work, window)? * bytes_a_record);
    pair.run(run.pace, |_| log.scan(), memory)
}
