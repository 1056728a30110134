//! Files that shrink, vanish, are damaged or can't be opened while a log is read: told as what they
//! are, never as records.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prkdb_core::io::{ThreadHost, World, open_disk};
use prkdb_core::{Backend, ErrorKind, FindingKind, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::support::format::{self, Frame, flip};
use crate::support::gate::Gate;
use crate::support::through::{Hook, Through};
use crate::support::{config, copy, fill, io_kind, open, record, segments};

/// A closed log of several segments.
pub fn closed_log(dir: &Path) -> Vec<Frame> {
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 1300, 13);
    wal.close().unwrap();
    format::log(dir).0
}

pub fn through<H: Hook + 'static>(dir: &Path, hook: &Arc<H>) -> Through<H> {
    Through::new(open_disk(dir, Backend::Pwrite).unwrap().0, hook)
}

fn set_len(path: &Path, bytes: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_file_that_shrinks_under_a_reader_is_an_error_of_the_file() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    let log = ReadOnlyWal::open(root.path()).unwrap();
    let mut reader = log.reader(Lsn::FIRST).unwrap();
    assert_eq!(*reader.next().unwrap().unwrap().data, record(1, 1)[..]);
    let first = &segments(root.path())[0];
    set_len(first, 300 << 10);
    let error = reader.by_ref().find_map(Result::err).unwrap();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&**first)), "{error}");
    assert_eq!(io_kind(&error), Some(io::ErrorKind::UnexpectedEof), "{error}");
    // Whole again it goes on; what was cut off is zeros now.
    set_len(first, 1 << 20);
    let error = reader.by_ref().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_length_that_goes_beyond_the_file_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path());
    let frame = frames.iter().filter(|frame| frame.sealed).nth(5).unwrap();
    // Of the body as it is stored, and as it was: 2 MiB more.
    for at in [14, 18] {
        format::change_header(frame, at, 0x20);
    }
    let log = ReadOnlyWal::open(root.path()).unwrap();
    let error = log.reader(Lsn::FIRST).unwrap().find_map(Result::err).unwrap();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&*frame.path)), "{error}");
    assert_eq!(error.offset(), Some(frame.offset as u64), "{error}");
    let summary = ReadOnlyWal::verify(root.path(), &mut |_| {}, &mut |_, _| {}).unwrap();
    assert!(summary.damaged > 0, "{summary:?}");
}

/// One sector of a file can't be read.
struct BadSector(PathBuf, u64);

impl Hook for BadSector {
    fn read(&self, path: &Path, at: u64, len: usize) -> io::Result<()> {
        match path == self.0 && (at..at + len as u64).contains(&self.1) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }
}

#[test]
fn where_neither_a_header_nor_what_follows_can_be_read_the_walk_ends() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path());
    let frame = frames.iter().filter(|frame| frame.sealed).nth(9).unwrap();
    flip(&frame.path, frame.offset + 24);
    let sector = (frame.offset + frame.len) as u64 - 5000;
    let disk = through(root.path(), &Arc::new(BadSector(frame.path.clone(), sector)));
    let mut found = Vec::new();
    let tell = &mut |finding| found.push(finding);
    let summary = ReadOnlyWal::verify_on(&disk, root.path(), tell, &mut |_, _| {}).unwrap();
    let [bad, unread] = &found[..] else { panic!("{found:?}") };
    assert_eq!((bad.kind, bad.offset), (FindingKind::Corrupt, frame.offset as u64), "{bad:?}");
    assert_eq!((&unread.path, unread.kind), (&frame.path, FindingKind::Unreadable), "{unread:?}");
    assert!((unread.offset..unread.offset + 4096).contains(&sector), "{unread:?}");
    assert!(summary.records < 1300, "{summary:?}");
}

/// A file seems to be as long as it was.
struct Seems(PathBuf, u64);

impl Hook for Seems {
    fn size(&self, path: &Path, real: u64) -> u64 {
        if path == self.0 { self.1 } else { real }
    }
}

#[test]
fn a_file_that_shrinks_while_its_footer_is_looked_for_is_an_error_of_the_file() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    let first = &segments(root.path())[0];
    set_len(first, 300 << 10);
    let disk = through(root.path(), &Arc::new(Seems(first.clone(), 1 << 20)));
    let error = ReadOnlyWal::open_on(Arc::new(disk), root.path()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&**first)), "{error}");
    assert_eq!(io_kind(&error), Some(io::ErrorKind::UnexpectedEof), "{error}");
}

#[test]
fn metrics_that_shrink_while_they_are_read_are_none() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    let metrics = root.path().join("METRICS");
    let size = fs::metadata(&metrics).unwrap().len();
    let last = |seems| {
        let disk = through(root.path(), &Arc::new(Seems(metrics.clone(), seems)));
        ReadOnlyWal::open_on(Arc::new(disk), root.path()).unwrap().last_metrics()
    };
    assert!(last(size).is_some());
    // Behind what is told there is nothing but newlines.
    set_len(&metrics, 100);
    assert!(last(size).is_none());
}

