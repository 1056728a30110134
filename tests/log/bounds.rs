//! What is bounded stays within its bound, nothing else is cut for it, and nobody waits for ever.

use std::sync::mpsc;
use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{
    Backend, BatchConfig, CompactionPolicy, Durability, ErrorKind, Lsn, ReadOnlyWal, SyncMethod,
    Wal, WalConfig,
};

const DIR: &str = "/log";

fn sim(seed: u64) -> Sim {
    Sim::new(seed, Model::weak(true), Faults::default())
}

fn config(segment_mib: u64) -> WalConfig {
    WalConfig { segment_bytes: segment_mib << 20, ..WalConfig::new(DIR) }
}

/// Bytes of all files of the log.
fn used(sim: &Sim) -> u64 {
    sim.files().iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn a_file_of_somebody_else_counts_for_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let config = WalConfig {
        backend: Backend::Pwrite,
        segment_bytes: 1 << 20,
        compaction: CompactionPolicy::SizeWindow(8 << 20),
        max_disk_bytes: Some(12 << 20),
        ..WalConfig::new(&dir)
    };
    let fill = |wal: &Wal| {
        for _ in 0..40 {
            wal.append_batch([[7; 100_000]]).unwrap().wait().unwrap();
        }
    };
    let wal = Wal::open(config.clone()).unwrap();
    fill(&wal);
    wal.close().unwrap();
    let before = ReadOnlyWal::open(&dir).unwrap().stat();
    std::fs::write(dir.join("backup.tar"), vec![1; 20 << 20]).unwrap();
    std::fs::write(dir.join("pool").join("notes"), vec![1; 20 << 20]).unwrap();
    assert_eq!(ReadOnlyWal::open(&dir).unwrap().stat(), before);
    let wal = Wal::open(config).unwrap();
    wal.append_batch(["one more"]).unwrap().wait().unwrap();
    wal.compact().unwrap();
    assert_eq!(wal.first_lsn(), Lsn::FIRST, "records were cut for it");
    fill(&wal);
}

#[test]
fn every_number_may_be_as_large_as_it_can_be() {
    let batch_config = BatchConfig {
        linger_ms: u64::MAX,
        max_batch_size: usize::MAX,
        max_buffer_bytes: usize::MAX,
        ..BatchConfig::default()
    };
    let config = WalConfig {
        index_interval_bytes: u64::MAX,
        retention_ms: Some(u64::MAX),
        max_disk_bytes: Some(u64::MAX),
        batch_config,
        ..config(1)
    };
    let windows = [CompactionPolicy::SizeWindow(u64::MAX), CompactionPolicy::TimeWindow(u64::MAX)];
    for compaction in windows {
        let sim = sim(1);
        let wal = Wal::open_in(sim.world(), WalConfig { compaction, ..config.clone() }).unwrap();
        for _ in 0..40 {
            wal.append_batch([[7; 100_000]]).unwrap().wait().unwrap();
        }
        wal.with(Durability::Queued).append_batch(["lingers"]).unwrap().wait().unwrap();
        wal.compact().unwrap();
        assert_eq!(wal.first_lsn(), Lsn::FIRST);
        wal.close().unwrap();
    }
}

/// The simulator panics where nobody could ever end a wait.
#[test]
fn a_log_can_be_closed_while_its_window_cuts_several_segments() {
    // Of 1, 4, 16 and 24 MiB: room for the second large one takes several cuts, one by one.
    let compaction = CompactionPolicy::SizeWindow(71 << 20);
    for seed in 0..40 {
        let sim = sim(seed);
        let config = WalConfig { compaction, ..config(24) };
        let wal = Wal::open_in(sim.world(), config).unwrap();
        let mut count = 0;
        while wal.first_lsn() == Lsn::FIRST {
            let ticket = wal.with(Durability::Written).append_batch([[7; 500_000]]).unwrap();
            ticket.wait().unwrap();
            count += 1;
        }
        wal.close().unwrap();
        let log = ReadOnlyWal::open_on(sim.world().disk, DIR).unwrap();
        assert_eq!(log.next_lsn().get(), count + 1);
    }
}

#[test]
fn cutting_what_is_not_there_takes_no_space() {
    let sim = sim(1);
    let wal = Wal::open_in(sim.world(), config(8)).unwrap();
    let grow = |wal: &Wal| wal.append_batch(["one"]).unwrap().wait().unwrap().last();
    let mut last = grow(&wal);
    sim.pass(Duration::from_secs(1));
    let before = used(&sim);
    for _ in 0..50 {
        last = grow(&wal);
        wal.truncate_after(last).unwrap();
        sim.pass(Duration::from_secs(1));
    }
    assert_eq!(used(&sim), before, "nothing was cut, and files were made for it");
    // One that takes something out costs the smallest segment, not the next larger one.
    for _ in 0..10 {
        grow(&wal);
        wal.truncate_after(last).unwrap();
        sim.pass(Duration::from_secs(1));
    }
    assert!(used(&sim) <= before + (12 << 20), "{} after {before} bytes", used(&sim));
}

/// A follower that installs one snapshot after the other, and rests between them: META tells how
/// far the promise goes, no segment is made for that.
#[test]
fn a_log_that_is_reset_again_and_again_takes_no_space() {
    let sim = sim(1);
    let wal = Wal::open_in(sim.world(), config(8)).unwrap();
    wal.append_batch(["one"]).unwrap().wait().unwrap();
    let mut before = None;
    for round in 1..=20 {
        wal.reset_to(Lsn::new(1000 * round)).unwrap();
        sim.pass(Duration::from_secs(3));
        let now = used(&sim);
        assert!(now <= *before.get_or_insert(now), "{now} bytes after {round} resets");
    }
    assert_eq!(wal.append_batch(["two"]).unwrap().wait().unwrap().first(), Lsn::new(20_000));
}

