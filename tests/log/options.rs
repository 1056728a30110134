//! Each option acts: what changes when it alone is changed.
//!
//! Counts and answers, never times. The four of compression are in `tests/backends/codec.rs`
//! (`each_option_of_compression_changes_what_is_on_disk`), where every backend runs them;
//! `index_interval_bytes` is in `index.rs`, which reads the footers on disk.

use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{
    Backend, BatchConfig, CompactionPolicy, Durability, ErrorKind, RecoveryPolicy, SyncMethod, Wal,
    WalConfig,
};

const DIR: &str = "/log";

fn sim() -> Sim {
    Sim::new(1, Model::weak(true), Faults::default())
}

fn small() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(DIR) }
}

/// Opens a log of a world of its own with `config` and gives what `look` finds.
fn with<T>(config: WalConfig, look: impl FnOnce(&Sim, &Wal) -> T) -> T {
    let sim = sim();
    let wal = Wal::open_in(sim.world(), config).unwrap();
    let found = look(&sim, &wal);
    wal.close().unwrap();
    found
}

fn segments(sim: &Sim) -> usize {
    sim.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")).count()
}

fn append(wal: &Wal, count: usize, len: usize) {
    let tickets: Vec<_> = (0..count).map(|_| wal.append_batch([vec![7; len]]).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

#[test]
fn log_dir_says_where_the_files_are() {
    let in_dir = |dir: &str| {
        with(WalConfig { log_dir: dir.into(), ..small() }, |sim, _| {
            sim.files().iter().all(|(path, _)| path.starts_with(dir))
        })
    };
    assert!(in_dir("/here") && in_dir("/there/below"));
}

#[test]
fn create_new_refuses_a_log_that_is_there() {
    let sim = sim();
    let new = |create_new| Wal::open_in(sim.world(), WalConfig { create_new, ..small() });
    new(true).unwrap().close().unwrap();
    assert_eq!(new(true).unwrap_err().kind(), ErrorKind::Invalid);
    new(false).unwrap().close().unwrap();
}

#[test]
fn segment_bytes_says_how_often_a_segment_is_rolled() {
    let files = |segment_bytes| {
        with(WalConfig { segment_bytes, ..small() }, |sim, wal| {
            append(wal, 100, 60_000);
            segments(sim)
        })
    };
    let (small, large) = (files(1 << 20), files(8 << 20));
    assert!(small >= 6 && large < small, "{small} files of 1 MiB, {large} of up to 8 MiB");
}

#[test]
fn backend_says_who_writes() {
    let root = tempfile::tempdir().unwrap();
    for backend in [Backend::Pwrite, Backend::Mmap] {
        if prkdb_core::probe(root.path(), backend).is_ok() {
            let log_dir = root.path().join(backend.name());
            let wal = Wal::open(WalConfig { backend, ..WalConfig::new(log_dir) }).unwrap();
            assert_eq!(wal.backend().name, backend.name());
        }
    }
}

#[test]
fn sync_method_says_what_is_called() {
    let syncs = |sync_method| {
        with(WalConfig { sync_method, ..small() }, |_, wal| {
            for _ in 0..20 {
                append(wal, 1, 100);
            }
            wal.metrics().syncs
        })
    };
    assert_eq!((syncs(SyncMethod::Dsync), syncs(SyncMethod::Fdatasync)), (0, 20));
}

#[test]
fn num_segments_says_how_many_are_written_at_once() {
    let open = |num_segments| {
        with(WalConfig { num_segments, ..small() }, |sim, wal| {
            // Little enough for one; each group goes to the next that is open by then.
            for _ in 0..8 {
                append(wal, 1, 100);
                sim.pass(Duration::from_secs(1));
            }
            wal.segment_count()
        })
    };
    assert_eq!((open(1), open(4)), (1, 4));
}

#[test]
fn durability_says_what_a_ticket_waits_for() {
    let after = |durability| {
        with(WalConfig { durability, ..small() }, |_, wal| {
            append(wal, 1, 100);
            append(wal, 1, 100);
            (wal.written_lsn().get(), wal.durable_lsn().get())
        })
    };
    let batch_config = BatchConfig { linger_ms: 1000, ..BatchConfig::default() };
    let queued = WalConfig { durability: Durability::Queued, batch_config, ..small() };
    let queued = with(queued, |_, wal| {
        append(wal, 2, 100);
        (wal.written_lsn().get(), wal.durable_lsn().get())
    });
    assert_eq!(queued, (0, 0));
    assert_eq!(after(Durability::Written), (2, 0));
    assert_eq!(after(Durability::Sync), (2, 2));
}

#[test]
fn depth_says_how_many_groups_are_in_flight() {
    let most = |depth| {
        with(WalConfig { depth, ..small() }, |_, wal| {
            // Each of these batches is a group.
            append(wal, 12, 70_000);
            wal.metrics().depth.max()
        })
    };
    assert_eq!(most(1), 1);
    let eight = most(8);
    assert!((4..=8).contains(&eight), "{eight} in flight of 8");
}

#[test]
fn linger_ms_says_how_long_a_group_nobody_waits_for_gathers() {
    let written = |linger_ms| {
        let batch_config = BatchConfig { linger_ms, ..BatchConfig::default() };
        with(WalConfig { durability: Durability::Queued, batch_config, ..small() }, |sim, wal| {
            append(wal, 1, 100);
            sim.pass(Duration::from_millis(50));
            wal.written_lsn().get()
        })
    };
    assert_eq!((written(1), written(500)), (1, 0));
}

#[test]
fn max_batch_size_ends_the_lingering() {
    let written = |max_batch_size| {
        let batch_config =
            BatchConfig { linger_ms: 60_000, max_batch_size, ..BatchConfig::default() };
        with(WalConfig { durability: Durability::Queued, batch_config, ..small() }, |sim, wal| {
            append(wal, 10, 100);
            sim.pass(Duration::from_millis(50));
            wal.written_lsn().get()
        })
    };
    assert_eq!((written(10), written(11)), (10, 0));
}

#[test]
fn max_buffer_bytes_says_how_much_waits_in_the_queue() {
    let queued = |max_buffer_bytes| {
        let batch_config = BatchConfig { max_buffer_bytes, ..BatchConfig::default() };
        with(WalConfig { batch_config, ..small() }, |_, wal| {
            let tickets: Vec<_> =
                (0..50).map_while(|_| wal.try_append_batch([vec![7; 10_000]]).ok()).collect();
            tickets.len()
        })
    };
    assert_eq!((queued(35_000), queued(1 << 20)), (3, 50));
}

/// A world whose power went while several groups were in flight.
fn torn(seed: u64) -> Sim {
    let sim = Sim::new(seed, Model::weak(true), Faults::default());
    let wal = Wal::open_in(sim.world(), small()).unwrap();
    append(&wal, 1, 100);
    sim.set_faults(Faults { crash_at: Some(sim.ops() + 12), ..Faults::default() });
    let batch = || wal.append_batch([vec![7; 40_000]]).unwrap();
    let tickets: Vec<_> = (0..12).map(|_| batch()).collect();
    tickets.into_iter().for_each(|ticket| drop(ticket.wait()));
    sim.crash(CrashKind::Power);
    drop(wal);
    sim.set_faults(Faults::default());
    sim
}

#[test]
fn recovery_says_what_becomes_of_a_torn_tail() {
    let open = |seed, recovery| {
        Wal::open_in(torn(seed).world(), WalConfig { recovery, ..small() })
            .map(|wal| wal.recovery())
    };
    let cuts = |seed: &u64| !open(*seed, RecoveryPolicy::TornTail).unwrap().given_up.is_empty();
    let seed = (0..200).find(cuts).expect("some seed tears the tail");
    assert_eq!(open(seed, RecoveryPolicy::Strict).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn retention_and_compaction_say_what_goes_by_itself() {
    let first_after_an_hour = |retention_ms, compaction| {
        with(WalConfig { retention_ms, compaction, ..small() }, |sim, wal| {
            append(wal, 100, 60_000);
            let before = wal.first_lsn();
            sim.pass(Duration::from_secs(3600));
            (before.get(), wal.first_lsn().get())
        })
    };
    let none = CompactionPolicy::None;
    assert_eq!(first_after_an_hour(None, none), (1, 1));
    assert_eq!(first_after_an_hour(Some(7_200_000), none), (1, 1));
    assert_eq!(first_after_an_hour(Some(60_000), none), (1, 101));
    assert_eq!(first_after_an_hour(None, CompactionPolicy::TimeWindow(60_000)), (1, 101));
    let (before, after) = first_after_an_hour(None, CompactionPolicy::SizeWindow(4 << 20));
    assert!(before > 1 && after < 101, "{before}, {after}");
}

#[test]
fn max_disk_bytes_says_when_a_log_is_full() {
    let full = |max_disk_bytes| {
        with(WalConfig { max_disk_bytes, ..small() }, |_, wal| {
            let full = |_: &usize| wal.append_batch([vec![7; 60_000]]).unwrap().wait().is_err();
            (0..200).find(full)
        })
    };
    let (small, large) = (full(Some(4 << 20)).unwrap(), full(Some(8 << 20)).unwrap());
    assert!(20 < small && small < large, "full after {small} and {large} records");
    assert_eq!(full(None), None);
}

#[test]
fn wipe_retired_says_whether_cut_records_stay_on_the_disk() {
    let left = |wipe_retired| {
        with(WalConfig { wipe_retired, ..small() }, |sim, wal| {
            append(wal, 100, 60_000);
            wal.truncate_before(wal.next_lsn()).unwrap();
            let pooled = |path: &std::path::Path| path.extension().is_some_and(|e| e == "free");
            let files = sim.files().into_iter().filter(|(path, _)| pooled(path));
            let records = |bytes: &[u8]| bytes.windows(1000).any(|w| w == [7; 1000]);
            files.map(|(path, _)| records(&sim.peek(path).unwrap())).collect::<Vec<_>>()
        })
    };
    let (kept, wiped) = (left(false), left(true));
    assert!(!kept.is_empty() && kept.iter().all(|found| *found), "{kept:?}");
    assert!(!wiped.is_empty() && !wiped.iter().any(|found| *found), "{wiped:?}");
}
