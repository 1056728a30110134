//! Logs that change under who looks at them or opens them, and what a crash in the middle of a
//! change leaves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prkdb_core::io::{ThreadHost, World};
use prkdb_core::{Backend, ErrorKind, Finding, FindingKind, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::support::gate::{self, Gate};
use crate::support::through::{Hook, Opens, Through};
use crate::support::{config, copy, fill, io_kind, open, record, segments};
use crate::unread::{Coarse, closed_log, through};

/// Another process makes a log when the lock is about to be taken.
struct Makes {
    from: PathBuf,
    to: PathBuf,
    done: AtomicBool,
}

impl Hook for Makes {
    fn before(&self, call: &'static str, _path: &Path) {
        if call == "lock" && !self.done.swap(true, Ordering::Relaxed) {
            copy(&self.from, &self.to);
        }
    }
}

#[test]
fn a_log_of_other_blocks_that_comes_while_one_is_made_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    let host = Arc::new(ThreadHost::new());
    let disk = Arc::new(through(root.path(), &Arc::new(Coarse)));
    let world = World { disk, host: host.clone() };
    let wal = Wal::open_in(world, config(&from, Backend::Pwrite)).unwrap();
    fill(&wal, 1, 10, 1);
    wal.close().unwrap();
    let hook = Arc::new(Makes { from, to: to.clone(), done: AtomicBool::new(false) });
    let world = || World { disk: Arc::new(through(root.path(), &hook)), host: host.clone() };
    let error = Wal::open_in(world(), config(&to, Backend::Pwrite)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    let wal = Wal::open_in(world(), config(&to, Backend::Pwrite)).unwrap();
    assert_eq!(wal.next_lsn(), Lsn::new(11));
    wal.close().unwrap();
}

#[test]
fn a_cut_between_meta_and_its_segments_is_seen_whole() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = gate::open(&gate, config(root.path(), Backend::Pwrite));
    fill(&wal, 1, 10, 10);
    while segments(root.path()).len() < 2 {
        gate::a_moment();
    }
    // None is ready when the log is cut: that would be taken away, and seen to be gone.
    gate.refuse("create", "");
    while wal.segment_count() < 2 {
        fill(&wal, 1, 10, 10);
    }
    fill(&wal, 1, 50, 10);
    let (last, wal) = (wal.next_lsn().get() - 10, Arc::new(Mutex::new((wal, false))));
    let cutting = Arc::clone(&wal);
    // META was read by then.
    let cut = move |path: &Path| {
        let (wal, done) = &mut *cutting.lock().unwrap();
        if path.extension().is_some_and(|e| e == "seg") && !std::mem::replace(done, true) {
            gate.heal();
            wal.truncate_after(Lsn::new(last)).unwrap();
            fill(wal, 2, 30, 10);
            // Until a mark says that they are promised.
            std::thread::sleep(Duration::from_millis(1300));
        }
    };
    let disk = Arc::new(through(root.path(), &Arc::new(Opens(cut))));
    let log = ReadOnlyWal::open_on(disk, root.path()).unwrap();
    let found: Vec<_> = log.reader(Lsn::new(last)).unwrap().map(|r| r.unwrap().data).collect();
    assert!(*found[0] == record(1, last)[..] && *found[1] == record(2, last + 1)[..]);
    assert!(wal.lock().unwrap().1);
}

/// A log of two lanes whose second segment has no name yet, of 20 records, and the gate that holds
/// the name back.
fn one_lane_named(dir: &Path) -> (Wal, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    gate.hold("rename", "00000000000000000002.seg");
    let config = WalConfig { num_segments: 2, ..config(dir, Backend::Pwrite) };
    let wal = gate::open(&gate, config);
    fill(&wal, 1, 20, 1);
    gate.wait_for("rename");
    assert_eq!(segments(dir).len(), 1);
    (wal, gate)
}

/// Looks at a log of which a segment comes and goes, by `go`, after names were read. What it gives.
fn looked_at_while(dir: &Path, go: fn(&Wal, u64)) -> (Wal, Vec<u64>) {
    let (wal, gate) = one_lane_named(dir);
    let wal = Arc::new(Mutex::new((wal, false)));
    let going = Arc::clone(&wal);
    let comes_and_goes = move |path: &Path| {
        let (wal, done) = &mut *going.lock().unwrap();
        if path.extension().is_some_and(|e| e == "seg") && !std::mem::replace(done, true) {
            gate.heal();
            while wal.segment_count() < 2 {
                fill(wal, 1, 1, 1);
            }
            go(wal, wal.next_lsn().get() - 1);
        }
    };
    let disk = Arc::new(through(dir, &Arc::new(Opens(comes_and_goes))));
    let log = ReadOnlyWal::open_on(disk, dir).unwrap();
    let reader = log.reader(log.first_lsn().unwrap()).unwrap();
    let read = reader.map(|read| read.unwrap().lsn.get()).collect();
    drop(log);
    (Arc::into_inner(wal).unwrap().into_inner().unwrap().0, read)
}

