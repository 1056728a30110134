//! What every queue on a real disk promises, run on each of them.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::io::{Completion, Op, OpId, Until};

struct Bench {
    dir: tempfile::TempDir,
    disk: OsDisk,
    block: usize,
}

impl Bench {
    fn new(way: Way) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::of(dir.path()).unwrap();
        Bench::on(way, dir, volume)
    }

    fn buffered(way: Way) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume { takes_direct: false, ..Volume::of(dir.path()).unwrap() };
        Bench::on(way, dir, volume)
    }

    fn on(way: Way, dir: tempfile::TempDir, volume: Volume) -> Bench {
        let block = volume.block;
        Bench { dir, disk: OsDisk::new(way, volume), block }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn filled(&self, blocks: usize, byte: u8) -> Buf {
        let mut buf = Buf::zeroed(blocks * self.block, self.block);
        buf.bytes_mut().unwrap().fill(byte);
        buf
    }
}

/// Reaps until `count` answers are there.
fn reap(queue: &mut dyn Queue, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    while out.len() < count {
        queue.reap(&mut out, Until::Forever).unwrap();
    }
    assert_eq!(out.len(), count);
    out
}

fn one(queue: &mut dyn Queue, op: Op) -> Completion {
    let id = queue.submit(op);
    let answer = reap(queue, 1).remove(0);
    assert_eq!(answer.id, id);
    answer
}

fn what_was_written_is_read_back(bench: &Bench) {
    let file = bench.disk.create(&bench.path("a"), 1 << 20).unwrap();
    let mut queue = bench.disk.queue(4, &[]).unwrap();
    let queue = &mut *queue;
    let block = bench.block as u64;
    for (n, dsync) in [(0u8, false), (1, true)] {
        let at = u64::from(n) * 2 * block;
        let buf = bench.filled(2, n + 1);
        let op = Op::Write { file: Arc::clone(&file), at, buf: buf.clone(), dsync };
        let answer = one(queue, op);
        assert_eq!(answer.result.unwrap(), buf.len());
        assert!(answer.buf.unwrap().same_memory(&buf), "the buffer must come back");
    }
    let answer = one(queue, Op::Sync { file: Arc::clone(&file) });
    assert_eq!(answer.result.unwrap(), 0);
    assert!(answer.buf.is_none());
    let buf = bench.filled(2, 0xff);
    let answer = one(queue, Op::Read { file: Arc::clone(&file), at: block, buf });
    assert_eq!(answer.result.unwrap(), 2 * bench.block);
    let buf = answer.buf.unwrap();
    assert!(buf.bytes()[..bench.block].iter().all(|&b| b == 1));
    assert!(buf.bytes()[bench.block..].iter().all(|&b| b == 2));
    let mut bytes = bench.filled(1, 0);
    let read = file.read_at(3 * block, bytes.bytes_mut().unwrap()).unwrap();
    assert_eq!((read, bytes.bytes()[0]), (bench.block, 2));
    queue.release(&file);
    assert_eq!((file.size().unwrap(), file.links().unwrap()), (1 << 20, 1));
}

fn every_request_is_answered_once(bench: &Bench) {
    const DEPTH: usize = 16;
    let registered: Vec<Buf> = (0..4).map(|_| bench.filled(1, 7)).collect();
    let mut queue = bench.disk.queue(DEPTH, &registered).unwrap();
    let mut free = registered;
    free.extend((4..DEPTH).map(|_| bench.filled(1, 7)));
    let files: Vec<_> = (0..48)
        .map(|n| bench.disk.create(&bench.path(&format!("m{n}")), 1 << 16).unwrap())
        .collect();
    let byte = |n: usize| u8::try_from(n % 251).unwrap() + 1;
    let (mut open, mut seen, mut out) = (std::collections::BTreeSet::new(), 0, Vec::new());
    for n in 0..400usize {
        if n % 16 == 3 {
            open.insert(queue.submit(Op::Sync { file: Arc::clone(&files[n % 48]) }));
        } else {
            let mut buf = free.pop().unwrap();
            buf.bytes_mut().expect("nobody else holds it").fill(byte(n));
            let at = ((n / 48 % 16) * bench.block) as u64;
            let file = Arc::clone(&files[n % 48]);
            open.insert(queue.submit(Op::Write { file, at, buf, dsync: n % 3 == 0 }));
        }
        assert_eq!(queue.in_flight(), open.len());
        while open.len() == DEPTH || (n == 399 && !open.is_empty()) {
            queue.reap(&mut out, Until::Forever).unwrap();
            for answer in out.drain(..) {
                answer.result.unwrap();
                assert!(open.remove(&answer.id), "answered twice, or never asked");
                free.extend(answer.buf);
                seen += 1;
            }
        }
    }
    assert_eq!((seen, queue.in_flight()), (400, 0));
    let mut buf = bench.filled(1, 0);
    for n in (0..400usize).filter(|n| n % 16 != 3) {
        files[n % 48]
            .read_at(((n / 48 % 16) * bench.block) as u64, buf.bytes_mut().unwrap())
            .unwrap();
        assert!(buf.bytes().iter().all(|&b| b == byte(n)), "write {n}");
    }
    files.iter().for_each(|file| queue.release(file));
}

