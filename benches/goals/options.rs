//! What some options cost and buy: the log with one against the log with another.

use prkdb_core::{Backend, Wal, WalConfig};

use crate::appends::{config, latency, on_log, p50, warm};
use crate::outcome::Stop;
use crate::pairs::{Goal, Pair, Unit};
use crate::{Run, reads, workload};

/// What it costs those who wait that a segment is full and the next one begins.
pub fn rolling(run: &Run) -> Result<(), Stop> {
    let (work, folder) = (workload("single-1"), run.folder()?);
    let row = |name, what: &str| {
        let what = format!("{what} of a record, segments of 1 MiB; of 24 MiB");
        Pair { name, what, goal: Goal::Told, unit: Unit::Micros }
    };
    for (pair, per_mille) in [(row("roll-p50", "p50"), 500), (row("roll-p999", "p99.9"), 999)] {
        if !run.wants(pair.name) {
            continue;
        }
        let large = config(&folder.path().join(pair.name), Backend::Uring);
        let log_dir = folder.path().join(format!("{}-small", pair.name));
        let small = WalConfig { log_dir, segment_bytes: 1 << 20, ..large.clone() };
        let (small, large) = (warm("uring", small)?, warm("uring", large)?);
        let of = |log, window| Ok(latency(&mut on_log(log, work, window)?, per_mille));
        pair.run(run.pace, |window| of(&small, window), |window| of(&large, window))?;
        small.close()?;
        large.close()?;
    }
    Ok(())
}

/// What it is worth that who waits stays awake.
pub fn spinning(run: &Run) -> Result<(), Stop> {
    let pair = Pair {
        name: "spin",
        what: "p50 of a durable record, `spin_us` as it is; 0".into(),
        goal: Goal::Told,
        unit: Unit::Micros,
    };
    if !run.wants(pair.name) {
        return Ok(());
    }
    let (work, folder) = (workload("single-1"), run.folder()?);
    let awake = config(&folder.path().join("awake"), Backend::Uring);
    let log_dir = folder.path().join("asleep");
    let asleep = warm("uring", WalConfig { log_dir, spin_us: 0, ..awake.clone() })?;
    let awake = warm("uring", awake)?;
    let of = |log, window| Ok(p50(&mut on_log(log, work, window)?));
    pair.run(run.pace, |window| of(&awake, window), |window| of(&asleep, window))?;
    awake.close()?;
    asleep.close()
}

/// What an entry of the index each block is worth, to who reads single records.
pub fn index(run: &Run) -> Result<(), Stop> {
    let pair = Pair {
        name: "index",
        what: "reading a record anywhere in segments of 1 MiB, `index_interval_bytes` as it is; \
               1 MiB"
            .into(),
        goal: Goal::Told,
        unit: Unit::Micros,
    };
    if !run.wants(pair.name) {
        return Ok(());
    }
    let folder = run.folder()?;
    let dense = reads::singles(&folder.path().join("dense"), 4 << 10)?;
    let sparse = reads::singles(&folder.path().join("sparse"), 1 << 20)?;
    let ours = |window| reads::anywhere(&dense, window);
    pair.run(run.pace, ours, |window| reads::anywhere(&sparse, window))?;
    Ok([dense, sparse].into_iter().try_for_each(Wal::close)?)
}