#[test]
fn a_log_can_not_be_reset_to_where_it_has_no_room_left() {
    let sim = sim(1);
    let wal = Wal::open_in(sim.world(), config(1)).unwrap();
    for next in [Lsn::MAX, Lsn::new((1 << 63) + 1)] {
        assert_eq!(wal.reset_to(next).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let next = Lsn::new(1 << 63);
    wal.reset_to(next).unwrap();
    assert_eq!(wal.append_batch(["far"]).unwrap().wait().unwrap().first(), next);
}

#[test]
fn a_batch_too_large_for_the_cap_leaves_small_ones_their_room() {
    let sim = sim(1);
    let config = WalConfig { max_disk_bytes: Some(20 << 20), ..config(4) };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    let append = |len| wal.append_batch([vec![7; len]]).unwrap().wait();
    let (mut small, mut refused) = (0, 0);
    loop {
        refused += u64::from(append(3_900_000).is_err());
        match append(100_000) {
            Ok(_) => small += u64::from(refused > 0),
            Err(error) => break assert_eq!(error.kind(), ErrorKind::StorageFull),
        }
    }
    assert!(refused > 10 && small > 10, "{refused} large ones refused, {small} small ones went in");
}

#[test]
fn a_segment_that_was_sealed_after_its_records_were_cut_goes_too() {
    for seed in 0..200 {
        let sim = sim(seed);
        let wal = Wal::open_in(sim.world(), config(1)).unwrap();
        for _ in 0..14 {
            let ticket = wal.with(Durability::Written).append_batch([[7; 200_000]]).unwrap();
            ticket.wait().unwrap();
        }
        wal.truncate_before(wal.next_lsn()).unwrap();
        sim.pass(Duration::from_secs(5));
        assert!(wal.segment_count() <= 1, "seed {seed}: {} segments", wal.segment_count());
    }
}

#[test]
fn a_cut_that_was_poisoned_before_meta_was_written_cut_nothing() {
    let (mut absent, mut unknown, mut done) = (0, 0, 0);
    for nth in 1.. {
        let sim = sim(nth);
        // With `Auto` the first to fail would be what measures.
        let config = WalConfig { sync_method: SyncMethod::Dsync, ..config(1) };
        let wal = Wal::open_in(sim.world(), config).unwrap();
        for _ in 0..10 {
            wal.append_batch(["record"]).unwrap().wait().unwrap();
        }
        sim.set_faults(Faults { fail_nth: Some(sim.ops() + nth), ..Faults::default() });
        let outcome = wal.truncate_after(Lsn::new(4));
        let after = wal.append_batch(["after"]).and_then(|ticket| ticket.wait());
        sim.set_faults(Faults::default());
        wal.resume().unwrap();
        let texts = wal.reader(Lsn::FIRST).unwrap().map(|record| record.unwrap().data);
        let last = texts.filter(|text| **text == *b"record").count();
        match outcome.map_err(|error| error.kind()) {
            Ok(()) => {
                assert_eq!(last, 4, "fault {nth}");
                done += 1;
            }
            Err(ErrorKind::Poisoned) => {
                assert_eq!(last, 10, "fault {nth}");
                absent += 1;
            }
            Err(ErrorKind::NotConfirmed) => {
                assert!(last == 4 || last == 10, "fault {nth}: {last}");
                unknown += 1;
            }
            Err(kind) => panic!("fault {nth}: {kind}"),
        }
        if after.is_ok() && done > 3 {
            break;
        }
    }
    assert!(absent > 0 && unknown > 0, "{absent} absent, {unknown} unknown, {done} done");
}

#[test]
fn damage_in_the_first_frame_hides_no_other_from_verify() {
    let sim = sim(1);
    let wal = Wal::open_in(sim.world(), config(1)).unwrap();
    wal.append_batch(["first"]).unwrap().wait().unwrap();
    // They share groups: of each only the first frame begins where looking ahead looks.
    let tickets: Vec<_> = (0..20).map(|_| wal.append_batch(["more"]).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert!(wal.metrics().groups < 10, "{}", wal.metrics());
    sim.crash(CrashKind::Kill);
    drop(wal);
    let verify = || {
        let disk = sim.world().disk;
        ReadOnlyWal::verify_on(&*disk, DIR, &mut |_| {}, &mut |_, _| {}).unwrap()
    };
    let before = verify();
    let segment = sim.files().into_iter().map(|(path, _)| path);
    let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "seg")).min();
    // In the first frame, behind the block of the segment header.
    sim.flip(segment.unwrap(), 4096 + 50, 1).unwrap();
    let refused = Wal::open_in(sim.world(), config(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let after = verify();
    assert_eq!((after.frames + 1, after.records + 1), (before.frames, before.records));
}

/// Runs `work` and fails if it takes a minute: it waits for what will never come.
fn in_time(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(Duration::from_secs(600)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap(),
    }
}

#[test]
fn a_truncation_does_not_wait_for_a_record_that_another_one_cut() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let config =
        WalConfig { backend: Backend::Pwrite, segment_bytes: 1 << 20, ..WalConfig::new(dir) };
    let wal = Wal::open(config).unwrap();
    in_time(move || {
        for _ in 0..100 {
            for _ in 0..8 {
                let queued = wal.with(Durability::Queued).append_batch([[7; 100]]);
                queued.unwrap().wait().unwrap();
            }
            let next = wal.next_lsn();
            std::thread::scope(|scope| {
                scope.spawn(|| match wal.truncate_before(next) {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
                });
                match wal.truncate_after(wal.first_lsn().max(Lsn::new(2)).prev()) {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
                }
            });
        }
    });
}
