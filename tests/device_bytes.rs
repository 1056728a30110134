//! Bytes, as the kernel counts them: what durable records cost the device, what `open` reads.
//!
//! Tests take turns: `/proc/self/io` counts for all threads of the process. It counts what is
//! written by position through the page cache in whole folios, up to a MiB, of which the file
//! system then writes the dirty blocks only: such writes are left out.
#![cfg(all(target_os = "linux", not(prkdb_portable)))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prkdb_core::{Backend, ReadOnlyWal, Wal, WalConfig};

mod support;

const APPENDS: u64 = 400;
const BLOCK: u64 = 4096;

/// The counts, for one test alone; none, said aloud, where there are none.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if std::fs::read_to_string("/proc/self/io").is_err() {
        support::skip("bytes to and from the device", "no /proc/self/io here");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn counted(name: &str) -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
    line.parse().unwrap()
}

/// Bytes that this process made dirty in the page cache or wrote past it.
fn written() -> u64 {
    counted("write_bytes")
}

/// Waits until nothing is made ahead any more.
fn settle() {
    let mut before = written();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let now = written();
        if now == before {
            return;
        }
        before = now;
    }
    panic!("something writes without end");
}

/// Bytes that so many durable batches cost.
fn cost(wal: &Wal, appends: u64, records: &[&[u8]]) -> u64 {
    settle();
    let before = written();
    for _ in 0..appends {
        wal.append_batch(records).unwrap().wait().unwrap();
    }
    let bytes = written() - before;
    // What follows is written into old segments again.
    wal.truncate_before(wal.next_lsn()).unwrap();
    bytes
}

/// Runs `test` on each backend of which the counts are exact.
fn on_each_counted(test: impl Fn(&Wal, Backend)) {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for backend in support::backends(root.path()) {
        let (disk, _) = prkdb_core::io::open_disk(root.path(), backend).unwrap();
        if !disk.direct() && backend != Backend::Mmap {
            support::skip(format_args!("bytes to the device on {backend}"), "no O_DIRECT here");
            continue;
        }
        // Through several segments, cut, so that those that come next are made of old ones.
        let dir = root.path().join(backend.name());
        let config = WalConfig { backend, segment_bytes: 8 << 20, ..WalConfig::new(dir) };
        let wal = Wal::open(config).unwrap();
        for _ in 0..3 {
            support::fill(&wal, 1, 12_000, 50);
            wal.truncate_before(wal.next_lsn()).unwrap();
        }
        test(&wal, backend);
    }
}

/// A maker that got no core for a while may still write: the least of a few counts. None, said
/// aloud, where nothing is counted.
fn least_cost(wal: &Wal, appends: u64, records: &[&[u8]]) -> Option<u64> {
    let bytes = (0..5).map(|_| cost(wal, appends, records)).min().unwrap();
    if bytes == 0 {
        support::skip("bytes to the device", "this file system has none");
        return None;
    }
    Some(bytes)
}

#[test]
fn a_durable_record_costs_one_block() {
    let Some(_turn) = turn() else { return };
    on_each_counted(|wal, backend| {
        let Some(bytes) = least_cost(wal, APPENDS, &[b"x"]) else { return };
        println!("{backend}: {bytes} bytes for {APPENDS} durable records");
        assert!(bytes >= APPENDS * BLOCK, "{backend}: {bytes}: the kernel counts otherwise");
        // A few headers, footers and marks come in between.
        assert!(bytes <= (APPENDS + 40) * BLOCK, "{backend}: {bytes} for {APPENDS} records");
    });
}

/// Whole blocks of 4 KiB: from 80 KiB on that is at most a twentieth more than the frames are, just
/// above 64 KiB it can be a sixteenth.
#[test]
fn a_large_batch_costs_the_blocks_of_its_frame() {
    const BATCHES: u64 = 60;
    let Some(_turn) = turn() else { return };
    let (small, medium) = (vec![&[7; 100][..]; 1000], vec![&[7; 10 << 10][..]; 8]);
    for records in [small, medium, vec![&[7; 64 << 10][..]]] {
        let lens = records.iter().map(|record| record.len() as u64 + 8);
        let frame = 72 + lens.sum::<u64>();
        on_each_counted(|wal, backend| {
            let Some(bytes) = least_cost(wal, BATCHES, &records) else { return };
            let framed = BATCHES * frame;
            println!("{backend}: {bytes} bytes for {framed} of frames of {frame}");
            assert!(bytes >= framed, "{backend}: {bytes}: the kernel counts otherwise");
            let blocks = BATCHES * frame.next_multiple_of(BLOCK);
            // Headers, footers and marks come in between.
            assert!(bytes <= blocks + 40 * BLOCK, "{backend}: {bytes} for {framed} of frames");
            if frame >= 80 << 10 {
                assert!(bytes * 20 <= framed * 21, "{backend}: {bytes} for {framed} of frames");
            }
        });
    }
}

