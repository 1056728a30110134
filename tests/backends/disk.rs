//! What every disk and queue promises: the contract of `prkdb_core::io`, one case a promise.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prkdb_core::io::{Access, Buf, Entry, EntryKind, Op, OpId, Until};

use crate::place::{Place, one, reap};

pub fn what_was_written_is_read_back(place: &Place) {
    let file = place.world.disk.create(&place.path("a"), 1 << 20).unwrap();
    let mut queue = place.queue(4);
    let queue = &mut *queue;
    let block = place.block() as u64;
    for (n, dsync) in [(0u8, false), (1, true)] {
        let at = u64::from(n) * 2 * block;
        let buf = place.filled(2, n + 1);
        let op = Op::Write { file: Arc::clone(&file), at, buf: buf.clone(), dsync };
        let answer = one(queue, op);
        assert_eq!(answer.result.unwrap(), buf.len());
        assert!(answer.buf.unwrap().same_memory(&buf), "the buffer must come back");
    }
    let answer = one(queue, Op::Sync { file: Arc::clone(&file) });
    assert_eq!(answer.result.unwrap(), 0);
    assert!(answer.buf.is_none());
    let buf = place.filled(2, 0xff);
    let answer = one(queue, Op::Read { file: Arc::clone(&file), at: block, buf });
    assert_eq!(answer.result.unwrap(), 2 * place.block());
    let buf = answer.buf.unwrap();
    assert!(buf.bytes()[..place.block()].iter().all(|&b| b == 1));
    assert!(buf.bytes()[place.block()..].iter().all(|&b| b == 2));
    for access in [Access::Write, Access::Cached, Access::Direct] {
        let file = match access {
            Access::Write => Arc::clone(&file),
            _ => place.world.disk.open(&place.path("a"), access).unwrap(),
        };
        let mut bytes = place.filled(1, 0);
        let read = file.read_at(3 * block, bytes.bytes_mut().unwrap()).unwrap();
        assert_eq!((read, bytes.bytes()[0]), (place.block(), 2), "{access:?}");
    }
    queue.release(&file);
    assert_eq!((file.size().unwrap(), file.links().unwrap()), (1 << 20, 1));
}

