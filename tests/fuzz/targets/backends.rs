//! The same steps on the simulated disk, by position, in mapped files and through rings where they
//! work: the same log.
//!
//! Real files are made where memory holds them, if there is such a place.

use std::path::Path;
use std::sync::OnceLock;

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{Backend, ErrorKind, Lsn, ReadOnlyWal, Result, Wal, WalConfig, probe};

use super::input::Input;
use super::steps::{self, Step};

const MOST_STEPS: usize = 12;

/// What a log is like in the end.
#[derive(Debug, PartialEq, Eq)]
struct End {
    outcomes: Vec<Answer>,
    first: Option<Lsn>,
    records: Vec<Vec<u8>>,
    state: Vec<u8>,
}

/// Input: how the log is opened; then steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = steps::config(&mut input, "/log");
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < MOST_STEPS {
        steps.push(Step::next(&mut input));
    }
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    let outcomes = play(&steps, || Wal::open_in(sim.world(), config.clone()));
    let simulated = end(outcomes, ReadOnlyWal::open_on(sim.world().disk, "/log").unwrap());
    let memory = Path::new("/dev/shm");
    for backend in real(memory) {
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let root = root.unwrap();
        let dir = root.path().join("log");
        let config = WalConfig { backend, log_dir: dir.clone(), ..config.clone() };
        let outcomes = play(&steps, || Wal::open(config.clone()));
        let real = end(outcomes, ReadOnlyWal::open(&dir).unwrap());
        assert!(real == simulated, "{backend} and the simulation differ: {}", differ(&real));
    }
}

/// The backends that work there; a ring only where one was found to.
fn real(memory: &Path) -> Vec<Backend> {
    static RING: OnceLock<bool> = OnceLock::new();
    let ring = *RING.get_or_init(|| {
        let dir = if memory.is_dir() { memory } else { Path::new("/tmp") };
        let found = probe(dir, Backend::Uring).is_ok();
        if !found {
            eprintln!("SKIPPED, no io_uring in {}: the backends on it", dir.display());
        }
        found
    });
    let mut all = vec![Backend::Pwrite, Backend::Mmap];
    if ring {
        all.push(Backend::Uring);
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        all.push(Backend::TokioUring);
    }
    all
}

fn differ(end: &End) -> String {
    let lens: Vec<_> = end.records.iter().map(Vec::len).collect();
    format!("{:?}, first {:?}, {:?}, records of {lens:?}", end.outcomes, end.first, end.state)
}

fn play(steps: &[Step], open: impl Fn() -> Result<Wal>) -> Vec<Answer> {
    let mut wal = open().unwrap();
    let mut outcomes = Vec::new();
    for step in steps {
        let outcome = match step {
            Step::Append { records, durability } => wal
                .with(*durability)
                .append_batch(records)
                .and_then(|ticket| ticket.wait())
                .map(|lsns| lsns.last().get()),
            Step::TruncateBefore(count) => {
                let to = (wal.first_lsn().get() + count).min(wal.next_lsn().get());
                wal.truncate_before(Lsn::new(to)).map(|()| wal.first_lsn().get())
            }
            Step::TruncateAfter(count) => {
                let keep = wal.next_lsn().get().saturating_sub(count + 1);
                wal.truncate_after(Lsn::new(keep)).map(|()| wal.next_lsn().get())
            }
            Step::UserState(state) => wal.set_user_state(state).map(|()| 0),
            Step::Wait | Step::Read => {
                let next = wal.next_lsn();
                wal.wait_durable(next.prev()).and_then(|ticket| ticket.wait()).map(|lsn| lsn.get())
            }
            // A reset, as there is no time that passes in both worlds alike.
            Step::Pass(time) => {
                let next = u64::try_from(time.as_micros()).unwrap();
                wal.reset_to(Lsn::new(next)).map(|()| wal.first_lsn().get())
            }
            Step::Reopen | Step::Crash(_) => {
                let closed = wal.close();
                wal = open().unwrap();
                closed.map(|()| wal.next_lsn().get())
            }
            Step::Drop => {
                drop(wal);
                wal = open().unwrap();
                Ok(wal.next_lsn().get())
            }
            Step::Faults(_) => Ok(0),
        };
        outcomes.push(outcome.map_err(|e| e.kind()));
    }
    wal.close().unwrap();
    outcomes
}

type Answer = std::result::Result<u64, ErrorKind>;

fn end(outcomes: Vec<Answer>, log: ReadOnlyWal) -> End {
    let first = log.first_lsn();
    let records = match first {
        Some(first) => log.reader(first).unwrap().map(|r| r.unwrap().data.to_vec()).collect(),
        None => Vec::new(),
    };
    End { outcomes, first, records, state: log.user_state() }
}
