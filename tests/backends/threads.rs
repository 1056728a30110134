//! Promises that take threads of one's own to see, a real file system, or two backends.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use prkdb_core::io::{Access, EntryKind, Until};
use prkdb_core::{
    Append, Backend, Durability, Lsn, ReadOnlyWal, Reader, RecoveryPolicy, SyncMethod, Wal,
    WalConfig,
};

use crate::place::{Contestant, Place};
use crate::support::{backends, fill, record, skip};

/// O_CLOEXEC, as /proc tells it.
const CLOEXEC: u64 = 0o2_000_000;
/// A ring and what wakes it, as /proc names them.
const RING: &str = "anon_inode:[io_uring]";
const EVENT: &str = "anon_inode:[eventfd]";

pub fn a_waker_ends_a_wait_from_another_thread(place: &Place) {
    let mut queue = place.queue(2);
    let (waker, mut out) = (queue.waker(), Vec::new());
    for _ in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                waker.wake_by_ref();
            });
            queue.reap(&mut out, Until::Forever).unwrap();
        });
    }
    assert!(out.is_empty());
}

pub fn only_regular_files_are_opened(place: &Place) {
    let file = place.plant("file", b"x");
    symlink(&file, place.path("link")).unwrap();
    nix::unistd::mkfifo(&place.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(place.path("dir")).unwrap();
    for name in ["link", "fifo", "dir"] {
        for access in [Access::Cached, Access::Direct, Access::Write] {
            let refused = place.world.disk.open(&place.path(name), access).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name} {access:?}");
        }
        assert!(place.world.disk.create(&place.path(name), 1).is_err());
    }
}

pub fn modes_and_links_are_as_promised(place: &Place) {
    let (disk, nested) = (&place.world.disk, place.path("a/b"));
    disk.create_dir(&nested).unwrap();
    drop(disk.create(&nested.join("file"), 4096).unwrap());
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(nested.clone()), mode(nested.join("file"))), (0o700, 0o600));
    symlink("file", nested.join("link")).unwrap();
    let kinds = disk.list(&nested).unwrap().into_iter().map(|entry| entry.kind);
    assert_eq!(kinds.collect::<Vec<_>>(), [EntryKind::File, EntryKind::Other]);
}

/// The descriptors of this process on files below `dir`, and those that name no file (rings, what
/// wakes them): what each is, and whether a program that is executed would inherit it.
fn descriptors(dir: &Path) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let name = entry.unwrap().file_name();
        // Other tests of this process close theirs meanwhile.
        let Ok(target) = fs::read_link(Path::new("/proc/self/fd").join(&name)) else { continue };
        let Ok(info) = fs::read_to_string(Path::new("/proc/self/fdinfo").join(&name)) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = u64::from_str_radix(flags, 8).unwrap();
        if target.starts_with(dir) || target.ends_with(RING) || target.ends_with(EVENT) {
            found.push((target.display().to_string(), flags & CLOEXEC == 0));
        }
    }
    found
}

pub fn no_descriptor_of_an_open_log_is_inherited(place: &Place) {
    if let Err(e) = fs::metadata("/proc/self/fdinfo") {
        return skip("descriptors of an open log", e);
    }
    let wal = place.open();
    fill(&wal, 1, 1000, 50);
    let mut reader = wal.reader(Lsn::FIRST).unwrap();
    let log = place.read_only();
    let mut beside = log.reader(Lsn::FIRST).unwrap();
    reader.next().unwrap().unwrap();
    beside.next().unwrap().unwrap();
    let held = descriptors(&place.dir);
    let inherited: Vec<_> = held.iter().filter(|(_, inherited)| *inherited).collect();
    assert!(inherited.is_empty(), "{inherited:?}");
    let holds = |what: &str| held.iter().filter(|(name, _)| name.ends_with(what)).count();
    assert!(holds("LOCK") >= 1 && holds("META") >= 1 && holds(".seg") >= 2, "{held:?}");
    if let Contestant::Named(Backend::Uring) = place.contestant {
        assert!(holds(RING) >= 1 && holds(EVENT) >= 1, "{held:?}");
    }
    // One that is inherited is seen.
    let bare = fs::File::open(place.plant("bare", b"x")).unwrap();
    fcntl(&bare, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let inherited: Vec<_> = descriptors(&place.dir).into_iter().filter(|held| held.1).collect();
    assert_eq!(inherited, [(place.path("bare").display().to_string(), true)]);
}

pub fn watermarks_rise_together_and_readers_stay_below_them(place: &Place) {
    let wal = place.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut reader = wal.reader(Lsn::FIRST).unwrap();
            let (mut last, mut seen) = ((0, 0, 0), 0);
            while !done.load(Ordering::Acquire) || seen < wal.durable_lsn().get() {
                let durable = wal.durable_lsn().get();
                let marks = (durable, wal.written_lsn().get(), wal.next_lsn().get());
                assert!(last.0 <= marks.0 && last.1 <= marks.1 && last.2 <= marks.2);
                assert!(marks.0 <= marks.1 && marks.1 < marks.2, "{marks:?}");
                last = marks;
                for read in reader.by_ref() {
                    let read = read.unwrap();
                    seen += 1;
                    assert_eq!((read.lsn.get(), &*read.data), (seen, &*record(1, seen)));
                    assert!(read.lsn <= wal.durable_lsn(), "read before it was promised");
                }
            }
            seen
        });
        for durability in [Durability::Queued, Durability::Written, Durability::Sync].repeat(20) {
            let first = wal.next_lsn().get();
            let records: Vec<_> = (first..first + 10).map(|lsn| record(1, lsn)).collect();
            let lsns = wal.with(durability).append_batch(&records).unwrap().wait().unwrap();
            assert_eq!(lsns.first().get(), first);
            match durability {
                Durability::Queued => assert!(wal.next_lsn() > lsns.last()),
                Durability::Written => assert!(wal.written_lsn() >= lsns.last()),
                Durability::Sync => assert!(wal.durable_lsn() >= lsns.last()),
            }
        }
        done.store(true, Ordering::Release);
        assert_eq!(watcher.join().unwrap(), 600);
    });
}

