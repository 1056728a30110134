//! `SyncMethod::Auto` finds out what the device is good at, and remembers it.
//!
//! The device is the real one, with one of its two ways made slow where it is measured: so each
//! answer is the right one somewhere.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prkdb_core::io::{DiskOptions, Op, ThreadHost, World, open_disk};
use prkdb_core::{Backend, ReadOnlyWal, SyncMethod, Wal, WalConfig};

use crate::support::through::{Hook, Through};

/// How much slower: far more than the device takes for anything, however busy it is.
const SLOW: Duration = Duration::from_millis(300);

/// One way of making things durable is slow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slow {
    ForcedWrites,
    Syncs,
}

thread_local! {
    /// A slow one was submitted: its answer takes that long.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

impl Hook for Slow {
    fn submit(&self, op: &Op) -> Option<&'static str> {
        let slow = match op {
            Op::Write { dsync, .. } => *dsync && *self == Slow::ForcedWrites,
            Op::Sync { .. } => *self == Slow::Syncs,
            _ => false,
        };
        // Nobody else has to wait as long.
        let measures = std::thread::current().name() == Some("prkdb-calibrate");
        WAITS.set(WAITS.get() || slow && measures);
        None
    }

    fn reap(&self) {
        if WAITS.replace(false) {
            std::thread::sleep(SLOW);
        }
    }
}

fn open(dir: &Path, on: DiskOptions, slow: Slow, sync_method: SyncMethod) -> Wal {
    let disk = open_disk(dir, on).unwrap().0;
    let disk = Arc::new(Through::new(disk, &Arc::new(slow)));
    let world = World { disk, host: Arc::new(ThreadHost::new()) };
    Wal::open_in(world, WalConfig { sync_method, ..WalConfig::new(dir) }).unwrap()
}

/// Makes a log, appends most of a first segment and closes it when another was made ahead: on such
/// a one is measured. What META says then.
fn a_life(dir: &Path, on: DiskOptions, slow: Slow) -> &'static str {
    std::fs::create_dir(dir).unwrap();
    let wal = open(dir, on, slow, SyncMethod::Auto);
    let made = || {
        let counts = wal.metrics().counts();
        counts.iter().find(|(name, _)| *name == "segments_made").unwrap().1
    };
    wal.append_batch([vec![1; 950_000]]).unwrap().wait().unwrap();
    for _ in 0..60_000 {
        if made() > 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(made() > 1, "no segment is made ahead");
    let used = wal.sync_method();
    wal.close().unwrap();
    let stored = stored(dir);
    assert_eq!(used == SyncMethod::Fdatasync, stored.ends_with("fdatasync"), "{used:?}, {stored}");
    stored
}

fn stored(dir: &Path) -> &'static str {
    ReadOnlyWal::open(dir).unwrap().stat().sync_method
}

/// Logs, one after the other, until it was measured in one: it is not where the writer has not told
/// yet how much room is left when the segment is begun.
fn lives(dir: &Path, on: DiskOptions, slow: Slow) -> &'static str {
    for _ in 0..200 {
        let found = a_life(dir, on, slow);
        if found != "auto" {
            return found;
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
    panic!("it is never measured");
}

#[test]
fn auto_takes_syncs_only_where_forced_writes_are_slow_and_remembers_it() {
    let root = tempfile::tempdir().unwrap();
    for backend in [Backend::Pwrite, Backend::Auto] {
        let (disk, report) = open_disk(root.path(), backend).unwrap();
        if !disk.writes_direct() {
            println!("SKIPPED {backend}: its writes do not go past the page cache here");
            continue;
        }
        let on = DiskOptions::from(backend);
        for (slow, found) in [(Slow::ForcedWrites, "auto: fdatasync"), (Slow::Syncs, "auto: dsync")]
        {
            let dir = root.path().join(format!("{} {slow:?}", report.name));
            assert_eq!(lives(&dir, on, slow), found, "{}", report.name);
            let wal = open(&dir, on, slow, SyncMethod::Auto);
            assert_eq!(wal.sync_method() == SyncMethod::Fdatasync, slow == Slow::ForcedWrites);
            wal.close().unwrap();
            assert_eq!(stored(&dir), found);
            let named = open(&dir, on, slow, SyncMethod::Dsync);
            assert_eq!(named.sync_method(), SyncMethod::Dsync);
            named.close().unwrap();
            assert_eq!(stored(&dir), "dsync");
            // Of another backend nothing is known, and behind the page cache nothing is measured.
            let cached = DiskOptions { backend: Backend::Mmap, direct: false };
            let wal = open(&dir, cached, slow, SyncMethod::Auto);
            assert_eq!(wal.sync_method(), SyncMethod::Dsync);
            wal.close().unwrap();
            assert_eq!(stored(&dir), "auto");
        }
    }
}

#[test]
fn a_cached_file_is_not_measured() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let cached = DiskOptions { backend: Backend::Pwrite, direct: false };
    assert_eq!(a_life(&dir, cached, Slow::Syncs), "auto");
}

/// What is stored into a mapping goes through the page cache, wherever the file system would let it
/// go past.
#[test]
fn a_mapped_file_is_not_measured() {
    let root = tempfile::tempdir().unwrap();
    for life in 0..3 {
        let dir = root.path().join(life.to_string());
        assert_eq!(a_life(&dir, DiskOptions::from(Backend::Mmap), Slow::ForcedWrites), "auto");
    }
}
