//! What several open segments gain: appends by many callers, on one, two, four and eight.
//!
//! ```text
//! 1 | 8 | 64 callers --append, wait--> writer --group by group, in turn--> 1 | 2 | 4 | 8 files
//! ```
//!
//! `cargo bench --bench parallel_wal_bench -- --quick` takes a minute; a name narrows it down.
//!
//! | Group | An append | Reaches the disk by |
//! |---|---|---|
//! | `durable` | waits until it survives power loss | writes that answer when they are durable |
//! | `synced` | the same | writes, then a sync of the file: one at a time on each file |
//! | `queued` | waits for a place in a segment | plain writes; the last of all is waited for |
//!
//! Ids are the number of segments; a time is that of 32 appends by each caller. An append is one
//! record of 4000 bytes, with its header a block of its own. All segments are open and of full size
//! before it is measured, and `depth` is 32, so that it limits nothing. The writer keeps two groups
//! in flight, and more only from 32 KiB on: 8 callers occupy two files at a time, 64 up to eight.
//!
//! Compare within a group only: more callers also cost more switches between threads. Disks drift,
//! and of two runs of one id the slower can take twice as long: look at several runs.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use prkdb_core::{BatchConfig, Durability, SyncMethod, Wal, WalConfig};
use tempfile::TempDir;

const SEGMENTS: [usize; 4] = [1, 2, 4, 8];
const RECORD: [u8; 4000] = [7; 4000];
/// Segments grow by four from one MiB: two are smaller.
const SEGMENT_BYTES: u64 = 16 << 20;
const SMALLER: usize = 2;
/// Appends of each caller that are one iteration: of fewer the start and the end would be most.
const EACH: u64 = 32;
/// The log is cut after so many records: it takes little space however long it is measured.
const ROUND: u64 = 64 * EACH;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for callers in [1, 8, 64] {
        appends(&mut criterion, "durable", callers, SyncMethod::Auto, Durability::Sync);
    }
    for callers in [1, 8, 64] {
        appends(&mut criterion, "synced", callers, SyncMethod::Fdatasync, Durability::Sync);
    }
    appends(&mut criterion, "queued", 8, SyncMethod::Auto, Durability::Queued);
    criterion.final_summary();
}

fn appends(
    criterion: &mut Criterion,
    name: &str,
    callers: u64,
    sync_method: SyncMethod,
    durability: Durability,
) {
    let mut group = criterion.benchmark_group(format!("{name}/{callers}_callers"));
    group.sample_size(10).throughput(Throughput::Elements(callers * EACH));
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    // With `--quick` two measurements that agree so well are the end, or else the time above.
    group.significance_level(0.01);
    for segments in SEGMENTS {
        let log = Log::open(segments, sync_method, durability);
        group.bench_function(BenchmarkId::from_parameter(segments), |bencher| {
            bencher.iter_custom(|times| log.time(times * EACH, callers));
        });
    }
    group.finish();
}

/// A log that goes away with its directory.
struct Log {
    wal: Wal,
    _dir: TempDir,
}

impl Log {
    fn open(num_segments: usize, sync_method: SyncMethod, durability: Durability) -> Log {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = TempDir::with_prefix_in("prkdb-parallel-", root).unwrap();
        let config = WalConfig {
            segment_bytes: SEGMENT_BYTES,
            num_segments,
            sync_method,
            durability,
            depth: 32,
            batch_config: BatchConfig { max_buffer_bytes: 4 << 20, ..BatchConfig::default() },
            ..WalConfig::new(dir.path().join("log"))
        };
        let log = Log { wal: Wal::open(config).unwrap(), _dir: dir };
        log.open_all(num_segments);
        log.settle();
        log
    }

    /// Appends until the smaller segments are full and so many others hold records.
    fn open_all(&self, num_segments: usize) {
        let large = [[7; 64 << 10]];
        let mut tickets = VecDeque::new();
        while self.wal.segment_count() < (num_segments + SMALLER) as u64 {
            let appended = self.wal.with(Durability::Written).append_batch(large);
            tickets.push_back(appended.unwrap());
            if tickets.len() > 4 {
                tickets.pop_front().map(|ticket| ticket.wait().unwrap());
            }
        }
    }

    /// Waits until nothing is under way, and cuts what is there.
    fn settle(&self) {
        let next = self.wal.next_lsn();
        self.wal.wait_durable(next.prev()).unwrap().wait().unwrap();
        self.wal.truncate_before(next).unwrap();
    }

    /// How long `callers` at once take for so many appends each, waiting for each of them.
    fn time(&self, appends: u64, callers: u64) -> Duration {
        let (mut left, mut spent) = (appends, Duration::ZERO);
        while left > 0 {
            let round = left.min(ROUND / callers);
            left -= round;
            spent += self.round(round, callers);
            self.settle();
        }
        spent
    }

    /// From the moment the first caller runs until the last one has its answer, and the disk all.
    fn round(&self, appends: u64, callers: u64) -> Duration {
        let start = Barrier::new(usize::try_from(callers).unwrap());
        let (start, wal) = (&start, &self.wal);
        let began = std::thread::scope(|scope| {
            let call = |_| {
                scope.spawn(move || {
                    start.wait();
                    let began = Instant::now();
                    for _ in 0..appends {
                        wal.append_batch([&RECORD]).unwrap().wait().unwrap();
                    }
                    began
                })
            };
            let threads: Vec<_> = (0..callers).map(call).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).min().unwrap()
        });
        // What was only queued has not reached the disk yet.
        wal.wait_durable(wal.next_lsn().prev()).unwrap().wait().unwrap();
        began.elapsed()
    }
}
