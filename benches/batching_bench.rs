//! What batching costs and saves: codecs, lingering, sizes of batches and queue, the hand-off.
//!
//! ```text
//! caller --append_batch (timed)--> queue -> writer -> file     codecs, handoff: in memory
//!   '----- what was not timed: waiting, cutting the log ----'  linger, sizes: on the disk, in
//!                                                              segments that are used again
//! ```
//!
//! `cargo bench --bench batching_bench -- --quick` takes two minutes; a name narrows it down.
//! A log on the disk is written and cut until it uses a segment again, and its sync method is
//! fixed: else the first iterations would measure segments being filled with zeros and the method
//! being chosen, and which variant is charged for it would depend on how long each runs.
//! `linger` and `sizes/max_batch_size` queue records that nobody waits for, `sizes/batch` and
//! `sizes/max_buffer_bytes` leave all tickets out to the end; all print how large the groups were.
//! `handoff` is one record from the caller to the writer and back: queue, wake-ups, answer.
//! `codecs/append` is the caller's time for a batch: records, index, checksums, codec, queue; what
//! `none` takes of it is not the codec's. `codecs/read` is a reader's time for it, checksums and
//! the copy out of memory included. Both are in bytes of records.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::cell::OnceCell;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use prkdb_core::{Backend, Batch, BatchConfig, Durability, Metrics, SyncMethod, Wal, WalConfig};
use tempfile::TempDir;

#[path = "batching/codecs.rs"]
mod codecs;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codecs::codecs(&mut criterion);
    linger(&mut criterion);
    batch_sizes(&mut criterion);
    lingering_sizes(&mut criterion);
    buffer_sizes(&mut criterion);
    handoff(&mut criterion);
    criterion.final_summary();
}

// ---- logs -------------------------------------------------------------------------------------

/// Small, so that some are soon full and cut; an iteration of the largest load fits in one.
const SEGMENT_BYTES: usize = 16 * MIB;
/// Rounds, half a segment each, after which one must have been used again: the first three are
/// smaller, and some are made ahead.
const WARM_ROUNDS: usize = 64;

/// A log that goes away with its directory.
struct Log {
    wal: Wal,
    dir: TempDir,
    /// Whether it is measured, and on the disk.
    to_be_warm: bool,
    /// What it had counted when it was warm.
    before: OnceCell<Metrics>,
}

impl Log {
    /// In memory where there is a file system for that, so that no device is measured.
    fn in_memory(config: WalConfig) -> Log {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        Log::open(&root, WalConfig { backend: Backend::Pwrite, ..config })
    }

    /// On the disk that the crate is built on, by the best backend there is.
    fn on_disk(batch_config: BatchConfig) -> Log {
        let config = WalConfig {
            batch_config,
            segment_bytes: SEGMENT_BYTES as u64,
            sync_method: SyncMethod::Dsync,
            ..WalConfig::default()
        };
        // `cargo test` only sees that it runs.
        let to_be_warm = std::env::args().any(|argument| argument == "--bench");
        Log { to_be_warm, ..Log::open(Path::new(env!("CARGO_TARGET_TMPDIR")), config) }
    }

    fn open(root: &Path, config: WalConfig) -> Log {
        let dir = TempDir::with_prefix_in("prkdb-batching-", root).unwrap();
        let log_dir = dir.path().join("log");
        let wal = Wal::open(WalConfig { log_dir, ..config }).unwrap();
        Log { wal, dir, to_be_warm: false, before: OnceCell::new() }
    }

    /// Writes and cuts until a segment is used again, once; only a log that is measured comes here,
    /// not one that was filtered out.
    fn warm(&self) {
        self.before.get_or_init(|| {
            let half = batch_of(SEGMENT_BYTES / 2 / KIB, KIB);
            for _ in 0..WARM_ROUNDS {
                if !self.to_be_warm || self.wal.metrics().segments_recycled > 0 {
                    break;
                }
                self.wal.with(Durability::Written).append_batch(&half).unwrap().wait().unwrap();
                self.settle();
            }
            self.wal.metrics()
        });
    }

    /// Waits until nothing is under way, and cuts what is there: a long run takes no more space.
    fn settle(&self) {
        let next = self.wal.next_lsn();
        self.wal.wait_durable(next.prev()).unwrap().wait().unwrap();
        self.wal.truncate_before(next).unwrap();
    }

    /// Times `work` so many times, and lets the log settle in between.
    fn time(&self, times: u64, mut work: impl FnMut(&Wal)) -> Duration {
        self.warm();
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            work(&self.wal);
            spent += start.elapsed();
            self.settle();
        }
        spent
    }

    /// Says how large the groups became, and if segments were written anew: then it was not warm.
    fn tell(&self, name: &str) {
        // None: it was filtered out.
        let Some(before) = self.before.get() else { return };
        // Groups are counted a moment after their answers.
        std::thread::sleep(Duration::from_millis(20));
        let after = self.wal.metrics();
        let records = (after.records - before.records) as f64;
        let groups = (after.groups - before.groups) as f64;
        eprintln!("{name}: {:.0} records a group", records / groups);
        let made = after.segments_made - before.segments_made;
        if made > 0 {
            eprintln!("{name}: {made} segments were written anew meanwhile");
        }
    }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    // With `--quick` two measurements that agree so well are the end, or else the time above.
    group.significance_level(0.01);
    group
}

