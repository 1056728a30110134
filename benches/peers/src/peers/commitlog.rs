//! spacetimedb-commitlog 1.3.0; 2 needs Rust 1.97.
//!
//! Records are appended to the commit that is being gathered, under the log's lock
//! (`src/lib.rs`, `append_maybe_flush`), then `flush_and_sync`, or `flush` where nobody syncs. Each
//! caller syncs for itself and holds the lock meanwhile (same place): SpacetimeDB itself syncs in
//! the background and waits for an offset, which is not in this crate. Fastest setting: segments
//! large enough not to roll; an index entry for each MiB, not for each 4 KiB.
//!
//! Its licence is the Business Source License 1.1: it is measured here and goes nowhere else.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use spacetimedb_commitlog::{Commitlog, Options};
use spacetimedb_paths::FromPathUnchecked;
use spacetimedb_paths::server::CommitLogDir;

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::Flat;
use crate::workload::{Kind, Workload};

/// spacetimedb-commitlog.
pub struct CommitLog;

/// A log of records of one size, known to the compiler as its interface asks.
struct Log<const N: usize> {
    log: Commitlog<[u8; N]>,
    sync: bool,
}

const SEGMENT_BYTES: u64 = 1 << 30;
const INDEX_INTERVAL_BYTES: NonZeroU64 = NonZeroU64::new(1 << 20).expect("1 MiB is above zero");

fn open<const N: usize>(dir: &Path) -> Outcome<Commitlog<[u8; N]>> {
    let options = Options {
        max_segment_size: SEGMENT_BYTES,
        offset_index_interval_bytes: INDEX_INTERVAL_BYTES,
        ..Options::default()
    };
    Ok(Commitlog::open(CommitLogDir::from_path_unchecked(dir), options)?)
}

fn log<const N: usize>(dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
    let sync = workload.kind == Kind::Durable;
    Ok(Box::new(Log::<N> { log: open(dir)?, sync }))
}

impl Adapter for CommitLog {
    fn name(&self) -> &'static str {
        "commitlog"
    }

    fn setting(&self) -> &'static str {
        "spacetimedb-commitlog 1.3.0, flush_and_sync by each caller, an index entry each MiB"
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        match workload.record_bytes {
            16 => log::<16>(dir, workload),
            100 => log::<100>(dir, workload),
            1024 => log::<1024>(dir, workload),
            other => Err(format!("no workload has records of {other} bytes").into()),
        }
    }

    fn read(&self, dir: &Path, workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        // A commit is given back as one run of bytes, whatever the type of its records.
        let log = open::<0>(dir)?;
        sink.opened();
        let mut checker = sink.checker();
        for commit in log.commits() {
            for record in commit?.records.chunks(workload.record_bytes) {
                checker.take(record);
            }
        }
        Ok(())
    }
}

impl<const N: usize> Peer for Log<N> {
    fn append(&self, _caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        for record in batch.iter() {
            self.log.append_maybe_flush(record.try_into()?).map_err(|e| e.source)?;
        }
        if self.sync {
            self.log.flush_and_sync()?;
        } else {
            self.log.flush()?;
        }
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.log.flush_and_sync()?;
        Ok(())
    }
}
