//! walrus-rust 0.2.0, twice: as durable as the workload asks, and as it comes.
//!
//! Each caller has a topic: a second batch of one topic at the same time is refused with
//! `WouldBlock` (`src/wal/runtime/writer.rs`, `batch_write`). `WALRUS`: durable single records by
//! `append_for_topic` under `FsyncSchedule::SyncEach`. A durable batch by `batch_append_for_topic`,
//! which syncs before it returns under any schedule (same place), so the schedule is `NoFsync`,
//! which saves it O_SYNC on each of its writes. Without a sync record by record, because a batch
//! would sync; on mapped files (`disable_fd_backend`), which are faster there.
//!
//! `WALRUS_AS_IT_COMES`: the default, a sync of the file each 200 ms, single records only. It
//! acknowledges before the sync.
//!
//! It writes where `WALRUS_DATA_DIR` says and talks on stdout unless `WALRUS_QUIET` is set; both
//! are set for the process that runs it.

use std::path::Path;
use std::sync::Arc;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus, disable_fd_backend};

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::Flat;
use crate::workload::{Kind, Workload};

/// walrus-rust under one schedule of syncs.
pub struct Contender {
    name: &'static str,
    setting: &'static str,
    as_it_comes: bool,
}

/// Synced as the workload asks.
pub const WALRUS: Contender = Contender {
    name: "walrus",
    setting: "0.2.0, a topic for each caller, SyncEach for single records, batches sync themselves",
    as_it_comes: false,
};

/// By its defaults.
pub const WALRUS_AS_IT_COMES: Contender = Contender {
    name: "walrus-default",
    setting: "0.2.0 by its defaults: a sync each 200 ms, whoever waits",
    as_it_comes: true,
};

/// What a topic gives at a time.
const READ_BYTES: usize = 1 << 20;
const DEFAULT_SYNC_MS: u64 = 200;

struct Log {
    walrus: Walrus,
    topics: Vec<String>,
    by_batch: bool,
}

fn topic(caller: usize) -> String {
    format!("c{caller}")
}

fn open(schedule: FsyncSchedule) -> Outcome<Walrus> {
    // Where a reader stands is not to be kept.
    let reading = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
    Ok(Walrus::with_consistency_and_schedule(reading, schedule)?)
}

impl Adapter for Contender {
    fn name(&self) -> &'static str {
        self.name
    }

    fn setting(&self) -> &'static str {
        self.setting
    }

    fn takes(&self, workload: &Workload) -> bool {
        !self.as_it_comes || (workload.kind == Kind::Durable && workload.batch == 1)
    }

    fn early(&self, _workload: &Workload) -> Option<&'static str> {
        self.as_it_comes.then_some("up to 200 ms before the sync")
    }

    fn open(&self, _dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        let by_batch = workload.kind == Kind::Durable && workload.batch > 1;
        let schedule = match workload.kind {
            Kind::Durable if self.as_it_comes => FsyncSchedule::Milliseconds(DEFAULT_SYNC_MS),
            Kind::Durable if !by_batch => FsyncSchedule::SyncEach,
            _ => FsyncSchedule::NoFsync,
        };
        if workload.kind != Kind::Durable {
            disable_fd_backend();
        }
        let topics = (0..workload.callers).map(topic).collect();
        Ok(Box::new(Log { walrus: open(schedule)?, topics, by_batch }))
    }

    fn read(&self, _dir: &Path, workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        let walrus = open(FsyncSchedule::NoFsync)?;
        sink.opened();
        let mut checker = sink.checker();
        for topic in (0..workload.callers).map(topic) {
            loop {
                let entries = walrus.batch_read_for_topic(&topic, READ_BYTES, true)?;
                if entries.is_empty() {
                    break;
                }
                entries.iter().for_each(|entry| checker.take(&entry.data));
            }
        }
        Ok(())
    }
}

impl Peer for Log {
    fn append(&self, caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        let topic = &self.topics[caller];
        if self.by_batch {
            let records: Vec<&[u8]> = batch.iter().collect();
            self.walrus.batch_append_for_topic(topic, &records)?;
        } else {
            for record in batch.iter() {
                self.walrus.append_for_topic(topic, record)?;
            }
        }
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        // It has no way to close; what was written is in the page cache at least.
        Ok(())
    }
}