fn a_waker_ends_a_wait_now_or_the_next(bench: &Bench) {
    let mut queue = bench.disk.queue(2, &[]).unwrap();
    let (waker, mut out) = (queue.waker(), Vec::new());
    waker.wake_by_ref();
    queue.reap(&mut out, Until::Forever).unwrap();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                waker.wake_by_ref();
            });
            queue.reap(&mut out, Until::Forever).unwrap();
        });
    }
    let before = std::time::Instant::now();
    queue.reap(&mut out, Until::For(Duration::from_millis(20))).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(20), "nobody woke it");
    queue.reap(&mut out, Until::Now).unwrap();
    assert!(out.is_empty());
    drop(queue);
    waker.wake();
}

fn a_read_ends_at_the_end_of_the_file(bench: &Bench) {
    let path = bench.path("short");
    std::fs::write(&path, vec![9; bench.block + 100]).unwrap();
    let mut queue = bench.disk.queue(2, &[]).unwrap();
    for access in [Access::Cached, Access::Direct, Access::Write] {
        let file = bench.disk.open(&path, access).unwrap();
        for (at, len) in [(0, bench.block + 100), (bench.block, 100), (4 * bench.block, 0)] {
            let buf = bench.filled(4, 0);
            let op = Op::Read { file: Arc::clone(&file), at: at as u64, buf };
            let answer = one(&mut *queue, op);
            assert_eq!(answer.result.unwrap(), len, "{access:?} at {at}");
            assert!(answer.buf.unwrap().bytes()[..len].iter().all(|&b| b == 9));
        }
    }
}

