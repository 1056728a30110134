//! Which faults explain an error: one that none of them explains is a bug, or damage.

use prkdb_core::io::sim::Faults;
use prkdb_core::{Error, ErrorKind, Wal};

use crate::life::Life;

/// Whether a write, a sync or a change of names may fail for good.
fn may_fail(faults: &Faults) -> bool {
    let rates = faults.write_eio + faults.sync_eio + faults.write_full + faults.efbig;
    rates + faults.canceled + faults.names_eio > 0 || faults.fail_nth.is_some()
}

impl Life {
    /// Whether one may fail, or a queue breaks, which the faults say only until it does.
    pub fn may_fail(&self, faults: &Faults) -> bool {
        may_fail(faults) || self.breaks
    }

    /// Whether the log is poisoned by what was in the making when it had been opened: a sync may
    /// have failed then.
    pub fn failed_since_open(&self, wal: &Wal) -> bool {
        let poisoned = wal.health().poisoned;
        let path = poisoned.as_ref().and_then(Error::path);
        path.is_some_and(|path| self.begun.iter().any(|begun| begun == path))
    }

    /// An error that only injected faults explain.
    pub fn expect_io(&self, e: &Error) {
        let faults = self.sim.faults();
        // What comes late, short or interrupted is finished, and nobody hears of it.
        let full = faults.enospc + faults.edquot + faults.write_full;
        let explained = match e.kind() {
            ErrorKind::StorageFull => full > 0 || faults.capacity.is_some() || self.capped,
            ErrorKind::Io => full > 0 || self.may_fail(&faults) || faults.read_eio > 0,
            _ => false,
        };
        assert!(explained || self.sim.crashed(), "no fault explains: {e}");
    }

    /// An error of reading alone, which no failed write, sync or creation explains.
    pub fn expect_read_io(&self, e: &Error) {
        let faults = self.sim.faults();
        let fails = faults.read_eio > 0 || faults.fail_nth.is_some();
        let explained = fails && e.kind() == ErrorKind::Io;
        assert!(explained || self.sim.crashed(), "no fault of a read explains: {e}");
    }
}