/// Damage behind what a reader has read, met while the file's header is gone or can't be read.
#[test]
fn damage_is_told_as_such_also_where_the_file_has_no_header_any_more() {
    let root = tempfile::tempdir().unwrap();
    let frames = closed_log(root.path());
    let first = &segments(root.path())[0];
    let later = frames.iter().filter(|frame| frame.path == *first).nth(20).unwrap();
    flip(first, later.offset + later.len - 9);
    let read = |gate: &Arc<Gate>, damage: &dyn Fn()| {
        let disk = Arc::new(through(root.path(), gate));
        let mut reader =
            ReadOnlyWal::open_on(disk, root.path()).unwrap().reader(Lsn::FIRST).unwrap();
        reader.next().unwrap().unwrap();
        damage();
        reader.find_map(Result::err).unwrap()
    };
    let gate = Arc::new(Gate::default());
    let error = read(&gate, &|| gate.refuse("open", ".seg"));
    assert_eq!(io_kind(&error), Some(io::ErrorKind::PermissionDenied), "{error}");
    gate.heal();
    let error = read(&gate, &|| flip(first, 20));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&later.first.to_string()), "{error}");
}

#[test]
fn a_file_is_no_directory_with_a_log() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "no log").unwrap();
    ReadOnlyWal::open(&file).unwrap_err();
    let gate = Arc::new(Gate::default());
    gate.refuse("list", "");
    let disk = Arc::new(through(root.path(), &gate));
    let error = ReadOnlyWal::open_on(disk, root.path()).unwrap_err();
    assert_eq!(io_kind(&error), Some(io::ErrorKind::PermissionDenied), "{error}");
}

/// The disk takes only blocks that are larger than it says otherwise.
pub struct Coarse;

impl Hook for Coarse {
    fn block_size(&self, real: usize) -> usize {
        4 * real
    }
}

#[test]
fn a_disk_of_larger_blocks_refuses_a_log_of_smaller_ones() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    let disk = Arc::new(through(root.path(), &Arc::new(Coarse)));
    let error = ReadOnlyWal::open_on(disk.clone(), root.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let world = World { disk, host: Arc::new(ThreadHost::new()) };
    let error = Wal::open_in(world, config(root.path(), Backend::Pwrite)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_header_that_is_not_whole_is_damage_beside_a_writer_too() {
    let root = tempfile::tempdir().unwrap();
    let wal = open(root.path(), Backend::Pwrite);
    fill(&wal, 1, 1300, 13);
    let first = &segments(root.path())[0];
    flip(first, 20);
    let error = ReadOnlyWal::open(root.path()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&**first)), "{error}");
    flip(first, 20);
    assert!(ReadOnlyWal::open(root.path()).unwrap().durable_lsn() > Lsn::FIRST);
    // Its header is whole, and of a log of other blocks.
    wal.close().unwrap();
    format::change(first, 0..4096, |header| {
        header[72..76].copy_from_slice(&8192_u32.to_le_bytes());
        format::fix_crc(header);
    });
    let error = ReadOnlyWal::open(root.path()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&**first)), "{error}");
}

#[test]
fn segments_without_meta_are_a_finding() {
    let root = tempfile::tempdir().unwrap();
    closed_log(root.path());
    fs::remove_file(root.path().join("META")).unwrap();
    for threads in [1, 4] {
        let mut found = Vec::new();
        let tell = &mut |finding| found.push(finding);
        let summary = ReadOnlyWal::verify_with(root.path(), threads, tell, &mut |_, _| {}).unwrap();
        assert_eq!((summary.damaged, summary.records), (1, 0));
        assert_eq!(found[0].kind, FindingKind::Corrupt, "{found:?}");
    }
}

/// The first of several threads that look at segments panics.
struct PanicsOnce(AtomicBool);

impl Hook for PanicsOnce {
    fn readers(&self, _real: usize) -> usize {
        4
    }

    fn read(&self, path: &Path, at: u64, _len: usize) -> io::Result<()> {
        let looks = std::thread::current().name() == Some("prkdb-scan");
        if looks && at > 0 && !self.0.swap(true, Ordering::Relaxed) {
            panic!("{} is looked at by a thread that panics", path.display());
        }
        Ok(())
    }
}

#[test]
fn a_look_of_several_threads_ends_when_one_of_them_panics() {
    let root = tempfile::tempdir().unwrap();
    let (dir, dead) = (root.path().join("log"), root.path().join("dead"));
    let wal = Wal::open(WalConfig { num_segments: 4, ..config(&dir, Backend::Pwrite) }).unwrap();
    fill(&wal, 1, 1000, 10);
    copy(&dir, &dead);
    wal.close().unwrap();
    let look = |panics: bool| {
        let disk = Arc::new(through(&dead, &Arc::new(PanicsOnce(AtomicBool::new(!panics)))));
        let look = AssertUnwindSafe(|| ReadOnlyWal::open_on(disk, &dead).unwrap().durable_lsn());
        catch_unwind(look)
    };
    look(true).unwrap_err();
    assert!(look(false).unwrap() >= Lsn::new(990));
}

/// A disk of one's own.
struct Mine;

impl Hook for Mine {
    fn name(&self, _real: &'static str) -> &'static str {
        "mine"
    }
}

#[test]
fn a_log_on_a_disk_of_ones_own_names_no_backend() {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(through(root.path(), &Arc::new(Mine)));
    let world = World { disk, host: Arc::new(ThreadHost::new()) };
    let wal = Wal::open_in(world, config(root.path(), Backend::Pwrite)).unwrap();
    wal.append_batch(["one"]).unwrap().wait().unwrap();
    wal.close().unwrap();
    assert_eq!(ReadOnlyWal::open(root.path()).unwrap().stat().last_backend, "other");
}
