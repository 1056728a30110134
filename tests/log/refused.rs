//! What waits for META, a write or a segment when that fails: all of it is answered, nothing that
//! was promised is lost, and the log goes on after `resume`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use prkdb_core::{Backend, CompactionPolicy, Error, ErrorKind, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::support::gate::{self, Answer, Gate, a_moment};
use crate::support::{config, contents, files, fill, read_all, record};

/// A log of segments of 1 MiB behind a gate.
fn open(dir: &Path, gate: &Arc<Gate>) -> Wal {
    gate::open(gate, config(dir, Backend::Pwrite))
}

fn assert_holds(wal: &Wal, next: u64) {
    assert_eq!(wal.next_lsn(), Lsn::new(next));
    let first = wal.first_lsn().get();
    let found = read_all(wal.reader(wal.first_lsn()).unwrap(), first);
    assert!(found == (first..next).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
}

fn one_of<T: std::fmt::Debug>(outcome: Result<T, Error>, kinds: &[ErrorKind]) {
    let error = outcome.unwrap_err();
    assert!(kinds.contains(&error.kind()), "{error}");
}

const ABSENT: &[ErrorKind] = &[ErrorKind::Poisoned];
const UNKNOWN: &[ErrorKind] = &[ErrorKind::Poisoned, ErrorKind::NotConfirmed];
const FAILED: &[ErrorKind] = &[ErrorKind::Poisoned, ErrorKind::NotConfirmed, ErrorKind::Io];

#[test]
fn jobs_that_wait_for_one_that_fails_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    fill(&wal, 1, 100, 10);
    gate.fail("meta");
    gate.hold("meta", "");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| wal.set_user_state("first"));
        gate.wait_for("meta");
        a_moment();
        let state = scope.spawn(|| wal.set_user_state("second"));
        let before = scope.spawn(|| wal.truncate_before(Lsn::new(50)));
        let compact = scope.spawn(|| wal.compact());
        let after = scope.spawn(|| wal.truncate_after(Lsn::new(50)));
        a_moment();
        gate.free("meta");
        one_of(first.join().unwrap(), FAILED);
        one_of(state.join().unwrap(), ABSENT);
        one_of(before.join().unwrap(), ABSENT);
        one_of(compact.join().unwrap(), ABSENT);
        one_of(after.join().unwrap(), UNKNOWN);
    });
    gate.heal();
    assert_eq!(wal.user_state(), b"");
    wal.resume().unwrap();
    fill(&wal, 1, 10, 1);
    assert_holds(&wal, 111);
    wal.close().unwrap();
}

#[test]
fn a_cut_for_room_is_refused_with_the_segment_it_was_for() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let compaction = CompactionPolicy::SizeWindow(4 << 20);
    let wal = gate::open(&gate, WalConfig { compaction, ..config(root.path(), Backend::Pwrite) });
    // Of five segments that fit, one is being filled and one is ready.
    fill(&wal, 1, 1200, 10);
    gate.fail("meta");
    gate.hold("meta", "");
    std::thread::scope(|scope| {
        let state = scope.spawn(|| wal.set_user_state("first"));
        gate.wait_for("meta");
        let filling = scope.spawn(|| {
            loop {
                let from = wal.next_lsn().get();
                let batch: Vec<_> = (from..from + 50).map(|lsn| record(1, lsn)).collect();
                if let Err(e) = wal.append_batch(batch).and_then(|ticket| ticket.wait()) {
                    break e;
                }
            }
        });
        (0..5).for_each(|_| a_moment());
        gate.free("meta");
        one_of(state.join().unwrap(), FAILED);
        one_of::<()>(Err(filling.join().unwrap()), UNKNOWN);
    });
    gate.heal();
    wal.resume().unwrap();
    fill(&wal, 1, 1000, 10);
    let next = wal.next_lsn();
    // It may cut as long as it is open.
    wal.close().unwrap();
    let log = ReadOnlyWal::open(root.path()).unwrap();
    let first = log.first_lsn().unwrap();
    assert!(first > Lsn::FIRST && log.next_lsn() == next, "{first} to {}", log.next_lsn());
    let kept = (first.get()..next.get()).map(|lsn| record(1, lsn)).collect::<Vec<_>>();
    assert!(contents(root.path()) == kept);
}

/// The first segment is full and has no footer yet, and all of it lies below the start of the log.
fn cut_unsealed(wal: &Wal, gate: &Gate) -> u64 {
    gate.hold("footer", "");
    while wal.segment_count() < 2 {
        fill(wal, 1, 10, 10);
    }
    gate.wait_for("footer");
    let next = wal.next_lsn().get();
    wal.truncate_before(wal.next_lsn().prev()).unwrap();
    next
}

#[test]
fn a_segment_that_is_sealed_late_stays_if_the_log_failed_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    let next = cut_unsealed(&wal, &gate);
    gate.fail("meta");
    gate.hold("meta", "");
    std::thread::scope(|scope| {
        let state = scope.spawn(|| wal.set_user_state("first"));
        gate.wait_for("meta");
        gate.free("footer");
        a_moment();
        gate.free("meta");
        one_of(state.join().unwrap(), FAILED);
    });
    gate.heal();
    wal.resume().unwrap();
    assert_holds(&wal, next);
    wal.close().unwrap();
}

#[test]
fn a_directory_that_can_not_be_synced_poisons_also_for_a_late_segment() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    let next = cut_unsealed(&wal, &gate);
    gate.refuse("sync-dir", "");
    gate.free("footer");
    while wal.health().is_ok() {
        a_moment();
    }
    one_of(wal.set_user_state("state"), ABSENT);
    gate.heal();
    wal.resume().unwrap();
    assert_holds(&wal, next);
    wal.close().unwrap();
}

