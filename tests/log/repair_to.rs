//! Repair at its edges: logs without records or without anything to go by, a source that changes
//! while it is read, and one that has a writer.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use prkdb_core::io::{ThreadHost, World, open_disk};
use prkdb_core::{
    Backend, Error, ErrorKind, Lsn, ReadOnlyWal, RepairReport, SyncMethod, Wal, WalConfig, repair,
    repair_to, repair_to_in,
};

use crate::support::format::{self, Frame, flip};
use crate::support::gate::Gate;
use crate::support::through::Through;
use crate::support::{config, contents, copy, fill, io_kind, open};

fn closed_log(dir: &Path) -> Vec<Frame> {
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 1300, 13);
    wal.close().unwrap();
    format::log(dir).0
}

#[test]
fn a_log_without_records_is_copied_into_a_directory_that_is_there() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    let wal = open(&dir, Backend::Pwrite);
    wal.set_user_state("kept").unwrap();
    wal.close().unwrap();
    fs::create_dir(&to).unwrap();
    let report = repair_to(&dir, &to, &mut |_, _| {}).unwrap();
    assert_eq!((report.records_kept, report.next_lsn), (0, Lsn::FIRST));
    let log = ReadOnlyWal::open(&to).unwrap();
    assert_eq!((log.user_state(), log.next_lsn()), (b"kept".to_vec(), Lsn::FIRST));
}

#[test]
fn a_directory_with_neither_meta_nor_a_header_can_not_be_repaired() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let frames = closed_log(&dir);
    for at in [9, format::SLOT + 9] {
        flip(&dir.join("META"), at);
    }
    crate::support::segments(&dir).iter().for_each(|path| flip(path, 20));
    let error = repair(&dir, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.path().is_some_and(|path| path.ends_with("META")), "{error}");
    // One of them is enough.
    flip(&frames[0].path, 20);
    assert!(repair(&dir, &mut |_, _| {}).unwrap().records_kept > 0);
}

#[test]
fn a_repaired_log_keeps_its_sync_method() {
    for (method, name) in [(SyncMethod::Dsync, "dsync"), (SyncMethod::Fdatasync, "fdatasync")] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("log");
        let config = WalConfig { sync_method: method, ..config(&dir, Backend::Pwrite) };
        let wal = Wal::open(config).unwrap();
        fill(&wal, 1, 1300, 13);
        wal.close().unwrap();
        let frame = &format::log(&dir).0[5];
        flip(&frame.path, frame.offset + 24);
        assert_eq!(repair(&dir, &mut |_, _| {}).unwrap().records_lost, 13);
        assert_eq!(ReadOnlyWal::open(&dir).unwrap().stat().sync_method, name);
    }
}

/// What was given up stays so, also if it can be read again.
#[test]
fn a_batch_that_was_given_up_does_not_come_back() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    let frame = &closed_log(&dir)[5];
    flip(&frame.path, frame.offset + 24);
    assert_eq!(repair(&dir, &mut |_, _| {}).unwrap().records_lost, 13);
    flip(&frame.path, frame.offset + 24);
    let report = repair_to(&dir, &to, &mut |_, _| {}).unwrap();
    assert_eq!((report.records_kept, report.records_lost), (1287, 0), "{report:?}");
    let hole = Lsn::new(frame.first)..Lsn::new(frame.last() + 1);
    assert_eq!(
        (&report.holes[..], ReadOnlyWal::open(&to).unwrap().holes()),
        (&[hole.clone()][..], vec![hole])
    );
}

/// Copies the log in `dir` to `to`; the source goes through `gate`, and `then` runs once all of it
/// was looked at and nothing is written yet.
fn copied(
    dir: &Path,
    to: &Path,
    gate: &Arc<Gate>,
    mut then: impl FnMut() + Send,
) -> Result<RepairReport, Error> {
    let disk = || open_disk(to.parent().unwrap(), Backend::Pwrite).unwrap().0;
    let host = Arc::new(ThreadHost::new());
    let source = World { disk: Arc::new(Through::new(disk(), gate)), host: host.clone() };
    let progress = &mut |done, of| {
        if 2 * done == of {
            then();
        }
    };
    repair_to_in(source, dir, World { disk: disk(), host }, to, progress)
}

#[test]
fn a_source_that_changes_while_it_is_copied_is_told() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from);
    let gate = Arc::new(Gate::default());
    // In the middle, and the last one of all.
    for (number, back) in [30, 1].into_iter().enumerate() {
        let (dir, to) = (root.path().join(number.to_string()), root.path().join("new"));
        copy(&from, &dir);
        let frames = format::log(&dir).0;
        let frame = &frames[frames.len() - back];
        let error = copied(&dir, &to, &gate, || flip(&frame.path, frame.offset + 24)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&format!("record {}", frame.first)), "{error}");
        // Half a copy is no log.
        ReadOnlyWal::open(&to).unwrap_err();
        fs::remove_dir_all(to).unwrap();
    }
}

#[test]
fn a_source_whose_lock_can_not_be_taken_is_copied_unless_it_has_a_writer() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    closed_log(&dir);
    let gate = Arc::new(Gate::default());
    gate.refuse("lock", "");
    let wal = open(&dir, Backend::Pwrite);
    let error = copied(&dir, &to, &gate, || {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    wal.close().unwrap();
    gate.refuse("is-locked", "");
    let error = copied(&dir, &to, &gate, || {}).unwrap_err();
    assert_eq!(io_kind(&error), Some(io::ErrorKind::PermissionDenied), "{error}");
    gate.heal();
    gate.refuse("lock", "");
    assert_eq!(copied(&dir, &to, &gate, || {}).unwrap().records_kept, 1300);
    assert!(contents(&to) == contents(&dir));
}

/// A file of a segment that stands there twice gives its records once.
#[test]
fn records_that_stand_in_two_segments_are_copied_once() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    let wal = open(&dir, Backend::Pwrite);
    fill(&wal, 1, 13, 13);
    let dead = root.path().join("dead");
    copy(&dir, &dead);
    wal.close().unwrap();
    let path = &crate::support::segments(&dead)[0];
    let number = 77_u64;
    let mut bytes = fs::read(path).unwrap();
    let frames = format::frames_in(path, &bytes).0;
    bytes[32..40].copy_from_slice(&number.to_le_bytes());
    format::fix_crc(&mut bytes[..4096]);
    let name = path.file_name().unwrap().to_str().unwrap();
    let twin = dead.join(format!("{number:0width$}.seg", width = name.len() - 4));
    fs::write(&twin, &bytes).unwrap();
    // Frames name their segment.
    for frame in &frames {
        let twin = Frame { path: twin.clone(), ..frame.clone() };
        (48..56).zip(number.to_le_bytes()).for_each(|(at, byte)| {
            format::change_header(&twin, at, byte);
        });
    }
    let gate = Arc::new(Gate::default());
    let report = copied(&dead, &to, &gate, || {}).unwrap();
    assert_eq!(report.records_kept, 13, "{report:?}");
    assert_eq!(contents(&to).len(), 13);
}
