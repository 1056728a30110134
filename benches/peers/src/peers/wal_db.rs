//! wal-db 1.1.0.
//!
//! A record is one positional write, then `sync` for the batch, which all who wait at the same time
//! share (`src/commit.rs`, `sync_to`); single records by `append_and_sync`. It knows no batches: a
//! crash can leave a part of one. Fastest setting: a single file (`Wal::open`), without the lookups
//! of segments; it has no way to prepare or to reuse files.

use std::path::Path;
use std::sync::Arc;

use wal_db::Wal;

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::Flat;
use crate::workload::{Kind, Workload};

/// wal-db.
pub struct WalDb;

struct Log {
    wal: Wal,
    sync: bool,
    single: bool,
}

fn open(dir: &Path) -> Outcome<Wal> {
    Ok(Wal::open(dir.join("log.wal"))?)
}

impl Adapter for WalDb {
    fn name(&self) -> &'static str {
        "wal-db"
    }

    fn setting(&self) -> &'static str {
        "1.1.0, one growing file, a write for each record, batches not atomic"
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        let sync = workload.kind == Kind::Durable;
        Ok(Box::new(Log { wal: open(dir)?, sync, single: workload.batch == 1 }))
    }

    fn read(&self, dir: &Path, _workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        let wal = open(dir)?;
        sink.opened();
        let mut checker = sink.checker();
        for record in wal.iter()? {
            checker.take(record?.data());
        }
        Ok(())
    }
}

impl Peer for Log {
    fn append(&self, _caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        for record in batch.iter() {
            // Where the record is, is of no use here.
            let appended = match self.sync && self.single {
                true => self.wal.append_and_sync(record),
                false => self.wal.append(record),
            };
            appended.map(drop)?;
        }
        if self.sync && !self.single {
            self.wal.sync()?;
        }
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.wal.sync()?)
    }
}
