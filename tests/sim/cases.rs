//! Cases that are too rare for a seed to meet them: a disk with larger blocks, readers and options
//! across `resume`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prkdb_core::io::World;
use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Durability, Lsn, ReadLevel, ReadOnlyWal, SyncMethod, Wal, WalConfig};

use crate::damage::{frames, segments};
use crate::through::{Hook, Opens, Through};

const DIR: &str = "/log";

fn sim() -> Sim {
    Sim::new(1, Model::weak(true), Faults::default())
}

/// The same disk, seen through direct I/O that wants larger blocks.
struct Coarse;

impl Hook for Coarse {
    fn block_size(&self, real: usize) -> usize {
        4 * real
    }
}

#[test]
fn a_log_keeps_its_block_on_a_disk_that_takes_a_smaller_one() {
    let sim = sim();
    let coarse = || {
        let world = sim.world();
        let disk = Through::new(world.disk, &Arc::new(Coarse));
        World { disk: Arc::new(disk), host: world.host }
    };
    for life in 0..4_u8 {
        let world = if life % 3 == 0 { coarse() } else { sim.world() };
        let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(DIR) };
        let wal = Wal::open_in(world, config).unwrap();
        let records: Vec<_> = wal.reader(Lsn::FIRST).unwrap().map(|r| r.unwrap()).collect();
        assert_eq!(records.len(), usize::from(life) * 40, "life {life}");
        for i in 0..40 {
            // Over the end of a segment, so that new ones are made in each life.
            wal.append_batch([vec![life; 30_000 + i]]).unwrap().wait().unwrap();
        }
        // The second life ends without a close: the third recovers.
        if life == 1 {
            sim.crash(CrashKind::Power);
        } else {
            wal.close().unwrap();
        }
    }
}

#[test]
fn a_reader_across_resume_never_mixes_two_histories() {
    let (mut cut, mut kept) = (0, 0);
    for seed in 0..60 {
        let sim = Sim::new(seed, Model::weak(true), Faults::default());
        let config = WalConfig { sync_method: SyncMethod::Fdatasync, ..WalConfig::new(DIR) };
        // A log that had to be new can be resumed all the same.
        let wal = Wal::open_in(sim.world(), config.create_new()).unwrap();
        wal.append_batch(["promised"]).unwrap().wait().unwrap();
        let written = wal.with(Durability::Written);
        let old: Vec<_> = (0..8).map(|i| format!("first life {i}")).collect();
        written.append_batch(&old).unwrap().wait().unwrap();
        let mut reader = wal.reader_at(Lsn::FIRST, ReadLevel::Written).unwrap();
        for _ in 0..5 {
            reader.next().unwrap().unwrap();
        }
        sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
        assert!(wal.append_batch(["fails"]).unwrap().wait().is_err());
        assert!(wal.append_batch(["refused"]).is_err());
        sim.set_faults(Faults::default());
        wal.resume().unwrap();
        let new: Vec<_> = (0..20).map(|i| format!("second life {i}")).collect();
        wal.append_batch(&new).unwrap().wait().unwrap();
        match reader.next().unwrap() {
            Err(e) => {
                assert_eq!(e.kind(), prkdb_core::ErrorKind::Truncated, "{e}");
                cut += 1;
            }
            Ok(record) => {
                assert_eq!(record, wal.read(record.lsn).unwrap(), "seed {seed}");
                kept += 1;
            }
        }
        for record in reader.take_while(Result::is_ok).flatten() {
            assert_eq!(record, wal.read(record.lsn).unwrap(), "seed {seed}");
        }
        wal.close().unwrap();
    }
    assert!(cut > 0, "no seed lost what was written");
    assert!(kept > 0, "every seed lost what was written");
}

#[test]
fn a_poisoned_log_cuts_nothing_however_old_it_gets() {
    let sim = sim();
    let config = WalConfig {
        sync_method: SyncMethod::Fdatasync,
        retention_ms: Some(500),
        segment_bytes: 1 << 20,
        ..WalConfig::new(DIR)
    };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    // Past the first look at what is old, and short of the moment that the oldest segment is: that
    // the maker already waits for.
    for _ in 0..130 {
        wal.append_batch([vec![0; 40_000]]).unwrap().wait().unwrap();
        sim.pass(Duration::from_millis(4));
    }
    assert_eq!(wal.first_lsn(), Lsn::FIRST, "nothing is old yet");
    sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
    wal.append_batch(["fails"]).unwrap().wait().unwrap_err();
    sim.set_faults(Faults::default());
    let state = || {
        let bytes = |path: &Path| sim.peek(path).unwrap();
        let files = sim.files().into_iter().map(|(path, _)| (bytes(&path), path));
        files.filter(|(_, path)| !path.ends_with("METRICS")).collect::<Vec<_>>()
    };
    let (before, first) = (state(), wal.first_lsn());
    sim.pass(Duration::from_secs(200));
    assert_eq!(wal.first_lsn(), first);
    assert!(state() == before, "a poisoned log writes");
    wal.resume().unwrap();
    sim.pass(Duration::from_secs(20));
    assert!(wal.first_lsn() > first, "what is too old goes once it is well");
    wal.close().unwrap();
}

/// While armed the sync of a directory fails, and what it did not make durable it never will.
struct DirSync {
    sim: Sim,
    fails: AtomicBool,
}

