//! A window on disk at its edges: what is cut for room, what is not, and who waits for it.

use std::path::Path;
use std::sync::Arc;

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{Backend, CompactionPolicy, ErrorKind, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::support::gate::{self, Gate, a_moment};
use crate::support::{config, contents};

/// Segments of 4 MiB and the least window for them, which has room for three and a half.
fn four_mib(dir: &Path) -> WalConfig {
    let compaction = CompactionPolicy::SizeWindow(10 << 20);
    WalConfig { segment_bytes: 4 << 20, compaction, ..config(dir, Backend::Pwrite) }
}

fn append(wal: &Wal, bytes: usize) {
    wal.append_batch([vec![7; bytes]]).unwrap().wait().unwrap();
}

/// Three full-size segments: two are full, their footers are held back, one is being filled, and no
/// fourth has room.
fn full(wal: &Wal, gate: &Gate) {
    gate.hold("footer", "");
    for _ in 0..3 {
        append(wal, 3_900_000);
    }
    gate.wait_for("footer");
    a_moment();
}

#[test]
fn what_has_no_footer_is_not_cut_for_the_window() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = gate::open(&gate, four_mib(root.path()));
    full(&wal, &gate);
    assert_eq!(wal.compact().unwrap(), Lsn::FIRST);
    gate.heal();
    wal.close().unwrap();
    ends_at_4(root.path());
}

/// What got its footer by then may have been cut for the segment that was wanted ahead.
fn ends_at_4(dir: &Path) {
    let log = ReadOnlyWal::open(dir).unwrap();
    let first = log.first_lsn().unwrap().get();
    assert!(log.next_lsn() == Lsn::new(4) && first <= 2, "{first} to {}", log.next_lsn());
    assert_eq!(contents(dir).len() as u64, 4 - first);
}

#[test]
fn a_log_is_closed_while_room_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = gate::open(&gate, four_mib(root.path()));
    full(&wal, &gate);
    std::thread::scope(|scope| {
        let closed = scope.spawn(move || wal.close());
        a_moment();
        gate.heal();
        closed.join().unwrap().unwrap();
    });
    ends_at_4(root.path());
}

#[test]
fn room_that_a_truncation_made_meanwhile_is_taken() {
    for pinned in [false, true] {
        taken(pinned);
    }
}

/// What a reader holds is removed; otherwise the files are used again.
fn taken(pinned: bool) {
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let wal = gate::open(&gate, four_mib(root.path()));
    full(&wal, &gate);
    let mut pins: Vec<_> = (1..3).map(|lsn| wal.reader(Lsn::new(lsn)).unwrap()).collect();
    for reader in pins.iter_mut().filter(|_| pinned) {
        reader.next().unwrap().unwrap();
    }
    // The cut is at its end, and what it cut gets its footers, while the maker is held up.
    gate.hold("sync-dir", "");
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| wal.truncate_before(Lsn::new(3)));
        gate.wait_for("sync-dir");
        gate.free("footer");
        a_moment();
        gate.heal();
        cut.join().unwrap().unwrap();
    });
    // It needs the fourth.
    append(&wal, 3_900_000);
    drop(pins);
    assert_eq!(wal.first_lsn(), Lsn::new(3));
    wal.close().unwrap();
    assert_eq!(contents(root.path()).len(), 2);
}

#[test]
fn a_small_segment_that_is_cut_gives_its_size_back() {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    let wal = Wal::open_in(sim.world(), four_mib(Path::new("/log"))).unwrap();
    // Of 1 MiB, 4, and 4 that is being filled; one more is ready.
    append(&wal, 900_000);
    append(&wal, 3_900_000);
    append(&wal, 400_000);
    sim.pass(std::time::Duration::from_secs(5));
    let used = || sim.files().iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert!(used() > 13 << 20, "{}", used());
    let first = wal.compact().unwrap();
    assert!(first > Lsn::FIRST && used() <= 10 << 20, "from {first} on, {}", used());
    wal.close().unwrap();
}

#[test]
fn a_retired_file_makes_room_for_a_smaller_one() {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    // With a segment more than the window there is room for four, and half a MiB.
    let compaction = CompactionPolicy::SizeWindow(13 << 19);
    let config = WalConfig { segment_bytes: 2 << 20, ..four_mib(Path::new("/log")) };
    let wal = Wal::open_in(sim.world(), WalConfig { compaction, ..config }).unwrap();
    for _ in 0..3 {
        append(&wal, 1_900_000);
    }
    sim.pass(std::time::Duration::from_secs(5));
    wal.truncate_after(Lsn::new(1)).unwrap();
    // After a cut it begins with a small one again.
    append(&wal, 1000);
    assert_eq!((wal.first_lsn(), wal.next_lsn()), (Lsn::FIRST, Lsn::new(3)));
    let small = |(path, bytes): &(std::path::PathBuf, u64)| {
        path.extension().is_some_and(|e| e == "seg") && *bytes == 1 << 20
    };
    assert_eq!(sim.files().iter().filter(|file| small(file)).count(), 1, "{:?}", sim.files());
    wal.close().unwrap();
}

/// Nothing bounds the log but the disk, and what was cut could not be removed at first.
#[test]
fn what_a_cut_could_not_remove_goes_when_the_disk_is_full() {
    let capacity = Some(40 << 20);
    let faults = Faults { capacity, ..Faults::default() };
    let sim = Sim::new(1, Model::weak(true), faults.clone());
    let config = WalConfig { segment_bytes: 4 << 20, ..config(Path::new("/log"), Backend::Pwrite) };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    let error = loop {
        let ticket = wal.append_batch([vec![7; 3_900_000]]);
        if let Err(error) = ticket.and_then(|ticket| ticket.wait()) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    let next = wal.next_lsn();
    sim.set_faults(Faults { names_eio: 1000, ..faults.clone() });
    wal.truncate_before(next.prev()).unwrap();
    sim.set_faults(faults);
    for _ in 0..7 {
        append(&wal, 3_900_000);
    }
    assert_eq!((wal.first_lsn(), wal.health().is_ok()), (next.prev(), true));
    wal.close().unwrap();
}
