//! Batches that a newer version wrote are refused as unsupported, never taken for damage, and
//! nothing is changed.
//!
//! ```text
//! closed log --one header made newer, its checksum right--> open, read, verify --> Unsupported
//! ```

use std::path::Path;

use prkdb_core::{Backend, Error, ErrorKind, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::support;
use crate::support::format::{self, Frame};
use crate::support::{config, fill, image};

/// Bytes of a frame header and a value that version 1 does not know: tag, codec, flags, version.
const NEWER: &[(&str, usize, u8)] =
    &[("tag", 0, 7), ("codec", 1, 9), ("flags", 2, 1), ("flags", 2, 4), ("version", 64, 2)];

/// A closed log of several segments, the last one open.
fn closed_log(dir: &Path, num_segments: usize) -> Vec<Frame> {
    let wal = Wal::open(WalConfig { num_segments, ..config(dir, Backend::Auto) }).unwrap();
    fill(&wal, 1, 1300, 26);
    wal.close().unwrap();
    let (frames, _) = format::log(dir);
    assert!(frames.iter().any(|frame| frame.sealed) && frames.iter().any(|frame| !frame.sealed));
    frames
}

/// What goes wrong first, of opening the log without a writer and reading all of it.
fn read_all(dir: &Path) -> Result<(), Error> {
    ReadOnlyWal::open(dir)?.reader(Lsn::FIRST)?.try_for_each(|record| record.map(drop))
}

fn verify(dir: &Path) -> Result<u64, Error> {
    ReadOnlyWal::verify(dir, &mut |_| {}, &mut |_, _| {}).map(|summary| summary.damaged)
}

fn repair(dir: &Path) -> Result<(), Error> {
    prkdb_core::repair(dir, &mut |_, _| {}).map(drop)
}

fn assert_unsupported(what: &str, outcome: Result<(), Error>, frame: &Frame) {
    let error = outcome.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
    let name = frame.path.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{what}: {error}");
}

/// Tries each newer header in one batch of a log.
fn refused(dir: &Path, frame: &Frame) {
    let header = std::fs::read(&frame.path).unwrap()[frame.offset..][..format::HEADER].to_vec();
    for (field, at, byte) in NEWER {
        let what = format!(
            "{field} {byte} in {}",
            if frame.sealed { "a sealed one" } else { "the open one" }
        );
        format::change_header(frame, *at, *byte);
        let before = image(dir);
        assert_unsupported(&what, read_all(dir), frame);
        assert_unsupported(&what, verify(dir).map(drop), frame);
        // Or an older build would give up what a newer one reads.
        assert_unsupported(&what, repair(dir), frame);
        // A sealed segment is not looked into before its records are asked for.
        if !frame.sealed {
            assert_unsupported(&what, Wal::open(config(dir, Backend::Pwrite)).map(drop), frame);
        }
        assert!(image(dir) == before, "{what}: looking changed the log");
        format::change_header(frame, *at, header[*at]);
    }
    assert_eq!(verify(dir).unwrap(), 0);
    read_all(dir).unwrap();
}

#[test]
fn a_newer_batch_in_the_open_segment_is_unsupported() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path(), 1);
    refused(root.path(), frames.iter().rfind(|frame| !frame.sealed).unwrap());
}

#[test]
fn a_newer_batch_in_a_sealed_segment_is_unsupported() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path(), 1);
    refused(root.path(), frames.iter().filter(|frame| frame.sealed).nth(3).unwrap());
}

#[test]
fn a_newer_batch_in_a_segment_written_beside_others_is_unsupported() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path(), 2);
    refused(root.path(), frames.iter().filter(|frame| frame.sealed).nth(3).unwrap());
}

#[test]
fn a_newer_batch_behind_damage_is_unsupported_to_a_repair() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path(), 1);
    let sealed: Vec<&Frame> = frames.iter().filter(|frame| frame.sealed).collect();
    format::flip(&sealed[3].path, sealed[3].offset + 24);
    for (field, at, byte) in NEWER {
        let was = std::fs::read(&sealed[4].path).unwrap()[sealed[4].offset + at];
        format::change_header(sealed[4], *at, *byte);
        let before = image(root.path());
        assert_unsupported(field, repair(root.path()), sealed[4]);
        assert!(image(root.path()) == before, "{field}: looking changed the log");
        format::change_header(sealed[4], *at, was);
    }
    repair(root.path()).unwrap();
}

/// What callers are told of what they hold.
#[test]
fn batches_readers_and_tickets_tell_what_they_hold() {
    let root = tempfile::tempdir().unwrap();
    let wal = support::open(&root.path().join("log"), Backend::Auto);
    let far = wal.wait_durable(Lsn::new(100)).unwrap();
    let mut batch = prkdb_core::Batch::new();
    batch.push(b"one");
    batch.push(b"three");
    assert_eq!((batch.len(), batch.record_bytes()), (2, 8));
    wal.append_batch(&batch).unwrap().wait().unwrap();
    let mut reader = wal.reader(Lsn::FIRST).unwrap();
    let first = reader.next().unwrap().unwrap();
    assert_eq!(reader.next_lsn(), Lsn::new(2));
    assert!(first.data == wal.read(Lsn::FIRST).unwrap().data);
    assert!(first.data != reader.next().unwrap().unwrap().data);
    wal.close().unwrap();
    // A record that never came: whoever waits for it is told, and does not hang.
    assert_eq!(far.wait().unwrap_err().kind(), ErrorKind::Closed);
}
