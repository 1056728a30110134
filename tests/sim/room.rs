//! What goes by itself, and when: no more than has to, no look that finds nothing, and retired
//! segments before new ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prkdb_core::io::World;
use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{CompactionPolicy, Lsn, Wal, WalConfig};

use crate::through::{Hook, Through};

const DIR: &str = "/log";
const MINUTE: Duration = Duration::from_secs(60);

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

/// A log of old and of new records is opened with limits of age and size: where it starts then.
fn first_after_both(compaction: CompactionPolicy) -> Lsn {
    let sim = sim();
    let wal = Wal::open_in(sim.world(), config()).expect("healthy");
    append(&wal, 150);
    sim.pass(120 * MINUTE);
    append(&wal, 55);
    wal.close().expect("healthy");
    let retention_ms = Some(3_600_000);
    let config = WalConfig { retention_ms, compaction, ..config() };
    let wal = Wal::open_in(sim.world(), config).expect("healthy");
    sim.pass(Duration::from_secs(1));
    let first = wal.first_lsn();
    assert_eq!(wal.compact().expect("healthy"), first);
    wal.close().expect("healthy");
    first
}

#[test]
fn what_goes_for_its_age_is_not_cut_once_more_for_its_size() {
    let by_age = first_after_both(CompactionPolicy::None);
    assert!(by_age > Lsn::new(100), "{by_age}: nothing was too old");
    // What is left takes less than that.
    assert_eq!(first_after_both(CompactionPolicy::SizeWindow(12 << 20)), by_age);
}

/// How often somebody asked for answers.
#[derive(Default)]
struct Reaps(AtomicU64);

impl Hook for Reaps {
    fn reap(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_lane_that_is_too_old_before_the_one_that_begins_the_log_is_not_looked_at_all_the_time() {
    let (sim, hook) = (sim(), Arc::new(Reaps::default()));
    let world = sim.world();
    let disk = Arc::new(Through::new(world.disk, &hook));
    let retention_ms = Some(90 * 60_000);
    let config = WalConfig { num_segments: 2, retention_ms, ..config() };
    let wal = Wal::open_in(World { disk, host: world.host }, config).expect("healthy");
    // Record 2 is in one lane, all others are in the other: a watermark takes its turn after 3.
    for wait in [0, 0, 60] {
        append(&wal, 1);
        sim.pass(wait * MINUTE + Duration::from_millis(100));
    }
    append(&wal, 1);
    sim.pass(60 * MINUTE);
    let before = hook.0.load(Ordering::Relaxed);
    sim.pass(20 * MINUTE);
    let reaps = hook.0.load(Ordering::Relaxed) - before;
    assert_eq!(wal.first_lsn(), Lsn::FIRST, "record 1 stands beside 4, which is not too old");
    assert!(reaps < 1000, "{reaps} looks in 20 minutes");
    sim.pass(15 * MINUTE);
    assert_eq!(wal.first_lsn(), Lsn::new(5), "all are too old");
    wal.close().expect("healthy");
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
