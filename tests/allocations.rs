//! What an append costs the allocator, counted over the whole process: nothing, once the log is in
//! its stride: small batches and large ones, waited for, awaited and with tickets outstanding, of
//! each durability, into one segment and into several.
//!
//! Chores are not an append's: the text of METRICS every ten seconds, the name of a segment. So the
//! best of some short rounds counts. `PRKDB_HEAP_PROFILE` names a file for dhat to say in who
//! allocated.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use prkdb_core::{Backend, CompressionConfig, Durability, SyncMethod, Wal, WalConfig};

mod support;

use support::{block_on, on_each_backend};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

const WARM_UP: u64 = 2000;
/// So few that a round has no METRICS on a slow disk either.
const APPENDS: u64 = 500;
/// So few that no append, no group and no thirty of them have one of their own.
const NOTHING: u64 = 8;
/// The same where a round fills most of a segment: making the next one takes some forty.
const SEGMENT: u64 = 60;
const ROUNDS: usize = 10;

/// A way of appending.
#[derive(Clone, Copy, Debug)]
struct Way {
    outstanding: usize,
    /// Records of 100 bytes in a batch; from 600 on a batch is written from its own buffer.
    records: usize,
    durability: Durability,
    num_segments: usize,
    codec: CompressionConfig,
    /// Awaited, each by itself.
    task: bool,
}

fn ways() -> Vec<Way> {
    let way = Way {
        outstanding: 0,
        records: 1,
        durability: Durability::Sync,
        num_segments: 1,
        codec: CompressionConfig::none(),
        task: false,
    };
    let mut ways = Vec::new();
    for (outstanding, records) in [(0, 1), (16, 1), (0, 100), (16, 100), (0, 1000), (8, 1000)] {
        ways.push(Way { outstanding, records, ..way });
    }
    for durability in [Durability::Written, Durability::Queued] {
        ways.push(Way { durability, outstanding: 16, records: 100, ..way });
    }
    for records in [1, 1000] {
        ways.push(Way { task: true, records, ..way });
        ways.push(Way { num_segments: 4, outstanding: 16, records, ..way });
    }
    for codec in [CompressionConfig::balanced(), CompressionConfig::compression_optimized()] {
        ways.push(Way { codec, records: 1000, ..way });
    }
    ways
}

impl Way {
    fn allowed(self) -> u64 {
        match self.records {
            // This build proves by decompressing it that a compressed batch can be read.
            1000 if self.codec != CompressionConfig::none() => APPENDS + NOTHING,
            1000 => SEGMENT,
            _ => NOTHING,
        }
    }
}

fn append(wal: &Wal, appends: u64, way: Way, records: &[[u8; 100]]) {
    if way.task {
        return block_on(async {
            for _ in 0..appends {
                wal.append_batch_async(records).await.unwrap().await.unwrap();
            }
        });
    }
    let mut tickets = VecDeque::with_capacity(way.outstanding + 1);
    for _ in 0..appends {
        tickets.push_back(wal.append_batch(records).unwrap());
        if tickets.len() > way.outstanding {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

/// Blocks that the best of some rounds cost.
fn allocated(backend: Backend, dir: &std::path::Path, way: Way) -> u64 {
    let Way { durability, num_segments, codec: compression, .. } = way;
    // Nothing is calibrated meanwhile.
    let sync_method = SyncMethod::Dsync;
    let config = WalConfig {
        backend,
        durability,
        num_segments,
        compression,
        sync_method,
        ..WalConfig::new(dir)
    };
    let wal = Wal::open(config).unwrap();
    let records = vec![[7; 100]; way.records];
    append(&wal, if way.records < 1000 { WARM_UP } else { WARM_UP / 5 }, way, &records);
    let round = || {
        let before = dhat::HeapStats::get().total_blocks;
        append(&wal, APPENDS, way, &records);
        dhat::HeapStats::get().total_blocks - before
    };
    let mut blocks = round();
    for _ in 1..ROUNDS {
        if blocks > way.allowed() {
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
        for (number, way) in ways().into_iter().enumerate() {
            let blocks = allocated(backend, &dir.join(number.to_string()), way);
            println!("{backend:?}: {blocks} blocks for {APPENDS} appends, {way:?}");
            assert!(blocks <= way.allowed(), "{backend:?}: {blocks} blocks, {way:?}");
            std::fs::remove_dir_all(dir.join(number.to_string())).unwrap();
        }
    });
    drop(profiler);
}
