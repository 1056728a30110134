//! Where a rule meets its edge: a failure that only memory knows of, a wait for what is not there
//! yet, lanes that are full to the last block, files that can't be removed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prkdb_core::io::World;
use prkdb_core::io::sim::{Failure, Faults, Model, Sim};
use prkdb_core::{
    BatchConfig, CompactionPolicy, Durability, ErrorKind, Finding, Lsn, ReadOnlyWal, Wal, WalConfig,
};

use crate::damage::{frames, segments};
use crate::through::{Hook, Through};

const DIR: &str = "/log";

fn sim() -> Sim {
    Sim::new(7, Model::weak(true), Faults::default())
}

fn config() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(DIR) }
}

fn open(sim: &Sim, config: WalConfig) -> Wal {
    Wal::open_in(sim.world(), config).expect("a healthy world opens")
}

fn append(wal: &Wal, len: usize) -> prkdb_core::Result<()> {
    wal.append_batch([vec![7; len]])?.wait().map(drop)
}

/// Nothing of the next write lands: no header on the disk tells of what was answered before it.
fn poison(sim: &Sim, wal: &Wal) {
    let (fail_nth, fail_as) = (Some(sim.ops() + 1), Failure::Canceled);
    sim.set_faults(Faults { fail_nth, fail_on: true, fail_as, ..Faults::default() });
    append(wal, 100).expect_err("nothing works");
    sim.set_faults(Faults::default());
}

/// The last group was answered, nothing that came after it says so on the disk, and it is lost.
pub fn resume_remembers_what_was_answered() {
    let sim = sim();
    let wal = open(&sim, config());
    for _ in 0..3 {
        append(&wal, 100).expect("a healthy world writes");
    }
    let (path, bytes) = segments(&sim).pop().expect("the one there is");
    let (at, _) = frames(&bytes)[2];
    sim.flip(&path, at as u64 + 80, 1).expect("it is inside");
    poison(&sim, &wal);
    for _ in 0..2 {
        let refused = wal.resume().expect_err("record 3 was answered");
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert_eq!(refused.path(), Some(&*path), "{refused}");
    }
    // Restored, it is as it was.
    sim.flip(&path, at as u64 + 80, 1).expect("it is inside");
    wal.resume().expect("a healthy world");
    // The fourth may have landed.
    assert!(wal.durable_lsn() >= Lsn::new(3), "{}", wal.durable_lsn());
    // What was cut since is not asked for.
    wal.truncate_after(Lsn::new(1)).expect("a healthy world");
    poison(&sim, &wal);
    wal.resume().expect("a healthy world");
    assert!(wal.next_lsn() <= Lsn::new(3), "{}", wal.next_lsn());
    // But what was answered after that cut is.
    append(&wal, 100).expect("a healthy world writes");
    let last = wal.durable_lsn();
    let (path, bytes) = segments(&sim).pop().expect("the one after the cut");
    let (at, _) = *frames(&bytes).last().expect("it holds the record");
    sim.flip(&path, at as u64 + 80, 1).expect("it is inside");
    poison(&sim, &wal);
    assert_eq!(wal.resume().expect_err("it was answered").kind(), ErrorKind::Corrupt);
    sim.flip(&path, at as u64 + 80, 1).expect("it is inside");
    wal.resume().expect("a healthy world");
    assert!(wal.durable_lsn() >= last, "{} of {last}", wal.durable_lsn());
    wal.close().expect("a healthy world");
}

#[test]
fn a_resume_gives_up_nothing_that_was_answered() {
    resume_remembers_what_was_answered();
}

#[test]
fn who_waits_for_a_record_to_come_does_not_wait_for_the_linger() {
    let sim = sim();
    let batch_config = BatchConfig { linger_ms: 60_000, ..BatchConfig::default() };
    let wal = open(&sim, WalConfig { batch_config, ..config() });
    let mut wait = wal.wait_durable(Lsn::FIRST).expect("it may come");
    let queued = wal.with(Durability::Queued).append_batch(["a record"]);
    queued.expect("room").wait().expect("its place");
    sim.pass(Duration::from_millis(50));
    assert_eq!(wait.try_wait().expect("answered").expect("a healthy world"), Lsn::FIRST);
    wal.close().expect("a healthy world");
}

