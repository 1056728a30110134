//! What batching costs and saves: codecs, lingering, sizes of batches and queue, the hand-off.
//!
//! ```text
//! caller --append_batch (timed)--> queue -> writer -> file     codecs, handoff: in memory
//!   '----- what was not timed: waiting, cutting the log ----'  linger, sizes: on the disk
//! ```
//!
//! `cargo bench --bench batching_bench -- --quick` takes two minutes; a name narrows it down.
//! `linger` and `sizes/max_batch_size` queue records that nobody waits for, and print how large
//! the groups became; `sizes/batch` and `sizes/max_buffer_bytes` leave all tickets out to the end.
//! `handoff` is one record from the caller to the writer and back: queue, wake-ups, answer.
//! `codecs/append` is the caller's time for a batch: records, index, checksums, codec, queue; what
//! `none` takes of it is not the codec's. `codecs/read` is a reader's time for it, checksums and
//! the copy out of memory included. Both are in bytes of records.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use prkdb_core::{
    Backend, Batch, BatchConfig, CompressionConfig, CompressionType, Durability, Lsn, ReadOnlyWal,
    Wal, WalConfig,
};
use tempfile::TempDir;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codecs(&mut criterion);
    linger(&mut criterion);
    batch_sizes(&mut criterion);
    lingering_sizes(&mut criterion);
    buffer_sizes(&mut criterion);
    handoff(&mut criterion);
    criterion.final_summary();
}

// ---- logs -------------------------------------------------------------------------------------

/// A log that goes away with its directory.
struct Log {
    wal: Wal,
    dir: TempDir,
}

impl Log {
    /// In memory where there is a file system for that, so that no device is measured.
    fn in_memory(config: WalConfig) -> Log {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        Log::open(&root, WalConfig { backend: Backend::Pwrite, ..config })
    }

    /// On the disk that the crate is built on, by the best backend there is.
    fn on_disk(config: WalConfig) -> Log {
        Log::open(Path::new(env!("CARGO_TARGET_TMPDIR")), config)
    }

    fn open(root: &Path, config: WalConfig) -> Log {
        let dir = TempDir::with_prefix_in("prkdb-batching-", root).unwrap();
        let log_dir = dir.path().join("log");
        let wal = Wal::open(WalConfig { log_dir, ..config }).unwrap();
        Log { wal, dir }
    }

    /// Waits until nothing is under way, and cuts what is there: a long run takes no more space.
    fn settle(&self) {
        let next = self.wal.next_lsn();
        self.wal.wait_durable(next.prev()).unwrap().wait().unwrap();
        self.wal.truncate_before(next).unwrap();
    }

    /// Times `work` so many times, and lets the log settle in between.
    fn time(&self, times: u64, mut work: impl FnMut(&Wal)) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            work(&self.wal);
            spent += start.elapsed();
            self.settle();
        }
        spent
    }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
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

// ---- codecs -----------------------------------------------------------------------------------

const BATCH_RECORDS: usize = 1000;
const BATCHES: usize = 12;

/// Source text: the crate's own, then what was built with it, so much that nothing repeats.
fn text() -> Vec<u8> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut text = Vec::new();
    let folders = [own.join("src"), own.join("tests")].into_iter();
    for folder in folders.chain(home.map(|home| home.join("registry/src"))) {
        gather(&folder, &mut text);
    }
    text.truncate(2 * BATCHES * BATCH_RECORDS * KIB);
    text
}

/// All sources below a folder, in the order of their names.
fn gather(folder: &Path, text: &mut Vec<u8>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if text.len() > 2 * BATCHES * BATCH_RECORDS * KIB {
            return;
        }
        if path.is_dir() {
            gather(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.extend(std::fs::read(&path).unwrap());
        }
    }
}

/// Batches spread over all of the text, each of one stretch of it.
fn batches_of(text: &[u8], record_bytes: usize) -> Vec<Batch> {
    let len = BATCH_RECORDS * record_bytes;
    let step = (text.len().saturating_sub(len)) / BATCHES;
    assert!(text.len() >= len, "there is too little text on this machine");
    let stretches = (0..BATCHES).map(|i| &text[i * step..i * step + len]);
    let batch = |stretch: &[u8]| {
        let mut batch = Batch::new();
        stretch.chunks(record_bytes).for_each(|record| batch.push(record));
        batch
    };
    stretches.map(batch).collect()
}

fn with_codec(name: &str) -> WalConfig {
    let (name, level) = name.split_once('-').unwrap_or((name, "3"));
    let compression = CompressionConfig {
        compression_type: name.parse::<CompressionType>().unwrap(),
        compression_level: level.parse().unwrap(),
        ..CompressionConfig::default()
    };
    WalConfig { compression, ..WalConfig::default() }
}

