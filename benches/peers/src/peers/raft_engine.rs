//! raft-engine 0.4.2, the log of TiKV.
//!
//! Each caller has a raft group, each record is an entry of it; a batch is one `LogBatch`, written
//! by `Engine::write(batch, sync)`, where a leader appends the batches of all who wait and syncs
//! once (`src/engine.rs`, `write`). Fastest setting: no compression
//! (`batch_compression_threshold` 0; the records would not compress), and log files written ahead
//! and recycled (`prefill_for_recycle`, `src/file_pipe_log/pipe_builder.rs`, `initialize_files`),
//! so that fdatasync moves data only. Its entries are protobuf messages: the plainest there is, a
//! `BytesValue`. Without its default features, which are a scripting language and internals.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::{Flat, number_of};
use crate::workload::{Kind, Workload};

/// raft-engine.
pub struct RaftEngine;

/// An entry's index is its record's number, from 1.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        1 + number_of(&entry.value)
    }
}

/// What one caller uses again for each batch.
#[derive(Default)]
struct Hand {
    batch: LogBatch,
    entries: Vec<BytesValue>,
}

struct Log {
    engine: Engine,
    hands: Vec<Mutex<Hand>>,
    sync: bool,
}

/// Entries that are fetched at a time.
const FETCH: u64 = 1000;
const FILE_MB: u64 = 64;

fn config(dir: &Path) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize::mb(FILE_MB),
        ..Config::default()
    }
}

impl Adapter for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn setting(&self) -> &'static str {
        "0.4.2, a group for each caller, no compression, log files prefilled and recycled"
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        let mut config = config(dir);
        if workload.room_bytes() > 0 {
            // Half as many again are made as the limit says (`src/config.rs`, `prefill_capacity`).
            config.prefill_limit = Some(ReadableSize(workload.room_bytes() * 2 / 3));
            config.prefill_for_recycle = true;
        }
        let hands = (0..workload.callers).map(|_| Mutex::default()).collect();
        let sync = workload.kind == Kind::Durable;
        Ok(Box::new(Log { engine: Engine::open(config)?, hands, sync }))
    }

    fn read(&self, dir: &Path, workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        let engine = Engine::open(config(dir))?;
        sink.opened();
        let mut checker = sink.checker();
        let mut entries = Vec::new();
        for group in 1..=workload.callers as u64 {
            let Some(first) = engine.first_index(group) else { continue };
            let end = 1 + engine.last_index(group).unwrap_or(first);
            for from in (first..end).step_by(usize::try_from(FETCH)?) {
                let to = (from + FETCH).min(end);
                engine.fetch_entries_to::<Entries>(group, from, to, None, &mut entries)?;
                entries.drain(..).for_each(|entry| checker.take(&entry.value));
            }
        }
        Ok(())
    }
}

impl Peer for Log {
    fn append(&self, caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        // Nobody else wants it.
        let mut hand = self.hands[caller].lock().unwrap_or_else(PoisonError::into_inner);
        let Hand { batch: out, entries } = &mut *hand;
        entries.resize_with(batch.iter().len(), BytesValue::default);
        for (entry, record) in entries.iter_mut().zip(batch.iter()) {
            entry.value.clear();
            entry.value.extend_from_slice(record);
        }
        out.add_entries::<Entries>(1 + caller as u64, entries)?;
        self.engine.write(out, self.sync)?;
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        // Dropping it is its way to close.
        Ok(())
    }
}
