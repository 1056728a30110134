//! Readers beside a thread that cuts the log at both ends: a record whole, or `Truncated`.
//!
//! ```text
//! cutter:  append in life 1 .. cut from c2 on, life 2: append .. cut from c3 on, life 3 ..
//! reader:  n of life 1, n + 1 of life 2: right if n < c2; else it read two histories
//! ```
//!
//! A record names its LSN and the life in which it was appended; each cut from the end begins a
//! life. `PRKDB_CUT_ROUNDS` asks for another number of cuts than 120 in each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use prkdb_core::{
    Backend, Durability, ErrorKind, Lsn, ReadLevel, ReadOnlyWal, Reader, Record, Wal, WalConfig,
};

use crate::support::{Random, config, fill, on_each_backend, open, read_all, record, segments};

/// What the cutter did and the readers met.
struct Histories {
    /// For each life the first LSN that was cut when it began, noted before the cut.
    cuts: Mutex<Vec<u64>>,
    done: AtomicBool,
    given: AtomicU64,
    truncated: AtomicU64,
}

impl Histories {
    fn new() -> Histories {
        Histories {
            cuts: Mutex::new(vec![0, 0]),
            done: AtomicBool::new(false),
            given: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Begins a life; its number.
    fn cut(&self, from: u64) -> u64 {
        let mut cuts = self.cuts.lock().unwrap();
        cuts.push(from);
        cuts.len() as u64 - 1
    }

    /// The life of a record that is whole.
    fn life(&self, read: &Record) -> usize {
        let text = String::from_utf8_lossy(&read.data[..read.data.len().min(40)]).into_owned();
        let life = text.split(' ').next().and_then(|life| life.parse().ok()).unwrap();
        assert!(*read.data == record(life, read.lsn.get())[..], "record {}: {text:?}", read.lsn);
        self.given.fetch_add(1, Ordering::Relaxed);
        usize::try_from(life).unwrap()
    }

    /// Takes some of what `reader` gives, after the record `last` of a life; false once it failed.
    fn follow(&self, reader: &mut Reader, last: &mut Option<(usize, u64)>, most: usize) -> bool {
        for read in reader.take(most) {
            let read = match read {
                Ok(read) => read,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Truncated, "after {last:?}: {e}");
                    self.truncated.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
            };
            let (life, lsn) = (self.life(&read), read.lsn.get());
            if let Some((before, gave)) = *last {
                assert_eq!(lsn, gave + 1, "a gap");
                let cuts = self.cuts.lock().unwrap();
                assert!(before <= life, "{gave} of life {before}, then {lsn} of life {life}");
                let between = &cuts[before + 1..=life];
                assert!(
                    between.iter().all(|cut| *cut > gave),
                    "{gave} of life {before}, then {lsn} of life {life}; cuts {between:?}"
                );
            }
            *last = Some((life, lsn));
        }
        true
    }
}

/// Ends the readers, also when the cutter panics.
struct Done<'a>(&'a Histories);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Appends, and cuts at both ends. Resets are left out where somebody has to come after.
fn cut_again_and_again(wal: &Wal, histories: &Histories, seed: u64) {
    let _done = Done(histories);
    let (mut random, mut life) = (Random(seed), 1);
    let rounds = std::env::var("PRKDB_CUT_ROUNDS").map_or(120, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let levels = [Durability::Sync, Durability::Written, Durability::Queued];
        for level in levels.iter().cycle().take(1 + usize::try_from(random.below(12)).unwrap()) {
            let first = wal.next_lsn().get();
            let batch: Vec<_> =
                (first..first + 1 + random.below(40)).map(|lsn| record(life, lsn)).collect();
            let lsns = wal.with(*level).append_batch(&batch).unwrap().wait().unwrap();
            assert_eq!(lsns.first().get(), first);
        }
        let (first, next) = (wal.first_lsn().get(), wal.next_lsn().get());
        match round % 8 {
            3 => wal.truncate_before(Lsn::new(first + random.below(next - first + 1))).unwrap(),
            7 => {
                life = histories.cut(1);
                wal.reset_to(Lsn::new(next.saturating_sub(200 + random.below(400)).max(1)))
                    .unwrap();
            }
            _ => {
                let keep = first - 1 + random.below(next - first + 1);
                life = histories.cut(keep + 1);
                wal.truncate_after(Lsn::new(keep)).unwrap();
            }
        }
    }
}

/// Reads from anywhere to the end, again and again.
fn read_on(wal: &Wal, histories: &Histories, level: ReadLevel, seed: u64) {
    let mut random = Random(seed);
    while !histories.is_done() {
        let (first, next) = (wal.first_lsn().get(), wal.next_lsn().get());
        let from = first + random.below(next.saturating_sub(first) + 1);
        let Ok(mut reader) = wal.reader_at(Lsn::new(from), level) else { continue };
        let mut last = None;
        for _ in 0..1 + random.below(400) {
            if histories.is_done() || !histories.follow(&mut reader, &mut last, 20) {
                break;
            }
            std::thread::yield_now();
        }
    }
}