pub fn every_request_is_answered_once(place: &Place) {
    const DEPTH: usize = 16;
    let registered: Vec<Buf> = (0..4).map(|_| place.filled(1, 7)).collect();
    let mut queue = place.world.disk.queue(DEPTH, &registered).unwrap();
    let mut free = registered;
    free.extend((4..DEPTH).map(|_| place.filled(1, 7)));
    let create = |n| place.world.disk.create(&place.path(&format!("m{n}")), 1 << 16).unwrap();
    let files: Vec<_> = (0..48).map(create).collect();
    let byte = |n: usize| u8::try_from(n % 251).unwrap() + 1;
    let (mut open, mut seen, mut out) = (BTreeSet::new(), 0, Vec::new());
    for n in 0..400usize {
        if n % 16 == 3 {
            open.insert(queue.submit(Op::Sync { file: Arc::clone(&files[n % 48]) }));
        } else {
            let mut buf = free.pop().unwrap();
            buf.bytes_mut().expect("nobody else holds it").fill(byte(n));
            let at = ((n / 48 % 16) * place.block()) as u64;
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
    let mut buf = place.filled(1, 0);
    for n in (0..400usize).filter(|n| n % 16 != 3) {
        let at = ((n / 48 % 16) * place.block()) as u64;
        files[n % 48].read_at(at, buf.bytes_mut().unwrap()).unwrap();
        assert!(buf.bytes().iter().all(|&b| b == byte(n)), "write {n}");
    }
    files.iter().for_each(|file| queue.release(file));
}

pub fn a_waker_ends_the_next_wait_and_so_does_time(place: &Place) {
    let mut queue = place.queue(2);
    let (waker, mut out) = (queue.waker(), Vec::new());
    waker.wake_by_ref();
    queue.reap(&mut out, Until::Forever).unwrap();
    let before = place.world.host.now();
    queue.reap(&mut out, Until::For(Duration::from_millis(20))).unwrap();
    let waited = place.world.host.now() - before;
    assert!(waited >= Duration::from_millis(20), "nobody woke it after {waited:?}");
    queue.reap(&mut out, Until::Now).unwrap();
    assert!(out.is_empty());
    drop(queue);
    waker.wake();
}

pub fn a_read_ends_at_the_end_of_the_file(place: &Place) {
    let block = place.block();
    let path = place.plant("short", &vec![9; block + 100]);
    let mut queue = place.queue(2);
    for access in [Access::Cached, Access::Direct, Access::Write] {
        let file = place.world.disk.open(&path, access).unwrap();
        for (at, len) in [(0, block + 100), (block, 100), (4 * block, 0)] {
            let buf = place.filled(4, 0);
            let op = Op::Read { file: Arc::clone(&file), at: at as u64, buf };
            let answer = one(&mut *queue, op);
            assert_eq!(answer.result.unwrap(), len, "{access:?} at {at}");
            assert!(answer.buf.unwrap().bytes()[..len].iter().all(|&b| b == 9));
        }
    }
}

pub fn errors_are_answers(place: &Place) {
    let path = place.plant("ro", &vec![9; place.block()]);
    let mut queue = place.queue(2);
    let file = place.world.disk.open(&path, Access::Cached).unwrap();
    let (buf, at) = (place.filled(1, 0), 0);
    let op = Op::Write { file: Arc::clone(&file), at, buf: buf.clone(), dsync: false };
    let answer = one(&mut *queue, op);
    answer.result.expect_err("a file that was opened for reading");
    assert!(answer.buf.unwrap().same_memory(&buf));
    let answer = one(&mut *queue, Op::Read { file, at, buf: buf.clone() });
    assert_eq!(answer.result.unwrap_err().kind(), ErrorKind::InvalidInput, "a shared buffer");
    drop(buf);
    let id: OpId = queue.submit(Op::Sync { file: Arc::new(Foreign) });
    let answer = reap(&mut *queue, 1).remove(0);
    assert_eq!((answer.id, answer.result.unwrap_err().kind()), (id, ErrorKind::InvalidInput));
    assert_eq!(queue.in_flight(), 0);
}

/// A file of no disk here.
#[derive(Debug)]
struct Foreign;

impl prkdb_core::io::File for Foreign {
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

pub fn dropping_the_queue_finishes_what_was_started(place: &Place) {
    let file = place.world.disk.create(&place.path("dropped"), 1 << 20).unwrap();
    let mut queue = place.queue(8);
    for n in 0..8u64 {
        let (at, buf) = (n * place.block() as u64, place.filled(1, 5));
        queue.submit(Op::Write { file: Arc::clone(&file), at, buf, dsync: false });
    }
    queue.reap(&mut Vec::new(), Until::Now).unwrap();
    drop(queue);
    place.pass(Duration::from_millis(1));
    let mut buf = place.filled(8, 0);
    file.read_at(0, buf.bytes_mut().unwrap()).unwrap();
    assert!(buf.bytes().iter().all(|&b| b == 5));
}

pub fn a_queue_beside_a_lock_leaves_it_to_its_guard(place: &Place) {
    let (disk, path) = (&place.world.disk, place.path("LOCK"));
    assert!(!disk.is_locked(&path).unwrap());
    let guard = disk.lock(&path).unwrap();
    let queue = place.queue(2);
    assert!(disk.is_locked(&path).unwrap());
    let refused = disk.lock(&path).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock, "{refused}");
    drop(guard);
    assert!(!disk.is_locked(&path).unwrap());
    drop(queue);
}

pub fn a_file_keeps_working_under_its_new_name(place: &Place) {
    let disk = &place.world.disk;
    let file = disk.create(&place.path("old"), place.block() as u64).unwrap();
    disk.rename(&place.path("old"), &place.path("new")).unwrap();
    disk.sync_dir(&place.dir).unwrap();
    let mut queue = place.queue(8);
    let op = Op::Write { file: Arc::clone(&file), at: 0, buf: place.filled(1, 3), dsync: true };
    assert_eq!(one(&mut *queue, op).result.unwrap(), place.block());
    disk.unlink(&place.path("new")).unwrap();
    assert_eq!(file.links().unwrap(), 0);
    let op = Op::Write { file: Arc::clone(&file), at: 0, buf: place.filled(1, 4), dsync: true };
    assert_eq!(one(&mut *queue, op).result.unwrap(), place.block(), "a file without a name");
}

pub fn names_are_listed_sorted(place: &Place) {
    let (disk, nested) = (&place.world.disk, place.path("a/b/c"));
    disk.create_dir(&nested).unwrap();
    disk.create_dir(&nested).unwrap();
    drop(disk.create(&nested.join("2"), 4096).unwrap());
    disk.create_dir(&nested.join("1")).unwrap();
    let entry = |name: &str, kind, size| Entry { name: name.into(), kind, size };
    let expected = [entry("1", EntryKind::Directory, 0), entry("2", EntryKind::File, 4096)];
    assert_eq!(disk.list(&nested).unwrap(), expected);
    assert!(disk.create_dir(&nested.join("2")).is_err());
    assert!(disk.space(&nested).unwrap() > 0);
    assert!(disk.block_size() >= 4096);
}

pub fn a_name_is_made_once_and_missing_files_are_not_found(place: &Place) {
    let disk = &place.world.disk;
    drop(disk.create(&place.path("once"), 4096).unwrap());
    let again = disk.create(&place.path("once"), 4096).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    for access in [Access::Cached, Access::Direct, Access::Write] {
        let missing = disk.open(&place.path("none"), access).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{access:?}");
    }
    assert_eq!(disk.unlink(&place.path("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.list(&place.path("none")).unwrap_err().kind(), ErrorKind::NotFound);
}
