//! What is measured: the shape of each workload and the raw loop that it is held against.

use prkdb_core::Durability;

use crate::yardstick::BLOCK;

/// Bytes of a frame before its records, and for each record behind them (`format/FORMAT.md`).
const FRAME_HEADER: usize = 72;
const INDEX_ENTRY: usize = 8;
/// Groups that a log keeps in flight by default.
const LOG_DEPTH: usize = 8;
/// Tickets that one caller leaves unanswered: as many batches in flight, and as many waiting.
const TICKETS: usize = 2 * LOG_DEPTH;
/// The most writes that the raw loop keeps in flight.
const RAW_DEPTH: usize = 32;

/// What a workload does with its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Appends that are answered when they survive power loss.
    Durable,
    /// Appends that are answered when they are written.
    Unsynced,
    /// Reads what was appended, record by record.
    ReadBack,
    /// Reads it batch by batch.
    ReadBatches,
}

impl Kind {
    /// Whether nothing is appended while it is measured.
    pub fn reads(self) -> bool {
        matches!(self, Kind::ReadBack | Kind::ReadBatches)
    }
}

/// One workload.
#[derive(Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name on the command line and in the figures.
    pub name: &'static str,
    /// What it does, for people.
    pub title: &'static str,
    /// What is done.
    pub kind: Kind,
    /// Bytes a record.
    pub record_bytes: usize,
    /// Records a batch.
    pub batch: usize,
    /// Threads that append, or read.
    pub callers: usize,
    /// Batches that each caller leaves unanswered; 1: it waits for each.
    pub tickets: usize,
}

const BATCHES: Workload = Workload {
    name: "batch-1000x100-wait",
    title: "durable batches of 1000 x 100 B, one caller waiting for each",
    kind: Kind::Durable,
    record_bytes: 100,
    batch: 1000,
    callers: 1,
    tickets: 1,
};

const SINGLES: Workload = Workload {
    name: "single-1",
    title: "durable single records of 100 B, 1 caller waiting for each",
    batch: 1,
    ..BATCHES
};

/// All workloads, in the order in which they run.
pub const ALL: [Workload; 10] = [
    BATCHES,
    Workload {
        name: "batch-1000x100-tickets",
        title: "durable batches of 1000 x 100 B, one caller, 16 tickets outstanding",
        tickets: TICKETS,
        ..BATCHES
    },
    Workload {
        name: "batch-100x1024-wait",
        title: "durable batches of 100 x 1 KiB, one caller waiting for each",
        record_bytes: 1024,
        batch: 100,
        ..BATCHES
    },
    Workload {
        name: "batch-100x1024-tickets",
        title: "durable batches of 100 x 1 KiB, one caller, 16 tickets outstanding",
        record_bytes: 1024,
        batch: 100,
        tickets: TICKETS,
        ..BATCHES
    },
    SINGLES,
    Workload {
        name: "single-8",
        title: "durable single records of 100 B, 8 callers waiting for each",
        callers: 8,
        ..SINGLES
    },
    Workload {
        name: "single-64",
        title: "durable single records of 100 B, 64 callers waiting for each",
        callers: 64,
        ..SINGLES
    },
    Workload {
        name: "unsynced-1000x100",
        title: "batches of 1000 x 100 B, written and not synced, 16 tickets outstanding",
        kind: Kind::Unsynced,
        tickets: TICKETS,
        ..BATCHES
    },
    Workload {
        name: "read-back",
        title: "reading records of 100 B from sealed segments in the page cache",
        kind: Kind::ReadBack,
        ..BATCHES
    },
    Workload {
        name: "read-batches",
        title: "reading the same as read-back, batch by batch",
        kind: Kind::ReadBatches,
        ..BATCHES
    },
];

impl Workload {
    /// The workload of this name.
    pub fn named(name: &str) -> Option<&'static Workload> {
        ALL.iter().find(|workload| workload.name == name)
    }

    /// The durability that its appends ask for; none where nothing is appended.
    pub fn durability(&self) -> Option<Durability> {
        match self.kind {
            Kind::Durable => Some(Durability::Sync),
            Kind::Unsynced => Some(Durability::Written),
            Kind::ReadBack | Kind::ReadBatches => None,
        }
    }

    /// Bytes that one of its batches takes on disk, in whole blocks.
    pub fn batch_bytes(&self) -> usize {
        let frame = FRAME_HEADER + self.batch * (self.record_bytes + INDEX_ENTRY);
        frame.next_multiple_of(BLOCK)
    }

    /// Writes that the raw loop keeps in flight for it: one where one caller waits, as many as the
    /// log where tickets are outstanding, else one for each caller up to its limit.
    pub fn raw_depth(&self) -> usize {
        let in_flight = if self.tickets > 1 { LOG_DEPTH } else { self.callers };
        in_flight.min(RAW_DEPTH)
    }

    /// One of its batches.
    pub fn records(&self) -> Vec<Vec<u8>> {
        let mut noise = vec![0; self.batch * self.record_bytes];
        crate::yardstick::noise(&mut noise);
        noise.chunks(self.record_bytes).map(<[u8]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_the_blocks_that_the_raw_loop_is_given() {
        for workload in &ALL {
            let root = tempfile::tempdir().unwrap();
            let wal = prkdb_core::Wal::open(prkdb_core::WalConfig::new(root.path())).unwrap();
            wal.append_batch(workload.records()).unwrap().wait().unwrap();
            let segment = std::fs::read(root.path().join(first_segment(root.path()))).unwrap();
            let frame = &segment[BLOCK..];
            let end = frame[..frame.len() - BLOCK].iter().rposition(|byte| *byte != 0).unwrap();
            let blocks = end.div_ceil(BLOCK);
            assert_eq!(blocks * BLOCK, workload.batch_bytes(), "{}", workload.name);
        }
    }

    fn first_segment(dir: &std::path::Path) -> String {
        let names = std::fs::read_dir(dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".seg")).min().unwrap()
    }

    #[test]
    fn names_are_different_and_say_what_is_done() {
        for (at, workload) in ALL.iter().enumerate() {
            assert_eq!(Workload::named(workload.name), Some(workload));
            assert!(ALL[..at].iter().all(|other| other.name != workload.name));
            assert!(workload.raw_depth() <= RAW_DEPTH);
        }
        assert_eq!(Workload::named("nothing"), None);
    }
}
