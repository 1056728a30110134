//! Damage done to the files of a log: found, named, and never served as something else.
//!
//! ```text
//! killed log --copy--> damage above the promises --> opens, says what it gave up, goes on
//! closed log --copy--> damage anywhere           --> Corrupt with file and offset, or harmless
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use prkdb_core::{
    Backend, Error, ErrorKind, Finding, FindingKind, Lsn, ReadOnlyWal, RecoveryPolicy, Verdict,
    Wal, WalConfig,
};

use crate::support;
use crate::support::format::{self, Frame, SLOT, change, flip};
use crate::support::{Random, append_and_kill, config, contents, copy, fill, image, open, record};

// ---- the end of a log that was killed, or closed ---------------------------------------------

/// A damage to the frames above the promises; gives the first record it destroys.
type TailDamage = fn(&[Frame], block: usize) -> u64;

const TAIL_DAMAGES: &[(&str, TailDamage)] = &[
    ("the last block is zero", |frames, block| {
        let last = frames.last().unwrap();
        let start = (last.offset + last.len - 1) / block * block;
        assert!(start > last.offset, "the child's batches span several blocks");
        change(&last.path, start..start + block, |bytes| bytes.fill(0));
        last.first
    }),
    ("the last blocks are noise", |frames, block| {
        let last = frames.last().unwrap();
        let start = last.offset.next_multiple_of(block);
        let end = (last.offset + last.len).next_multiple_of(block);
        let mut random = Random(7);
        change(&last.path, start..end, |bytes| {
            bytes.fill_with(|| random.next().to_le_bytes()[0]);
        });
        last.first
    }),
    ("a group in the middle is zero", |frames, block| {
        let group = &frames[frames.len() / 2];
        let start = group.offset / block * block;
        let end = (group.offset + group.len).next_multiple_of(block);
        change(&group.path, start..end, |bytes| bytes.fill(0));
        frames.iter().find(|f| f.path == group.path && f.offset + f.len > start).unwrap().first
    }),
];

/// A killed log with at least three batches that it can't prove to have promised, all of them
/// whole: of one that a thread was still copying others may stand behind.
fn killed_log(dir: &Path) -> Vec<Frame> {
    for attempt in 0..100 {
        let dir = dir.join(attempt.to_string());
        append_and_kill(&dir, 1, 40 + attempt);
        let (frames, promised) = format::log(&dir);
        let above: Vec<Frame> = frames.into_iter().filter(|f| f.first > promised).collect();
        let one_file = above.iter().all(|f| f.path == above[0].path);
        let kept = ReadOnlyWal::open(&dir).unwrap().recovery().kept_through.get();
        let whole = above.last().is_some_and(|f| f.last() == kept);
        if above.len() >= 3 && one_file && whole {
            println!("attempt {attempt}: {} batches above {promised}", above.len());
            return above;
        }
    }
    panic!("in 100 kills there were never three batches in flight");
}

#[test]
fn damage_above_the_promises_of_a_killed_log_is_given_up_and_the_log_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let killed = killed_log(root.path());
    let from = killed[0].path.parent().unwrap();
    for (number, (what, damage)) in TAIL_DAMAGES.iter().enumerate() {
        println!("{what}");
        let dir = root.path().join(format!("damaged-{number}"));
        copy(from, &dir);
        let frames: Vec<Frame> = killed.iter().map(|f| moved(f, &dir)).collect();
        let lost = damage(&frames, 4096);
        assert_given_up(&dir, lost);
        let kept: Vec<_> = (1..lost).map(|lsn| record(1, lsn)).collect();
        for life in [2, 3] {
            let wal = Wal::open(config(&dir, Backend::Auto)).unwrap();
            let report = wal.recovery();
            assert_eq!(report.kept_through.get(), lost - 1, "{report:?}");
            assert_eq!(report.given_up.is_empty(), life == 3, "{report:?}");
            drop(wal);
            assert!(contents(&dir) == kept, "{what}: other records after opening");
        }
        // What was given up must not come back once its LSNs are used anew.
        let acked = append_and_kill(&dir, 4, 10);
        let after = contents(&dir);
        assert!(after.len() as u64 >= acked && acked >= lost);
        assert!(after[..kept.len()] == kept[..], "{what}: older records changed");
        for (at, bytes) in after.iter().enumerate().skip(kept.len()) {
            assert!(*bytes == record(4, at as u64 + 1), "{what}: record {}", at + 1);
        }
        open(&dir, Backend::Auto).close().unwrap();
        assert!(contents(&dir) == after, "{what}: the last opening changed records");
    }
}

