//! Segments roll, are sealed, cut and used again; who reads meanwhile gets records or `Truncated`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prkdb_core::io::{Op, ThreadHost, World, open_disk};
use prkdb_core::{Backend, CompactionPolicy, ErrorKind, Lsn, ReadOnlyWal, Verdict, Wal, WalConfig};

use crate::support::through::{Hook, Through};
use crate::support::{
    config, contents, copy, files, fill, format, on_each_backend, open, read_all, record, segments,
};

fn inodes(paths: &[std::path::PathBuf]) -> BTreeSet<u64> {
    paths.iter().map(|path| fs::metadata(path).unwrap().ino()).collect()
}

fn assert_holds(wal: &Wal, first: u64, next: u64) {
    assert_eq!((wal.first_lsn().get(), wal.next_lsn().get()), (first, next));
    let found = read_all(wal.reader(Lsn::new(first)).unwrap(), first);
    assert!(found == (first..next).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
}

#[test]
fn segments_roll_and_all_but_the_open_one_are_sealed() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 2000, 10);
        wal.close().unwrap();
        let (frames, _) = format::log(dir);
        let with_frames: BTreeSet<_> = frames.iter().map(|f| &f.path).collect();
        assert!(with_frames.len() >= 4, "{with_frames:?}");
        let open = frames.iter().filter(|f| !f.sealed).map(|f| &f.path).collect::<BTreeSet<_>>();
        assert!(open.len() <= 1, "{open:?} have no footer");
        assert!(segments(dir).iter().all(|path| fs::metadata(path).unwrap().len() == 1 << 20));
        assert_eq!(contents(dir).len(), 2000);
    });
}

#[test]
fn cut_segments_are_used_again_and_hold_only_what_is_new() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 1500, 10);
        let old = inodes(&segments(dir));
        let reader = wal.reader(Lsn::FIRST).unwrap();
        drop(reader);
        wal.truncate_before(Lsn::new(1400)).unwrap();
        assert_eq!(wal.read(Lsn::new(1399)).unwrap_err().kind(), ErrorKind::Truncated);
        assert_eq!(wal.reader(Lsn::FIRST).unwrap_err().kind(), ErrorKind::Truncated);
        let pooled = inodes(&files(&dir.join("pool"), "free"));
        assert!(!pooled.is_empty() && pooled.is_subset(&old), "nothing was kept for use again");
        fill(&wal, 1, 1500, 10);
        let now = inodes(&segments(dir));
        assert!(!now.is_disjoint(&old), "no file was used again");
        assert_holds(&wal, 1400, 3001);
        wal.truncate_before(Lsn::new(10)).unwrap();
        assert_holds(&wal, 1400, 3001);
        wal.close().unwrap();
        ReadOnlyWal::verify(dir, &mut |f| panic!("{f:?}"), &mut |_, _| {}).unwrap();
        let wal = open(dir, backend);
        assert_holds(&wal, 1400, 3001);
        wal.truncate_before(wal.next_lsn()).unwrap();
        assert_holds(&wal, 3001, 3001);
        wal.close().unwrap();
        let wal = open(dir, backend);
        fill(&wal, 1, 20, 5);
        assert_holds(&wal, 3001, 3021);
    });
}

/// Behind its last record stands what an earlier life wrote.
#[test]
fn a_log_that_was_closed_goes_on_in_a_segment_that_is_used_again() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 3000, 10);
        wal.truncate_before(wal.next_lsn()).unwrap();
        fill(&wal, 1, 2010, 10);
        assert!(wal.metrics().segments_recycled > 1);
        let last = || format::log(dir).0.pop().unwrap();
        // What follows has to fit; how full the segment is hangs on how batches were grouped.
        while last().offset > 700_000 {
            fill(&wal, 1, 10, 10);
        }
        let mut next = wal.next_lsn().get();
        wal.close().unwrap();
        let tail = last().path;
        for _ in 0..4 {
            let wal = open(dir, backend);
            assert_eq!(wal.recovery().verdict, Verdict::Clean);
            fill(&wal, 1, 10, 5);
            next += 10;
            wal.close().unwrap();
            assert_eq!(last().path, tail, "{backend}");
        }
        ReadOnlyWal::verify(dir, &mut |f| panic!("{f:?}"), &mut |_, _| {}).unwrap();
        let wal = open(dir, backend);
        assert_holds(&wal, 3001, next);
        wal.close().unwrap();
    });
}

