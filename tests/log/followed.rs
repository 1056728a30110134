//! What a follower is told while writers come, go and cut beside him.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prkdb_core::io::open_disk;
use prkdb_core::{Backend, Durability, ErrorKind, Lsn, ReadOnlyWal, Wal};

use crate::support::through::{Hook, Through};
use crate::support::{copy, fill, on_each_backend, open, record, segments};

/// The last group of a writer that was killed is promised by no header that follows. Who read it
/// then is not told that it was cut, only because a writer recovers the log.
#[test]
fn what_was_read_of_a_dead_writer_is_not_cut_because_the_next_one_comes() {
    on_each_backend(|dir, backend| {
        let live = dir.join("live");
        let wal = open(&live, backend);
        // Until one is copied before the idle second is over.
        let (mut follower, dead) = (1..)
            .find_map(|turn| {
                let (began, dead) = (Instant::now(), dir.join(format!("dead-{turn}")));
                wal.append_batch([record(1, 1)]).unwrap().wait().unwrap();
                copy(&live, &dead);
                let log = ReadOnlyWal::open(&dead).unwrap();
                let quick = began.elapsed() < Duration::from_millis(900);
                (quick && log.promised_lsn() < log.durable_lsn()).then_some((log, dead))
            })
            .unwrap();
        let end = follower.durable_lsn();
        let mut reader = follower.reader(Lsn::FIRST).unwrap();
        assert_eq!(reader.by_ref().map(|r| r.unwrap().lsn).last(), Some(end), "{backend}");
        // A writer that has not judged yet: it holds the lock.
        let (disk, _) = open_disk(&dead, Backend::Pwrite).unwrap();
        let lock = disk.lock(&dead.join("LOCK")).unwrap();
        assert!(!follower.refresh().unwrap(), "{backend}");
        assert_eq!(follower.durable_lsn(), end, "{backend}");
        assert!(reader.next().is_none(), "{backend}: nothing was cut");
        drop(lock);
        let next = open(&dead, backend);
        assert!(!follower.refresh().unwrap());
        assert!(reader.next().is_none(), "{backend}: the recovery kept it");
        next.append_batch(["more"]).unwrap().wait().unwrap();
        next.close().unwrap();
        assert!(follower.refresh().unwrap());
        assert_eq!(reader.next().unwrap().unwrap().lsn, end.next(), "{backend}");
        wal.close().unwrap();
    });
}

/// A writer who comes when the directory is first listed.
struct Comes {
    dir: PathBuf,
    writer: Mutex<Option<Wal>>,
}

impl Hook for Comes {
    fn list(&self, _dir: &Path) {
        let mut writer = self.writer.lock().unwrap();
        if writer.is_none() {
            let wal = open(&self.dir, Backend::Auto);
            wal.with(Durability::Written).append_batch(["one", "two"]).unwrap().wait().unwrap();
            *writer = Some(wal);
        }
    }
}

/// What a writer has written and not promised is not served beside him, also where he came after
/// the lock was looked at.
#[test]
fn a_writer_that_comes_while_the_log_is_looked_at_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let wal = open(&dir, Backend::Auto);
    fill(&wal, 1, 3, 1);
    wal.close().unwrap();
    let hook = Arc::new(Comes { dir: dir.clone(), writer: Mutex::default() });
    let disk = Through::new(open_disk(&dir, Backend::Pwrite).unwrap().0, &hook);
    let began = Instant::now();
    let log = ReadOnlyWal::open_on(Arc::new(disk), &dir).unwrap();
    let served = log.durable_lsn();
    // After a second he promises what he wrote.
    assert!(
        served == Lsn::new(3) || began.elapsed() > Duration::from_millis(900),
        "{served} is served, 3 records are promised"
    );
    hook.writer.lock().unwrap().take().expect("it came").close().unwrap();
}

/// Of a log that is open its owner knows what was cut: a segment that is not there is no cut.
#[test]
fn a_segment_that_is_gone_from_under_its_writer_is_named() {
    on_each_backend(|dir, backend| {
        let log = dir.join("log");
        let wal = open(&log, backend);
        fill(&wal, 1, 3000, 10);
        let [_, second, ..] = &segments(&log)[..] else { panic!("too few segments") };
        let away = dir.join("away");
        std::fs::rename(second, &away).unwrap();
        let mut reader = wal.reader(Lsn::FIRST).unwrap();
        let error = reader.find_map(Result::err).expect("it is gone");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&**second)), "{error}");
        // Brought back it is read.
        std::fs::rename(&away, second).unwrap();
        let rest = reader.map(|r| r.unwrap().lsn).last();
        assert_eq!(rest, Some(Lsn::new(3000)), "{backend}");
        wal.close().unwrap();
    });
}

/// A reader that outlives its log is one who follows: the next writer may cut.
#[test]
fn a_reader_that_outlives_its_log_hears_of_the_next_ones_cuts() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 3000, 10);
        let mut reader = wal.reader(Lsn::FIRST).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().lsn, Lsn::FIRST);
        wal.close().unwrap();
        let next = open(dir, backend);
        next.truncate_before(Lsn::new(3000)).unwrap();
        let error = reader.find_map(Result::err).expect("its segments are gone");
        assert_eq!(error.kind(), ErrorKind::Truncated, "{backend}: {error}");
        assert_eq!(reader.next().unwrap().unwrap_err().kind(), ErrorKind::Truncated);
        next.close().unwrap();
    });
}
