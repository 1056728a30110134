//! What a log has to do to be measured, and who takes part.

use std::error::Error;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::peers;
use crate::records::{Checker, Flat};
use crate::workload::{Kind, Workload};

/// What an adapter gives, or why it can't: the peer's own error.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What an append is answered with.
pub enum Answer {
    /// It is done.
    Now,
    /// A ticket, to be waited for.
    Later(prkdb_core::Append),
}

/// A log that is open for appends from several threads.
pub trait Peer: Send + Sync {
    /// Appends one batch of `caller`; the answer means what the workload asks for.
    ///
    /// # Errors
    /// The log's own.
    fn append(&self, caller: usize, batch: Flat<'_>) -> Outcome<Answer>;

    /// Closes the log.
    ///
    /// # Errors
    /// The log's own.
    fn close(self: Box<Self>) -> Outcome<()>;
}

/// Where an adapter puts what it reads; shared, for logs that read on a thread of their own.
#[derive(Debug)]
pub struct Sink {
    checker: Mutex<Checker>,
    opened: OnceLock<Instant>,
}

impl Sink {
    /// Gives everything to `checker`.
    pub fn new(checker: Checker) -> Sink {
        Sink { checker: Mutex::new(checker), opened: OnceLock::new() }
    }

    /// Tells that the log is open; what comes now is reading.
    pub fn opened(&self) {
        self.opened.get_or_init(Instant::now);
    }

    /// When it was.
    pub fn opened_at(&self) -> Option<Instant> {
        self.opened.get().copied()
    }

    /// The checker, for as many records as there are at hand.
    pub fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a log is opened for a workload, and read back.
pub trait Adapter: Sync {
    /// Its name on the command line and in the figures.
    fn name(&self) -> &'static str;

    /// Its version and settings in a line.
    fn setting(&self) -> &'static str;

    /// Whether it can do this workload at all.
    fn takes(&self, _workload: &Workload) -> bool {
        true
    }

    /// If it acknowledges before what the workload asks for is done: when that is.
    fn early(&self, _workload: &Workload) -> Option<&'static str> {
        None
    }

    /// Whether it is somebody else's log, which ours is held against.
    fn is_peer(&self) -> bool {
        !self.name().starts_with(OURS)
    }

    /// Whether an append gives a ticket.
    fn has_tickets(&self) -> bool {
        false
    }

    /// Makes a log in `dir`, which is fresh, and gets it ready.
    ///
    /// # Errors
    /// The log's own.
    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>>;

    /// Opens the log again, and gives all its records to `sink`, those of a caller in their order.
    ///
    /// # Errors
    /// The log's own.
    fn read(&self, dir: &Path, workload: &Workload, sink: &std::sync::Arc<Sink>) -> Outcome<()>;
}

/// Who takes part in a contest.
#[derive(Clone, Copy)]
pub enum Contestant {
    /// The disk without a log.
    Raw,
    /// A log.
    Log(&'static dyn Adapter),
}

/// The one that all are held against.
pub const OURS: &str = "prkdb";

impl Contestant {
    /// All, in the order in which they run.
    pub fn all() -> impl Iterator<Item = Contestant> {
        std::iter::once(Contestant::Raw).chain(peers::ALL.iter().copied().map(Contestant::Log))
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Contestant> {
        Contestant::all().find(|contestant| contestant.name() == name)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Contestant::Raw => "raw",
            Contestant::Log(adapter) => adapter.name(),
        }
    }

    /// Whether it is another log, neither ours nor the bare disk.
    pub fn is_peer(&self) -> bool {
        matches!(self, Contestant::Log(adapter) if adapter.is_peer())
    }

    /// Whether it can do this workload.
    pub fn takes(&self, workload: &Workload) -> bool {
        match self {
            Contestant::Raw => workload.kind != Kind::ReadBack,
            Contestant::Log(adapter) => adapter.takes(workload),
        }
    }

    /// If it acknowledges too early for this workload: when.
    pub fn early(&self, workload: &Workload) -> Option<&'static str> {
        match self {
            Contestant::Raw => None,
            Contestant::Log(adapter) => adapter.early(workload),
        }
    }
}