/// Reads single records.
fn read_one(wal: &Wal, histories: &Histories, seed: u64) {
    let mut random = Random(seed);
    while !histories.is_done() {
        let (first, next) = (wal.first_lsn().get(), wal.next_lsn().get());
        let lsn = Lsn::new(first + random.below(next.saturating_sub(first) + 1));
        match wal.read(lsn) {
            Ok(read) => assert!(read.lsn == lsn && histories.life(&read) > 0),
            Err(e) if e.kind() == ErrorKind::Invalid => assert!(e.to_string().contains("durable")),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Truncated, "{e}");
                histories.truncated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Follows from outside: one thread looks again, others read on with readers of its log.
fn follow_from_outside(dir: &Path, histories: &Histories) {
    let log = RwLock::new(ReadOnlyWal::open(dir).unwrap());
    let read = || {
        while !histories.is_done() {
            let outside = log.read().unwrap();
            let from = outside.first_lsn().unwrap_or(outside.next_lsn());
            let Ok(mut reader) = outside.reader(from) else { continue };
            drop(outside);
            let mut last = None;
            while !histories.is_done() && histories.follow(&mut reader, &mut last, 20) {
                std::thread::yield_now();
            }
            // Until somebody looks again it may meet the same.
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        let mut random = Random(7);
        while !histories.is_done() {
            // Long enough that several cuts may pass unseen.
            std::thread::sleep(Duration::from_millis(random.below(4) * random.below(30)));
            log.write().unwrap().refresh().unwrap();
        }
    });
}

fn log_dir(root: &Path, num_segments: usize) -> PathBuf {
    root.join(num_segments.to_string())
}

fn log(root: &Path, num_segments: usize) -> Wal {
    let config = config(&log_dir(root, num_segments), Backend::Pwrite);
    Wal::open(WalConfig { num_segments, ..config }).unwrap()
}

#[test]
fn readers_beside_cuts_get_one_history_or_truncated() {
    let root = tempfile::tempdir().unwrap();
    for num_segments in [1, 4] {
        let (wal, histories) = (log(root.path(), num_segments), Histories::new());
        std::thread::scope(|scope| {
            let (wal, histories) = (&wal, &histories);
            for seed in 1..3 {
                scope.spawn(move || read_on(wal, histories, ReadLevel::Durable, seed));
                scope.spawn(move || read_on(wal, histories, ReadLevel::Written, seed + 10));
                scope.spawn(move || read_one(wal, histories, seed + 20));
            }
            cut_again_and_again(wal, histories, 30 + num_segments as u64);
        });
        let (given, truncated) = (histories.given.into_inner(), histories.truncated.into_inner());
        println!("{num_segments} segments at once: {given} records, {truncated} times Truncated");
        assert!(given > 0 && truncated > 0, "{given} records, {truncated} times Truncated");
        wal.close().unwrap();
    }
}

#[test]
fn followers_beside_cuts_get_one_history_or_truncated() {
    let root = tempfile::tempdir().unwrap();
    for num_segments in [1, 4] {
        let (wal, histories) = (log(root.path(), num_segments), Histories::new());
        std::thread::scope(|scope| {
            scope.spawn(|| follow_from_outside(&log_dir(root.path(), num_segments), &histories));
            cut_again_and_again(&wal, &histories, 40 + num_segments as u64);
        });
        let (given, truncated) = (histories.given.into_inner(), histories.truncated.into_inner());
        println!("{num_segments} segments at once: {given} records, {truncated} times Truncated");
        assert!(given > 0 && truncated > 0, "{given} records, {truncated} times Truncated");
        wal.close().unwrap();
    }
}

/// A follower of a log of 100 records of life 1, and readers that took so many of them.
fn follower(root: &Path, took: &[u64]) -> (Wal, ReadOnlyWal, Vec<Reader>) {
    let wal = log(root, 1);
    fill(&wal, 1, 100, 10);
    let mut outside = ReadOnlyWal::open(log_dir(root, 1)).unwrap();
    while outside.durable_lsn().get() < 100 {
        // The last records are known to be promised once the log is idle.
        std::thread::sleep(Duration::from_millis(10));
        outside.refresh().unwrap();
    }
    let readers = took.iter().map(|took| {
        let mut reader = outside.reader(Lsn::FIRST).unwrap();
        (1..=*took).for_each(|lsn| assert_next(&mut reader, 1, lsn));
        reader
    });
    let readers = readers.collect();
    (wal, outside, readers)
}

fn assert_next(reader: &mut Reader, life: u64, lsn: u64) {
    let read = reader.next().unwrap().unwrap();
    assert_eq!(read.lsn.get(), lsn);
    assert!(*read.data == record(life, lsn)[..], "record {lsn} is not of life {life}");
}

fn assert_truncated(reader: &mut Reader) {
    let read = reader.next().unwrap().map(|read| read.lsn);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Truncated);
}

#[test]
fn a_follower_reads_on_below_one_cut_and_not_beyond_it() {
    let root = tempfile::tempdir().unwrap();
    let (wal, mut outside, mut readers) = follower(root.path(), &[0, 10, 49, 50, 80]);
    wal.truncate_after(Lsn::new(49)).unwrap();
    fill(&wal, 2, 100, 10);
    wal.close().unwrap();
    assert!(outside.refresh().unwrap());
    assert_next(&mut readers[0], 1, 1);
    assert_next(&mut readers[1], 1, 11);
    assert_next(&mut readers[2], 2, 50);
    readers[3..].iter_mut().for_each(assert_truncated);
}

#[test]
fn a_follower_hears_of_a_cut_whoever_opened_the_log_since() {
    let root = tempfile::tempdir().unwrap();
    let (wal, mut outside, mut readers) = follower(root.path(), &[0, 50]);
    wal.reset_to(Lsn::FIRST).unwrap();
    fill(&wal, 2, 150, 10);
    wal.close().unwrap();
    log(root.path(), 1).close().unwrap();
    outside.refresh().unwrap();
    assert_next(&mut readers[0], 2, 1);
    assert_truncated(&mut readers[1]);
}

#[test]
fn a_follower_that_missed_a_cut_reads_on_below_the_lowest() {
    let root = tempfile::tempdir().unwrap();
    let (wal, mut outside, mut readers) = follower(root.path(), &[0, 80, 10]);
    wal.truncate_after(Lsn::new(49)).unwrap();
    fill(&wal, 2, 100, 10);
    wal.truncate_after(Lsn::new(120)).unwrap();
    fill(&wal, 3, 10, 10);
    wal.close().unwrap();
    outside.refresh().unwrap();
    assert_next(&mut readers[0], 1, 1);
    assert_truncated(&mut readers[1]);
    assert_next(&mut readers[2], 1, 11);
    assert_next(&mut outside.reader(Lsn::new(81)).unwrap(), 2, 81);
    // One that it can know to be the only one since asks no more than it must, also after a clean
    // close.
    let mut reader = outside.reader(Lsn::new(40)).unwrap();
    assert_next(&mut reader, 1, 40);
    let wal = log(root.path(), 1);
    wal.truncate_after(Lsn::new(60)).unwrap();
    wal.close().unwrap();
    assert!(!outside.refresh().unwrap());
    (41..50).for_each(|lsn| assert_next(&mut reader, 1, lsn));
    (50..61).for_each(|lsn| assert_next(&mut reader, 2, lsn));
    assert!(reader.next().is_none());
}

#[test]
fn of_segments_written_side_by_side_any_may_be_used_again_under_a_follower() {
    let root = tempfile::tempdir().unwrap();
    let wal = log(root.path(), 4);
    // A group each, and those take turns.
    (0..800).for_each(|_| fill(&wal, 1, 1, 1));
    wal.close().unwrap();
    let all = segments(&log_dir(root.path(), 4));
    let headers: Vec<_> = all.iter().map(|path| fs::read(path).unwrap()[..4096].to_vec()).collect();
    for (i, path) in all.iter().enumerate().take(4) {
        let outside = ReadOnlyWal::open(log_dir(root.path(), 4)).unwrap();
        let mut reader = outside.reader(Lsn::FIRST).unwrap();
        (1..=20).for_each(|lsn| assert_next(&mut reader, 1, lsn));
        // As its next life begins: its own header, and nothing of it yet where the reader is.
        let before = fs::read(path).unwrap();
        let mut bytes = vec![0; before.len()];
        bytes[..4096].copy_from_slice(&headers[(i + 1) % headers.len()]);
        fs::write(path, &bytes).unwrap();
        for lsn in 21.. {
            match reader.next() {
                Some(Ok(read)) => assert!(*read.data == record(1, lsn)[..]),
                Some(Err(e)) => {
                    assert_eq!(e.kind(), ErrorKind::Truncated, "{}: {e}", path.display());
                    assert!(e.path() == Some(path), "{e}");
                    break;
                }
                None => panic!("{} holds no record", path.display()),
            }
        }
        fs::write(path, &before).unwrap();
    }
}

/// An operator makes room by removing a log; the service makes another one in its place.
#[test]
fn a_follower_does_not_go_on_in_another_log() {
    on_each_backend(|dir, backend| {
        let dir = dir.join("log");
        let first = open(&dir, backend);
        fill(&first, 1, 10, 1);
        first.close().unwrap();
        let mut log = ReadOnlyWal::open(&dir).unwrap();
        let mut reader = log.reader(Lsn::FIRST).unwrap();
        assert_eq!(reader.by_ref().count(), 10);
        fs::remove_dir_all(&dir).unwrap();
        let second = open(&dir, backend);
        fill(&second, 2, 20, 1);
        second.close().unwrap();
        log.refresh().unwrap();
        let error = reader.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
        assert_eq!(read_all(log.reader(Lsn::FIRST).unwrap(), 1)[0], record(2, 1));
    });
}