fn assert_given_up(dir: &Path, lost: u64) {
    let before = image(dir);
    for _ in 0..2 {
        let report = ReadOnlyWal::open(dir).unwrap().recovery();
        assert_ne!(report.verdict, Verdict::Clean);
        assert_eq!(report.kept_through.get(), lost - 1);
        let gone = report.given_up.first().expect("nothing was said to be given up");
        assert!(gone.bytes > 0 && gone.path.starts_with(dir), "{gone:?}");
    }
    assert!(findings(dir).iter().any(|f| f.kind == FindingKind::Torn), "verify names no torn tail");
    assert!(findings(dir).iter().all(|f| !f.is_damage()));
    let strict = RecoveryPolicy::Strict;
    let refused = Wal::open(WalConfig { recovery: strict, ..config(dir, Backend::Pwrite) });
    assert_place(&refused.unwrap_err(), dir);
    assert!(image(dir) == before, "looking changed the log");
}

#[test]
fn the_same_damage_to_a_closed_log_is_refused_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let closed = root.path().join("closed");
    let wal = open(&closed, Backend::Auto);
    for _ in 0..5 {
        fill(&wal, 1, 20, 20);
    }
    wal.close().unwrap();
    for (number, (what, damage)) in TAIL_DAMAGES.iter().enumerate() {
        println!("{what}");
        let dir = root.path().join(number.to_string());
        copy(&closed, &dir);
        let (frames, _) = format::log(&dir);
        damage(&frames[frames.len() - 3..], 4096);
        assert_refused(&dir, ErrorKind::Corrupt);
    }
}

#[test]
fn rot_in_the_padding_of_a_closed_log_takes_nothing_with_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let wal = open(&dir, Backend::Auto);
    fill(&wal, 1, 1, 1);
    wal.close().unwrap();
    let (frames, _) = format::log(&dir);
    flip(&frames[0].path, frames[0].offset + frames[0].len);
    let wal = open(&dir, Backend::Auto);
    fill(&wal, 1, 3, 1);
    assert_eq!(support::read_all(wal.reader(Lsn::FIRST).unwrap(), 1).len(), 4);
    wal.close().unwrap();
    assert_eq!(contents(&dir), (1..5).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
}

#[test]
fn a_log_goes_on_behind_its_last_record_and_in_no_segment_before_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let all = closed_log(&dir);
    let (frames, _) = format::log(&dir);
    let (first, last) = (frames.first().unwrap(), frames.last().unwrap());
    // Without its footer the first segment looks like one that was left open.
    flip(&first.path, usize::try_from(fs::metadata(&first.path).unwrap().len()).unwrap() - 4096);
    flip(&last.path, last.offset + last.len);
    for life in 2..4 {
        let wal = open(&dir, Backend::Auto);
        fill(&wal, life, 2, 1);
        wal.close().unwrap();
    }
    let next = all.len() as u64 + 1;
    let new = [record(2, next), record(2, next + 1), record(3, next + 2), record(3, next + 3)];
    assert!(contents(&dir) == [all, new.to_vec()].concat());
    assert!(findings(&dir).is_empty());
}

// ---- one byte of a closed log ----------------------------------------------------------------

/// A closed log over at least three segments, the last one open, and its records.
fn closed_log(dir: &Path) -> Vec<Vec<u8>> {
    let wal = open(dir, Backend::Auto);
    fill(&wal, 1, 1300, 26);
    wal.close().unwrap();
    let (frames, _) = format::log(dir);
    let sealed = frames.iter().filter(|f| f.sealed).map(|f| f.path.clone());
    let sealed: std::collections::BTreeSet<PathBuf> = sealed.collect();
    assert!(sealed.len() >= 2 && frames.iter().any(|f| !f.sealed), "{sealed:?}");
    (1..=1300).map(|lsn| record(1, lsn)).collect()
}

#[test]
fn one_changed_byte_in_any_frame_is_found_and_named() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let all = closed_log(&dir);
    let (frames, _) = format::log(&dir);
    let count: u64 = frames.iter().map(|f| f.count).sum();
    assert_eq!(count, all.len() as u64);
    let mut random = Random(11);
    for frame in &frames {
        let within = random.below((frame.len - format::HEADER) as u64);
        let payload = format::HEADER + usize::try_from(within).unwrap();
        for at in [0, 1, 14, 24, 35, 70, format::HEADER, payload, frame.len - 1] {
            flip(&frame.path, frame.offset + at);
            assert_frame_is_bad(&dir, frame, &all);
            flip(&frame.path, frame.offset + at);
        }
    }
    assert!(findings(&dir).is_empty());
    assert!(contents(&dir) == all);
}

