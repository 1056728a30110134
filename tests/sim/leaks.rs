//! I10: what a life leaves when it ends by itself: no handle, no thread, no file but the log's.

use prkdb_core::io::sim::{Faults, Held};

use crate::life::{DIR, Life};

impl Life {
    /// Nothing fails now, unless a crash ends it.
    pub fn is_healthy(&self) -> bool {
        let faults = self.sim.faults();
        faults == Faults { crash_at: faults.crash_at, ..Faults::default() } && !self.sim.crashed()
    }

    /// I10: a log that was opened, used and closed in a healthy world leaves what a log consists
    /// of, and no more in its pool than may be used again.
    pub fn expect_only_a_log(&self) {
        if !(self.healthy && self.is_healthy()) {
            return;
        }
        let (full, mut free) = (self.segment_bytes, 0);
        for (path, size) in self.sim.files() {
            let name = path.strip_prefix(DIR).ok().and_then(|name| name.to_str());
            let name = name.expect("nothing is beside the log");
            let is_number = |name: &str| name.len() == 20 && name.parse::<u64>().is_ok();
            let known = match name.rsplit_once('.') {
                Some((number, "seg")) => is_number(number),
                Some((number, "free")) => {
                    free += 1;
                    let fits = size == full || self.wiped;
                    fits && number.strip_prefix("pool/").is_some_and(is_number)
                }
                _ => ["LOCK", "META", "METRICS", "pool/reserve"].contains(&name),
            };
            assert!(known, "I10: {name} of {size} bytes is left");
        }
        // What waits to be wiped is there too.
        let most = 1 + (96 << 20) / full;
        assert!(free <= most || self.wiped, "I10: {free} files wait in the pool to be used again");
    }

    /// I10: a life that ended by itself holds nothing any more.
    pub fn expect_nothing_held(&self) {
        if !self.sim.crashed() {
            assert_eq!(self.sim.held(), Held::default(), "I10: something leaks");
        }
    }
}
