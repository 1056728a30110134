//! How far `ReadOnlyWal::verify` is: what it tells rises, never falls, and ends at the total.

use std::path::Path;

use prkdb_core::{Backend, Durability, ReadOnlyWal, Wal};

use crate::support::format::{self, flip};
use crate::support::{config, segments};

const THREADS: usize = 4;
/// More than all threads together can be ahead of what was told.
const SEGMENTS: usize = 6 * THREADS;

/// A log of so many segments and one that is open.
fn fill(dir: &Path) -> Wal {
    let wal = Wal::open(config(dir, Backend::Pwrite)).unwrap();
    let mut last = wal.next_lsn();
    while segments(dir).len() <= SEGMENTS {
        let ticket = wal.with(Durability::Written).append_batch([vec![7; 100_000]]).unwrap();
        last = ticket.wait().unwrap().last();
    }
    wal.wait_durable(last).unwrap().wait().unwrap();
    wal
}

/// What was told on the way, as (done, of how much), and how many frames there were.
fn told(dir: &Path, threads: usize) -> (Vec<(u64, u64)>, u64) {
    let mut told = Vec::new();
    let tell = &mut |done, total| told.push((done, total));
    let read = ReadOnlyWal::verify_with(dir, threads, &mut |_| {}, tell).unwrap();
    (told, read.frames)
}

fn assert_rises(dir: &Path, what: &str) {
    for threads in [1, THREADS] {
        let (told, frames) = told(dir, threads);
        let (first, last) = (*told.first().unwrap(), *told.last().unwrap());
        let what = format!("{what}, {threads} threads: {first:?} .. {last:?}");
        assert!(told.iter().all(|(_, total)| *total == last.1), "{what}: the total changes");
        assert!(told.is_sorted(), "{what}: it falls: {told:?}");
        // The most that can be read before anything is told.
        assert!(first.0 < last.1, "{what}: it was done when it began");
        assert!(last.1 > SEGMENTS as u64 * 900_000, "{what}: less than there is");
        assert_eq!(last.0, last.1, "{what}: it does not end");
        // Alone it tells of each frame, with others of each segment at least.
        let least = if threads == 1 { frames } else { SEGMENTS as u64 };
        assert!(told.len() as u64 >= least, "{what}: told only {} times", told.len());
    }
}

#[test]
fn the_progress_of_verify_rises_to_the_total() {
    let root = tempfile::tempdir().unwrap();
    let wal = fill(root.path());
    assert_rises(root.path(), "beside its writer");
    wal.close().unwrap();
    assert_rises(root.path(), "closed");
    // Headers and bodies, in the middle of a segment and at its end.
    let damaged = &segments(root.path())[1..SEGMENTS];
    for (number, path) in damaged.iter().enumerate() {
        let (frames, _) = format::frames(path);
        let frame = if number % 2 == 0 { frames.len() - 1 } else { frames.len() / 2 };
        let byte = if number % 4 < 2 { 20 } else { 5000 };
        flip(path, frames[frame].offset + byte);
    }
    let summary = ReadOnlyWal::verify(root.path(), &mut |_| {}, &mut |_, _| {}).unwrap();
    assert_eq!(summary.damaged, damaged.len() as u64);
    assert_rises(root.path(), "damaged");
}
