//! okaywal 0.3.1.
//!
//! A batch is an entry, each record a chunk of it; `EntryWriter::commit` returns when a sync covers
//! the entry, and those who wait at the same time share one (`src/log_file.rs`,
//! `synchronize_locked`). It always syncs, so it has no place where nobody does. Fastest setting:
//! one file, written ahead with zeros to the whole room (`preallocate_bytes`), no checkpoint, which
//! would throw away what is to be read back, and a buffer that holds a batch (`buffer_bytes`), so
//! that it is one write.

use std::path::Path;
use std::sync::Arc;

use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogVoid, ReadChunkResult, SegmentReader,
    WriteAheadLog,
};

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::Flat;
use crate::workload::{Kind, Workload};

/// okaywal.
pub struct OkayWal;

struct Log(WriteAheadLog);

const BUFFER_BYTES: usize = 4 << 20;

fn config(dir: &Path, workload: &Workload) -> Outcome<Configuration> {
    let room = u32::try_from(workload.room_bytes().max(1 << 20))?;
    Ok(Configuration::default_for(dir)
        .preallocate_bytes(room)
        .checkpoint_after_bytes(u64::MAX)
        .buffer_bytes(BUFFER_BYTES))
}

impl Adapter for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn setting(&self) -> &'static str {
        "0.3.1, one file written ahead, no checkpoints, a buffer of 4 MiB"
    }

    fn takes(&self, workload: &Workload) -> bool {
        workload.kind != Kind::Unsynced
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        Ok(Box::new(Log(config(dir, workload)?.open(LogVoid)?)))
    }

    fn read(&self, dir: &Path, workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        // It reads everything while it opens, and gives nothing back later: all is opening.
        let log = config(dir, workload)?.open(Reading(Arc::clone(sink)))?;
        Ok(log.shutdown()?)
    }
}

impl Peer for Log {
    fn append(&self, _caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        let mut entry = self.0.begin_entry()?;
        for record in batch.iter() {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.0.shutdown()?)
    }
}

/// Takes what recovery reads.
#[derive(Debug)]
struct Reading(Arc<Sink>);

impl LogManager for Reading {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        let mut checker = self.0.checker();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            let record = chunk.read_all()?;
            if !chunk.check_crc()? {
                return Err(std::io::Error::other("a chunk's checksum does not hold"));
            }
            checker.take(&record);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Err(std::io::Error::other("no checkpoint was asked for"))
    }
}
