//! What several open segments gain: appends by many callers, on 1 to 32 of them, on each backend.
//!
//! ```text
//! 8 | 64 | 256 callers --append, wait--> writer --group by group, in turn--> 1 | 2 | .. | 32 files
//! ```
//!
//! `cargo bench --bench parallel_wal_bench -- --quick` takes three minutes; a name narrows it down.
//!
//! | Group | A group of appends is durable by |
//! |---|---|
//! | `uring/forced`, `pwrite/forced` | a write that answers when it is durable |
//! | `uring/synced`, `pwrite/synced` | a write, then a sync of the file: one at a time on each |
//! | `mmap/synced` | a copy, then the same |
//!
//! Ids are the number of segments; a time is that of 32 appends by each caller. An append is one
//! record of 4000 bytes, with its header a block of its own. All segments are open and of full size
//! before it is measured, and `depth` is 32, so that it limits nothing. The writer keeps four
//! groups in flight, and more only from 32 KiB on: 8 callers occupy up to four files at a time, 64
//! up to eight, 256 up to 32.
//!
//! Compare within a group only: more callers also cost more switches between threads. Disks drift,
//! and of two runs of one id the slower can take twice as long: look at several runs.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use prkdb_core::{Backend, BatchConfig, Durability, SyncMethod, Wal, WalConfig, probe};
use tempfile::TempDir;

const SEGMENTS: [usize; 6] = [1, 2, 4, 8, 16, 32];
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
    // Only to be seen to run, by `cargo test`: the largest would take longer to make than to run.
    let tested = !std::env::args().any(|arg| arg == "--bench");
    let segments = if tested { &SEGMENTS[..2] } else { &SEGMENTS };
    for backend in [Backend::Uring, Backend::Pwrite, Backend::Mmap] {
        if let Err(error) = probe(Path::new(env!("CARGO_TARGET_TMPDIR")), backend) {
            eprintln!("{backend} left out: {error}");
            continue;
        }
        for (name, sync_method) in
            [("forced", SyncMethod::Dsync), ("synced", SyncMethod::Fdatasync)]
        {
            if backend == Backend::Mmap && sync_method == SyncMethod::Dsync {
                // A copy is never forced.
                continue;
            }
            for callers in [8, 64, 256] {
                appends(&mut criterion, backend, name, sync_method, callers, segments);
            }
        }
    }
    criterion.final_summary();
}

fn appends(
    criterion: &mut Criterion,
    backend: Backend,
    name: &str,
    sync_method: SyncMethod,
    callers: u64,
    segments: &[usize],
) {
    let mut group = criterion.benchmark_group(format!("{backend}/{name}/{callers}_callers"));
    group.sample_size(10).throughput(Throughput::Elements(callers * EACH));
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    // With `--quick` two measurements that agree so well are the end, or else the time above.
    group.significance_level(0.01);
    for segments in segments {
        let log = Log::open(backend, *segments, sync_method);
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
    fn open(backend: Backend, num_segments: usize, sync_method: SyncMethod) -> Log {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = TempDir::with_prefix_in("prkdb-parallel-", root).unwrap();
        let config = WalConfig {
            backend,
            segment_bytes: SEGMENT_BYTES,
            num_segments,
            sync_method,
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

    /// From the moment the first caller runs until the last one has its answer.
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
        began.elapsed()
    }
}
