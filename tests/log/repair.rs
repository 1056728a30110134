//! Repair, in place and to a new directory: every damage of the policies, and logs without META.
//!
//! ```text
//! closed log --copy--> damage --> repair          --> opens, holds all but the lost
//!                             --> repair_to NEW   --> the same; the damaged one untouched
//! ```
#![expect(clippy::single_range_in_vec_init, reason = "a list of holes, of which there is one")]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use prkdb_core::{
    Backend, CompressionConfig, CompressionType, ErrorKind, Finding, Lsn, ReadOnlyWal,
    RepairReport, Wal, WalConfig, repair, repair_to,
};

use crate::support;
use crate::support::damages::{BATCH, CUT_SHORT, DAMAGES, RECORDS, read_over};
use crate::support::format::{self, SLOT, flip};
use crate::support::{append_and_kill, config, copy, fill, image, record};

fn closed_log(dir: &Path) -> Vec<u64> {
    let wal = Wal::open(config(dir, Backend::Pwrite)).unwrap();
    fill(&wal, 1, RECORDS, BATCH);
    wal.set_user_state("kept").unwrap();
    wal.close().unwrap();
    // When each record was written, to be kept too.
    times(dir)
}

fn times(dir: &Path) -> Vec<u64> {
    let log = ReadOnlyWal::open(dir).unwrap();
    log.reader(Lsn::FIRST).unwrap().map(|read| read.unwrap().time_us).collect()
}

fn repaired(dir: &Path) -> RepairReport {
    let (mut last, mut at_end) = ((0, 0), None);
    let report = repair(dir, &mut |done, of| {
        assert!(done <= of && of > 0 && last.0 <= done, "{done} of {of} behind {last:?}");
        last = (done, of);
        if done == of {
            at_end.get_or_insert_with(|| ReadOnlyWal::open(dir).map(drop));
        }
    });
    assert!(last.0 == last.1 && last.1 > 0, "progress ended at {last:?}");
    // It does not say that all is done while there is work to do.
    at_end.unwrap().unwrap();
    report.unwrap()
}

/// The log opens by the default policy, holds the records that are not in `lost`, and goes on.
fn assert_whole(dir: &Path, report: &RepairReport, lost: &[Range<u64>], user_state: &[u8]) {
    let kept: Vec<u64> =
        (1..=RECORDS).filter(|lsn| !lost.iter().any(|hole| hole.contains(lsn))).collect();
    assert_eq!(report.records_kept, kept.len() as u64);
    assert_eq!(report.holes.len(), lost.len(), "{report:?}");
    let log = ReadOnlyWal::open(dir).unwrap();
    let (lsns, holes) = read_over(log.reader(log.first_lsn().unwrap()).unwrap());
    assert_eq!((&lsns[..], &holes[..]), (&kept[..], lost));
    assert_eq!(log.user_state(), user_state);
    assert_eq!(log.next_lsn(), report.next_lsn);
    let tell = &mut |f: Finding| assert!(!f.is_damage(), "{f:?}");
    ReadOnlyWal::verify(dir, tell, &mut |_, _| {}).unwrap();
    let before = image(dir);
    let again = repaired(dir);
    assert!(!again.changed && again.given_up.is_empty(), "{again:?}");
    assert_eq!((again.records_kept, again.records_lost), (kept.len() as u64, 0));
    assert!(image(dir) == before, "repairing twice changed something");
    let wal = Wal::open(config(dir, Backend::Auto)).unwrap();
    fill(&wal, 2, 2, 1);
    let (lsns, _) = read_over(wal.reader(wal.first_lsn()).unwrap());
    assert_eq!(lsns[lsns.len() - 2..], [report.next_lsn.get(), report.next_lsn.get() + 1]);
    wal.close().unwrap();
}

#[test]
fn in_place_every_damage_is_given_up_and_no_original_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from);
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        println!("{what}");
        let dir = root.path().join(number.to_string());
        copy(&from, &dir);
        let lost = damage(&dir, &format::log(&dir).0);
        let before = image(&dir);
        if *what == CUT_SHORT {
            // Not in its place, see below.
            continue;
        }
        let report = repaired(&dir);
        assert!(report.changed && report.records_lost > 0);
        assert_originals_are_there(&before);
        assert_whole(&dir, &report, &lost, b"kept");
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn a_segment_of_another_length_is_not_given_up_in_its_place() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from);
    let (frames, _) = format::log(&from);
    let size = fs::metadata(&frames[0].path).unwrap().len();
    for wrong in [size - 4096, 100_000, 8192, 4096, size + 1, 3 * size] {
        let dir = root.path().join(wrong.to_string());
        copy(&from, &dir);
        let path = dir.join(frames[0].path.file_name().unwrap());
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(wrong).unwrap();
        let before = image(&dir);
        let error = repair(&dir, &mut |_, _| {}).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&*path)), "{error}");
        assert_eq!(error.right_length(), Some(size), "{error}");
        assert!(image(&dir) == before, "{wrong}: something changed");
        file.set_len(size).unwrap();
        let report = repaired(&dir);
        let is_gone = |f: &&format::Frame| {
            f.path == frames[0].path && (f.offset + f.len) as u64 > wrong.min(size - 4096)
        };
        let gone: u64 = frames.iter().filter(is_gone).map(|f| f.count).sum();
        assert_eq!((report.records_kept, report.records_lost), (RECORDS - gone, gone), "{wrong}");
    }
}