/// Rot in the first frame there is no former life: what follows it is read and counted.
#[test]
fn rot_where_a_segment_that_is_used_again_begins_is_named() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 3000, 10);
    wal.truncate_before(wal.next_lsn()).unwrap();
    fill(&wal, 1, 2010, 10);
    wal.close().unwrap();
    let tail_of = |frames: &[format::Frame]| frames.last().unwrap().path.clone();
    let mut frames = format::log(dir).0;
    // How full the last segment is hangs on how batches were grouped.
    let mut more = 0..20;
    while frames.iter().filter(|f| f.path == tail_of(&frames)).count() <= 10 {
        more.next().expect("some segment gets so many");
        let wal = open(dir, Backend::Pwrite);
        fill(&wal, 1, 50, 10);
        wal.close().unwrap();
        frames = format::log(dir).0;
    }
    let tail = &tail_of(&frames);
    let ours: Vec<_> = frames.iter().filter(|f| f.path == *tail).collect();
    assert!(frames[0].path != *tail);
    let mut bytes = fs::read(tail).unwrap();
    bytes[ours[0].offset + 200] ^= 1;
    fs::write(tail, bytes).unwrap();
    let mut told = Vec::new();
    let summary = ReadOnlyWal::verify(dir, &mut |f| told.push(f), &mut |_, _| {}).unwrap();
    assert_eq!(summary.frames, frames.len() as u64 - 1, "{told:?}");
    let [found] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&found.path, found.offset), (tail, ours[0].offset as u64), "{found:?}");
    assert!(found.detail.contains("checksum"), "{found:?}");
    let error = Wal::open(config(dir, Backend::Pwrite)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("checksum"), "{error}");
}

/// Who cuts seldom cuts many: of small ones more than four are worth their place.
#[test]
fn of_small_segments_many_are_kept_for_use_again() {
    let root = tempfile::tempdir().unwrap();
    let wal = open(root.path(), Backend::Pwrite);
    fill(&wal, 1, 6000, 10);
    wal.truncate_before(wal.next_lsn()).unwrap();
    let retired = wal.metrics().segments_retired;
    assert!(retired > 8, "{retired}");
    let pooled = |dir: &Path| files(&dir.join("pool"), "free").len() as u64;
    assert!(pooled(root.path()) + 1 >= retired, "{} of {retired}", pooled(root.path()));
    wal.close().unwrap();
    let wal = open(root.path(), Backend::Pwrite);
    fill(&wal, 2, 3000, 10);
    let metrics = wal.metrics();
    assert_eq!(metrics.segments_made, 0, "{metrics}");
    assert!(metrics.segments_recycled >= retired / 2, "{metrics}");
    wal.close().unwrap();
}

#[test]
fn a_reader_on_a_cut_segment_reads_right_bytes_or_truncated() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 1500, 10);
        let mut reader = wal.reader(Lsn::FIRST).unwrap();
        let mut outside = ReadOnlyWal::open(dir).unwrap().reader(Lsn::FIRST).unwrap();
        for lsn in 1..20 {
            assert_eq!(*reader.next().unwrap().unwrap().data, record(1, lsn)[..]);
            assert_eq!(*outside.next().unwrap().unwrap().data, record(1, lsn)[..]);
        }
        for round in 1..4 {
            let cut = wal.next_lsn().get() - 10;
            wal.truncate_before(Lsn::new(cut)).unwrap();
            fill(&wal, 1, 1000, 10);
            assert_right_or_truncated(&mut reader, round);
            assert_right_or_truncated(&mut outside, round);
        }
    });
}

fn assert_right_or_truncated(reader: &mut prkdb_core::Reader, round: u64) {
    for read in reader.take(100) {
        match read {
            Ok(read) => assert_eq!(*read.data, record(1, read.lsn.get())[..]),
            Err(e) => return assert_eq!(e.kind(), ErrorKind::Truncated, "round {round}: {e}"),
        }
    }
}

#[test]
fn a_segment_with_a_second_name_is_never_written_again() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 1500, 10);
        let checkpoint = dir.parent().unwrap().join("checkpoint");
        fs::create_dir_all(&checkpoint).unwrap();
        let linked: Vec<_> = segments(dir)[..2].to_vec();
        let copies = linked.iter().map(|path| {
            let copy = checkpoint.join(path.file_name().unwrap());
            fs::hard_link(path, &copy).unwrap();
            let bytes = fs::read(&copy).unwrap();
            (copy, bytes)
        });
        let copies: Vec<_> = copies.collect();
        wal.truncate_before(Lsn::new(1490)).unwrap();
        fill(&wal, 1, 3000, 10);
        wal.close().unwrap();
        for (path, bytes) in copies {
            assert!(fs::read(&path).unwrap() == bytes, "{} was written", path.display());
        }
        fs::remove_dir_all(&checkpoint).unwrap();
        assert_eq!(contents(dir).len(), 3011);
    });
}

#[test]
fn cutting_beside_appends_loses_nothing_above_the_cut() {
    on_each_backend(|dir: &Path, backend| {
        let wal = open(dir, backend);
        std::thread::scope(|scope| {
            let cutter = scope.spawn(|| {
                while wal.durable_lsn().get() < 3000 {
                    wal.truncate_before(Lsn::new(wal.durable_lsn().get() / 2 + 1)).unwrap();
                    std::thread::yield_now();
                }
            });
            for _ in 0..30 {
                fill(&wal, 1, 100, 10);
            }
            cutter.join().unwrap();
        });
        assert_holds(&wal, wal.first_lsn().get(), 3001);
        wal.close().unwrap();
        assert!(contents(dir).len() >= 1500);
    });
}

