//! Ours, on the backend that `Auto` chooses here and on three others by name.
//!
//! Segments are of a quarter of the room each, written and retired before the window, so that the
//! window writes into used segments: what a log does that is truncated now and then. The default
//! of 64 MiB would do the same in smaller steps; the pool keeps four, whatever their size.
//! Everything else is the default but `max_buffer_bytes`, 10 MiB, so that sixteen tickets can be
//! outstanding.

use std::path::Path;
use std::sync::Arc;

use prkdb_core::{Backend, BatchConfig, Durability, Lsn, MIN_SEGMENT_BYTES, Wal, WalConfig};

use crate::peer::{Adapter, Answer, OURS, Outcome, Peer, Sink};
use crate::records::{Flat, Stamped};
use crate::workload::{Kind, Workload};

/// This crate on one backend.
pub struct Prkdb {
    name: &'static str,
    backend: Backend,
    setting: &'static str,
}

/// On the backend that it takes by itself.
pub const AUTO: Prkdb = Prkdb {
    name: OURS,
    backend: Backend::Auto,
    setting: "this crate, Backend::Auto (io_uring where it works), used segments",
};

/// On mapped files.
pub const MMAP: Prkdb =
    Prkdb { name: "prkdb-mmap", backend: Backend::Mmap, setting: "the same on Backend::Mmap" };

/// By position.
pub const PWRITE: Prkdb = Prkdb {
    name: "prkdb-pwrite",
    backend: Backend::Pwrite,
    setting: "the same on Backend::Pwrite",
};

/// Through a runtime's ring.
pub const TOKIO_URING: Prkdb = Prkdb {
    name: "prkdb-tokio-uring",
    backend: Backend::TokioUring,
    setting: "the same on Backend::TokioUring",
};

/// Retired segments that a log keeps (`src/wal/maker/mod.rs`).
const POOL_SEGMENTS: u64 = 4;

struct Log {
    wal: Wal,
    durability: Durability,
    waits: bool,
}

impl Prkdb {
    fn config(&self, dir: &Path, workload: &Workload) -> WalConfig {
        let segment_bytes = (workload.room_bytes() / POOL_SEGMENTS).next_multiple_of(1 << 20);
        let mut config = WalConfig { backend: self.backend, ..WalConfig::new(dir) };
        config.batch_config.max_buffer_bytes = BatchConfig::throughput_optimized().max_buffer_bytes;
        if segment_bytes >= MIN_SEGMENT_BYTES {
            config.segment_bytes = segment_bytes;
        }
        config
    }
}

impl Adapter for Prkdb {
    fn name(&self) -> &'static str {
        self.name
    }

    fn setting(&self) -> &'static str {
        self.setting
    }

    fn has_tickets(&self) -> bool {
        true
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        let wal = Wal::open(self.config(dir, workload))?;
        if workload.kind != Kind::ReadBack {
            use_up(&wal, workload)?;
        }
        let durability = match workload.kind {
            Kind::Durable => Durability::Sync,
            Kind::Unsynced | Kind::ReadBack => Durability::Written,
        };
        let waits = workload.shape(true).1 == 1;
        Ok(Box::new(Log { wal, durability, waits }))
    }

    fn read(&self, dir: &Path, workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        let wal = Wal::open(self.config(dir, workload))?;
        sink.opened();
        let mut checker = sink.checker();
        for record in wal.reader(wal.first_lsn())? {
            checker.take(&record?.data);
        }
        drop(checker);
        Ok(wal.close()?)
    }
}

/// Fills as many segments of full size as the pool keeps, and retires them. The first segments of
/// a log are smaller: they come to less than two of full size.
fn use_up(wal: &Wal, workload: &Workload) -> Outcome<()> {
    let filler = Workload { record_bytes: 1024, batch: 1000, ..*workload };
    let mut filler = Stamped::new(&filler, 0);
    let enough = workload.room_bytes() + 2 * workload.room_bytes() / POOL_SEGMENTS;
    while filler.count() * 1024 < enough {
        let batch = filler.batch();
        wal.with(Durability::Written).append_batch(batch)?.wait()?;
    }
    let last = wal.next_lsn().prev();
    if last > Lsn::NONE {
        wal.wait_durable(last)?.wait()?;
    }
    Ok(wal.truncate_before(wal.next_lsn())?)
}

impl Peer for Log {
    fn append(&self, _caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        let ticket = self.wal.with(self.durability).append_batch(batch)?;
        if self.waits {
            ticket.wait()?;
            return Ok(Answer::Now);
        }
        Ok(Answer::Later(ticket))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.wal.close()?)
    }
}
