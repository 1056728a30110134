//! What each backend makes of the same work: appends of all durabilities, reading, opening again.
//!
//! ```text
//! caller --append, wait--> writer --> uring | mmap | pwrite | tokio-uring --> file   single, batch
//!   '--append, leave 16 tickets out-----------------^                                tickets
//! file --> reader                                                                    read
//! closed log | copy of an open one --> recovery --> a log to append to               reopen
//! ```
//!
//! `cargo bench --bench wal_bench -- --quick` takes a minute and a half; a name narrows it down,
//! and `--features tokio-uring` adds a backend. One that does not work here is named and skipped.
//!
//! | Group | Measures, by one caller |
//! |---|---|
//! | `single` | a durable append of one record of 100 bytes, waited for |
//! | `batch` | a durable append of 1000 such records, waited for |
//! | `tickets` | the same, up to 16 not answered when the next is appended |
//! | `written` | an append of 1000 that is waited for until it is written, not synced |
//! | `queued` | an append of 1000 that only has its place; the last of 256 until it is written |
//! | `read` | reading 64 MB of sealed segments, page cache warm, through checksums |
//! | `reopen/closed` | opening a log of 81 MB that was closed: footers, and 15 MB without one |
//! | `reopen/killed` | the same as a killed process leaves it: these 15 MB get their footer, too |
//!
//! Throughput is in records, bytes, or logs opened. Ids are backends: compare them within one run,
//! where they take turns every few seconds, and look at several; a busy disk can double any figure.
//! `cargo run --release --features cli -- bench` takes more care: many rounds, a raw loop beside.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::VecDeque;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use prkdb_core::{Backend, Batch, Durability, Lsn, Verdict, Wal, WalConfig, probe};
use tempfile::TempDir;

const BACKENDS: &[Backend] = &[
    Backend::Uring,
    Backend::Mmap,
    Backend::Pwrite,
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    Backend::TokioUring,
];
const RECORD_BYTES: usize = 100;
const BATCH_RECORDS: usize = 1000;
const SEGMENT_BYTES: u64 = 16 << 20;
/// The log is cut after so many appends: it takes little space however long it is measured.
const ROUND: u64 = 256;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let backends = backends(root());
    for kind in APPENDS {
        appends(&mut criterion, &backends, kind);
    }
    existing(&mut criterion, &backends);
    criterion.final_summary();
}

// ---- backends and logs ------------------------------------------------------------------------

/// On the disk that the crate is built on.
fn root() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Those that work there.
fn backends(root: &Path) -> Vec<Backend> {
    let works = |backend: &Backend| match probe(root, *backend) {
        Ok(_) => true,
        Err(e) => {
            println!("SKIPPED: {backend}: {e}");
            false
        }
    };
    BACKENDS.iter().copied().filter(works).collect()
}

fn config(dir: &Path, backend: Backend) -> WalConfig {
    WalConfig { backend, segment_bytes: SEGMENT_BYTES, ..WalConfig::new(dir) }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    // With `--quick` two measurements that agree so well are the end, or else the time above.
    group.significance_level(0.01);
    group
}

fn batch_of(records: usize) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..records {
        batch.push([7; RECORD_BYTES]);
    }
    batch
}

/// Waits until nothing is under way.
fn drain(wal: &Wal) {
    wal.wait_durable(wal.next_lsn().prev()).unwrap().wait().unwrap();
}

// ---- appending --------------------------------------------------------------------------------

/// One way of appending.
struct Appends {
    name: &'static str,
    records: usize,
    durability: Durability,
    /// Tickets that may be unanswered; an append waits for the oldest if there are more.
    tickets: usize,
}

const BATCHES: Appends =
    Appends { name: "batch", records: BATCH_RECORDS, durability: Durability::Sync, tickets: 0 };

const APPENDS: [Appends; 5] = [
    Appends { name: "single", records: 1, ..BATCHES },
    BATCHES,
    Appends { name: "tickets", tickets: 16, ..BATCHES },
    Appends { name: "written", durability: Durability::Written, ..BATCHES },
    Appends { name: "queued", durability: Durability::Queued, ..BATCHES },
];

fn appends(criterion: &mut Criterion, backends: &[Backend], kind: Appends) {
    let mut group = group(criterion, kind.name);
    group.throughput(Throughput::Elements(kind.records as u64));
    let batch = batch_of(kind.records);
    for backend in backends {
        let dir = TempDir::with_prefix_in("prkdb-wal-", root()).unwrap();
        let wal = Wal::open(config(&dir.path().join("log"), *backend)).unwrap();
        group.bench_function(backend.name(), |bencher| {
            bencher.iter_custom(|times| time(&wal, &kind, &batch, times))
        });
        wal.close().unwrap();
    }
    group.finish();
}

