//! Whatever can happen, one after the other: not drawn by seed, but counted through.
//!
//! ```text
//! nth_call     for each way to fail, once and for good: operation 1, 2, .. fails, until none is
//!              left, of a life and of the recovery after a crash
//! every_call   the same of a life that rolls, cuts, resets and resumes
//! exhaustive   a script of 8 calls at most: each crash point x each outcome of the power cut,
//!              sector by sector, name by name, to a limit
//! ```

use prkdb_core::io::sim::Sim;
use prkdb_core::{Durability, Lsn, Result, SyncMethod, Wal, WalConfig};

mod every_call;
mod exhaustive;
mod nth_call;

const DIR: &str = "/log";

fn config() -> WalConfig {
    let (segment_bytes, sync_method) = (1 << 20, SyncMethod::Fdatasync);
    WalConfig { segment_bytes, sync_method, ..WalConfig::new(DIR) }
}

fn open(sim: &Sim) -> Wal {
    Wal::open_in(sim.world(), config()).expect("a healthy world opens")
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
