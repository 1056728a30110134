//! Whatever can happen, one after the other: not drawn by seed, but counted through.
//!
//! ```text
//! nth_call     for each way to fail, once and for good: operation 1, 2, .. fails, until none is
//!              left, of a life and of the recovery after a crash
//! every_call   the same of a life that rolls, cuts, resets and resumes
//! exhaustive   a script of 8 calls at most: each crash point x each outcome of the power cut,
//!              sector by sector, name by name, to a limit
//! ```
//!
//! With one lane and `fdatasync` each question is asked; with forced writes, two lanes and mapped
//! files fewer are, unless `PRKDB_SIM_CHOICES` is set.

use std::time::Duration;

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{Durability, Lsn, Result, SyncMethod, Wal, WalConfig};

mod every_call;
mod exhaustive;
mod nth_call;

const DIR: &str = "/log";

/// How the log is set up that is gone through.
#[derive(Clone, Copy, Debug)]
struct Setup {
    method: SyncMethod,
    lanes: usize,
    /// Whether the file that is written is read through the page cache, as where it is mapped.
    mapped: bool,
}

/// The setup that each question is asked of.
const PLAIN: Setup = Setup { method: SyncMethod::Fdatasync, lanes: 1, mapped: false };

/// Those that fewer are asked of, unless `PRKDB_SIM_CHOICES` is set.
const OTHERS: [Setup; 3] = [
    Setup { method: SyncMethod::Dsync, ..PLAIN },
    Setup { lanes: 2, ..PLAIN },
    Setup { method: SyncMethod::Dsync, lanes: 2, mapped: true },
];

impl Setup {
    fn config(self) -> WalConfig {
        let (segment_bytes, sync_method) = (1 << 20, self.method);
        let config = WalConfig { segment_bytes, sync_method, ..WalConfig::new(DIR) };
        WalConfig { num_segments: self.lanes, ..config }
    }

    fn sim(self, seed: u64, direct: bool) -> Sim {
        let model = Model { mapped: self.mapped, ..Model::weak(direct) };
        Sim::new(seed, model, Faults::default())
    }

    /// Opens the log, and lets it make the segment of its second lane.
    fn open(self, sim: &Sim) -> Result<Wal> {
        let wal = Wal::open_in(sim.world(), self.config())?;
        if self.lanes > 1 {
            sim.pass(Duration::from_millis(20));
        }
        Ok(wal)
    }

    fn open_healthy(self, sim: &Sim, at: &str) -> Wal {
        self.open(sim).unwrap_or_else(|e| panic!("{at}: {e}"))
    }
}

/// Whether all setups are gone through in all ways.
fn in_all_ways() -> bool {
    crate::number("PRKDB_SIM_CHOICES").is_some()
}

#[test]
fn a_setup_of_two_lanes_has_them_open() {
    for setup in OTHERS.into_iter().filter(|setup| setup.lanes > 1) {
        let sim = setup.sim(1, true);
        let wal = setup.open_healthy(&sim, "");
        let mut promised = Promised::default();
        for _ in 0..2 {
            promised.append(&wal, Durability::Sync).expect("a healthy world appends");
            sim.pass(Duration::from_millis(20));
        }
        assert_eq!(wal.segment_count(), 2);
        wal.close().expect("a healthy world closes");
    }
}

fn record(lsn: u64) -> Vec<u8> {
    format!("record {lsn}").into_bytes()
}

/// What a script was promised.
#[derive(Clone, Debug, Default)]
struct Promised {
    durable: u64,
    /// Submitted, whether or not it was answered.
    submitted: u64,
    state: Vec<u8>,
    asked: Vec<u8>,
}

impl Promised {
    fn append(&mut self, wal: &Wal, durability: Durability) -> Result<()> {
        let lsn = wal.next_lsn().get();
        self.submitted = self.submitted.max(lsn);
        wal.with(durability).append_batch([record(lsn)])?.wait()?;
        if durability == Durability::Sync {
            self.durable = lsn;
        }
        Ok(())
    }

    fn set_state(&mut self, wal: &Wal, state: &[u8]) -> Result<()> {
        self.asked = state.to_vec();
        wal.set_user_state(state)?;
        self.state = state.to_vec();
        Ok(())
    }

    /// I1 to I4 on a log of `record`s.
    fn check(&self, wal: &Wal, at: &str) -> u64 {
        let mut last = 0;
        for read in wal.reader(Lsn::FIRST).expect("nothing was cut") {
            let read = read.unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(read.lsn.get(), last + 1, "{at}: I2");
            last += 1;
            assert_eq!(*read.data, record(last)[..], "{at}: I4");
        }
        assert!(last >= self.durable, "{at}: I1: {} was promised, {last} are there", self.durable);
        assert!(last <= self.submitted, "{at}: I4: {} were submitted", self.submitted);
        let state = wal.user_state();
        assert!(state == self.state || state == self.asked, "{at}: {state:?}");
        last
    }
}
