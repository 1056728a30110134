//! What who only looks at a log is told where the device fails, or where its writer died.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prkdb_core::io::open_disk;
use prkdb_core::{
    Backend, Durability, ErrorKind, FindingKind, Lsn, ReadOnlyWal, RecoveryPolicy, Wal, WalConfig,
};

use crate::support::format;
use crate::support::through::{Hook, Through};
use crate::support::{config, copy, fill, on_each_backend, open, record, segments};

/// One sector of a file can't be read.
struct BadSector {
    path: PathBuf,
    at: u64,
    readers: usize,
}

impl Hook for BadSector {
    fn readers(&self, _real: usize) -> usize {
        self.readers
    }

    fn read(&self, path: &Path, at: u64, len: usize) -> io::Result<()> {
        let hit = path == self.path && (at..at + len as u64).contains(&self.at);
        if hit { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

#[test]
fn verify_names_a_place_that_cannot_be_read_and_reads_the_other_segments() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let wal = open(&dir, Backend::Auto);
    fill(&wal, 1, 2000, 10);
    wal.close().unwrap();
    let [_, second, .., last] = &segments(&dir)[..] else { panic!("too few segments") };
    let disk = || open_disk(&dir, Backend::Pwrite).unwrap().0;
    let verify = |path: &Path| {
        let hook = Arc::new(BadSector { path: path.into(), at: 300_000, readers: 1 });
        let mut found = Vec::new();
        let tell = &mut |finding| found.push(finding);
        let summary =
            ReadOnlyWal::verify_on(&Through::new(disk(), &hook), &dir, tell, &mut |_, _| {});
        (found, summary)
    };
    let (found, summary) = verify(second);
    let [bad] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&bad.path, bad.kind), (second, FindingKind::Unreadable), "{bad:?}");
    assert!(bad.is_damage() && bad.lsn.is_some(), "{bad:?}");
    // The batch that reaches into the sector; those before it are read.
    assert!((250_000..=300_000).contains(&bad.offset), "{bad:?}");
    let summary = summary.unwrap();
    assert_eq!(summary.damaged, 1);
    assert!((1400..2000).contains(&summary.records), "{} records", summary.records);
    // How the log ends stands in the last one: without that there is nothing to say.
    let refused = verify(last).1.unwrap_err();
    assert_eq!(refused.path(), Some(&**last), "{refused}");
}

#[test]
fn what_a_dead_writer_had_not_promised_is_served_and_told_apart() {
    on_each_backend(|dir, backend| {
        let wal = open(&dir.join("log"), backend);
        fill(&wal, 1, 20, 20);
        let before = Instant::now();
        let written: Vec<_> = (21..31).map(|lsn| record(1, lsn)).collect();
        wal.with(Durability::Written).append_batch(&written).unwrap().wait().unwrap();
        let dead = dir.join("dead");
        copy(&dir.join("log"), &dead);
        // The writer syncs by itself after a second.
        let quick = before.elapsed() < Duration::from_millis(900);
        let log = ReadOnlyWal::open(&dead).unwrap();
        assert_eq!(log.durable_lsn(), Lsn::new(30), "{backend}");
        let promised = log.promised_lsn().get();
        assert!(promised == 20 || promised == 30 && !quick, "{backend}: {promised}");
        wal.close().unwrap();
        let log = ReadOnlyWal::open(dir.join("log")).unwrap();
        assert_eq!((log.durable_lsn(), log.promised_lsn()), (Lsn::new(30), Lsn::new(30)));
    });
}

