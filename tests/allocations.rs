//! What an append costs the allocator, counted over the whole process: nothing, once the log is in
//! its stride. Small batches by one caller who waits, and with tickets outstanding.
//!
//! Chores are not an append's: the text of METRICS every ten seconds, the name of a segment. So the
//! best of some short rounds counts. `PRKDB_HEAP_PROFILE` names a file for dhat to say in who
//! allocated.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use prkdb_core::{Backend, Wal, WalConfig};

mod support;

use support::on_each_backend;

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

const WARM_UP: u64 = 2000;
/// So few that a round has no METRICS on a slow disk either.
const APPENDS: u64 = 500;
/// So few that no append and no group has one of its own.
const NOTHING: u64 = 20;
const ROUNDS: usize = 10;

fn append(wal: &Wal, appends: u64, outstanding: usize, records: &[[u8; 100]]) {
    let mut tickets = VecDeque::with_capacity(outstanding + 1);
    for _ in 0..appends {
        tickets.push_back(wal.append_batch(records).unwrap());
        if tickets.len() > outstanding {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

fn allocated(backend: Backend, dir: &std::path::Path, outstanding: usize, count: usize) -> u64 {
    let wal = Wal::open(WalConfig { backend, ..WalConfig::new(dir) }).unwrap();
    let records = vec![[7; 100]; count];
    append(&wal, WARM_UP, outstanding, &records);
    let round = || {
        let before = dhat::HeapStats::get().total_blocks;
        append(&wal, APPENDS, outstanding, &records);
        dhat::HeapStats::get().total_blocks - before
    };
    let mut blocks = round();
    for _ in 1..ROUNDS {
        if blocks > NOTHING {
            blocks = blocks.min(round());
        }
    }
    wal.close().unwrap();
    blocks
}

#[test]
fn appends_allocate_nothing() {
    let profiler = match std::env::var_os("PRKDB_HEAP_PROFILE") {
        Some(file) => dhat::Profiler::builder().file_name(file).build(),
        None => dhat::Profiler::builder().testing().build(),
    };
    on_each_backend(|dir, backend| {
        if backend.name() == "tokio-uring" {
            // The runtime allocates for each request that it is given.
            return;
        }
        for (outstanding, count) in [(0, 1), (16, 1), (0, 100), (16, 100)] {
            let dir = dir.join(format!("{outstanding}-{count}"));
            let blocks = allocated(backend, &dir, outstanding, count);
            println!("{backend:?}, {outstanding} outstanding, {count} records: {blocks} blocks");
            assert!(blocks <= NOTHING, "{backend:?}: {blocks} blocks for {APPENDS} appends");
        }
    });
    drop(profiler);
}
