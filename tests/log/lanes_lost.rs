//! Several lanes and damage: what a look at all of them together says, where one of them can't be
//! read or is forged.
//!
//! ```text
//! lanes, closed --a batch flipped--> Salvage: a hole in META --damage--> verify, open
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prkdb_core::io::open_disk;
use prkdb_core::{
    Backend, Error, ErrorKind, Finding, FindingKind, Lsn, ReadOnlyWal, Record, RecoveryPolicy,
    VerifySummary, Wal, WalConfig,
};

use crate::support::format::{self, Frame, flip};
use crate::support::through::{Hook, Through};
use crate::support::{config, fill};

fn lanes(dir: &Path) -> WalConfig {
    WalConfig { num_segments: 3, ..config(dir, Backend::Pwrite) }
}

fn closed(dir: &Path) -> Vec<Frame> {
    let wal = Wal::open(lanes(dir)).unwrap();
    fill(&wal, 1, 4000, 10);
    wal.close().unwrap();
    format::log(dir).0
}

/// A log of lanes of which one batch of the first segments was given up, and the last batch of a
/// segment that has a footer.
fn with_a_hole(dir: &Path) -> Frame {
    let frames = closed(dir);
    flip(&frames[9].path, frames[9].offset + 24);
    let config = WalConfig { recovery: RecoveryPolicy::Salvage, ..lanes(dir) };
    let wal = Wal::open(config).unwrap();
    assert_eq!(wal.holes().len(), 1);
    wal.close().unwrap();
    format::log(dir).0.into_iter().rfind(|frame| frame.sealed).unwrap()
}

/// One read of many blocks of a file fails, that before which there were so many.
struct Once(PathBuf, AtomicI64);

impl Hook for Once {
    fn read(&self, path: &Path, _at: u64, len: usize) -> io::Result<()> {
        let large = path == self.0 && len > 4096;
        match large && self.1.fetch_sub(1, Ordering::Relaxed) == 0 {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }
}

fn verify(dir: &Path, hook: Once) -> (Vec<Finding>, Result<VerifySummary, Error>) {
    let disk = Through::new(open_disk(dir, Backend::Pwrite).unwrap().0, &Arc::new(hook));
    let mut found = Vec::new();
    let tell = &mut |finding| found.push(finding);
    let summary = ReadOnlyWal::verify_on(&disk, dir, tell, &mut |_, _| {});
    (found, summary)
}

/// Which lane gets which batches the device decides: `test` tells whether those of one log are what
/// it is about.
fn in_some_layout(test: impl Fn(&Path) -> bool) {
    let of_one = || test(tempfile::tempdir().unwrap().path());
    // About every tenth is.
    assert!((0..300).any(|_| of_one()), "three hundred logs were laid out otherwise");
}

fn nothing() -> Once {
    Once(PathBuf::new(), AtomicI64::new(0))
}

#[test]
fn a_place_that_is_read_at_the_second_try_is_told_all_the_same() {
    in_some_layout(|dir| {
        let last = with_a_hole(dir);
        let (before, whole) = verify(dir, nothing());
        assert!(before.iter().all(|finding| !finding.is_damage()), "{before:?}");
        // Where the headers of its frames are needed to say how the log ends there is no finding:
        // then the next read of it is the one that looks for what is missing.
        let failing = |nth| verify(dir, Once(last.path.clone(), AtomicI64::new(nth)));
        let looked = (0..2).map(failing).find(|(_, summary)| summary.is_ok());
        let Some((found, summary)) = looked else { return false };
        // Nor is any damage passed over because another lane might have had its records.
        let damage: Vec<_> = found.iter().filter(|finding| finding.is_damage()).collect();
        let [bad, unread] = &damage[..] else { return false };
        assert_eq!(bad.kind, FindingKind::Corrupt, "{bad:?}");
        assert_eq!((&unread.path, unread.kind), (&last.path, FindingKind::Unreadable));
        assert_eq!(summary.unwrap().records, whole.unwrap().records);
        true
    });
}

#[test]
fn a_newer_batch_among_lanes_is_unsupported() {
    let root = tempfile::tempdir().unwrap();
    let last = with_a_hole(root.path());
    format::change_header(&last, 1, 9);
    let error = verify(root.path(), nothing()).1.unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Unsupported, Some(&*last.path)));
}

#[test]
fn a_newer_batch_beside_a_lane_that_is_gone_is_unsupported() {
    in_some_layout(|dir| {
        let frames = closed(dir);
        // The last batch before one of another lane: of a lane that has all its records none is
        // looked at for those of another.
        let sealed: Vec<_> = frames.iter().filter(|frame| frame.sealed).collect();
        let goes_on = |pair: &[&Frame]| {
            sealed.iter().any(|f| f.path == pair[0].path && f.first > pair[1].first)
        };
        let mut woven =
            sealed.windows(2).filter(|pair| pair[0].path != pair[1].path && goes_on(pair));
        let Some([first, other]) = woven.next() else { return false };
        format::change_header(first, 1, 9);
        std::fs::remove_file(&other.path).unwrap();
        let error = ReadOnlyWal::open(dir).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Unsupported, Some(&*first.path)));
        true
    });
}

#[test]
fn a_last_batch_that_is_no_frame_beside_a_lane_that_is_gone_takes_nothing_else_along() {
    in_some_layout(|dir| {
        let frames = closed(dir);
        let sealed: Vec<_> = frames.iter().filter(|frame| frame.sealed).collect();
        let spans = |path: &Path, lsn: u64| {
            let of = || sealed.iter().filter(|frame| frame.path == path);
            of().any(|frame| frame.first < lsn) && of().any(|frame| frame.first > lsn)
        };
        // The last batch of a lane, and a lane that goes on beyond it.
        let lasts = sealed.iter().filter(|frame| {
            !sealed.iter().any(|other| other.path == frame.path && other.first > frame.first)
        });
        let mut beside = lasts.filter_map(|last| {
            let other = sealed.iter().find(|f| f.path != last.path && spans(&f.path, last.first));
            Some((last, &other?.path))
        });
        let Some((last, gone)) = beside.next() else { return false };
        flip(&last.path, last.offset);
        std::fs::remove_file(gone).unwrap();
        let error = ReadOnlyWal::open(dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let config = WalConfig { recovery: RecoveryPolicy::Salvage, ..lanes(dir) };
        let wal = Wal::open(config).unwrap();
        let reader = wal.reader(Lsn::FIRST).unwrap();
        let is_kept = |read: &Result<Record, Error>| {
            assert!(read.as_ref().err().is_none_or(|e| e.kind() == ErrorKind::Lost), "{read:?}");
            read.is_ok()
        };
        let kept = reader.filter(is_kept).count();
        let is_gone = |frame: &&Frame| frame.path == *gone || frame.first == last.first;
        let lost: u64 = frames.iter().filter(is_gone).map(|frame| frame.count).sum();
        assert_eq!(kept as u64, 4000 - lost);
        wal.close().unwrap();
        true
    });
}

#[test]
fn a_footer_that_promises_everything_is_damage() {
    in_some_layout(|dir| {
        let last = with_a_hole(dir);
        format::change_footer(&last.path, |footer| footer[72..80].fill(0xff));
        let (found, summary) = verify(dir, nothing());
        assert!(found.iter().any(Finding::is_damage), "{found:?}");
        assert!(summary.map_or(true, |summary| summary.damaged > 0));
        found.iter().any(|f| f.kind == FindingKind::Footer)
    });
}