/// Segments that have no footer, several at once, read by as many threads.
#[test]
fn segments_read_side_by_side_come_to_the_same() {
    let root = tempfile::tempdir().unwrap();
    let config = WalConfig { num_segments: 4, ..config(&root.path().join("log"), Backend::Auto) };
    let wal = Wal::open(config).unwrap();
    fill(&wal, 1, 1000, 10);
    let dead = root.path().join("dead");
    copy(&root.path().join("log"), &dead);
    wal.close().unwrap();
    let look = |readers, path: &Path, at| {
        let hook = Arc::new(BadSector { path: path.into(), at, readers });
        let disk = Through::new(open_disk(&dead, Backend::Pwrite).unwrap().0, &hook);
        ReadOnlyWal::open_on(Arc::new(disk), &dead)
    };
    let [alone, many] = [1, 4].map(|readers| look(readers, Path::new(""), 0).unwrap());
    assert_eq!(alone.stat(), many.stat());
    assert_eq!(alone.recovery(), many.recovery());
    assert!(many.next_lsn() > Lsn::new(1000), "{}", many.next_lsn());
    let mut refused = 0;
    for path in segments(&dead) {
        // In its first frame, which is looked at only where there is no footer.
        let [alone, many] = [1, 4].map(|readers| look(readers, &path, 4096));
        assert_eq!(alone.is_ok(), many.is_ok(), "{}", path.display());
        if let (Err(alone), Err(many)) = (alone, many) {
            refused += 1;
            assert_eq!((alone.kind(), alone.path()), (ErrorKind::Io, Some(&*path)), "{alone}");
            assert_eq!((many.kind(), many.path()), (ErrorKind::Io, Some(&*path)), "{many}");
        }
    }
    assert!(refused >= 3, "{refused} segments had no footer");
}

/// Keeps what is said of files that will be read.
#[derive(Default)]
struct Hints(Mutex<Vec<(PathBuf, u64, u64)>>);

impl Hook for Hints {
    fn will_need(&self, path: &Path, at: u64, len: u64) {
        self.0.lock().unwrap().push((path.to_path_buf(), at, len));
    }
}

/// What is asked for ahead is what a reader of many comes to, and nothing else: an empty stretch
/// would mean all the rest of a file.
#[test]
fn only_who_reads_on_has_anything_read_ahead() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let config = WalConfig { segment_bytes: 4 << 20, ..config(&dir, Backend::Auto) };
    let wal = Wal::open(config).unwrap();
    for _ in 0..400 {
        wal.append_batch([vec![7; 30_000]]).unwrap().wait().unwrap();
    }
    wal.close().unwrap();
    let hook = Arc::new(Hints::default());
    let disk = Through::new(open_disk(&dir, Backend::Pwrite).unwrap().0, &hook);
    let log = ReadOnlyWal::open_on(Arc::new(disk), &dir).unwrap();
    for lsn in 1..=400 {
        assert_eq!(log.read(Lsn::new(lsn)).unwrap().data.len(), 30_000);
    }
    assert_eq!(log.reader(Lsn::FIRST).unwrap().take(5).count(), 5);
    assert_eq!(hook.0.lock().unwrap().len(), 0, "for one record, or a few");
    assert_eq!(log.reader(Lsn::FIRST).unwrap().map(Result::unwrap).count(), 400);
    let hints = hook.0.lock().unwrap();
    let asked: u64 = hints.iter().map(|(_, _, len)| len).sum();
    assert!((8 << 20..12 << 20).contains(&asked), "{asked} bytes of 12 MB");
    for (path, at, len) in &*hints {
        let size = std::fs::metadata(path).unwrap().len();
        assert!(*len > 0 && at + len < size, "{len} bytes at {at} of {}", path.display());
    }
}

