//! What is measured: the shape of each workload.

/// What a workload does with its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Appends that are answered when they survive power loss.
    Durable,
    /// Appends that are answered when they survive the end of the process.
    Unsynced,
    /// Opens a log and reads all of it.
    ReadBack,
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
    /// Threads that append.
    pub callers: usize,
    /// Whether a log that gives tickets has one caller, who leaves some of them outstanding.
    pub tickets: bool,
}

/// Tickets that one caller leaves outstanding: as many batches in flight, and as many waiting. Of
/// durable ones logs without tickets have as many callers: nobody has more batches to work on.
const TICKETS: usize = 16;

const SINGLES: Workload = Workload {
    name: "single-1",
    title: "durable single records of 100 B, 1 caller waiting for each",
    kind: Kind::Durable,
    record_bytes: 100,
    batch: 1,
    callers: 1,
    tickets: false,
};

const UNSYNCED: Workload = Workload {
    name: "unsynced-1000x100",
    title: "batches of 1000 x 100 B, written, not synced, one caller (prkdb's with 16 tickets)",
    kind: Kind::Unsynced,
    batch: 1000,
    tickets: true,
    ..SINGLES
};

/// All workloads, in the order in which they run.
pub const ALL: [Workload; 10] = [
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
        name: "batch-100x100",
        title: "durable batches of 100 x 100 B, one caller waiting for each",
        batch: 100,
        ..SINGLES
    },
    Workload {
        name: "batch-1000x100",
        title: "durable batches of 1000 x 100 B, one caller waiting for each",
        batch: 1000,
        ..SINGLES
    },
    Workload {
        name: "batch-1000x100-many",
        title: "durable batches of 1000 x 100 B, 16 at a time: prkdb's one caller with 16 tickets, \
                16 callers waiting of the others",
        batch: 1000,
        callers: TICKETS,
        tickets: true,
        ..SINGLES
    },
    Workload {
        name: "unsynced-1000x16",
        title: "batches of 1000 x 16 B, written, not synced, one caller (prkdb's with 16 tickets)",
        record_bytes: 16,
        ..UNSYNCED
    },
    UNSYNCED,
    Workload {
        name: "unsynced-1000x1024",
        title: "batches of 1000 x 1 KiB, written, not synced, one caller (prkdb's with 16 tickets)",
        record_bytes: 1024,
        ..UNSYNCED
    },
    Workload {
        name: "read-back",
        title: "opening a log of 1000 x 100 B batches in the page cache, and reading all of it",
        kind: Kind::ReadBack,
        tickets: false,
        ..UNSYNCED
    },
];

impl Workload {
    /// The workload of this name.
    pub fn named(name: &str) -> Option<&'static Workload> {
        ALL.iter().find(|workload| workload.name == name)
    }

    /// Callers, and batches that each leaves unanswered, of a log with tickets or without.
    pub fn shape(&self, has_tickets: bool) -> (usize, usize) {
        if self.tickets && has_tickets { (1, TICKETS) } else { (self.callers, 1) }
    }

    /// Bytes of a batch's records.
    pub fn batch_bytes(&self) -> usize {
        self.batch * self.record_bytes
    }

    /// Bytes of records that one run appends at most; its window ends there.
    pub fn volume_bytes(&self) -> u64 {
        match self.batch {
            1 => 32 << 20,
            2..1000 => 128 << 20,
            _ => 512 << 20,
        }
    }

    /// Bytes that a log gets ready before the window where it can: what the volume may take with
    /// headers and, for small batches, in whole blocks.
    pub fn room_bytes(&self) -> u64 {
        match self.kind {
            Kind::ReadBack => 0,
            _ if self.batch < 1000 => 256 << 20,
            _ => 640 << 20,
        }
    }
}
