//! Steps of a log's life on the simulated disk, crashes and faults among them, against the model
//! that the simulation's own suite uses.

use prkdb_core::io::sim::{CrashKind, Faults, Model, NameOrder, Sim};
use prkdb_core::{Append, Durability, Error, ErrorKind, Lsn, Wal, WalConfig};

use super::input::Input;
use super::model::{Fate, Promises};
use super::steps::{self, Step};

const DIR: &str = "/log";
/// Longer lives find nothing that shorter ones don't, and take long.
const MOST_STEPS: usize = 60;

/// Input: the seed of the world, its disk, how the log is opened; then steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (seed, disk) = (input.number(1), input.byte());
    let model = Model {
        names: [NameOrder::Strict, NameOrder::Journal, NameOrder::Weak][usize::from(disk) % 3],
        direct: disk & 16 != 0,
        mapped: disk & 32 != 0,
        whole_blocks: disk & 64 != 0,
        lies: false,
    };
    let config = steps::config(&mut input, DIR);
    let mut life = Life {
        sim: Sim::new(seed, model, Faults::default()),
        config,
        promises: Promises::new(),
        waiting: Vec::new(),
        kills_only: true,
        state: (Vec::new(), None),
    };
    let mut wal = life.open();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let step = Step::next(&mut input);
        wal = life.step(wal, step);
    }
    life.sim.set_faults(Faults::default());
    wal = life.recovered(wal);
    life.close(wal);
    let wal = life.open();
    life.close(wal);
}

struct Waiting {
    batch: usize,
    level: Fate,
    ticket: Append,
}

/// A log that is not closed when a check fails: closing would wait for a world that hangs.
struct Held(Option<Wal>);

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

impl std::ops::Deref for Held {
    type Target = Wal;

    fn deref(&self) -> &Wal {
        self.0.as_ref().unwrap()
    }
}

struct Life {
    sim: Sim,
    config: WalConfig,
    promises: Promises,
    waiting: Vec<Waiting>,
    /// Only processes were killed since the last check, and no sync failed: `Written` holds.
    kills_only: bool,
    /// The user slot, and what may stand in its place.
    state: (Vec<u8>, Option<Vec<u8>>),
}

impl Life {
    fn step(&mut self, wal: Held, step: Step) -> Held {
        match step {
            Step::Append { records, durability } => self.append(&wal, records, durability),
            Step::Wait => self.wait_all(),
            Step::Pass(time) => self.sim.pass(time),
            Step::Read => drop(self.read(&wal)),
            Step::TruncateBefore(count) => self.truncate_before(&wal, count),
            Step::TruncateAfter(count) => self.truncate_after(&wal, count),
            Step::UserState(state) => self.set_state(&wal, state),
            Step::Reopen => {
                self.close(wal);
                return self.open();
            }
            Step::Drop => {
                drop(wal);
                self.wait_all();
                return self.open();
            }
            Step::Crash(kind) => return self.crash(wal, kind),
            Step::Faults(mut faults) => {
                faults.crash_at = faults.crash_at.map(|after| self.sim.ops() + after);
                self.kills_only &= faults.sync_eio == 0 && faults.write_eio == 0;
                self.sim.set_faults(*faults);
            }
        }
        self.recovered(wal)
    }

    /// The log as it can be used: after a crash opened anew, resumed if it was poisoned.
    fn recovered(&mut self, wal: Held) -> Held {
        if self.sim.crashed() {
            return self.crash(wal, CrashKind::Power);
        }
        // Whether it is poisoned a wait for nothing tells.
        if wal.wait_durable(Lsn::NONE).is_ok() {
            return wal;
        }
        self.kills_only = false;
        self.wait_all();
        match wal.resume() {
            Ok(()) if !self.sim.crashed() => {
                self.check(&wal);
                wal
            }
            Ok(()) => self.crash(wal, CrashKind::Power),
            Err(e) => {
                self.expect_fault(&e);
                if self.sim.crashed() {
                    return self.crash(wal, CrashKind::Power);
                }
                self.sim.set_faults(Faults::default());
                wal.resume().unwrap();
                self.check(&wal);
                wal
            }
        }
    }

    fn open(&mut self) -> Held {
        for attempt in 0..3 {
            match Wal::open_in(self.sim.world(), self.config.clone()) {
                Ok(wal) => {
                    self.promises.opened();
                    let wal = Held(Some(wal));
                    self.check(&wal);
                    return wal;
                }
                Err(e) => {
                    self.expect_fault(&e);
                    self.kills_only = false;
                    if self.sim.crashed() {
                        self.sim.crash(CrashKind::Power);
                    }
                    if attempt > 0 {
                        self.sim.set_faults(Faults::default());
                    }
                }
            }
        }
        panic!("a healthy world opens");
    }

    /// An error that only faults explain.
    fn expect_fault(&self, e: &Error) {
        let faults = self.sim.faults();
        let faulty = faults != Faults { crash_at: faults.crash_at, ..Faults::default() };
        let passing = matches!(e.kind(), ErrorKind::Io | ErrorKind::StorageFull) && faulty;
        assert!(passing || self.sim.crashed(), "no fault explains: {e}");
    }