fn assert_frame_is_bad(dir: &Path, frame: &Frame, all: &[Vec<u8>]) {
    let found = findings(dir);
    let names = |f: &Finding| f.path == frame.path && f.offset == frame.offset as u64;
    assert!(
        found.iter().any(|f| f.kind == FindingKind::Corrupt && names(f)),
        "{frame:?}: {found:?}"
    );
    let log = match ReadOnlyWal::open(dir) {
        Ok(log) => log,
        Err(e) => {
            assert!(!frame.sealed, "a sealed segment fails at the record: {e}");
            return assert_bad_frame(&e, frame);
        }
    };
    for lsn in [frame.first, frame.last()] {
        assert_bad_frame(&log.read(Lsn::new(lsn)).unwrap_err(), frame);
    }
    for lsn in [1, frame.first.saturating_sub(1).max(1), frame.last() + 1, all.len() as u64] {
        if let Ok(record) = log.read(Lsn::new(lsn)) {
            let expected = &all[usize::try_from(lsn - 1).unwrap()];
            assert!(*record.data == expected[..], "record {lsn} is another one");
        }
    }
    for (read, expected) in log.reader(Lsn::FIRST).unwrap().zip(all) {
        match read {
            Ok(record) => assert!(*record.data == expected[..], "{} is another one", record.lsn),
            Err(e) => return assert_bad_frame(&e, frame),
        }
    }
    panic!("a reader went past {frame:?}");
}

fn assert_bad_frame(e: &Error, frame: &Frame) {
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    assert_eq!(e.path(), Some(&*frame.path), "{e}");
    assert_eq!(e.offset(), Some(frame.offset as u64), "{e}");
}

#[test]
fn a_changed_byte_in_meta_is_outlived_by_the_other_slot() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let all = closed_log(&dir);
    let meta = dir.join("META");
    for at in [0, 8, 12, 16, 24, 40, 48, 56, 64, 72, 80, 88, 92, 93, 94, 95, 96, 100, 104, 61_440] {
        for slot in [0, SLOT] {
            flip(&meta, slot + at);
            assert!(contents(&dir) == all, "slot {slot}, byte {at}");
            let found = findings(&dir);
            assert!(found.len() == 1 && found[0].kind == FindingKind::Meta, "{found:?}");
            assert!(!found[0].is_damage(), "a crash leaves the same");
            assert_eq!((found[0].path.clone(), found[0].offset), (meta.clone(), slot as u64));
            flip(&meta, slot + at);
        }
        flip(&meta, at);
        flip(&meta, SLOT + at);
        assert_refused(&dir, ErrorKind::Corrupt);
        flip(&meta, at);
        flip(&meta, SLOT + at);
    }
    flip(&meta, SLOT + 94);
    open(&dir, Backend::Auto).close().unwrap();
    assert!(findings(&dir).is_empty(), "opening did not mend META");
    assert!(contents(&dir) == all);
}

#[test]
fn a_changed_byte_in_a_segment_header_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir);
    for path in support::segments(&dir) {
        for at in [0, 8, 12, 16, 32, 40, 48, 63, 64, 72, 76, 77, 4095] {
            flip(&path, at);
            let e = assert_refused(&dir, ErrorKind::Corrupt);
            assert_eq!((e.path(), e.offset()), (Some(&*path), Some(0)), "byte {at}: {e}");
            flip(&path, at);
        }
    }
}

#[test]
fn a_missing_segment_is_told_where_it_should_follow() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir);
    let sealed = format::log(&dir).0.into_iter().filter(|f| f.sealed).map(|f| f.path);
    let sealed: std::collections::BTreeSet<PathBuf> = sealed.collect();
    let mut before = dir.join("META");
    for path in sealed {
        let away = root.path().join("away");
        fs::rename(&path, &away).unwrap();
        let e = assert_refused(&dir, ErrorKind::Corrupt);
        assert_eq!(e.path(), Some(&*before), "{} is gone: {e}", path.display());
        assert!(e.to_string().contains("missing"), "{e}");
        let found = findings(&dir);
        assert!(found.iter().any(|f| f.path == before), "{found:?}");
        fs::rename(&away, &path).unwrap();
        before = path;
    }
}

#[test]
fn a_segment_of_another_length_is_whole_once_it_has_its_own() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let all = closed_log(&dir);
    let path = support::segments(&dir).remove(0);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let size = file.metadata().unwrap().len();
    for wrong in [size + 4096, size - 4096] {
        file.set_len(wrong).unwrap();
        let e = assert_refused(&dir, ErrorKind::Corrupt);
        assert_eq!(e.path(), Some(&*path), "{e}");
        assert!(e.to_string().contains(&format!("truncate -s {size}")), "{e}");
        file.set_len(size).unwrap();
        assert!(contents(&dir) == all, "{wrong} bytes, then {size}");
    }
}