fn errors_are_answers(bench: &Bench) {
    let path = bench.path("ro");
    std::fs::write(&path, vec![9; bench.block]).unwrap();
    let mut queue = bench.disk.queue(2, &[]).unwrap();
    let file = bench.disk.open(&path, Access::Cached).unwrap();
    let (buf, at) = (bench.filled(1, 0), 0);
    let op = Op::Write { file: Arc::clone(&file), at, buf: buf.clone(), dsync: false };
    let answer = one(&mut *queue, op);
    assert_eq!(answer.result.unwrap_err().raw_os_error(), Some(nix::libc::EBADF));
    assert!(answer.buf.unwrap().same_memory(&buf));
    let answer = one(&mut *queue, Op::Read { file, at, buf: buf.clone() });
    assert_eq!(answer.result.unwrap_err().kind(), ErrorKind::InvalidInput, "a shared buffer");
    drop(buf);
    #[derive(Debug)]
    struct Foreign;
    impl crate::io::File for Foreign {
        fn path(&self) -> &Path {
            Path::new("foreign")
        }
        fn size(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn links(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let id: OpId = queue.submit(Op::Sync { file: Arc::new(Foreign) });
    let answer = reap(&mut *queue, 1).remove(0);
    assert_eq!((answer.id, answer.result.unwrap_err().kind()), (id, ErrorKind::InvalidInput));
    assert_eq!(queue.in_flight(), 0);
}

fn dropping_the_queue_finishes_what_was_submitted(bench: &Bench) {
    let file = bench.disk.create(&bench.path("dropped"), 1 << 20).unwrap();
    let mut queue = bench.disk.queue(8, &[]).unwrap();
    for n in 0..8u64 {
        let (at, buf) = (n * bench.block as u64, bench.filled(1, 5));
        queue.submit(Op::Write { file: Arc::clone(&file), at, buf, dsync: false });
    }
    queue.reap(&mut Vec::new(), Until::Now).unwrap();
    drop(queue);
    let mut buf = bench.filled(8, 0);
    file.read_at(0, buf.bytes_mut().unwrap()).unwrap();
    assert!(buf.bytes().iter().all(|&b| b == 5));
}

fn a_queue_beside_a_lock_leaves_it_to_its_guard(bench: &Bench) {
    let path = bench.path("LOCK");
    let guard = bench.disk.lock(&path).unwrap();
    let queue = bench.disk.queue(2, &[]).unwrap();
    assert!(bench.disk.is_locked(&path).unwrap());
    drop(guard);
    assert!(!bench.disk.is_locked(&path).unwrap());
    drop(queue);
}

macro_rules! on_each_queue {
    ($($name:ident),+ $(,)?) => {
        mod pwrite { $(#[test] fn $name() { super::each(super::Way::Pwrite, super::$name); })+ }
        mod mmap { $(#[test] fn $name() { super::each(super::Way::Mmap, super::$name); })+ }
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        mod tokio_uring {
            $(#[test] fn $name() { super::each(super::Way::TokioUring, super::$name); })+
        }
        #[cfg(all(target_os = "linux", not(prkdb_portable)))]
        mod uring { $(#[test] fn $name() { super::each(super::Way::Uring, super::$name); })+ }
    };
}

on_each_queue! {
    what_was_written_is_read_back,
    every_request_is_answered_once,
    a_waker_ends_a_wait_now_or_the_next,
    a_read_ends_at_the_end_of_the_file,
    errors_are_answers,
    dropping_the_queue_finishes_what_was_submitted,
    a_queue_beside_a_lock_leaves_it_to_its_guard,
}

/// Runs a test on `way`, past the page cache and through it.
fn each(way: Way, test: fn(&Bench)) {
    for bench in [Bench::new(way), Bench::buffered(way)] {
        match bench.disk.queue(1, &[]) {
            Ok(_) => test(&bench),
            Err(e) if way != Way::Pwrite => {
                // Past the test runner, which shows nothing of a test that passes.
                writeln!(io::stderr(), "SKIPPED, no io_uring here: {e}").unwrap();
                return;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn only_regular_files_are_opened() {
    let bench = Bench::new(Way::Pwrite);
    std::fs::write(bench.path("file"), "x").unwrap();
    std::os::unix::fs::symlink(bench.path("file"), bench.path("link")).unwrap();
    nix::unistd::mkfifo(&bench.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(bench.path("dir")).unwrap();
    for name in ["link", "fifo", "dir"] {
        for access in [Access::Cached, Access::Direct, Access::Write] {
            let refused = bench.disk.open(&bench.path(name), access).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name} {access:?}");
        }
        assert!(bench.disk.create(&bench.path(name), 1).is_err());
    }
    let missing = bench.disk.open(&bench.path("none"), Access::Write).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn a_file_keeps_working_under_its_new_name() {
    let bench = Bench::buffered(Way::Pwrite);
    let file = bench.disk.create(&bench.path("old"), 4096).unwrap();
    bench.disk.rename(&bench.path("old"), &bench.path("new")).unwrap();
    bench.disk.sync_dir(bench.dir.path()).unwrap();
    let mut queue = bench.disk.queue(8, &[]).unwrap();
    let buf = bench.filled(1, 3);
    let op = Op::Write { file: Arc::clone(&file), at: 0, buf, dsync: true };
    assert_eq!(one(&mut *queue, op).result.unwrap(), bench.block);
    bench.disk.unlink(&bench.path("new")).unwrap();
    assert_eq!(file.links().unwrap(), 0);
}

#[test]
fn names_are_listed_sorted_and_links_are_not_followed() {
    let bench = Bench::new(Way::Pwrite);
    let nested = bench.path("a/b/c");
    bench.disk.create_dir(&nested).unwrap();
    bench.disk.create_dir(&nested).unwrap();
    drop(bench.disk.create(&nested.join("2"), 4096).unwrap());
    bench.disk.create_dir(&nested.join("1")).unwrap();
    std::os::unix::fs::symlink("2", nested.join("3")).unwrap();
    let entry = |name: &str, kind, size| Entry { name: name.into(), kind, size };
    let expected = [
        entry("1", EntryKind::Directory, 0),
        entry("2", EntryKind::File, 4096),
        entry("3", EntryKind::Other, 0),
    ];
    assert_eq!(bench.disk.list(&nested).unwrap(), expected);
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(&nested), mode(&nested.join("2"))), (0o700, 0o600));
    assert!(bench.disk.create_dir(&nested.join("2")).is_err());
    assert!(bench.disk.space(&nested).unwrap() > 0);
    assert!(bench.disk.block_size() >= 4096);
}
