//! What some options cost and buy: the log with one against the log with another.

use prkdb_core::{Backend, Wal, WalConfig};

use crate::appends::{config, latency, on_log, p50, warm};
use crate::outcome::Stop;
use crate::pairs::{Goal, Pace, Pair, Unit, in_turn};
use crate::{Run, reads, workload};

/// What it costs those who wait that a segment is full and the next one begins: nothing, up to the
/// slowest of a thousand. All percentiles are of the same windows.
pub fn rolling(run: &Run) -> Result<(), Stop> {
    let rows = [("roll-p50", "p50", 500), ("roll-p99", "p99", 990), ("roll-p999", "p99.9", 999)];
    if !rows.iter().any(|(name, ..)| run.wants(name)) {
        return Ok(());
    }
    let (work, folder) = (workload("single-1"), run.folder()?);
    let large = config(&folder.path().join("large"), Backend::Uring);
    let log_dir = folder.path().join("small");
    let small = WalConfig { log_dir, segment_bytes: 1 << 20, ..large.clone() };
    let (small, large) = (warm("uring", small)?, warm("uring", large)?);
    // Of some thousand appends a window a handful are beyond p99.9: twice the pairs, or that
    // interval decides nothing.
    let pace = Pace { pairs: 2 * run.pace.pairs, ..run.pace };
    let of = |log, window| {
        let mut sample = on_log(log, work, window)?;
        Ok(rows.map(|(.., per_mille)| latency(&mut sample, per_mille)))
    };
    let pairs = in_turn(pace, |window| of(&small, window), |window| of(&large, window))?;
    for (at, (name, what, _)) in rows.into_iter().enumerate() {
        let what = format!("{what} of a record, segments of 1 MiB; of 24 MiB");
        let pair = Pair { name, what, goal: Goal::AtMost(1.0), unit: Unit::Micros };
        if run.wants(name) {
            pair.tell(
                &pairs.iter().map(|(ours, other)| (ours[at], other[at])).collect::<Vec<_>>(),
            )?;
        }
    }
    small.close()?;
    large.close()
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