/// Every segment's bytes are there under its name or beside it, but for its last block: the place
/// of the footer.
fn assert_originals_are_there(before: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in
        before.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"))
    {
        let aside = PathBuf::from(format!("{}.given-up", path.display()));
        let Ok(now) = fs::read(path).or_else(|_| fs::read(&aside)) else {
            // Made ahead, and never used.
            assert!(bytes[4096..].iter().all(|b| *b == 0), "{} is gone", path.display());
            continue;
        };
        assert_eq!(now.len(), bytes.len());
        let frames = bytes.len().saturating_sub(4096);
        assert!(now[..frames] == bytes[..frames], "{} changed", path.display());
    }
}

#[test]
fn to_a_new_directory_the_damaged_log_is_only_read() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    let times_before = closed_log(&from);
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        println!("{what}");
        let (dir, to) = (root.path().join(number.to_string()), root.path().join("new/log"));
        copy(&from, &dir);
        let lost = damage(&dir, &format::log(&dir).0);
        let before = image(&dir);
        let report = repair_to(&dir, &to, &mut |_, _| {}).unwrap();
        assert!(image(&dir) == before, "the source changed");
        assert!(report.records_lost > 0 && !report.given_up.is_empty());
        let log = ReadOnlyWal::open(&to).unwrap();
        for lsn in [1, RECORDS / 2, RECORDS] {
            if let Ok(read) = log.read(Lsn::new(lsn)) {
                assert_eq!(read.time_us, times_before[usize::try_from(lsn - 1).unwrap()]);
            }
        }
        assert_whole(&to, &report, &lost, b"kept");
        fs::remove_dir_all(dir).unwrap();
        fs::remove_dir_all(to).unwrap();
    }
}

#[test]
fn a_healthy_log_is_not_changed_and_can_be_copied() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("copy"));
    closed_log(&dir);
    let before = image(&dir);
    let report = repaired(&dir);
    assert!(!report.changed && report.given_up.is_empty() && report.holes.is_empty());
    assert_eq!((report.records_kept, report.records_lost), (RECORDS, 0));
    assert!(image(&dir) == before);
    let report = repair_to(&dir, &to, &mut |_, _| {}).unwrap();
    assert_eq!(report.given_up, []);
    assert_whole(&to, &report, &[], b"kept");
    let refused = repair_to(&dir, &to, &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let refused = repair_to(&dir, dir.join("inside"), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(image(&dir) == before);
}

#[test]
fn meta_is_rebuilt_from_the_segments() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from);
    for gone in [true, false] {
        for in_place in [true, false] {
            let (dir, to) = (root.path().join("log"), root.path().join("new"));
            copy(&from, &dir);
            let meta = dir.join("META");
            match gone {
                true => fs::remove_file(&meta).unwrap(),
                false => [9, SLOT + 9].iter().for_each(|at| flip(&meta, *at)),
            }
            assert_eq!(
                Wal::open(config(&dir, Backend::Auto)).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
            let before = image(&dir);
            let (report, at) = match in_place {
                true => (repaired(&dir), &dir),
                false => (repair_to(&dir, &to, &mut |_, _| {}).unwrap(), &to),
            };
            assert_eq!(report.given_up.len(), 1, "{report:?}");
            assert_eq!(report.given_up[0].path, meta);
            assert_eq!(report.given_up[0].kept_as.is_some(), in_place && !gone);
            if let Some(aside) = &report.given_up[0].kept_as {
                let was = before.iter().find(|(path, _)| *path == meta).unwrap();
                assert!(fs::read(aside).unwrap() == was.1);
            }
            assert_whole(at, &report, &[], b"");
            fs::remove_dir_all(&dir).unwrap();
            fs::remove_dir_all(&to).ok();
        }
    }
}