/// A segment that is read ahead of the scan comes to what is read by the scan alone, also where a
/// frame is bad or a place can't be read.
#[test]
fn a_scan_that_is_read_ahead_of_comes_to_the_same() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("log");
    let wal = Wal::open(WalConfig { segment_bytes: 32 << 20, ..config(&log, Backend::Auto) });
    let wal = wal.unwrap();
    // Grown to its full size, and half full: many frames to a piece, and one over several pieces.
    let large = vec![7_u8; 3 << 20];
    while wal.segment_count() < 4 {
        wal.append_batch([&large]).unwrap().wait().unwrap();
    }
    for lsn in 0..1000 {
        let record = if lsn == 500 { &large } else { &large[..10_000] };
        wal.append_batch([record]).unwrap().wait().unwrap();
    }
    let next = wal.next_lsn();
    let dead = root.path().join("dead");
    copy(&log, &dead);
    wal.close().unwrap();
    let last = segments(&dead).pop().unwrap();
    assert_eq!(std::fs::metadata(&last).unwrap().len(), 32 << 20);
    let look = |at| {
        [1, 4].map(|readers| {
            let hook = Arc::new(BadSector { path: last.clone(), at, readers });
            let disk = Through::new(open_disk(&dead, Backend::Pwrite).unwrap().0, &hook);
            ReadOnlyWal::open_on(Arc::new(disk), &dead)
        })
    };
    let same = |at, what: &str| match look(at) {
        [Ok(alone), Ok(ahead)] => {
            assert_eq!(alone.stat(), ahead.stat(), "{what}");
            assert_eq!(alone.recovery(), ahead.recovery(), "{what}");
            Ok(ahead.next_lsn())
        }
        [Err(alone), Err(ahead)] => {
            assert_eq!(alone.to_string(), ahead.to_string(), "{what}");
            Err(ahead.kind())
        }
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(same(u64::MAX, "whole"), Ok(next));
    // The sector is in what the walk reads, or beyond it: then that is looked through for frames.
    for at in [4096, 5 << 20, (9 << 20) + 512, 30 << 20] {
        let outcome = same(at, "unreadable");
        assert!(outcome == Err(ErrorKind::Io) || at == 30 << 20 && outcome.is_ok(), "{at}");
    }
    let whole = std::fs::read(&last).unwrap();
    for at in [4096 + 30, (3 << 20) + 77, (7 << 20) + 1, (12 << 20) + 4095] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&last, &damaged).unwrap();
        assert!(same(u64::MAX, "damaged").is_err(), "promised, and damaged at {at}");
    }
}

/// Of lanes with a hole all are looked at twice: a place that can't be read is still one finding.
#[test]
fn verify_names_an_unreadable_place_of_lanes_with_a_hole_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let lanes = WalConfig { num_segments: 4, ..config(&dir, Backend::Auto) };
    let wal = Wal::open(lanes.clone()).unwrap();
    // So many that some are sealed and far from the hole, however they were woven.
    fill(&wal, 1, 6000, 10);
    wal.close().unwrap();
    let (frames, _) = format::frames(&segments(&dir)[1]);
    let frame = &frames[frames.len() / 2];
    format::change(&frame.path, frame.offset..frame.offset + frame.len, |bytes| bytes[100] ^= 1);
    let wal = Wal::open(WalConfig { recovery: RecoveryPolicy::Salvage, ..lanes }).unwrap();
    assert_eq!(wal.holes().len(), 1);
    wal.close().unwrap();
    let (mut told, all) = (0, segments(&dir));
    for path in &all {
        let bytes = std::fs::read(path).unwrap();
        if bytes[499_712..503_808].iter().all(|byte| *byte == 0) {
            continue;
        }
        let hook = Arc::new(BadSector { path: path.clone(), at: 500_000, readers: 1 });
        let disk = Through::new(open_disk(&dir, Backend::Pwrite).unwrap().0, &hook);
        let mut found = Vec::new();
        let tell = &mut |finding| found.push(finding);
        match ReadOnlyWal::verify_on(&disk, &dir, tell, &mut |_, _| {}) {
            Ok(_) => told += 1,
            // Without that segment it is not known how the log ends.
            Err(e) => {
                assert_eq!((e.kind(), e.path()), (ErrorKind::Io, Some(&**path)), "{e}");
                continue;
            }
        }
        found.retain(prkdb_core::Finding::is_damage);
        let [bad] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&bad.path, bad.kind), (path, FindingKind::Unreadable), "{bad:?}");
    }
    assert!(told > 2, "{told} of {} segments", all.len());
}
