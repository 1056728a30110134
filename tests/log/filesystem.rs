//! File systems that lack something: the log works on them, and tells what it does without.

use prkdb_core::{Backend, BackendReason, Lsn};

use crate::support;
use crate::support::disk::Mount;
use crate::support::{contents, fill, open, record};

#[cfg(target_os = "linux")]
#[test]
fn without_direct_writes_auto_takes_mmap_and_says_why() {
    let Some(ramfs) = Mount::new(&["-t", "ramfs", "ramfs"]) else { return };
    let report = prkdb_core::probe(ramfs.path(), Backend::Auto).unwrap();
    assert_eq!(report.name, "mmap");
    match cfg!(prkdb_portable) {
        true => assert_eq!(report.reason, BackendReason::Kernel),
        false => {
            assert_eq!(report.reason, BackendReason::Filesystem);
            assert!(report.remedy.unwrap().contains("O_DIRECT"));
        }
    }
    let dir = ramfs.path().join("log");
    let wal = open(&dir, Backend::Auto);
    assert_eq!(wal.backend().name, "mmap");
    fill(&wal, 1, 600, 10);
    wal.close().unwrap();
    // Whoever names another may have it.
    for backend in support::backends(ramfs.path()) {
        let wal = open(&dir, backend);
        let next = wal.next_lsn().get();
        fill(&wal, 1, 600, 10);
        wal.truncate_before(Lsn::new(next)).unwrap();
        wal.close().unwrap();
        let expected: Vec<_> = (next..next + 600).map(|lsn| record(1, lsn)).collect();
        assert!(contents(&dir) == expected, "{backend:?}");
    }
}
