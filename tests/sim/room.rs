//! What goes by itself, and when: no more than has to, no look that finds nothing, and retired
//! segments before new ones.

use std::time::Duration;

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{Lsn, Wal, WalConfig};

const DIR: &str = "/log";

fn sim() -> Sim {
    Sim::new(7, Model::weak(true), Faults::default())
}

fn config() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(DIR) }
}

/// Appends so many records of which ten fill a segment of 1 MiB.
fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        let ticket = wal.append_batch([vec![7; 100_000]]).expect("healthy");
        ticket.wait().expect("a healthy world writes");
    }
}

fn count(wal: &Wal, name: &str) -> u64 {
    let counts = wal.metrics().counts();
    counts.iter().find(|(counted, _)| *counted == name).expect("it is counted").1
}

#[test]
fn near_a_full_disk_retired_segments_are_used_before_smaller_ones_are_made() {
    const FULL: u64 = 2 << 20;
    let sim = sim();
    let config = WalConfig { segment_bytes: FULL, ..config() };
    let wal = Wal::open_in(sim.world(), config).expect("healthy");
    append(&wal, 75);
    sim.pass(Duration::from_secs(1));
    wal.truncate_before(Lsn::new(55)).expect("healthy");
    sim.pass(Duration::from_secs(1));
    let sizes = |extension: &str| -> Vec<u64> {
        let files = sim.files().into_iter();
        let named = files.filter(|(path, _)| path.extension().is_some_and(|e| e == extension));
        named.map(|(_, size)| size).collect()
    };
    let retired = sizes("free").len();
    assert!(retired >= 2, "{retired} segments wait for use");
    assert_eq!(count(&wal, "segments_recycled"), 0);
    let used: u64 = sim.files().iter().map(|(_, size)| size).sum();
    let capacity = Some(used + FULL - 1);
    sim.set_faults(Faults { capacity, ..Faults::default() });
    append(&wal, 45);
    sim.pass(Duration::from_secs(1));
    let recycled = count(&wal, "segments_recycled");
    assert!(recycled >= 1, "none of {retired} retired segments was used");
    let small = sizes("seg").into_iter().filter(|size| *size < FULL).count();
    assert!(small == 0 || sizes("free").is_empty(), "a smaller one was made");
    wal.close().expect("healthy");
}