#[test]
fn a_lane_that_came_and_was_cut_while_the_log_was_looked_at_leaves_no_hole() {
    let root = tempfile::tempdir().unwrap();
    let (wal, read) = looked_at_while(root.path(), |wal, second| {
        // The first lane gets the last one, and a footer that speaks for both.
        fill(wal, 1, 1, 1);
        wal.truncate_after(Lsn::new(second - 1)).unwrap();
    });
    assert_eq!(read, (1..wal.next_lsn().get()).collect::<Vec<_>>());
    wal.close().unwrap();
}

#[test]
fn a_lane_that_came_and_was_retired_while_the_log_was_looked_at_leaves_no_hole() {
    static KEPT: Mutex<Lsn> = Mutex::new(Lsn::NONE);
    let root = tempfile::tempdir().unwrap();
    // They are filled in turn, but where one had to wait for its segment.
    let second_went_alone = |life: u32| {
        let dir = root.path().join(life.to_string());
        let (wal, read) = looked_at_while(&dir, |wal, _| {
            while wal.segment_count() < 3 {
                fill(wal, 1, 1, 1);
                wal.append_batch([[0; 200_000]]).unwrap().wait().unwrap();
            }
            let kept = wal.next_lsn();
            // What is given was found, so it has to be that much.
            while wal.segment_count() < 4 {
                fill(wal, 1, 10, 1);
            }
            wal.truncate_before(kept).unwrap();
            *KEPT.lock().unwrap() = kept;
        });
        let kept = KEPT.lock().unwrap().get();
        assert_eq!(read, (kept..kept + read.len() as u64).collect::<Vec<_>>());
        assert!(!read.is_empty(), "nothing from {kept} on");
        wal.close().unwrap();
        let is_there = |number: u64| dir.join(format!("{number:020}.seg")).exists();
        is_there(1) && !is_there(2)
    };
    assert!((0..20).any(second_went_alone), "the first lane was always full before the second one");
}

/// Records that `verify` read without a finding, on the caller's thread.
fn verified(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> u64 {
    let told = &mut |finding| panic!("{finding:?}");
    ReadOnlyWal::verify_with(dir, 1, told, progress).unwrap().records
}

#[test]
fn segments_that_a_writer_takes_away_are_no_findings() {
    let root = tempfile::tempdir().unwrap();
    let wal = open(root.path(), Backend::Pwrite);
    fill(&wal, 1, 1300, 13);
    // A reader pins them: they are removed and not used again.
    let pinned: Vec<_> = (0..20).map(|_| wal.reader(Lsn::FIRST).unwrap()).collect();
    let mut known = 0;
    let records = verified(root.path(), &mut |done, _| {
        if known == 0 && done > 0 {
            wal.truncate_before(Lsn::new(1250)).unwrap();
        }
        known = done;
    });
    assert!((1..1300).contains(&records), "{records} records");
    drop(pinned);
    wal.close().unwrap();
}

#[test]
fn a_segment_that_can_not_be_opened_beside_a_writer_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let wal = open(root.path(), Backend::Pwrite);
    fill(&wal, 1, 1300, 13);
    let gate = Arc::new(Gate::default());
    let disk = through(root.path(), &gate);
    let refuse = &mut |_, _| gate.refuse("open", ".seg");
    let error = ReadOnlyWal::verify_on(&disk, root.path(), &mut |_| {}, refuse).unwrap_err();
    assert_eq!(io_kind(&error), Some(io::ErrorKind::PermissionDenied), "{error}");
    wal.close().unwrap();
}

#[test]
fn a_writer_that_comes_while_the_log_is_verified_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir);
    static COMES: Mutex<Option<Wal>> = Mutex::new(None);
    let of = dir.clone();
    let come = move |path: &Path| {
        let mut writer = COMES.lock().unwrap();
        if path.extension().is_some_and(|e| e == "seg") && writer.is_none() {
            *writer = Some(open(&of, Backend::Pwrite));
        }
    };
    let disk = through(&dir, &Arc::new(Opens(come)));
    let tell = &mut |finding| panic!("{finding:?}");
    let summary = ReadOnlyWal::verify_on(&disk, &dir, tell, &mut |_, _| {}).unwrap();
    assert_eq!(summary.records, 1300);
    COMES.lock().unwrap().take().unwrap().close().unwrap();
}

/// A writer that comes, takes away what is oldest, and goes, at each of the first looks at the log
/// in `dir`.
fn visited(dir: &Path, times: u64) -> Through<Opens<impl Fn(&Path) + use<>>> {
    let (of, visits) = (dir.to_path_buf(), Mutex::new((0, false)));
    let visit = move |path: &Path| {
        let (visits, sees) = &mut *visits.lock().unwrap();
        let segment = path.extension().is_some_and(|e| e == "seg");
        // Once a look: when it opens the first segment after something else.
        if segment && !std::mem::replace(sees, segment) && *visits < times {
            *visits += 1;
            let wal = open(&of, Backend::Pwrite);
            wal.truncate_before(Lsn::new(250 * *visits)).unwrap();
            wal.close().unwrap();
        }
        *sees = segment;
    };
    through(dir, &Arc::new(Opens(visit)))
}