#[test]
fn without_meta_and_with_a_segment_damaged_what_is_left_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir);
    fs::remove_file(dir.join("META")).unwrap();
    let frames = format::log_without_meta(&dir);
    let paths = support::segments(&dir);
    flip(&paths[1], 20);
    let of = |path: &PathBuf| frames.iter().filter(|f| f.path == *path).collect::<Vec<_>>();
    let gone = of(&paths[1]);
    let lost = [gone[0].first..gone[gone.len() - 1].last() + 1];
    let report = repaired(&dir);
    assert_eq!(report.given_up.len(), 3, "META, the segment, its records: {report:?}");
    assert_whole(&dir, &report, &lost, b"");
}

#[test]
fn what_is_no_log_is_refused_and_so_is_a_log_with_a_writer() {
    let root = tempfile::tempdir().unwrap();
    let none = repair(root.path().join("none"), &mut |_, _| {}).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Invalid, "{none}");
    assert!(!root.path().join("none").exists());
    let foreign = root.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("a file"), "of somebody else").unwrap();
    let before = image(&foreign);
    let refused = repair(&foreign, &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(image(&foreign) == before && !foreign.join("LOCK").exists());
    let dir = root.path().join("log");
    let wal = Wal::open(config(&dir, Backend::Auto)).unwrap();
    fill(&wal, 1, 10, 1);
    for refused in [
        repair(&dir, &mut |_, _| {}).unwrap_err(),
        repair_to(&dir, root.path().join("to"), &mut |_, _| {}).unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    }
    wal.close().unwrap();
    assert!(!repaired(&dir).changed);
}

