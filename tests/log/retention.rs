//! A size window on a real disk: forty times as much goes through, and the directory stays small.
//!
//! `PRKDB_RETAIN_MIB` asks for another amount than 320 MiB; the window is a fortieth of it, a
//! segment a quarter of that: 10240 is 10 GiB through 256 MiB with segments of 64.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use prkdb_core::{CompactionPolicy, ErrorKind, Lsn, Wal, WalConfig};

use crate::support::backends;

/// What the files under `dir` take, by size or by blocks, whichever is more. One that is renamed
/// meanwhile counts once.
fn used(dir: &Path) -> u64 {
    let mut files = BTreeMap::new();
    for dir in [dir.to_path_buf(), dir.join("pool")] {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            // Or it is gone since.
            if let Ok(found) = entry.metadata()
                && found.is_file()
            {
                files.insert(found.ino(), found.len().max(found.blocks() * 512));
            }
        }
    }
    files.values().sum()
}

fn batch(number: u64) -> [Vec<u8>; 4] {
    std::array::from_fn(|i| {
        let mut record = format!("{number} {i} ").into_bytes();
        record.resize(256 << 10, b'a' + u8::try_from(number % 26).unwrap());
        record
    })
}

/// How many records are read from the first to the last. What goes in the background between two
/// steps is heard of as `Truncated`; then it starts again, at a later record.
fn all_kept(wal: &Wal) -> u64 {
    loop {
        let first = wal.first_lsn();
        let read = wal.reader(first).and_then(|reader| {
            reader.zip(first.get()..).try_fold(0, |count, (record, lsn)| {
                record.map(|record| {
                    assert_eq!(record.lsn.get(), lsn);
                    count + 1
                })
            })
        });
        match read {
            Ok(count) => return count,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Truncated, "{e}");
                assert!(wal.first_lsn() > first, "{e}: but nothing was cut");
            }
        }
    }
}

#[test]
fn a_size_window_is_never_exceeded_by_more_than_a_segment() {
    let mib = std::env::var("PRKDB_RETAIN_MIB").map_or(320, |mib| mib.parse().unwrap());
    let (window, segment_bytes) = ((mib / 40) << 20, (mib / 160) << 20);
    let root = tempfile::tempdir().unwrap();
    for backend in backends(root.path()) {
        let dir = root.path().join(backend.name());
        let compaction = CompactionPolicy::SizeWindow(window);
        let config = WalConfig { backend, compaction, segment_bytes, ..WalConfig::new(&dir) };
        let wal = Wal::open(config).unwrap();
        let (mut most, mut reader) = (0, wal.reader(Lsn::FIRST).unwrap());
        let mut left_behind = false;
        for number in 0..mib {
            wal.append_batch(batch(number)).unwrap().wait().unwrap();
            // One look may see a file that goes, and the one that is made in its place.
            most = most.max(used(&dir).min(used(&dir)));
            // A slow reader gets right bytes or hears that they are gone.
            if number % 4 == 0 && !left_behind {
                match reader.next().unwrap() {
                    Ok(record) => {
                        let (of, i) = ((record.lsn.get() - 1) / 4, (record.lsn.get() - 1) % 4);
                        assert!(*record.data == batch(of)[usize::try_from(i).unwrap()][..]);
                    }
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Truncated, "{e}");
                        left_behind = true;
                    }
                }
            }
        }
        println!("{backend}: {mib} MiB went through, at most {most} bytes were there");
        // A reader that is behind keeps one segment alive that has no name any more.
        assert!(most <= window + segment_bytes, "{backend}: {most} bytes of {window}");
        assert!(left_behind, "{backend}: nothing was cut before the reader");
        let kept = all_kept(&wal);
        assert!(kept >= window >> 20, "{backend}: {kept} records");
        wal.close().unwrap();
    }
}
