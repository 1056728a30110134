//! What who only looks at a log is told where the device fails, or where its writer died.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prkdb_core::io::open_disk;
use prkdb_core::{Backend, Durability, ErrorKind, FindingKind, Lsn, ReadOnlyWal, Wal, WalConfig};

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
