//! What the log counts of itself is what happened to it, and others can read it afterwards.

use std::time::Duration;

use prkdb_core::{BatchConfig, Durability, ErrorKind, Metrics, SyncMethod, Wal, WalConfig};

use crate::place::Place;
use crate::support::fill;

/// What must hold of any log that nothing has failed.
fn assert_sums_up(metrics: &Metrics, block: u64) {
    let Metrics { groups, batches, .. } = *metrics;
    assert_eq!((metrics.group_batches.count(), metrics.group_batches.sum()), (groups, batches));
    let of_marks = metrics.marks * block;
    assert_eq!(metrics.group_bytes.sum() + of_marks, metrics.written_bytes);
    assert_eq!((metrics.write_ns.count(), metrics.depth.count()), (groups, groups));
    assert_eq!((metrics.queue_ns.count(), metrics.answer_ns.count()), (batches, batches));
    assert_eq!((metrics.failed, metrics.storage_full), (0, 0));
    assert!(metrics.answer_ns.max() >= metrics.queue_ns.max());
}

pub fn many_tickets_share_groups(place: &Place) {
    let wal = place.open();
    fill(&wal, 1, 300, 1);
    let metrics = wal.metrics();
    assert_eq!((metrics.batches, metrics.records), (300, 300));
    assert_sums_up(&metrics, place.block() as u64);
    // On a busy machine each group may be written before the next one forms; that several are in
    // flight where they can be, `tests/log/options.rs` counts on the simulated disk.
    assert!((1..=8).contains(&metrics.depth.max()), "{metrics}");
    assert!(metrics.group_batches.max() > 1, "{metrics}");
    assert!(metrics.answer_ns.quantile(0.5) > 0, "{metrics}");
    assert!(metrics.bytes < metrics.written_bytes, "{metrics}");
    // One after the other there is one group each.
    for batch in 1..=20 {
        fill(&wal, 1, 1, 1);
        assert_eq!(wal.metrics().groups, metrics.groups + batch);
    }
    let alone = wal.metrics();
    assert_eq!(alone.depth.count() - metrics.depth.count(), 20);
    assert_eq!(alone.group_batches.sum() - metrics.group_batches.sum(), 20);
    assert!(alone.at_us > metrics.at_us && alone.open_us > metrics.open_us);
}

pub fn refusals_and_waits_for_room_are_counted(place: &Place) {
    let batch_config = BatchConfig { max_buffer_bytes: 4096, ..BatchConfig::default() };
    let wal = place.try_open(WalConfig { batch_config, depth: 1, ..place.config() }).unwrap();
    let none: [&str; 0] = [];
    assert_eq!(wal.append_batch(none).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!((wal.metrics().refused, wal.metrics().batches), (1, 0));
    let text = vec![5; 3000];
    let mut tickets = Vec::new();
    let busy = loop {
        match wal.try_append_batch([&text]) {
            Ok(ticket) => tickets.push(ticket),
            Err(e) => break e.kind(),
        }
    };
    assert_eq!((busy, wal.metrics().busy), (ErrorKind::Busy, 1));
    tickets.extend((0..100).map(|_| wal.append_batch([&text]).unwrap()));
    let count = tickets.len() as u64;
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let metrics = wal.metrics();
    assert_sums_up(&metrics, place.block() as u64);
    assert_eq!((metrics.batches, metrics.refused, metrics.busy), (count, 1, 1));
    assert!((1..=100).contains(&metrics.room_ns.count()), "{metrics}");
    assert!(metrics.answer_ns.sum() >= metrics.room_ns.sum(), "{metrics}");
}

pub fn segments_and_syncs_are_counted(place: &Place) {
    let config = WalConfig { sync_method: SyncMethod::Fdatasync, ..place.config() };
    let wal = place.try_open(config).unwrap();
    let mut rounds = 0;
    let metrics = loop {
        fill(&wal, 1, 700, 50);
        wal.truncate_before(wal.next_lsn()).unwrap();
        // A segment that lacks its footer at that moment goes when it has it.
        place.pass(Duration::from_millis(5));
        let metrics = wal.metrics();
        rounds += 1;
        if metrics.segments_retired >= 3 && metrics.segments_recycled > 0 {
            break metrics;
        }
        assert!(rounds < 100, "{metrics}");
    };
    assert!(metrics.syncs > 0 && metrics.segments_made > 1, "{metrics}");
}

pub fn the_last_metrics_outlive_the_process(place: &Place) {
    let wal = place.open();
    assert_eq!(place.read_only().last_metrics(), None);
    fill(&wal, 1, 10, 2);
    let open = wal.metrics();
    // Once it is idle it tells others, without being closed.
    while place.read_only().last_metrics().is_none_or(|told| told.batches < 5) {
        place.pass(Duration::from_millis(100));
    }
    wal.close().unwrap();
    let left = place.read_only().last_metrics().unwrap();
    assert_eq!((left.batches, left.records, left.bytes), (5, 10, open.bytes));
    assert_eq!((&left.answer_ns, &left.group_bytes), (&open.answer_ns, &open.group_bytes));
    assert!(left.at_us >= open.at_us);
    // The next process begins at zero, and replaces the file.
    let wal = place.open();
    assert_eq!(wal.metrics().batches, 0);
    drop(wal.with(Durability::Queued).append_batch(["last"]).unwrap());
    place.pass(Duration::from_millis(1));
    drop(wal);
    assert_eq!(place.read_only().last_metrics().unwrap().batches, 1);
    assert_eq!(place.contents().len(), 11);
}

pub fn what_stands_in_its_file_never_harms_the_log(place: &Place) {
    // Left by a process that was killed: still a fresh directory.
    place.plant("METRICS.tmp", b"prkdb-metr");
    place.plant("METRICS", &[b'x'; 5000]);
    let wal = place.open();
    assert_eq!(place.read_only().last_metrics(), None);
    fill(&wal, 1, 10, 1);
    Wal::close(wal).unwrap();
    assert_eq!(place.read_only().last_metrics().unwrap().records, 10);
    assert_eq!(place.contents().len(), 10);
}
