//! nodedb-wal 0.4.0; 0.6 needs Rust 1.96.
//!
//! Single records go through its `GroupCommitter`, where a leader appends for all who wait and
//! syncs once (`src/group_commit.rs`); it takes no batches, so those are appended under the
//! writer's lock and synced by `WalWriter::sync`. Fastest setting that can be read back: no
//! double-write buffer (`DwbMode::Off`: a second file and sync each time), and the page cache
//! (`use_direct_io: false`). With `O_DIRECT`, its default, each sync pads the file with zeros to a
//! whole block (`src/writer.rs`, `flush_buffer`), and the reader ends at the first of them
//! (`src/reader.rs`, `next_record`): by its source, all records behind the first sync are lost to
//! it. That was read, not measured.
//!
//! Without a sync it keeps records in a buffer of the process, 2 MiB, and acknowledges them there;
//! it has no call that only writes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nodedb_wal::group_commit::PendingWrite;
use nodedb_wal::reader::WalReader;
use nodedb_wal::record::RecordType;
use nodedb_wal::writer::WalWriterConfig;
use nodedb_wal::{DwbMode, GroupCommitter, WalWriter};

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::Flat;
use crate::workload::{Kind, Workload};

/// nodedb-wal.
pub struct NodedbWal;

struct Log {
    writer: Mutex<WalWriter>,
    group: GroupCommitter,
    sync: bool,
    single: bool,
}

impl Log {
    fn writer(&self) -> MutexGuard<'_, WalWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PUT: u32 = RecordType::Put as u32;

fn file(dir: &Path) -> PathBuf {
    dir.join("log.wal")
}

fn open(dir: &Path) -> Outcome<WalWriter> {
    let config = WalWriterConfig {
        use_direct_io: false,
        dwb_mode: Some(DwbMode::Off),
        ..WalWriterConfig::default()
    };
    Ok(WalWriter::open(&file(dir), config)?)
}

impl Adapter for NodedbWal {
    fn name(&self) -> &'static str {
        "nodedb-wal"
    }

    fn setting(&self) -> &'static str {
        "0.4.0, buffered (its reader ends where O_DIRECT pads, by its source), no double writes"
    }

    fn early(&self, workload: &Workload) -> Option<&'static str> {
        (workload.kind == Kind::Unsynced).then_some("while records are in a buffer of the process")
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        Ok(Box::new(Log {
            writer: Mutex::new(open(dir)?),
            group: GroupCommitter::new(),
            sync: workload.kind == Kind::Durable,
            single: workload.batch == 1,
        }))
    }

    fn read(&self, dir: &Path, _workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        // Opening the writer reads everything once, to find the end.
        let writer = open(dir)?;
        sink.opened();
        let mut checker = sink.checker();
        for record in WalReader::open(&file(dir))?.records() {
            checker.take(&record?.payload);
        }
        drop(writer);
        Ok(())
    }
}

impl Peer for Log {
    fn append(&self, _caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        if self.sync && self.single {
            for record in batch.iter() {
                let payload = record.to_vec();
                let (record_type, tenant_id, vshard_id, database_id) = (PUT, 0, 0, 0);
                self.group.submit(
                    &self.writer,
                    PendingWrite { record_type, tenant_id, vshard_id, database_id, payload },
                )?;
            }
            return Ok(Answer::Now);
        }
        let mut writer = self.writer();
        for record in batch.iter() {
            writer.append(PUT, 0, 0, 0, record)?;
        }
        if self.sync {
            writer.sync()?;
        }
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.writer().sync()?)
    }
}