#[test]
fn a_write_that_gets_nowhere_fails_in_the_end() {
    let nothing: Answer = || Ok(0);
    let interrupted: Answer = || Err(io::ErrorKind::Interrupted.into());
    for (answer, says) in [(nothing, "ulimit -f"), (interrupted, "interrupted")] {
        let root = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate::default());
        let wal = open(root.path(), &gate);
        fill(&wal, 1, 10, 1);
        gate.answer("frames", answer);
        let error = wal.append_batch(["lost"]).unwrap().wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConfirmed, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        gate.heal();
        wal.resume().unwrap();
        fill(&wal, 1, 10, 1);
        assert_holds(&wal, 21);
        wal.close().unwrap();
    }
}

#[test]
fn who_waits_behind_a_cut_hears_that_no_segment_can_be_made() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    // The first segment: the reserve is made under the number 0, by `open` itself.
    gate.hold("create", "1.making");
    let wal = open(root.path(), &gate);
    gate.wait_for("create");
    std::thread::scope(|scope| {
        let before = wal.append_batch(["before"]).unwrap();
        a_moment();
        let cut = scope.spawn(|| wal.reset_to(Lsn::new(10)));
        a_moment();
        let behind = wal.append_batch(["behind"]).unwrap();
        gate.refuse("create", ".making");
        gate.free("create");
        one_of(before.wait(), &[ErrorKind::Io]);
        one_of(behind.wait(), &[ErrorKind::Io]);
        cut.join().unwrap().unwrap();
    });
    assert!(wal.health().is_ok());
    gate.heal();
    fill(&wal, 1, 5, 1);
    assert_eq!(wal.first_lsn(), Lsn::new(10));
    assert_holds(&wal, 15);
    wal.close().unwrap();
}

#[test]
fn a_retired_segment_is_not_used_again_once_the_log_failed() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    fill(&wal, 1, 1200, 10);
    wal.truncate_before(Lsn::new(1100)).unwrap();
    let pooled = files(&root.path().join("pool"), "free");
    assert!(!pooled.is_empty());
    gate.hold("open", ".free");
    let segments = wal.segment_count();
    while wal.segment_count() == segments {
        fill(&wal, 1, 10, 10);
    }
    gate.wait_for("open");
    let next = wal.next_lsn().get();
    gate.fail("frames");
    one_of(wal.append_batch(["lost"]).unwrap().wait(), UNKNOWN);
    gate.free("open");
    a_moment();
    assert_eq!(files(&root.path().join("pool"), "free"), pooled);
    gate.heal();
    wal.resume().unwrap();
    assert_holds(&wal, next);
    wal.close().unwrap();
}

/// What an earlier life cut and did not wipe, and a log that fails while that is wiped.
#[test]
fn who_waits_for_a_wipe_hears_that_the_log_failed() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    fill(&wal, 1, 1800, 10);
    wal.truncate_before(Lsn::new(1700)).unwrap();
    wal.close().unwrap();
    let pooled = files(&root.path().join("pool"), "free").len();
    assert!(pooled >= 3, "{pooled} were retired");
    gate.hold("wipe", "");
    let (wipe_retired, max_disk_bytes) = (true, Some(4 << 20));
    let config = config(root.path(), Backend::Pwrite);
    let wal = gate::open(&gate, WalConfig { wipe_retired, max_disk_bytes, ..config });
    gate.wait_for("wipe");
    std::thread::scope(|scope| {
        let compact = scope.spawn(|| wal.compact());
        a_moment();
        gate.hold("open", ".free");
        gate.free("wipe");
        gate.wait_for("open");
        gate.fail("frames");
        one_of(wal.append_batch(["lost"]).unwrap().wait(), UNKNOWN);
        gate.free("open");
        one_of(compact.join().unwrap(), ABSENT);
    });
    gate.heal();
    wal.resume().unwrap();
    fill(&wal, 1, 10, 1);
    assert_holds(&wal, 1811);
    wal.close().unwrap();
}

#[test]
fn while_the_log_resumes_a_job_is_refused_and_not_lost() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    fill(&wal, 1, 10, 1);
    gate.fail("frames");
    one_of(wal.append_batch(["lost"]).unwrap().wait(), UNKNOWN);
    gate.heal();
    gate.hold("queue of the maker", "");
    std::thread::scope(|scope| {
        let resumed = scope.spawn(|| wal.resume());
        gate.wait_for("queue of the maker");
        one_of(wal.set_user_state("state"), ABSENT);
        gate.heal();
        resumed.join().unwrap().unwrap();
    });
    wal.set_user_state("state").unwrap();
    fill(&wal, 1, 10, 1);
    assert_holds(&wal, 21);
    wal.close().unwrap();
}

#[test]
fn where_the_lock_can_not_be_looked_at_no_file_of_the_log_is_touched() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = open(root.path(), &gate);
    fill(&wal, 1, 600, 10);
    gate.refuse("holds", "");
    let error = loop {
        let batch = [record(1, wal.next_lsn().get())];
        if let Err(e) = wal.append_batch(batch).and_then(|ticket| ticket.wait()) {
            break e;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.path().is_some_and(|path| path.ends_with("LOCK")), "{error}");
    assert!(wal.health().is_ok());
    gate.heal();
    let next = wal.next_lsn().get();
    fill(&wal, 1, 300, 10);
    assert_holds(&wal, next + 300);
    wal.close().unwrap();
}