/// A group that is written over cached pages waits for a kernel worker: what readers had in the
/// page cache is let go before a segment is used again.
#[test]
fn a_segment_that_is_used_again_is_out_of_the_page_cache() {
    // It counts nothing of the process, but would be counted.
    let Some(_turn) = turn() else { return };
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for backend in support::backends(root.path()) {
        let (disk, _) = prkdb_core::io::open_disk(root.path(), backend).unwrap();
        if !disk.direct() || backend == Backend::Mmap {
            support::skip(format_args!("the page cache on {backend}"), "it is what is written to");
            continue;
        }
        let dir = root.path().join(backend.name());
        let config = WalConfig { backend, segment_bytes: 1 << 20, ..WalConfig::new(&dir) };
        let wal = Wal::open(config).unwrap();
        for _ in 0..3 {
            support::fill(&wal, 1, 12_000, 50);
            let first = wal.first_lsn();
            assert!(wal.reader(first).unwrap().all(|read| read.is_ok()));
            wal.truncate_before(wal.next_lsn()).unwrap();
        }
        support::fill(&wal, 1, 6_000, 50);
        assert!(wal.metrics().segments_recycled > 0, "{:?}", wal.metrics());
        let Some(cached) = cached_bytes(&dir) else { return };
        println!("{backend}: {cached} bytes are cached");
        assert!(cached < 64 << 10, "{backend}: {cached} bytes");
        wal.close().unwrap();
    }
}

/// Bytes of the segments of a log that are in the page cache; none, said aloud, where nobody tells.
fn cached_bytes(dir: &Path) -> Option<u64> {
    let mut fincore = std::process::Command::new("fincore");
    fincore.args(["--bytes", "--noheadings", "--output", "RES"]).args(support::segments(dir));
    match fincore.output() {
        Ok(told) => {
            let told = String::from_utf8(told.stdout).unwrap();
            Some(told.lines().map(|line| line.trim().parse::<u64>().unwrap()).sum())
        }
        Err(e) => {
            support::skip("what is in the page cache, which takes fincore", e);
            None
        }
    }
}

/// Of a segment that was sealed `open` reads the header and the footer, whatever is in it: of two
/// logs that end alike, that is all by which one costs more than the other.
#[test]
fn open_reads_no_record_of_a_sealed_segment() {
    let Some(_turn) = turn() else { return };
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = |name: &str, appends| {
        let dir = root.path().join(name);
        let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(&dir) };
        let wal = Wal::open(config).unwrap();
        let records = vec![&[7; 100][..]; 1000];
        for _ in 0..appends {
            wal.append_batch(&records).unwrap().wait().unwrap();
        }
        // With what is made ahead: else one log might have that segment and the other not.
        settle();
        wal.close().unwrap();
        let count = segments(&dir);
        (dir, count)
    };
    // Nine batches fill a segment: of both the tail has two.
    let ((few_dir, few), (many_dir, many)) = (log("small", 20), log("large", 200));
    assert_eq!(many - few, 20, "{few} and {many} segments");
    for opens in [as_reader, as_writer] {
        let (small, large) = (opens(&few_dir), opens(&many_dir));
        println!("{small} bytes read of {few} segments, {large} of {many}");
        // The count's own text is read too, and is a few digits longer or shorter.
        let more = (many - few) * 2 * BLOCK;
        assert!(large.abs_diff(small + more) < BLOCK, "{small} of {few}, {large} of {many}");
        assert!(large < 200 * 100_000 / 6, "{large} of twenty million bytes");
    }
}

/// Bytes read by opening a log to read it.
fn as_reader(dir: &Path) -> u64 {
    let before = counted("rchar");
    let wal = ReadOnlyWal::open(dir).unwrap();
    let read = counted("rchar") - before;
    assert!(wal.first_lsn().is_some());
    read
}

/// The same by opening it to write.
fn as_writer(dir: &Path) -> u64 {
    let before = counted("rchar");
    let wal = Wal::open(WalConfig { backend: Backend::Pwrite, ..WalConfig::new(dir) }).unwrap();
    let read = counted("rchar") - before;
    assert!(wal.durable_lsn() > wal.first_lsn());
    wal.close().unwrap();
    read
}

fn segments(dir: &Path) -> u64 {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".seg")).count() as u64
}