/// How long so many appends take; the log is cut in between.
fn time(wal: &Wal, kind: &Appends, batch: &Batch, times: u64) -> Duration {
    let (mut left, mut spent) = (times, Duration::ZERO);
    while left > 0 {
        let appends = left.min(ROUND);
        left -= appends;
        let start = Instant::now();
        round(wal, kind, batch, appends);
        spent += start.elapsed();
        drain(wal);
        wal.truncate_before(wal.next_lsn()).unwrap();
    }
    spent
}

fn round(wal: &Wal, kind: &Appends, batch: &Batch, appends: u64) {
    let mut tickets = VecDeque::new();
    for left in (0..appends).rev() {
        // Else up to all that the queue holds would be left to whoever comes next.
        let least = if left == 0 { Durability::Written } else { Durability::Queued };
        let appended = wal.with(kind.durability.max(least)).append_batch(batch);
        tickets.push_back(appended.unwrap());
        while tickets.len() > kind.tickets {
            tickets.pop_front().map(|ticket| ticket.wait().unwrap());
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

// ---- a log that is there ----------------------------------------------------------------------

const READ_BATCHES: usize = 640;
/// More than a segment behind what is read: that much is sealed.
const MORE_BATCHES: usize = 170;

/// A log in `dir/log`, which was closed; in `dir/open` is a copy from before that.
struct Filled {
    dir: TempDir,
    backend: Backend,
}

impl Filled {
    fn new(backend: Backend) -> Filled {
        let dir = TempDir::with_prefix_in("prkdb-wal-", root()).unwrap();
        let filled = Filled { dir, backend };
        let wal = filled.open("log");
        let batch = batch_of(BATCH_RECORDS);
        let appends = (READ_BATCHES + MORE_BATCHES) as u64;
        round(&wal, &Appends { tickets: 16, ..BATCHES }, &batch, appends);
        copy(&filled.path("log"), &filled.path("open"));
        wal.close().unwrap();
        filled
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &str) -> Wal {
        Wal::open(config(&self.path(name), self.backend)).unwrap()
    }

    /// How long so many openings take; `prepare` makes the log ready for each of them.
    fn time(&self, times: u64, name: &str, found: Verdict, prepare: impl Fn()) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            prepare();
            let start = Instant::now();
            let wal = self.open(name);
            spent += start.elapsed();
            assert_eq!(wal.recovery().verdict, found);
            wal.close().unwrap();
        }
        spent
    }
}

/// Copies a log, durably: what the copy left to be written would be written in the measured time.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            fs::File::open(&target).unwrap().sync_all().unwrap();
        }
    }
    fs::File::open(to).unwrap().sync_all().unwrap();
}

fn existing(criterion: &mut Criterion, backends: &[Backend]) {
    for backend in backends {
        let log = Filled::new(*backend);
        read(criterion, &log);
        reopen(criterion, &log);
    }
}

fn read(criterion: &mut Criterion, log: &Filled) {
    let mut group = group(criterion, "read");
    group.throughput(Throughput::Bytes((READ_BATCHES * BATCH_RECORDS * RECORD_BYTES) as u64));
    let wal = log.open("log");
    group.bench_function(log.backend.name(), |bencher| {
        bencher.iter(|| {
            let records = wal.reader(Lsn::FIRST).unwrap().take(READ_BATCHES * BATCH_RECORDS);
            records.map(|record| black_box(record.unwrap()).data.len()).sum::<usize>()
        });
    });
    group.finish();
    wal.close().unwrap();
}

fn reopen(criterion: &mut Criterion, log: &Filled) {
    let backend = log.backend;
    let mut group = group(criterion, "reopen");
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("closed/{backend}"), |bencher| {
        bencher.iter_custom(|times| log.time(times, "log", Verdict::Clean, || ()));
    });
    group.bench_function(format!("killed/{backend}"), |bencher| {
        bencher.iter_custom(|times| {
            log.time(times, "killed", Verdict::End, || {
                let killed = log.path("killed");
                if killed.exists() {
                    fs::remove_dir_all(&killed).unwrap();
                }
                copy(&log.path("open"), &killed);
            })
        });
    });
    group.finish();
}