#[test]
fn a_changed_byte_in_a_footer_is_outlived_by_the_frames() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let all = closed_log(&dir);
    let sealed = format::log(&dir).0.into_iter().filter(|f| f.sealed).map(|f| f.path);
    let sealed: std::collections::BTreeSet<PathBuf> = sealed.collect();
    for path in sealed.clone() {
        let footer = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap() - 4096;
        for at in [0, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 84, 88, 96, 4095] {
            flip(&path, footer + at);
            assert!(contents(&dir) == all, "byte {at} of the footer");
            let found = findings(&dir);
            assert!(found.len() == 1 && found[0].kind == FindingKind::Footer, "{found:?}");
            assert_eq!((&found[0].path, found[0].offset), (&path, footer as u64));
            flip(&path, footer + at);
        }
    }
    for path in &sealed {
        flip(path, usize::try_from(fs::metadata(path).unwrap().len()).unwrap() - 4096);
    }
    let wal = open(&dir, Backend::Auto);
    fill(&wal, 1, 10, 10);
    wal.close().unwrap();
    assert!(findings(&dir).is_empty(), "opening did not mend the footers");
    assert_eq!(contents(&dir).len(), all.len() + 10);
}

#[test]
fn only_a_footer_of_an_earlier_life_is_damaged_others_a_crash_may_have_torn() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    append_and_kill(&dir, 1, 200);
    let (frames, _) = format::log(&dir);
    let sealed = frames.into_iter().find(|f| f.sealed).expect("8 MB fill a segment").path;
    let footer = usize::try_from(fs::metadata(&sealed).unwrap().len()).unwrap() - 4096;
    let kind = |kind| {
        flip(&sealed, footer + 16);
        let found = findings(&dir);
        flip(&sealed, footer + 16);
        let is_about = |f: &&Finding| f.path == sealed && f.offset == footer as u64;
        let about: Vec<_> = found.iter().filter(is_about).collect();
        assert!(about.len() == 1 && about[0].kind == kind, "{found:?}");
        assert_eq!(about[0].is_damage(), kind == FindingKind::Footer);
    };
    kind(FindingKind::Torn);
    append_and_kill(&dir, 2, 10);
    kind(FindingKind::Footer);
}

// ---- shared ----------------------------------------------------------------------------------

fn moved(frame: &Frame, dir: &Path) -> Frame {
    Frame { path: dir.join(frame.path.file_name().unwrap()), ..frame.clone() }
}

fn findings(dir: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    ReadOnlyWal::verify(dir, &mut |finding| found.push(finding), &mut |_, _| {}).unwrap();
    found
}

/// Neither a writer nor a reader gets in, verify finds it, and the files stay as they are.
fn assert_refused(dir: &Path, kind: ErrorKind) -> Error {
    let before = image(dir);
    let e = Wal::open(config(dir, Backend::Auto)).unwrap_err();
    assert_eq!(e.kind(), kind, "{e}");
    let reading = ReadOnlyWal::open(dir).unwrap_err();
    assert_eq!(reading.kind(), kind, "{reading}");
    assert_place(&e, dir);
    assert!(findings(dir).iter().any(Finding::is_damage), "verify found nothing");
    assert!(image(dir) == before, "a refused open changed the log");
    e
}

fn assert_place(e: &Error, dir: &Path) {
    assert!(e.path().is_some_and(|path| path.starts_with(dir)), "names no file: {e}");
    assert!(e.offset().is_some(), "names no offset: {e}");
}

/// What only somebody who may write the files can do: a later frame that claims an earlier LSN.
#[test]
fn a_forged_lsn_that_comes_back_in_a_segment_is_cut_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let (live, dead) = (root.path().join("live"), root.path().join("dead"));
    let wal = open(&live, Backend::Auto);
    for batch in [&[1][..], &[2, 3], &[4, 5]] {
        let batch: Vec<_> = batch.iter().map(|lsn| record(1, *lsn)).collect();
        wal.append_batch(&batch).unwrap().wait().unwrap();
    }
    copy(&live, &dead);
    wal.close().unwrap();
    for (first, claimed) in [(4, 3), (4, 1), (2, 1)] {
        let dir = root.path().join(format!("{first} as {claimed}"));
        copy(&dead, &dir);
        let (frames, _) = format::log(&dir);
        let frame = frames.iter().find(|frame| frame.first == first).unwrap();
        format::change_header(frame, 24, claimed);
        // Promised, unless it was the last.
        match Wal::open(config(&dir, Backend::Auto)) {
            Ok(wal) => {
                assert_eq!((first, wal.next_lsn().get()), (4, 4));
                fill(&wal, 1, 10, 1);
                wal.close().unwrap();
            }
            Err(e) => assert_eq!((first, e.kind()), (2, ErrorKind::Corrupt), "{e}"),
        }
        prkdb_core::repair(&dir, &mut |_, _| {}).unwrap();
        let first = ReadOnlyWal::open(&dir).unwrap().read(Lsn::FIRST).unwrap();
        assert_eq!(*first.data, *record(1, 1));
    }
}
