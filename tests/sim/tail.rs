//! What no watermark covers when a log ends without a close, on a disk that is read by way of the
//! page cache: it is written again, in as little space as it takes, on a full disk too.
//!
//! ```text
//! open, many small batches, none synced | kill | disk full | open: all are there, from the reserve
//! ```

use std::path::Path;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Durability, Lsn, Wal, WalConfig};

const GROWN: u64 = 12;
/// Each was a group of its own, of a block: 2 MiB.
const BATCHES: usize = 500;

fn config() -> WalConfig {
    WalConfig { segment_bytes: 4 << 20, ..WalConfig::new("/log") }
}

#[test]
fn many_small_batches_are_copied_from_the_reserve() {
    let sim = Sim::new(1, Model::strict(false), Faults::default());
    let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
    // So much that the next segment is of full size.
    for _ in 0..GROWN {
        let ticket = wal.append_batch([vec![7; 500_000]]).expect("room");
        ticket.wait().expect("a healthy world appends");
    }
    for _ in 0..BATCHES {
        let ticket = wal.with(Durability::Written).append_batch(["a record"]);
        let ticket = ticket.expect("room");
        ticket.wait().expect("a healthy world appends");
    }
    assert!(wal.durable_lsn() < Lsn::new(GROWN + 10), "{} were synced", wal.durable_lsn());
    sim.crash(CrashKind::Kill);
    drop(wal);
    // Recovery removes what was being made.
    let stays = |path: &Path| path.extension().is_none_or(|ending| ending != "making");
    let used = sim.files().iter().filter(|(path, _)| stays(path)).map(|(_, size)| size).sum();
    sim.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    let wal = Wal::open_in(sim.world(), config());
    let wal = wal.unwrap_or_else(|e| panic!("{e}, {:?}", sim.files()));
    assert_eq!(wal.next_lsn(), Lsn::new(GROWN + BATCHES as u64 + 1));
    let read = wal.reader(Lsn::new(GROWN + 1)).expect("it starts there");
    let read = read.take(BATCHES).map(|record| record.expect("it is durable").data);
    assert_eq!(read.filter(|data| **data == *b"a record").count(), BATCHES);
}