    /// What recovery serves is what is owed.
    fn check(&mut self, wal: &Wal) {
        let (first, next) = (wal.first_lsn().get(), wal.next_lsn().get());
        let promises = &mut self.promises;
        if let Some(keep) = promises.cut.take()
            && next == keep + 1
        {
            promises.cut_after(keep);
        }
        let starts = promises.first_least..=promises.first_most;
        assert!(starts.contains(&first), "the log starts at {first}, not in {starts:?}");
        assert!(next > promises.promised, "{} is gone, it ends at {next}", promises.promised);
        assert!(!self.kills_only || next > promises.written, "written records are gone");
        assert_eq!(wal.durable_lsn().get(), next - 1, "what is served is promised");
        promises.promised = next - 1;
        // Known whether or not the records can be read: the next attempt may fail as well.
        let found = wal.user_state();
        let may = found == self.state.0 || self.state.1.as_ref() == Some(&found);
        assert!(may, "the user slot holds {found:?}");
        self.state = (found, None);
        if !self.read(wal) {
            return;
        }
        self.promises.settle(first, next, self.kills_only);
        self.promises.written = next - 1;
        let faults = self.sim.faults();
        self.kills_only = faults.sync_eio == 0 && faults.write_eio == 0;
    }

    /// Reads everything; false if a fault came between.
    fn read(&mut self, wal: &Wal) -> bool {
        for (record, lsn) in wal.reader(wal.first_lsn()).unwrap().zip(wal.first_lsn().get()..) {
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn.get(), lsn, "a gap");
                    self.promises.learn(lsn, &record.data);
                }
                Err(e) => {
                    self.expect_fault(&e);
                    return false;
                }
            }
        }
        true
    }

    fn append(&mut self, wal: &Wal, records: Vec<Vec<u8>>, durability: Durability) {
        let level = match durability {
            Durability::Sync => Fate::Durable,
            Durability::Written => Fate::Written,
            Durability::Queued => Fate::Open,
        };
        let batch = self.promises.submit(records);
        let records = &self.promises.batch(batch).records;
        match wal.with(durability).append_batch(records) {
            Ok(ticket) => self.waiting.push(Waiting { batch, level, ticket }),
            Err(e) => {
                let poisoned = e.kind() == ErrorKind::Poisoned;
                assert!(poisoned || self.sim.crashed(), "an append was refused: {e}");
                self.promises.refused(batch);
            }
        }
    }

    fn wait_all(&mut self) {
        for w in self.waiting.drain(..) {
            self.promises.answered(w.batch, w.level, &w.ticket.wait());
        }
    }

    fn truncate_before(&mut self, wal: &Wal, count: u64) {
        self.wait_all();
        if self.sim.crashed() || !self.read(wal) {
            return;
        }
        let first = wal.first_lsn().get();
        let to = (first + count).min(self.promises.known_last() + 1);
        self.promises.first_most = self.promises.first_most.max(to);
        match wal.truncate_before(Lsn::new(to)) {
            Ok(()) => self.promises.first_least = self.promises.first_least.max(to),
            Err(e) if e.kind() == ErrorKind::Poisoned => {}
            Err(e) => self.expect_fault(&e),
        }
    }

    fn truncate_after(&mut self, wal: &Wal, count: u64) {
        self.wait_all();
        if self.sim.crashed() || wal.wait_durable(Lsn::NONE).is_err() {
            return;
        }
        let first = wal.first_lsn().get();
        if !self.read(wal) {
            return;
        }
        let keep = (wal.next_lsn().get() - 1).saturating_sub(count).max(first - 1);
        self.promises.cut = Some(keep);
        match wal.truncate_after(Lsn::new(keep)) {
            Ok(()) => {
                self.promises.cut_after(keep);
                assert_eq!(wal.next_lsn().get(), keep + 1, "it goes on elsewhere");
            }
            // Certainly not cut.
            Err(e) if e.kind() == ErrorKind::Poisoned => self.promises.cut = None,
            Err(e) if e.kind() == ErrorKind::NotConfirmed => {}
            Err(e) => self.expect_fault(&e),
        }
    }

    fn set_state(&mut self, wal: &Wal, state: Vec<u8>) {
        match wal.set_user_state(&state) {
            Ok(()) => self.state = (state, None),
            Err(e) if e.kind() == ErrorKind::Poisoned => {}
            Err(e) => {
                self.expect_fault(&e);
                self.state.1 = Some(state);
            }
        }
    }

    fn close(&mut self, mut wal: Held) {
        let outcome = wal.0.take().unwrap().close();
        self.wait_all();
        match outcome {
            Ok(()) => self.promises.closed(),
            Err(e) if e.kind() == ErrorKind::Poisoned => self.kills_only = false,
            Err(e) => self.expect_fault(&e),
        }
        if self.sim.crashed() {
            self.kills_only = false;
            self.sim.crash(CrashKind::Power);
        }
    }

    fn crash(&mut self, wal: Held, kind: CrashKind) -> Held {
        self.kills_only &= kind == CrashKind::Kill;
        self.promises.promised = self.promises.promised.max(wal.durable_lsn().get());
        self.promises.written = self.promises.written.max(wal.written_lsn().get());
        self.sim.crash(kind);
        drop(wal);
        self.wait_all();
        self.open()
    }
}
