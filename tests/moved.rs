//! A log whose process goes elsewhere, whose directory is moved, or that runs out of descriptors.
//!
//! One test, in a program of its own: the directory a process is in, and its limits, are those of
//! all its threads.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prkdb_core::{Backend, CompactionPolicy, ErrorKind, Lsn, ReadOnlyWal, Wal, WalConfig};

mod support;

use support::{config, contents, fill, on_each_backend, open, read_all, record};

/// Every record from 1 to `last` of a log, and nothing else.
fn assert_holds(dir: &Path, life: u64, last: u64) {
    let expected: Vec<_> = (1..=last).map(|lsn| record(life, lsn)).collect();
    assert!(contents(dir) == expected, "{}: other records", dir.display());
    let summary = ReadOnlyWal::verify(dir, &mut |f| panic!("{f:?}"), &mut |_, _| {}).unwrap();
    assert_eq!(summary.records, last);
}

/// Named from where the process was, and kept there.
fn the_process_goes_elsewhere(root: &Path, backend: Backend) {
    let [here, there] = ["here", "there"].map(|name| root.join(name));
    let other = open(&there.join("log"), backend);
    fill(&other, 2, 3000, 50);
    fs::create_dir_all(&here).unwrap();
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(&here).unwrap();
    let wal = Wal::open(config(Path::new("log"), backend)).unwrap();
    fill(&wal, 1, 100, 10);
    let mut follower = ReadOnlyWal::open("log").unwrap();
    std::env::set_current_dir(&there).unwrap();
    // So much that segments are made, sealed and retired.
    fill(&wal, 1, 3000, 50);
    follower.refresh().unwrap();
    assert!(follower.durable_lsn() > Lsn::new(1000), "{}", follower.durable_lsn());
    assert_eq!(read_all(wal.reader(Lsn::FIRST).unwrap(), 1).len(), 3100);
    wal.truncate_before(Lsn::new(2000)).unwrap();
    std::env::set_current_dir(before).unwrap();
    wal.close().unwrap();
    other.close().unwrap();
    assert_holds(&there.join("log"), 2, 3000);
    assert_eq!(ReadOnlyWal::open(here.join("log")).unwrap().first_lsn(), Some(Lsn::new(2000)));
}

/// What has the log's names by then is not the log's.
fn the_directory_is_moved(root: &Path, backend: Backend) {
    let [log, moved] = ["log", "moved"].map(|name| root.join(name));
    let wal = open(&log, backend);
    fill(&wal, 1, 1500, 50);
    fs::rename(&log, &moved).unwrap();
    let other = open(&log, backend);
    fill(&other, 2, 3000, 50);
    let mut last = 1500;
    let refused = loop {
        match wal.append_batch([record(1, last + 1)]).unwrap().wait() {
            Ok(_) => last += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
    assert!(refused.to_string().contains("moved or replaced"), "{refused}");
    assert!(last < 20_000, "the log grew in another's directory");
    wal.truncate_before(Lsn::new(1200)).unwrap();
    drop(wal);
    other.close().unwrap();
    assert_holds(&log, 2, 3000);
    let wal = open(&moved, backend);
    assert_eq!((wal.first_lsn(), wal.durable_lsn()), (Lsn::new(1200), Lsn::new(last)));
    fill(&wal, 1, 100, 10);
    let found = read_all(wal.reader(Lsn::new(1200)).unwrap(), 1200);
    assert_eq!(found.last(), Some(&record(1, last + 100)));
    wal.close().unwrap();
}

/// What another log takes on disk says nothing of this one.
fn a_window_is_not_measured_on_another_log(root: &Path, backend: Backend) {
    let [log, moved] = ["log", "moved"].map(|name| root.join(name));
    let compaction = CompactionPolicy::SizeWindow(10 << 20);
    let wal = Wal::open(WalConfig { compaction, ..config(&log, backend) }).unwrap();
    fill(&wal, 1, 1500, 50);
    assert_eq!(wal.compact().unwrap(), Lsn::FIRST, "it is well below the window");
    fs::rename(&log, &moved).unwrap();
    let other = open(&log, backend);
    fill(&other, 2, 6000, 50);
    let refused = wal.compact().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
    assert!(refused.to_string().contains("moved or replaced"), "{refused}");
    assert_eq!(wal.first_lsn(), Lsn::FIRST);
    assert!(wal.health().is_ok(), "{:?}", wal.health());
    drop(wal);
    other.close().unwrap();
    assert_holds(&log, 2, 6000);
    assert_holds(&moved, 1, 1500);
}

/// For a moment the process can open nothing.
fn no_descriptor_is_left(root: &Path, backend: Backend) {
    if backend.name() == "tokio-uring" {
        // That runtime writes to no file then.
        return;
    }
    let wal = Wal::open(WalConfig { retention_ms: None, ..config(&root.join("full"), backend) });
    let wal = wal.unwrap();
    fill(&wal, 1, 5000, 50);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let truncated = wal.truncate_before(Lsn::new(4000));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    truncated.unwrap();
    assert!(wal.health().is_ok(), "{:?}", wal.health());
    fill(&wal, 1, 5000, 50);
    wal.close().unwrap();
}

#[test]
fn a_log_stays_where_it_was_opened() {
    on_each_backend(|dir, backend| {
        let tests = [
            the_process_goes_elsewhere,
            the_directory_is_moved,
            a_window_is_not_measured_on_another_log,
            no_descriptor_is_left,
        ];
        for test in tests {
            fs::create_dir_all(dir).unwrap();
            let root = tempfile::tempdir_in(dir).unwrap();
            test(root.path(), backend);
        }
    });
}
