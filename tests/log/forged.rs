//! Names and numbers that no log gets to by itself: whatever they say, no log is left without a
//! next record, or a next segment, that its own reader takes.
//!
//! ```text
//! closed log --a stranger's file name, a footer that says too much--> repair, open, append, open
//! ```

use std::fs;
use std::path::Path;

use prkdb_core::{
    Backend, ErrorKind, Finding, FindingKind, ReadOnlyWal, RecoveryPolicy, Wal, WalConfig, repair,
    repair_to,
};

use crate::support::format::{self, SLOT, change, fix_crc};
use crate::support::{config, contents, copy, fill, image, open, record};

const GREATEST: &str = "09223372036854775807.seg";

fn closed(dir: &Path) {
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 100, 10);
    wal.close().unwrap();
}

fn holds(dir: &Path, next: u64) {
    let expected: Vec<_> = (1..next).map(|lsn| record(1, lsn)).collect();
    assert!(contents(dir) == expected, "not all of the {} records", next - 1);
}

/// It is set aside, and neither a number nor a record is taken from it.
#[test]
fn a_strangers_name_counts_for_nothing() {
    let salvage = |dir: &Path| {
        let recovery = RecoveryPolicy::Salvage;
        Wal::open(WalConfig { recovery, ..config(dir, Backend::Pwrite) }).unwrap().close().unwrap();
    };
    let repair = |dir: &Path| assert_eq!(repair(dir, &mut |_, _| ()).unwrap().records_lost, 0);
    for mend in [&salvage as &dyn Fn(&Path), &repair] {
        for killed in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let (live, dir) = (root.path().join("live"), &root.path().join("log"));
            let wal = open(&live, Backend::Pwrite);
            fill(&wal, 1, 100, 10);
            if killed {
                copy(&live, dir);
            }
            wal.close().unwrap();
            if !killed {
                copy(&live, dir);
            }
            fs::write(dir.join(GREATEST), [7; 100]).unwrap();
            let refused = Wal::open(config(dir, Backend::Pwrite)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
            mend(dir);
            assert!(!dir.join(GREATEST).exists(), "it is set aside");
            for lsn in [101, 201] {
                let wal = open(dir, Backend::Pwrite);
                fill(&wal, 1, 100, 10);
                wal.truncate_after(wal.next_lsn().prev()).unwrap();
                wal.close().unwrap();
                holds(dir, lsn + 100);
            }
        }
    }
}

/// A log of several segments, of which the first one's footer says that it goes on to `last`.
fn with_a_footer_to(dir: &Path, last: u64) {
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 2000, 10);
    wal.close().unwrap();
    format::change_footer(&format::log(dir).0[0].path, |footer| {
        for at in [24, 56] {
            footer[at..at + 8].copy_from_slice(&last.to_le_bytes());
        }
    });
}

/// A footer is believed without a walk: one that says more than there can be is none.
#[test]
fn a_footer_that_leaves_no_record_to_go_on_with_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    with_a_footer_to(dir, u64::MAX - 1);
    let mut found = Vec::new();
    ReadOnlyWal::verify(dir, &mut |f| found.push(f.kind), &mut |_, _| ()).unwrap();
    assert_eq!(found, [FindingKind::Footer]);
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 100, 10);
    wal.close().unwrap();
    holds(dir, 2101);
    // Nor does the greatest that is believed leave a writer without a next record.
    let root = tempfile::tempdir().unwrap();
    with_a_footer_to(root.path(), 7 << 61);
    let refused = Wal::open(config(root.path(), Backend::Pwrite)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert!(refused.to_string().contains("none is left to go on with"), "{refused}");
}

/// The name of a segment that was lost to a stranger's does not disown what it holds.
#[test]
fn a_segment_under_another_name_is_a_loss_and_its_lsns_are_not_given_again() {
    let root = tempfile::tempdir().unwrap();
    let (live, dir) = (root.path().join("live"), root.path().join("log"));
    let wal = open(&live, Backend::Pwrite);
    fill(&wal, 1, 2000, 10);
    copy(&live, &dir);
    wal.close().unwrap();
    let frames = format::log(&dir).0;
    let last = &frames.last().unwrap().path;
    let first_lost = frames.iter().find(|f| f.path == *last).unwrap().first;
    fs::rename(last, dir.join("00010000000000000005.seg")).unwrap();
    let report = repair(&dir, &mut |_, _| ()).unwrap();
    assert_eq!(report.records_lost, 2001 - first_lost, "{report:?}");
    assert_eq!(open(&dir, Backend::Pwrite).next_lsn().get(), 2001);
}

/// Whoever may write META may say so; readers, and a repair to a new log, do not need one.
#[test]
fn numbers_that_leave_none_to_go_on_with_are_refused_by_who_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    closed(&dir);
    for slot in [0..SLOT, SLOT..2 * SLOT] {
        change(&dir.join("META"), slot, |slot| {
            slot[80..88].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
            fix_crc(slot);
        });
    }
    for recovery in [RecoveryPolicy::TornTail, RecoveryPolicy::Salvage] {
        let refused = Wal::open(WalConfig { recovery, ..config(&dir, Backend::Pwrite) });
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert!(refused.to_string().contains("none is left to go on with"), "{refused}");
        assert!(refused.path().is_some_and(|path| path.ends_with("META")), "{refused}");
    }
    let before = image(&dir);
    let refused = repair(&dir, &mut |_, _| ()).unwrap_err();
    assert!(refused.to_string().contains("repair_to"), "{refused}");
    assert!(image(&dir) == before, "refused, and changed all the same");
    let tell = &mut |f: Finding| panic!("{f:?}");
    assert_eq!(ReadOnlyWal::verify(&dir, tell, &mut |_, _| ()).unwrap().records, 100);
    assert_eq!(repair_to(&dir, &to, &mut |_, _| ()).unwrap().records_kept, 100);
    fill(&open(&to, Backend::Pwrite), 1, 10, 10);
    holds(&to, 111);
}