impl Hook for DirSync {
    fn before(&self, call: &'static str, _path: &Path) {
        if call == "sync-dir" && self.fails.load(Ordering::Relaxed) {
            self.sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
        }
    }

    fn after(&self, call: &'static str) {
        if call == "sync-dir" {
            self.sim.set_faults(Faults::default());
        }
    }
}

#[test]
fn a_segment_that_was_cut_and_comes_back_is_still_cut() {
    for seed in 0..20 {
        let sim = Sim::new(seed, Model::weak(true), Faults::default());
        let hook = Arc::new(DirSync { sim: sim.clone(), fails: AtomicBool::new(false) });
        let open = || {
            let world = sim.world();
            let disk = Arc::new(Through::new(world.disk, &hook));
            Wal::open_in(World { disk, host: world.host }, WalConfig::new(DIR)).unwrap()
        };
        let wal = open();
        wal.append_batch((0..100).map(|n| format!("first life {n}")).collect::<Vec<_>>())
            .unwrap()
            .wait()
            .unwrap();
        hook.fails.store(true, Ordering::Relaxed);
        wal.reset_to(Lsn::new(40)).unwrap_err();
        hook.fails.store(false, Ordering::Relaxed);
        wal.resume().unwrap();
        assert_eq!(wal.next_lsn(), Lsn::new(40));
        wal.append_batch(["second life"]).unwrap().wait().unwrap();
        wal.close().unwrap();
        // Nobody sees the old segment now, so whoever opens the log can't know of it.
        open().close().unwrap();
        sim.crash(CrashKind::Power);
        let wal = open();
        let found: Vec<_> = wal.reader(Lsn::new(40)).unwrap().map(|found| found.unwrap()).collect();
        assert_eq!(found.len(), 1, "seed {seed}");
        assert_eq!(found[0].data[..], *b"second life", "seed {seed}");
        wal.close().unwrap();
    }
}

#[test]
fn a_follower_opens_a_segment_once_however_often_it_looks() {
    for num_segments in [1, 4] {
        let (sim, opened) = (sim(), Arc::new(AtomicU64::new(0)));
        let config = WalConfig { num_segments, segment_bytes: 1 << 20, ..WalConfig::new(DIR) };
        let wal = Wal::open_in(sim.world(), config).unwrap();
        let counter = Arc::clone(&opened);
        let count = move |_: &Path| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let disk = Through::new(sim.world().disk, &Arc::new(Opens(count)));
        for _ in 0..500 {
            wal.append_batch([vec![0; 4000]]).unwrap().wait().unwrap();
        }
        let mut outside = ReadOnlyWal::open_on(Arc::new(disk), DIR).unwrap();
        let (mut reader, mut by_reader) = (outside.reader(Lsn::FIRST).unwrap(), 0);
        for round in 0..100 {
            // It lags behind: most of what it reads was sealed long ago.
            for i in 0..8 {
                wal.append_batch([vec![i; 4000]]).unwrap().wait().unwrap();
            }
            outside.refresh().unwrap();
            let before = opened.load(Ordering::Relaxed);
            assert_eq!(reader.by_ref().take(round / 20).map(Result::unwrap).count(), round / 20);
            by_reader += opened.load(Ordering::Relaxed) - before;
        }
        let segments = outside.stat().segments;
        assert!(by_reader <= segments, "opened {by_reader} times to read {segments} segments");
        wal.close().unwrap();
    }
}

/// A segment under another number, all its checksums made anew.
fn renumbered(segment: &[u8], number: u64) -> Vec<u8> {
    let mut copy = segment.to_vec();
    let frames: Vec<_> = frames(segment).into_iter().map(|(at, _)| at).collect();
    copy[32..40].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&[&copy[..12], &copy[16..4096]].concat());
    copy[12..16].copy_from_slice(&crc.to_le_bytes());
    for at in frames {
        copy[at + 48..at + 56].copy_from_slice(&number.to_le_bytes());
        let salt = [&segment[48..64], &(at as u64).to_le_bytes()].concat();
        let crc = crc32fast::hash(&[&salt, &copy[at..at + 68]].concat());
        copy[at + 68..at + 72].copy_from_slice(&crc.to_le_bytes());
    }
    copy
}

#[test]
fn a_tail_that_somebody_forged_a_second_time_is_no_panic() {
    // Read through the page cache: the tail is copied before it is served.
    let sim = Sim::new(7, Model::ordered(false), Faults::default());
    let wal = Wal::open_in(sim.world(), WalConfig::new(DIR)).unwrap();
    for n in 1..4 {
        wal.append_batch([format!("record {n}")]).unwrap().wait().unwrap();
    }
    sim.crash(CrashKind::Kill);
    drop(wal);
    let (path, bytes) = segments(&sim).remove(0);
    let number = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) + 10;
    let copy = path.with_file_name(format!("{number:020}.seg"));
    sim.put(&copy, &renumbered(&bytes, number)).unwrap();
    let wal = Wal::open_in(sim.world(), WalConfig::new(DIR)).unwrap();
    let read: Vec<_> = wal.reader(Lsn::FIRST).unwrap().map(|r| r.unwrap().data.to_vec()).collect();
    assert_eq!(read, ["record 1", "record 2", "record 3"].map(|r| r.as_bytes().to_vec()));
    wal.close().unwrap();
}
