//! The seed's README, compiled and run: its names under its paths, with the imports it leaves out.
//!
//! A log here is a thin face of [`Wal`]; what these tests add is that each name is there, does
//! what it says, and holds up no executor.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::pin::pin;
use std::task::{Context, Waker};

use prkdb_core::wal::async_parallel_wal::AsyncParallelWal;
use prkdb_core::wal::config::WalConfig;
use prkdb_core::wal::mmap_parallel_wal::MmapParallelWal;
use prkdb_core::wal::mmap_wal::MmapWal;
use prkdb_core::wal::uring_wal::UringWal;
use prkdb_core::{Backend, Durability, ErrorKind, Lsn, Wal};

mod support;

use support::block_on;

/// The README's first snippet, word for word.
mod first_snippet {
    use prkdb_core::wal::config::WalConfig;
    use prkdb_core::wal::mmap_parallel_wal::MmapParallelWal;

    #[tokio::main]
    pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
        let config = WalConfig::default();
        let wal = MmapParallelWal::open(config, 32).await?;

        // Write entries
        let entries = vec![b"data1".to_vec(), b"data2".to_vec()];
        let offsets = wal.append_batch(entries).await?;

        assert_eq!(offsets.len(), 2);
        Ok(())
    }
}

/// Its other snippets. What they leave out: the imports, `..Default::default()` after the two
/// fields of a `WalConfig`, and that a codec of a batch is optional: unset, the log's own counts.
mod other_snippets {
    use prkdb_core::batch_config::BatchConfig;
    use prkdb_core::wal::config::WalConfig;
    use prkdb_core::wal::{CompactionPolicy, CompressionConfig, CompressionType};

    pub fn batches() -> BatchConfig {
        BatchConfig {
            linger_ms: 10,                 // Wait up to 10ms
            max_batch_size: 1000,          // Or 1000 entries
            max_buffer_bytes: 1024 * 1024, // Or 1MB
            compression: Some(CompressionConfig::none()),
        }
    }

    pub fn for_maximum_throughput() -> WalConfig {
        WalConfig {
            num_segments: 32, // More parallelism
            batch_config: BatchConfig::throughput_optimized(),
            ..Default::default()
        }
    }

    pub fn for_minimum_latency() -> WalConfig {
        WalConfig {
            num_segments: 8, // Less overhead
            batch_config: BatchConfig::latency_optimized(),
            ..Default::default()
        }
    }

    /// The fields it had besides, with their values; those of other logs now.
    pub fn with_everything_else() -> WalConfig {
        WalConfig {
            log_dir: "./wal".into(),
            segment_bytes: 1 << 30,
            index_interval_bytes: 4096,
            retention_ms: Some(3_600_000),
            compaction: CompactionPolicy::SizeWindow(4 << 30),
            compression: CompressionConfig {
                compression_type: CompressionType::Lz4,
                ..CompressionConfig::balanced()
            },
            ..Default::default()
        }
    }
}

/// Whether mapped files can be had where tests run; says so if not.
fn has_mmap() -> bool {
    let root = tempfile::tempdir().unwrap();
    match prkdb_core::probe(root.path(), Backend::Mmap) {
        Ok(_) => true,
        Err(e) => {
            support::must_be_missing("mmap", &e);
            false
        }
    }
}

fn config(dir: &Path) -> WalConfig {
    WalConfig { log_dir: dir.into(), segment_bytes: 1 << 20, ..Default::default() }
}

#[test]
fn the_first_snippet_runs_as_it_stands() {
    if !has_mmap() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    // Its log is "./wal". No other test here uses the current directory.
    std::env::set_current_dir(root.path()).unwrap();
    first_snippet::main().unwrap();
    // A second run finds the log and goes on.
    first_snippet::main().unwrap();
    let log = prkdb_core::ReadOnlyWal::open(root.path().join("wal")).unwrap();
    let read: Vec<_> = log.reader(Lsn::FIRST).unwrap().map(|r| r.unwrap().data.to_vec()).collect();
    assert_eq!(read, [b"data1", b"data2", b"data1", b"data2"]);
}

#[test]
fn the_other_snippets_open_logs() {
    let batches = other_snippets::batches();
    let defaults = (10, 1000, 1 << 20);
    assert_eq!((batches.linger_ms, batches.max_batch_size, batches.max_buffer_bytes), defaults);
    let configs = [
        WalConfig { batch_config: batches, ..Default::default() },
        other_snippets::for_maximum_throughput(),
        other_snippets::for_minimum_latency(),
        other_snippets::with_everything_else(),
    ];
    for config in configs {
        let root = tempfile::tempdir().unwrap();
        match config.validate() {
            // A codec that is not built in is refused by the name of its feature.
            Err(e) if e.kind() == ErrorKind::Unsupported && !cfg!(feature = "lz4") => continue,
            other => other.unwrap(),
        }
        let n = config.num_segments;
        let config = WalConfig { log_dir: root.path().into(), ..config };
        block_on(async {
            let wal = AsyncParallelWal::open(config, n).await.unwrap();
            let offsets = wal.append_batch(vec![vec![b'x'; 1000]; 10]).await.unwrap();
            assert_eq!(wal.read(offsets[9]).await.unwrap().data[..], [b'x'; 1000]);
            wal.close().await.unwrap();
        });
    }
}