/// Batches of one size, of bytes that nothing is saved by compressing.
fn batch_of(records: usize, record_bytes: usize) -> Batch {
    let mut batch = Batch::new();
    let mut state = 1_u64;
    for _ in 0..records {
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        });
        batch.push(bytes.take(record_bytes).collect::<Vec<_>>());
    }
    batch
}

// ---- lingering --------------------------------------------------------------------------------

/// Records that nobody waits for, one by one, then all made durable.
fn queue_all(wal: &Wal, records: usize) {
    for _ in 0..records {
        drop(wal.with(Durability::Queued).append_batch([[7; 100]]).unwrap());
    }
    wal.wait_durable(wal.next_lsn().prev()).unwrap().wait().unwrap();
}

/// A thousand records through lingering of different length.
fn linger(criterion: &mut Criterion) {
    let mut group = group(criterion, "linger");
    group.throughput(Throughput::Elements(1000));
    for linger_ms in [0, 1, 10, 50] {
        let batch_config = BatchConfig { linger_ms, ..BatchConfig::default() };
        let log = Log::on_disk(batch_config);
        group.bench_function(BenchmarkId::from_parameter(linger_ms), |bencher| {
            bencher.iter_custom(|times| log.time(times, |wal| queue_all(wal, 1000)));
        });
        log.tell(&format!("linger/{linger_ms}"));
    }
    group.finish();
}

// ---- sizes ------------------------------------------------------------------------------------

/// Appends the batch so often, every ticket outstanding until the end.
fn append_all(wal: &Wal, batch: &Batch, times: usize) {
    let append = |_| wal.append_batch(batch).unwrap();
    let tickets: Vec<_> = (0..times).map(append).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

/// The same 16,000 durable records of 100 bytes, in batches of so many.
fn batch_sizes(criterion: &mut Criterion) {
    const RECORDS: usize = 16_000;
    let mut group = group(criterion, "sizes/batch");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for records in [1, 10, 100, 1000] {
        let log = Log::on_disk(BatchConfig::default());
        let batch = batch_of(records, 100);
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            bencher.iter_custom(|times| {
                log.time(times, |wal| append_all(wal, &batch, RECORDS / records))
            });
        });
        log.tell(&format!("sizes/batch/{records}"));
    }
    group.finish();
}

/// Ten thousand records that nobody waits for: so many end the lingering, which else is long.
fn lingering_sizes(criterion: &mut Criterion) {
    const RECORDS: usize = 10_000;
    let mut group = group(criterion, "sizes/max_batch_size");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for max_batch_size in [1, 100, 1000, 10_000] {
        let batch_config = BatchConfig { linger_ms: 50, max_batch_size, ..BatchConfig::default() };
        let log = Log::on_disk(batch_config);
        group.bench_function(BenchmarkId::from_parameter(max_batch_size), |bencher| {
            bencher.iter_custom(|times| log.time(times, |wal| queue_all(wal, RECORDS)));
        });
        log.tell(&format!("sizes/max_batch_size/{max_batch_size}"));
    }
    group.finish();
}

/// A hundred durable batches of 100 KB through queues of different sizes.
fn buffer_sizes(criterion: &mut Criterion) {
    let mut group = group(criterion, "sizes/max_buffer_bytes");
    let batch = batch_of(1000, 100);
    group.throughput(Throughput::Bytes(100 * batch.record_bytes() as u64));
    for max_buffer_bytes in [1, 256 * KIB, MIB, 10 * MIB] {
        let batch_config = BatchConfig { max_buffer_bytes, ..BatchConfig::default() };
        let log = Log::on_disk(batch_config);
        group.bench_function(BenchmarkId::from_parameter(max_buffer_bytes), |bencher| {
            bencher.iter_custom(|times| log.time(times, |wal| append_all(wal, &batch, 100)));
        });
        log.tell(&format!("sizes/max_buffer_bytes/{max_buffer_bytes}"));
    }
    group.finish();
}

// ---- hand-off ---------------------------------------------------------------------------------

/// From the caller to the writer, and back: one record of 100 bytes.
fn handoff(criterion: &mut Criterion) {
    let mut group = group(criterion, "handoff");
    let record = [[7; 100]];
    let round_trips = [
        ("round trip, queued", Durability::Queued),
        ("round trip, written", Durability::Written),
        ("round trip, sync", Durability::Sync),
    ];
    for (name, durability) in round_trips {
        let log = Log::in_memory(WalConfig::default());
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                log.time(times, |wal| {
                    wal.with(durability).append_batch(record).unwrap().wait().unwrap();
                })
            });
        });
    }
    let log = Log::in_memory(WalConfig::default());
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 queued, none waited for", |bencher| {
        bencher.iter_custom(|times| {
            log.time(times, |wal| {
                for _ in 0..1000 {
                    drop(wal.with(Durability::Queued).append_batch(record).unwrap());
                }
            })
        });
    });
    group.finish();
}