fn codecs(criterion: &mut Criterion) {
    let text = text();
    for record_bytes in [100, KIB] {
        let batches = batches_of(&text, record_bytes);
        for codec in ["none", "lz4", "snappy", "zstd-1", "zstd-3", "zstd-9"] {
            codec_append(criterion, codec, record_bytes, &batches);
            codec_read(criterion, codec, record_bytes, &batches);
        }
    }
}

fn codec_append(criterion: &mut Criterion, codec: &str, record_bytes: usize, batches: &[Batch]) {
    let mut group = group(criterion, "codecs/append");
    group.throughput(Throughput::Bytes(batches[0].record_bytes() as u64));
    let log = Log::in_memory(with_codec(codec));
    let mut next = batches.iter().cycle();
    group.bench_function(BenchmarkId::new(codec, record_bytes), |bencher| {
        bencher.iter_custom(|times| {
            log.time(times, |wal| {
                let queued = wal.with(Durability::Queued).append_batch(next.next().unwrap());
                drop(queued.unwrap());
            })
        });
    });
    group.finish();
}

fn codec_read(criterion: &mut Criterion, codec: &str, record_bytes: usize, batches: &[Batch]) {
    let mut group = group(criterion, "codecs/read");
    let bytes: usize = batches.iter().map(Batch::record_bytes).sum();
    group.throughput(Throughput::Bytes(bytes as u64));
    let log = Log::in_memory(with_codec(codec));
    for batch in batches {
        log.wal.append_batch(batch).unwrap().wait().unwrap();
    }
    group.bench_function(BenchmarkId::new(codec, record_bytes), |bencher| {
        bencher.iter(|| {
            let records = log.wal.reader(Lsn::FIRST).unwrap();
            records.map(|record| black_box(record.unwrap()).data.len()).sum::<usize>()
        });
    });
    group.finish();
    let Log { wal, dir } = log;
    wal.close().unwrap();
    let saved = saving(dir.path(), bytes);
    eprintln!("codecs/saving/{codec}/{record_bytes}: {saved:.1} % of the bodies");
}

/// What of the bodies is not on disk, in percent.
fn saving(dir: &Path, record_bytes: usize) -> f64 {
    let mut complain = |finding| panic!("{finding:?}");
    let summary = ReadOnlyWal::verify(dir.join("log"), &mut complain, &mut |_, _| {}).unwrap();
    let stored = summary.bytes - 72 * summary.frames;
    let raw = record_bytes as u64 + 8 * summary.records;
    100.0 * (1.0 - stored as f64 / raw as f64)
}

// ---- lingering --------------------------------------------------------------------------------

/// Records that nobody waits for, one by one, then all made durable.
fn queue_all(wal: &Wal, records: usize) {
    for _ in 0..records {
        drop(wal.with(Durability::Queued).append_batch([[7; 100]]).unwrap());
    }
    wal.wait_durable(wal.next_lsn().prev()).unwrap().wait().unwrap();
}

/// Says how large the groups became.
fn tell_groups(name: &str, wal: &Wal) {
    // Groups are counted a moment after their answers.
    std::thread::sleep(Duration::from_millis(20));
    let metrics = wal.metrics();
    let records = metrics.records as f64 / metrics.groups as f64;
    // None: it was filtered out.
    if metrics.groups > 0 {
        eprintln!("{name}: {records:.0} records a group");
    }
}

/// A thousand records through lingering of different length.
fn linger(criterion: &mut Criterion) {
    let mut group = group(criterion, "linger");
    group.throughput(Throughput::Elements(1000));
    for linger_ms in [0, 1, 10, 50] {
        let batch_config = BatchConfig { linger_ms, ..BatchConfig::default() };
        let log = Log::on_disk(WalConfig { batch_config, ..WalConfig::default() });
        group.bench_function(BenchmarkId::from_parameter(linger_ms), |bencher| {
            bencher.iter_custom(|times| log.time(times, |wal| queue_all(wal, 1000)));
        });
        tell_groups(&format!("linger/{linger_ms}"), &log.wal);
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
        let log = Log::on_disk(WalConfig::default());
        let batch = batch_of(records, 100);
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            bencher.iter_custom(|times| {
                log.time(times, |wal| append_all(wal, &batch, RECORDS / records))
            });
        });
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
        let log = Log::on_disk(WalConfig { batch_config, ..WalConfig::default() });
        group.bench_function(BenchmarkId::from_parameter(max_batch_size), |bencher| {
            bencher.iter_custom(|times| log.time(times, |wal| queue_all(wal, RECORDS)));
        });
        tell_groups(&format!("sizes/max_batch_size/{max_batch_size}"), &log.wal);
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
        let log = Log::on_disk(WalConfig { batch_config, ..WalConfig::default() });
        group.bench_function(BenchmarkId::from_parameter(max_buffer_bytes), |bencher| {
            bencher.iter_custom(|times| log.time(times, |wal| append_all(wal, &batch, 100)));
        });
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