/// Every method of a log, on an executor of a dozen lines.
macro_rules! works {
    ($test:ident, $log:ident, $lanes:expr, $backend:expr) => {
        #[test]
        fn $test() {
            let root = tempfile::tempdir().unwrap();
            if let Err(e) = prkdb_core::probe(root.path(), $backend) {
                return support::must_be_missing($backend, &e);
            }
            block_on(async {
                let wal = $log::open(config(root.path()), $lanes).await.unwrap();
                assert_eq!(wal.scan().await.unwrap(), []);
                let offsets = wal.append_batch(["one", "two", "three"]).await.unwrap();
                assert_eq!(offsets, [1, 2, 3].map(Lsn::new));
                assert_eq!(wal.append("four").await.unwrap(), Lsn::new(4));
                let entry = wal.read(offsets[1]).await.unwrap();
                assert_eq!((entry.lsn, &entry.data[..]), (offsets[1], &b"two"[..]));
                assert_eq!(wal.read(9).await.unwrap_err().kind(), ErrorKind::Invalid);
                let last: Vec<_> = wal.scan_from(3).await.unwrap();
                assert_eq!(last.iter().map(|r| r.lsn.get()).collect::<Vec<_>>(), [3, 4]);
                wal.sync().await.unwrap();
                wal.truncate_before(2).await.unwrap();
                assert_eq!(wal.scan().await.unwrap().len(), 3);
                assert_eq!(wal.scan_from(1).await.unwrap_err().kind(), ErrorKind::Truncated);
                assert!(wal.segment_count() >= 1);
                assert_eq!((wal.metrics().records, wal.wal().next_lsn().get()), (4, 5));
                wal.close().await.unwrap();
                // The same log by its own name, and by this one again.
                let plain = Wal::open(config(root.path())).unwrap();
                assert_eq!((plain.first_lsn().get(), plain.next_lsn().get()), (2, 5));
                drop(plain);
                let wal = $log::open(config(root.path()), $lanes).await.unwrap();
                assert_eq!(wal.append("five").await.unwrap(), Lsn::new(5));
            });
        }
    };
}

works!(mmap_parallel_wal_works, MmapParallelWal, 32, Backend::Mmap);
works!(mmap_wal_works, MmapWal, 1, Backend::Mmap);
works!(uring_wal_works, UringWal, 4, Backend::Uring);
#[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
works!(async_parallel_wal_works, AsyncParallelWal, 8, Backend::TokioUring);
#[cfg(not(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable))))]
works!(async_parallel_wal_works, AsyncParallelWal, 8, Backend::Auto);

#[test]
fn a_number_of_segments_that_can_not_be_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let config = || config(root.path());
    let kind = |outcome: prkdb_core::Result<()>| outcome.unwrap_err().kind();
    let zero = block_on(MmapParallelWal::open(config(), 0)).map(drop);
    assert_eq!(kind(zero), ErrorKind::Invalid);
    assert_eq!(kind(block_on(UringWal::open(config(), 33)).map(drop)), ErrorKind::Invalid);
    assert_eq!(kind(block_on(MmapWal::open(config(), 2)).map(drop)), ErrorKind::Invalid);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "something was made");
}

#[test]
fn many_tasks_of_a_runtime_append_at_once() {
    if !has_mmap() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let wal = MmapParallelWal::open(config(root.path()), 4).await.unwrap();
        let wal = std::sync::Arc::new(wal);
        let tasks = (0..50u8).map(|task| {
            let wal = std::sync::Arc::clone(&wal);
            // Its futures are `Send`, else this did not compile.
            tokio::spawn(async move {
                let mut offsets = Vec::new();
                for i in 0..4 {
                    offsets.push(wal.append([task, i]).await.unwrap());
                }
                let entry = wal.read(offsets[3]).await.unwrap();
                assert_eq!(entry.data[..], [task, 3]);
                assert!(offsets.is_sorted());
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(wal.scan().await.unwrap().len(), 200);
        std::sync::Arc::into_inner(wal).unwrap().close().await.unwrap();
    });
}

#[test]
fn what_takes_long_is_done_elsewhere_than_in_the_poll() {
    let root = tempfile::tempdir().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    // The other thread may be done before the poll looks, but not each time. Dropped half-way: what
    // was opened is closed again, elsewhere.
    let elsewhere = (0..10).any(|n| {
        let dir = if n == 0 { root.path().into() } else { root.path().join(n.to_string()) };
        pin!(AsyncParallelWal::open(config(&dir), 1)).poll(&mut cx).is_pending()
    });
    assert!(elsewhere, "it was opened in the poll");
    let wal = loop {
        match block_on(AsyncParallelWal::open(config(root.path()), 1)) {
            Ok(wal) => break wal,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Locked, "{e}"),
        }
        std::thread::yield_now();
    };
    // Too much to be read on the side, between a call and its first poll.
    for _ in 0..30 {
        let queued = wal.wal().with(Durability::Queued).append_batch([vec![7; 900_000]]).unwrap();
        queued.wait().unwrap();
    }
    block_on(wal.sync()).unwrap();
    assert_eq!(wal.wal().durable_lsn(), Lsn::new(30));
    let elsewhere = (0..10).any(|_| pin!(wal.scan()).poll(&mut cx).is_pending());
    assert!(elsewhere, "it was read in the poll");
    assert_eq!(block_on(wal.scan()).unwrap().len(), 30);
}