pub fn what_threads_append_at_once_is_all_there_in_each_ones_order(place: &Place) {
    let wal = place.open();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let wal = &wal;
            scope.spawn(move || {
                let append = |i| wal.append_batch([format!("{thread} {i}")]).unwrap();
                let tickets: Vec<Append> = (0..200).map(append).collect();
                let lsns = tickets.into_iter().map(|t| t.wait().unwrap().first());
                assert!(lsns.is_sorted_by(|a, b| a < b));
            });
        }
    });
    wal.close().unwrap();
    let mut next = [0; 8];
    for text in place.contents() {
        let text = String::from_utf8(text).unwrap();
        let (thread, i) = text.split_once(' ').unwrap();
        let thread: usize = thread.parse().unwrap();
        assert_eq!(i.parse(), Ok(next[thread]), "of thread {thread}");
        next[thread] += 1;
    }
    assert_eq!(next, [200; 8]);
}

/// Records `{thread} {i}`, of which each thread's stand in its own order; how many there are.
fn count_in_each_ones_order(reader: Reader, next: &mut [u64; 8]) -> u64 {
    let mut count = 0;
    for read in reader {
        let read = read.unwrap();
        let text = std::str::from_utf8(&read.data).unwrap();
        let (thread, i) = text.trim_end().split_once(' ').unwrap();
        let thread: usize = thread.parse().unwrap();
        assert_eq!(i.parse(), Ok(next[thread]), "of thread {thread}, at {}", read.lsn);
        next[thread] += 1;
        count += 1;
    }
    count
}

pub fn many_callers_on_four_open_segments_make_one_order(place: &Place) {
    let wal = place.try_open(WalConfig { num_segments: 4, ..place.config() }).unwrap();
    let levels = [Durability::Sync, Durability::Written, Durability::Queued];
    let text = |thread, i| format!("{thread} {i}{:2000}", "");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (wal, text) = (&wal, &text);
            scope.spawn(move || {
                for i in 0..250 {
                    let appender = wal.with(levels[(thread + i) % 3]);
                    appender.append_batch([text(thread, i)]).unwrap().wait().unwrap();
                }
            });
        }
        // Beside them one who reads in the process, and one who has the files alone.
        let (mut inside, mut outside) = ([0; 8], [0; 8]);
        let mut reader = wal.reader(Lsn::FIRST).unwrap();
        let mut log = place.read_only();
        let (mut read, mut seen) = (0, 0);
        while read < 2000 {
            wal.wait_durable(Lsn::new(read + 1)).unwrap().wait().unwrap();
            read += count_in_each_ones_order(reader, &mut inside);
            reader = wal.reader(Lsn::new(read + 1)).unwrap();
            log.refresh().unwrap();
            seen += count_in_each_ones_order(log.reader(Lsn::new(seen + 1)).unwrap(), &mut outside);
            assert!(seen <= wal.durable_lsn().get(), "a promise came before it was kept");
        }
    });
    wal.close().unwrap();
    let log = place.read_only();
    assert_eq!(count_in_each_ones_order(log.reader(Lsn::FIRST).unwrap(), &mut [0; 8]), 2000);
    let disk = &*place.world.disk;
    let whole = ReadOnlyWal::verify_on(disk, &place.dir, &mut |f| panic!("{f:?}"), &mut |_, _| {});
    assert_eq!(whole.unwrap().records, 2000);
}

pub fn any_backend_sync_method_and_policy_continues_what_another_wrote(place: &Place) {
    let mut expected = 0;
    let policies = [RecoveryPolicy::TornTail, RecoveryPolicy::Strict];
    let methods = [SyncMethod::Dsync, SyncMethod::Fdatasync, SyncMethod::Auto];
    // From each backend to each other and back, and on to `Auto`.
    let others = backends(&place.dir).into_iter().flat_map(|other| [Some(other), None]);
    for (turn, other) in others.chain([Some(Backend::Auto)]).enumerate() {
        let (sync_method, recovery) = (methods[turn % 3], policies[turn % 2]);
        let config = WalConfig { sync_method, recovery, ..place.config() };
        let wal = match other {
            Some(backend) => Wal::open(WalConfig { backend, ..config }).unwrap(),
            None => place.try_open(config).unwrap(),
        };
        assert_eq!(wal.next_lsn().get(), expected + 1);
        fill(&wal, 1, 300, 7);
        let written = wal.with(Durability::Written);
        written.append_batch([record(1, expected + 301)]).unwrap().wait().unwrap();
        expected += 301;
        wal.wait_durable(Lsn::new(expected)).unwrap().wait().unwrap();
        wal.close().unwrap();
    }
    assert!(place.contents() == (1..=expected).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
}