#[test]
fn a_killed_log_keeps_its_end_and_a_damaged_one_all_but_the_damage() {
    let root = tempfile::tempdir().unwrap();
    for life in 1..4 {
        let (dir, to) = (root.path().join(life.to_string()), root.path().join("new"));
        let acked = append_and_kill(&dir, life, 60);
        let (frames, promised) = format::log(&dir);
        let hit = frames.iter().find(|f| f.first > promised / 2).unwrap().clone();
        assert!(hit.last() <= promised);
        flip(&hit.path, hit.offset + 40);
        let report = repair_to(&dir, &to, &mut |_, _| {}).unwrap();
        let in_place = repaired(&dir);
        assert_eq!(report.holes, in_place.holes);
        assert_eq!(report.records_kept, in_place.records_kept);
        for at in [&dir, &to] {
            let log = ReadOnlyWal::open(at).unwrap();
            assert!(log.durable_lsn().get() >= acked, "acknowledged records are gone");
            for lsn in 1..=acked {
                let read = log.read(Lsn::new(lsn));
                if (hit.first..=hit.last()).contains(&lsn) {
                    assert_eq!(read.unwrap_err().kind(), ErrorKind::Lost);
                } else {
                    assert!(*read.unwrap().data == record(life, lsn)[..]);
                }
            }
        }
        fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn cuts_compression_and_large_batches_come_along() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    let kinds = [CompressionType::None, CompressionType::Lz4, CompressionType::Snappy];
    let text = |lsn: u64| format!("record {lsn} {}", "abc ".repeat(300)).into_bytes();
    let large = vec![7_u8; 16 << 20];
    for (life, compression_type) in kinds.into_iter().enumerate() {
        let compression = CompressionConfig { compression_type, ..CompressionConfig::balanced() };
        let config = config(&dir, Backend::Pwrite);
        let segment_bytes = 32 << 20;
        let wal = Wal::open(WalConfig { compression, segment_bytes, ..config }).unwrap();
        let next = wal.next_lsn().get();
        let records: Vec<_> = (next..next + 50).map(text).collect();
        wal.append_batch(&records).unwrap().wait().unwrap();
        if life == 1 {
            wal.append_batch([&large]).unwrap().wait().unwrap();
        } else {
            // In the middle of a batch, whatever its codec.
            wal.truncate_after(Lsn::new(next + 29)).unwrap();
        }
        wal.close().unwrap();
    }
    let wal = Wal::open(config(&dir, Backend::Pwrite)).unwrap();
    wal.truncate_before(Lsn::new(11)).unwrap();
    wal.close().unwrap();
    let all = |dir: &Path| -> Vec<(u64, Vec<u8>)> {
        let log = ReadOnlyWal::open(dir).unwrap();
        let read = log.reader(log.first_lsn().unwrap()).unwrap().map(Result::unwrap);
        read.map(|record| (record.lsn.get(), record.data.to_vec())).collect()
    };
    let before = all(&dir);
    assert_eq!((before[0].0, before.len()), (11, 20 + 51 + 30));
    let report = repair_to(&dir, &to, &mut |_, _| {}).unwrap();
    assert_eq!((report.records_kept, report.given_up.len()), (101, 0));
    assert!(all(&to) == before, "the copy holds other records");
    let tell = &mut |f: Finding| panic!("{f:?}");
    ReadOnlyWal::verify(&to, tell, &mut |_, _| {}).unwrap();
}

#[test]
fn without_meta_no_lsn_that_a_header_names_is_given_again() {
    let root = tempfile::tempdir().unwrap();
    for in_place in [true, false] {
        let (dir, to) = (root.path().join(format!("{in_place}")), root.path().join("new"));
        closed_log(&dir);
        fs::remove_file(dir.join("META")).unwrap();
        let last = format::log_without_meta(&dir).pop().unwrap();
        flip(&last.path, last.offset + last.len - 3);
        let (report, at) = match in_place {
            true => (repaired(&dir), &dir),
            false => (repair_to(&dir, &to, &mut |_, _| {}).unwrap(), &to),
        };
        assert_eq!(report.next_lsn.get(), RECORDS + 1, "{report:?}");
        assert_whole(at, &report, &[last.first..last.last() + 1], b"");
    }
}

#[test]
fn without_meta_what_the_log_began_with_is_told_when_it_is_lost() {
    let root = tempfile::tempdir().unwrap();
    for all in [false, true] {
        let dir = root.path().join(all.to_string());
        closed_log(&dir);
        fs::remove_file(dir.join("META")).unwrap();
        let frames = format::log_without_meta(&dir);
        let first = frames.iter().filter(|f| f.path == frames[0].path);
        let hit: Vec<_> = first.take(if all { usize::MAX } else { 1 }).collect();
        hit.iter().for_each(|frame| flip(&frame.path, frame.offset + 30));
        let before = image(&dir);
        let report = repaired(&dir);
        let end = hit.last().unwrap().last() + 1;
        assert_eq!(report.records_lost, end - 1, "{report:?}");
        assert_originals_are_there(&before);
        assert_whole(&dir, &report, &[1..end], b"");
    }
}

/// Nobody knows what stood in the part that is gone: more was promised than is there now.
#[test]
fn no_lsn_of_a_segment_that_was_cut_short_is_given_again() {
    let root = tempfile::tempdir().unwrap();
    // A kill whose last segment holds several batches that were acknowledged.
    let suitable = |attempt: u64| {
        let dir = root.path().join(attempt.to_string());
        let acked = append_and_kill(&dir, 1, 60);
        let (frames, _) = format::log(&dir);
        let path = &frames.last()?.path;
        let last: Vec<_> = frames.iter().filter(|f| f.path == *path).collect();
        let middle = last.iter().find(|f| f.first > (last[0].first + acked) / 2)?;
        (middle.last() < acked).then(|| (dir, acked, (*middle).clone()))
    };
    let found = (0..20).find_map(suitable);
    let (dir, acked, middle) = found.expect("in 20 kills the last segment had just begun");
    let short = u64::try_from(middle.offset / 4096 * 4096).unwrap();
    fs::OpenOptions::new().write(true).open(&middle.path).unwrap().set_len(short).unwrap();
    let report = repair_to(&dir, dir.join("../new"), &mut |_, _| {}).unwrap();
    assert!(report.next_lsn.get() > acked, "{report:?}, {acked} were acknowledged");
}

#[test]
fn nobody_writes_a_log_while_it_is_copied() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    closed_log(&dir);
    let mut tried = 0;
    let progress = &mut |_, _| {
        let refused = Wal::open(config(&dir, Backend::Pwrite)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
        tried += 1;
    };
    repair_to(&dir, &to, progress).unwrap();
    assert!(tried > 0);
    Wal::open(config(&dir, Backend::Pwrite)).unwrap().close().unwrap();
}

#[test]
fn more_holes_than_meta_holds_are_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    let wal = Wal::open(config(&dir, Backend::Pwrite)).unwrap();
    let tickets: Vec<_> = (0..8100).map(|_| wal.append_batch(["x"]).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    wal.close().unwrap();
    let (frames, _) = format::log(&dir);
    assert_eq!(frames.len(), 8100);
    for path in support::segments(&dir) {
        let mut bytes = fs::read(&path).unwrap();
        for frame in frames.iter().filter(|f| f.path == path && f.first % 2 == 0) {
            bytes[frame.offset + 24] ^= 1;
        }
        fs::write(&path, bytes).unwrap();
    }
    let before = image(&dir);
    let refused = repair_to(&dir, &to, &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(!to.exists());
    let refused = repair(&dir, &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(image(&dir) == before);
}
