//! The goals of performance, each a ratio of two things that are measured in turn.
//!
//! ```text
//! appends: null disk | memory     segments used again | bare ring     tasks | threads
//!          uring | mmap, pwrite                     --> pairs --> a row of the table each
//! reads:   log, nothing in memory | plain reads     records in memory | copied and checksummed
//! ```
//!
//! `cargo bench --bench goals` takes seven minutes; `-- --quick` one and a half, and says less;
//! names, or their beginnings, narrow it down (`-- P2 P3`). Rows are a table in Markdown, on
//! stdout: reached is the median of the ratios with its 95 % interval; met is judged by its far
//! end. What is counted and not timed is in tests: `syscalls` (P5), `allocations` (P6),
//! `device_bytes` (P7); other logs (P4) are in `benches/peers`. It needs 3 GiB of free space below
//! `target/tmp`.

mod appends;
mod bench;
mod null;
mod options;
mod pairs;
mod reads;
mod stages;

#[allow(dead_code, unused_imports, reason = "shared, with its tests")]
#[path = "../../src/bin/prkdb/bench/numbers.rs"]
mod numbers;
#[allow(dead_code, reason = "shared")]
#[path = "../../src/bin/prkdb/outcome.rs"]
mod outcome;
#[allow(unused_imports, reason = "shared, with its tests")]
#[path = "../yardstick/mod.rs"]
mod yardstick;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use prkdb_core::{Backend, BatchConfig, Wal, WalConfig, probe};
use tempfile::TempDir;

use appends::{config, on_log, p50, rate, raw, warm};
use bench::log::Log;
use bench::workload::{Kind, Workload};
use outcome::{Stop, print, say};
use pairs::{Goal, Pace, Pair, Unit};
use reads::Cold;
use yardstick::Method;
use yardstick::machine::Machine;

const RECORDS: Unit = Unit::PerSecond(" records");
const BYTES: Unit = Unit::PerSecond("B");

/// What is asked for.
struct Run {
    pace: Pace,
    /// Else it is a trial, which leaves the page cache of the machine alone.
    measures: bool,
    names: Vec<String>,
    dir: TempDir,
}

fn main() -> ExitCode {
    outcome::finish("goals", goals().map(|()| ExitCode::SUCCESS))
}

fn goals() -> Result<(), Stop> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let (quick, measures) = (has("--quick"), has("--bench"));
    let names = arguments.into_iter().filter(|argument| !argument.starts_with("--")).collect();
    let pace = match (measures, quick) {
        (true, false) => Pace { pairs: 10, window: Duration::from_secs(1) },
        (true, true) => Pace { pairs: 5, window: Duration::from_millis(200) },
        // `cargo test` only sees that it runs.
        (false, _) => Pace { pairs: 1, window: Duration::from_millis(10) },
    };
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = TempDir::with_prefix_in("prkdb-goals-", root);
    let dir = dir.map_err(|e| Stop::Failed(format!("{}: {e}", root.display())))?;
    let machine = Machine::under(dir.path());
    let machine = machine.map_err(|e| Stop::Failed(format!("{}: {e}", root.display())))?;
    print(&machine.line())?;
    print("\n| Goal | What, over what | To be | Reached (95 %) | Ours | The other | |")?;
    print("|---|---|---|---|---|---|---|")?;
    let run = Run { pace, measures, names, dir };
    processor(&run)?;
    match probe(run.dir.path(), Backend::Uring) {
        Ok(_) => {
            device(&run)?;
            waiting(&run)?;
            options::rolling(&run)?;
            options::spinning(&run)?;
            backends(&run)?;
        }
        Err(e) => say(format_args!("SKIPPED, all that needs io_uring: {e}")),
    }
    reading(&run)?;
    stages(&run)
}

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|asked| name.starts_with(asked.as_str()))
    }

    /// A folder that is gone with what is made of it.
    fn folder(&self) -> Result<TempDir, Stop> {
        TempDir::new_in(self.dir.path()).map_err(|e| Stop::Failed(format!("a folder: {e}")))
    }
}

fn workload(name: &str) -> &'static Workload {
    Workload::named(name).expect("the bench has it")
}

fn processor(run: &Run) -> Result<(), Stop> {
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

/// `config` with so much that may be queued as large batches want.
fn deep(config: WalConfig) -> WalConfig {
    let batch_config = BatchConfig { max_buffer_bytes: 10 << 20, ..config.batch_config };
    WalConfig { batch_config, ..config }
}

fn device(run: &Run) -> Result<(), Stop> {
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

fn waiting(run: &Run) -> Result<(), Stop> {
    let goal = Goal::AtMost(1.15, 15.0);
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

fn backends(run: &Run) -> Result<(), Stop> {
    let row = |name, what: &str, least| {
        let goal = Goal::AtLeast(least);
        Pair { name, what: what.into(), goal, unit: RECORDS }
    };
    let rows = [
        (row("P10-1", "durable records, 1 caller: uring", 0.95), "single-1"),
        (row("P10-8", "8 callers: uring", 1.0), "single-8"),
        (row("P10-64", "64 callers: uring", 1.0), "single-64"),
        (row("P10-tickets", "1000 x 100 B, 16 tickets: uring", 1.0), "batch-1000x100-tickets"),
    ];
    for (mut pair, name) in rows.into_iter().filter(|(pair, _)| run.wants(pair.name)) {
        let (work, folder, what) = (workload(name), run.folder()?, pair.what.clone());
        let open = |backend: Backend| {
            warm(backend.name(), config(&folder.path().join(backend.name()), backend))
        };
        let ring = open(Backend::Uring)?;
        for backend in [Backend::Mmap, Backend::Pwrite] {
            let other = open(backend)?;
            pair.what = format!("{what}; {backend}");
            let ours = |window| Ok(rate(&on_log(&ring, work, window)?));
            pair.run(run.pace, ours, |window| Ok(rate(&on_log(&other, work, window)?)))?;
            other.close()?;
        }
        ring.close()?;
    }
    Ok(())
}

fn reading(run: &Run) -> Result<(), Stop> {
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
    let cold = [
        row("P9-scan", "cold, the scan of a killed log's open segments; a plain read", 0.9, BYTES),
        row("P9-read", "cold, all records of a closed log; a plain read", 0.9, BYTES),
        row("P9-read-batches", "cold, the same, batch by batch; a plain read", 0.9, BYTES),
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
            0 => log.scan(),
            1 => log.records(),
            _ => log.batches(),
        };
        pair.run(run.pace, ours, |_| log.plain())?;
    }
    Ok(())
}

/// The cost of the hand-off: with a device, and without one.
fn stages(run: &Run) -> Result<(), Stop> {
    if !run.wants("stages") {
        return Ok(());
    }
    stages::head()?;
    let works = [("1 x 100 B", "single-1"), ("1000 x 100 B", "batch-1000x100-wait")];
    let length = 2 * run.pace.window;
    for (name, work) in works {
        let folder = run.folder()?;
        let log = appends::on_null(&folder.path().join("null"))?;
        stages::row(&format!("{name}, null disk"), &log, workload(work), length)?;
        log.close()?;
        for backend in [Backend::Uring, Backend::Mmap, Backend::Pwrite] {
            if probe(run.dir.path(), backend).is_err() {
                continue;
            }
            let log = warm(backend.name(), config(&folder.path().join(backend.name()), backend))?;
            stages::row(&format!("{name}, {backend}"), &log, workload(work), length)?;
            log.close()?;
        }
    }
    Ok(())
}