#[test]
fn a_writer_that_came_and_went_while_the_log_was_looked_at_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let (dir, other) = (root.path().join("log"), root.path().join("other"));
    closed_log(&dir);
    copy(&dir, &other);
    let disk = visited(&dir, 5);
    let tell = &mut |finding| panic!("{finding:?}");
    let summary = ReadOnlyWal::verify_on(&disk, &dir, tell, &mut |_, _| {}).unwrap();
    // The segment with record 1250 is there whole.
    assert!((51..500).contains(&summary.records), "{summary:?}");
    let log = ReadOnlyWal::open_on(Arc::new(visited(&other, 5)), &other).unwrap();
    assert_eq!(log.first_lsn(), Some(Lsn::new(1250)));
    assert_eq!(log.reader(Lsn::new(1250)).unwrap().count(), 51);
}

#[test]
fn segments_of_which_a_writer_that_came_made_others_are_no_findings() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    let mut come = true;
    let records = verified(root.path(), &mut |done, _| {
        if done > 0 && std::mem::take(&mut come) {
            let wal = open(root.path(), Backend::Pwrite);
            wal.truncate_before(Lsn::new(1250)).unwrap();
            fill(&wal, 2, 1300, 13);
            wal.close().unwrap();
        }
    });
    assert!((1..1300).contains(&records), "{records} records");
}

#[test]
fn a_segment_that_goes_away_and_no_writer_took_is_damage() {
    for threads in [1, 2] {
        let root = tempfile::tempdir().unwrap();
        closed_log(root.path());
        let third = segments(root.path()).swap_remove(2);
        let mut told = Vec::new();
        let removes = &mut |done, _| {
            if done > 0 {
                fs::remove_file(&third).ok();
            }
        };
        let hear = &mut |finding: Finding| told.push((finding.path, finding.kind));
        let summary = ReadOnlyWal::verify_with(root.path(), threads, hear, removes).unwrap();
        // By then another thread may have read it.
        if threads == 1 || summary.records < 1300 {
            assert_eq!(told, [(third, FindingKind::Corrupt)]);
            assert_eq!(summary.damaged, 1);
        }
    }
}

/// After a power cut a retired file may have its old name and its new one.
#[test]
fn a_retired_file_of_two_names_keeps_one() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    let unused = segments(root.path()).pop().unwrap();
    let number = unused.file_stem().unwrap().to_str().unwrap();
    let pooled = root.path().join("pool").join(format!("{number}.free"));
    fs::copy(&unused, &pooled).unwrap();
    let wal = open(root.path(), Backend::Pwrite);
    fill(&wal, 1, 1300, 13);
    assert_eq!(wal.next_lsn(), Lsn::new(2601));
    wal.close().unwrap();
    ReadOnlyWal::verify(root.path(), &mut |f| panic!("{f:?}"), &mut |_, _| {}).unwrap();
}

/// A cut that META holds and whose segments stayed: they are no part of the log.
#[test]
fn segments_that_a_cut_could_not_remove_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let (dir, dead) = (root.path().join("log"), root.path().join("dead"));
    let gate = Arc::new(Gate::default());
    let wal = gate::open(&gate, config(&dir, Backend::Pwrite));
    fill(&wal, 1, 1300, 13);
    gate.refuse("unlink", ".seg");
    gate.refuse("rename-from", ".seg");
    wal.truncate_after(Lsn::new(100)).unwrap();
    copy(&dir, &dead);
    gate.heal();
    assert_eq!(ReadOnlyWal::open(&dead).unwrap().durable_lsn(), Lsn::new(100));
    ReadOnlyWal::verify(&dead, &mut |f| panic!("{f:?}"), &mut |_, _| {}).unwrap();
    let report = prkdb_core::repair(&dead, &mut |_, _| {}).unwrap();
    assert_eq!((report.records_kept, report.records_lost), (100, 0), "{report:?}");
    wal.close().unwrap();
}

/// Told to whoever listens to the log of the program.
#[cfg(all(feature = "cli", feature = "sim"))]
#[test]
fn what_recovery_gave_up_is_in_the_programs_log() {
    use prkdb_core::Durability;
    use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};

    use crate::heard::heard;
    let said = heard(|| {
        for seed in 0..100 {
            let sim = Sim::new(seed, Model::weak(true), Faults::default());
            let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::new("/log") };
            let wal = Wal::open_in(sim.world(), config.clone()).unwrap();
            wal.append_batch(["promised"]).unwrap().wait().unwrap();
            for _ in 0..10 {
                drop(wal.with(Durability::Written).append_batch([[7; 50_000]]).unwrap());
            }
            sim.pass(std::time::Duration::from_micros(300));
            sim.crash(CrashKind::Power);
            drop(wal);
            let wal = Wal::open_in(sim.world(), config).unwrap();
            let report = wal.recovery();
            wal.close().unwrap();
            if !report.given_up.is_empty() {
                return;
            }
        }
        panic!("no seed leaves a torn tail");
    });
    assert!(said.contains("gave up bytes that nobody was promised"), "{said}");
}
