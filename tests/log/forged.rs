//! Names and numbers that no log gets to by itself: what they promise leaves no log without a next
//! record, or a next segment, that its own reader would take.
//!
//! ```text
//! closed log --a stranger's file name, a footer that says too much--> repair, open, append, open
//! ```

use std::fs;
use std::path::Path;

use prkdb_core::{Backend, ErrorKind, RecoveryPolicy, Wal, WalConfig, repair};

use crate::support::{config, contents, fill, format, open, record};

const GREATEST: &str = "09223372036854775807.seg";

fn closed(dir: &Path) {
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 100, 10);
    wal.close().unwrap();
}

/// It is set aside, and no number is taken from it: after the greatest one there is none.
#[test]
fn a_strangers_name_takes_no_numbers() {
    let salvage = |dir: &Path| {
        let recovery = RecoveryPolicy::Salvage;
        Wal::open(WalConfig { recovery, ..config(dir, Backend::Pwrite) }).unwrap().close().unwrap();
    };
    let repair = |dir: &Path| drop(repair(dir, &mut |_, _| ()).unwrap());
    for mend in [&salvage as &dyn Fn(&Path), &repair] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        closed(dir);
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
            let expected: Vec<_> = (1..lsn + 100).map(|lsn| record(1, lsn)).collect();
            assert!(contents(dir) == expected, "not all of the {} records", lsn + 99);
        }
    }
}

/// A footer is believed without a walk: one that says that all LSNs are there leaves none.
#[test]
fn a_footer_that_leaves_no_record_to_go_on_with_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let wal = open(dir, Backend::Pwrite);
    fill(&wal, 1, 2000, 10);
    wal.close().unwrap();
    format::change_footer(&format::log(dir).0[0].path, |footer| {
        for at in [24, 56] {
            footer[at..at + 8].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
        }
    });
    for recovery in [RecoveryPolicy::TornTail, RecoveryPolicy::Salvage] {
        let config = WalConfig { recovery, ..config(dir, Backend::Pwrite) };
        let refused = Wal::open(config).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert!(refused.to_string().contains("none is left"), "{refused}");
    }
}