/// META can't be written for longer than it takes until the watermark is due.
struct SlowMeta(AtomicBool);

impl Hook for SlowMeta {
    fn submit(&self, op: &Op) -> Option<&'static str> {
        if let Op::Write { file, .. } = op
            && file.path().ends_with("META")
            && self.0.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(1300));
        }
        None
    }
}

#[test]
fn no_watermark_of_before_is_written_while_the_log_is_cut() {
    let root = tempfile::tempdir().unwrap();
    let (log, dead) = (root.path().join("log"), root.path().join("dead"));
    let hook = Arc::new(SlowMeta(AtomicBool::new(false)));
    let disk = Through::new(open_disk(root.path(), Backend::Pwrite).unwrap().0, &hook);
    let world = World { disk: Arc::new(disk), host: Arc::new(ThreadHost::new()) };
    let config = WalConfig { num_segments: 2, ..config(&log, Backend::Pwrite) };
    let wal = Wal::open_in(world, config).unwrap();
    fill(&wal, 1, 100, 5);
    hook.0.store(true, Ordering::Relaxed);
    wal.truncate_after(Lsn::new(80)).unwrap();
    hook.0.store(false, Ordering::Relaxed);
    assert_eq!((wal.durable_lsn(), wal.next_lsn()), (Lsn::new(80), Lsn::new(81)));
    fill(&wal, 2, 10, 1);
    copy(&log, &dead);
    wal.close().unwrap();
    let wal = open(&dead, Backend::Pwrite);
    assert_eq!(wal.durable_lsn(), Lsn::new(90), "what was answered after the cut is gone");
    let found = read_all(wal.reader(Lsn::FIRST).unwrap(), 1);
    assert!(found[79] == record(1, 80) && found[80] == record(2, 81));
    wal.close().unwrap();
}

/// What another cut frees is room for the next segment: a window takes no records for it.
#[test]
fn a_window_cuts_nothing_more_where_a_truncation_made_room() {
    let root = tempfile::tempdir().unwrap();
    let hook = Arc::new(SlowMeta(AtomicBool::new(false)));
    let disk = Through::new(open_disk(root.path(), Backend::Pwrite).unwrap().0, &hook);
    let world = World { disk: Arc::new(disk), host: Arc::new(ThreadHost::new()) };
    let compaction = CompactionPolicy::SizeWindow(8 << 20);
    let config = config(&root.path().join("log"), Backend::Pwrite);
    let wal = Wal::open_in(world, WalConfig { compaction, ..config }).unwrap();
    // Ten of them to a segment.
    let append = || wal.append_batch([vec![7; 100_000]]).unwrap().wait().unwrap().first();
    while wal.first_lsn() == Lsn::FIRST {
        append();
    }
    for _ in 0..20 {
        append();
    }
    let keep = Lsn::new(wal.next_lsn().get() - 25);
    assert!(wal.first_lsn() < keep);
    hook.0.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let cutter = scope.spawn(|| wal.truncate_before(keep));
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..12 {
            // The segment that is ready is taken, and another one asked for while META is written.
            append();
        }
        cutter.join().unwrap().unwrap();
    });
    hook.0.store(false, Ordering::Relaxed);
    // Whatever the maker was asked for before this is done.
    wal.truncate_before(Lsn::FIRST).unwrap();
    assert_eq!(wal.first_lsn(), keep);
    wal.close().unwrap();
}

/// Removes a directory in which somebody may be making a file.
fn remove(dir: &Path) {
    assert!((0..1000).any(|_| fs::remove_dir_all(dir).is_ok()), "{} stays", dir.display());
}

#[test]
fn a_pool_that_was_removed_is_made_again() {
    on_each_backend(|dir, backend| {
        for wipe_retired in [false, true] {
            let dir = dir.join(format!("wiped {wipe_retired}"));
            let pool = dir.join("pool");
            let wal = Wal::open(WalConfig { wipe_retired, ..config(&dir, backend) }).unwrap();
            fill(&wal, 1, 1500, 10);
            remove(&pool);
            wal.truncate_before(Lsn::new(1400)).unwrap();
            assert!(wal.health().is_ok(), "{:?}", wal.health());
            fill(&wal, 1, 1500, 10);
            remove(&pool);
            fill(&wal, 1, 1500, 10);
            assert!(wal.health().is_ok(), "{:?}", wal.health());
            assert_eq!(fs::metadata(&pool).unwrap().mode() & 0o777, 0o700);
            wal.truncate_before(Lsn::new(4400)).unwrap();
            assert!(!files(&pool, "free").is_empty(), "nothing was kept for use again");
            wal.close().unwrap();
            let wal = open(&dir, backend);
            assert_holds(&wal, 4400, 4501);
            wal.close().unwrap();
        }
    });
}