/// A batch finds no room in either lane, and no segment can be made: the lane that is rolled then
/// holds the last record.
#[test]
fn a_log_that_was_closed_on_a_full_disk_is_not_called_damaged() {
    let sim = sim();
    let wal = open(&sim, WalConfig { num_segments: 2, max_disk_bytes: Some(4 << 20), ..config() });
    append(&wal, 100).expect("room");
    append(&wal, 100).expect("room");
    append(&wal, 600_000).expect("room");
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(append(&wal, 1_000_000).is_err());
    }
    assert!(refused > 0);
    let next = wal.next_lsn();
    wal.close().expect("it is whole");
    let mut found: Vec<Finding> = Vec::new();
    let tell = &mut |finding| found.push(finding);
    ReadOnlyWal::verify_on(&*sim.world().disk, DIR, tell, &mut |_, _| {}).expect("healthy");
    assert_eq!(found, []);
    assert_eq!(open(&sim, config()).next_lsn(), next);
}

#[test]
fn the_watermark_is_written_down_though_the_segment_is_full() {
    let sim = sim();
    let wal = open(&sim, config());
    // Header and footer take a block each.
    let blocks = (1 << 20) / 4096 - 2;
    for _ in 0..blocks {
        append(&wal, 100).expect("a healthy world writes");
    }
    sim.pass(Duration::from_secs(5));
    let log = ReadOnlyWal::open_on(sim.world().disk, DIR).expect("a healthy world");
    assert_eq!(log.promised_lsn(), Lsn::new(blocks));
    wal.close().expect("a healthy world");
}

/// No segment can be taken away while this is set.
struct Immutable(AtomicBool);

impl Hook for Immutable {
    fn fails(&self, call: &'static str, path: &Path) -> bool {
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        let takes_away = is_segment && matches!(call, "unlink" | "rename-from");
        takes_away && self.0.load(Ordering::Relaxed)
    }
}

fn immutable(sim: &Sim, config: WalConfig) -> (Wal, Arc<Immutable>) {
    let (world, hook) = (sim.world(), Arc::new(Immutable(AtomicBool::new(true))));
    let disk = Through::new(Arc::clone(&world.disk), &hook);
    let world = World { disk: Arc::new(disk), ..world };
    (Wal::open_in(world, WalConfig { segment_bytes: 2 << 20, ..config }).expect("healthy"), hook)
}

/// Appends until that is refused.
fn append_until_full(wal: &Wal) -> prkdb_core::Error {
    let refused = (0..400).find_map(|_| append(wal, 60_000).err());
    let refused = refused.expect("there is a limit and nothing goes");
    assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
    refused
}

#[test]
fn a_window_does_not_cut_history_for_space_that_it_does_not_get() {
    let sim = sim();
    let compaction = CompactionPolicy::SizeWindow(8 << 20);
    let (wal, hook) = immutable(&sim, WalConfig { compaction, ..config() });
    let refused = append_until_full(&wal);
    assert!(refused.to_string().contains("could not be removed"), "{refused}");
    let first = wal.first_lsn();
    assert!((2..40).contains(&first.get()), "the log starts at {first}: several were cut");
    for _ in 0..10 {
        assert_eq!(append(&wal, 60_000).expect_err("as before").kind(), ErrorKind::StorageFull);
    }
    assert_eq!(wal.first_lsn(), first, "each attempt cuts another one");
    // Once it can be removed that makes room; it was the first and small, so one more has to go.
    hook.0.store(false, Ordering::Relaxed);
    append(&wal, 60_000).expect("there is room");
    assert!(wal.first_lsn().get() < 60, "the log starts at {}: several went", wal.first_lsn());
    for _ in 0..200 {
        append(&wal, 60_000).expect("the window goes on");
    }
    wal.close().expect("healthy");
}

#[test]
fn what_a_truncation_could_not_remove_goes_when_its_space_is_needed() {
    let sim = sim();
    let (wal, hook) = immutable(&sim, WalConfig { max_disk_bytes: Some(8 << 20), ..config() });
    append_until_full(&wal);
    let keep = wal.durable_lsn();
    wal.truncate_before(keep).expect("META can be written");
    append_until_full(&wal);
    hook.0.store(false, Ordering::Relaxed);
    for _ in 0..50 {
        append(&wal, 60_000).expect("there is room");
    }
    assert_eq!(wal.first_lsn(), keep);
    wal.close().expect("healthy");
}

#[test]
fn a_segment_that_somebody_else_removed_is_not_in_the_way() {
    let sim = sim();
    let compaction = CompactionPolicy::SizeWindow(8 << 20);
    let (wal, hook) = immutable(&sim, WalConfig { compaction, ..config() });
    append_until_full(&wal);
    let first = wal.first_lsn();
    // The oldest, which the log could not remove.
    let (oldest, _) = segments(&sim).into_iter().next().expect("there are several");
    sim.world().disk.unlink(&oldest).expect("it is there");
    append(&wal, 60_000).expect("there is room");
    assert_eq!(wal.first_lsn(), first);
    hook.0.store(false, Ordering::Relaxed);
    for _ in 0..200 {
        append(&wal, 60_000).expect("the window goes on");
    }
    wal.close().expect("healthy");
}
