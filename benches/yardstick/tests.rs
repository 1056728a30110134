//! The yardsticks do what they say: what a raw loop counted is in the file, what is copied is
//! whole.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::{Load, Means, Method, RawFile, Window, noise, raw};

const BYTES: u64 = 8 << 20;

/// How many writes the file at `path` tells of: its last at each place says how many there were.
fn writes_found(path: &Path, write_bytes: usize) -> u64 {
    let found = std::fs::read(path).unwrap();
    let mut expected = vec![0; write_bytes];
    noise(&mut expected);
    let places = BYTES / write_bytes as u64;
    let mut writes = 0;
    for (place, bytes) in (0..places).zip(found.chunks(write_bytes)) {
        let stamp = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        // What the file was made with is noise too, and its stamp a huge number.
        if stamp < 1 << 32 && stamp % places == place && bytes[8..] == expected[8..] {
            writes += stamp / places + 1;
        }
    }
    writes
}

fn what_was_counted_is_in_the_file(means: Means, direct: bool, load: Load) {
    let stop = AtomicBool::new(false);
    // However slow the disk is, in the end something is counted.
    loop {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("raw");
        let file = RawFile::create(&path, BYTES, direct).unwrap();
        assert_eq!(writes_found(&path, load.write_bytes), 0);
        let window = Window::after(Duration::ZERO, Duration::from_millis(30), &stop);
        let count = raw(means, &file, load, &window).unwrap();
        // Those under way at either end are counted by one of the two only.
        let told = count.latencies_ns.len() as u64;
        assert!(
            count.writes.abs_diff(told) <= load.depth as u64,
            "{} writes, {told} latencies",
            count.writes
        );
        assert_eq!(count.enters.is_some(), means == Means::Ring);
        let found = writes_found(&path, load.write_bytes);
        // Those that came back after the window are in the file and don't count.
        let (least, most) = (count.writes, count.writes + load.depth as u64);
        assert!((least..=most).contains(&found), "{load:?}: {found} found of {least} counted");
        if count.writes > 0 {
            return assert!(count.calls > 0, "{count:?}");
        }
    }
}

fn every_method_and_depth(means: Means) {
    for direct in [true, false] {
        for method in [Method::Dsync, Method::WriteThenFdatasync, Method::Unsynced] {
            for (write_bytes, depth) in [(4096, 1), (4096, 32), (27 * 4096, 8)] {
                let load = Load { write_bytes, depth, method };
                what_was_counted_is_in_the_file(means, direct, load);
            }
        }
    }
}

#[test]
fn what_the_ring_counted_is_in_the_file() {
    let root = tempfile::tempdir().unwrap();
    let file = RawFile::create(&root.path().join("raw"), BYTES, true).unwrap();
    if Means::of(&file) == Means::Threads {
        return writeln!(std::io::stderr().lock(), "SKIPPED: no io_uring here").unwrap();
    }
    every_method_and_depth(Means::Ring);
}

#[test]
fn what_the_threads_counted_is_in_the_file() {
    every_method_and_depth(Means::Threads);
}

#[test]
fn a_load_that_would_overlap_itself_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = RawFile::create(&root.path().join("raw"), BYTES, true).unwrap();
    let stop = AtomicBool::new(false);
    let window = Window::after(Duration::ZERO, Duration::ZERO, &stop);
    for (write_bytes, depth) in [(1 << 20, 5), (4095, 1), (0, 1), (4096, 0), (4096, 33)] {
        let load = Load { write_bytes, depth, method: Method::Unsynced };
        let refused = raw(Means::Threads, &file, load, &window).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "{load:?}");
    }
}

#[test]
fn a_batch_in_memory_holds_lengths_and_records() {
    let records = [b"one".to_vec(), b"four".to_vec()];
    let mut memory = Memory::new(&records);
    let crc = memory.batch(&records);
    assert_eq!(memory.bytes(), b"\x03\0\0\0one\x04\0\0\0four");
    assert_eq!(crc, crc32fast::hash(memory.bytes()));
}

#[test]
fn what_happens_outside_the_window_does_not_count() {
    let stop = AtomicBool::new(false);
    let window = Window::after(Duration::from_secs(60), Duration::from_secs(1), &stop);
    assert!(!window.contains(Instant::now()));
    assert!(window.contains(window.from));
    assert!(!window.contains(window.until));
    assert!(!window.is_over(window.from));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(window.is_over(window.from));
}
