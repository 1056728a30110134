//! What each codec costs the caller and the reader, and what it saves, on source text.
//!
//! ```text
//! sources of the crate and of what it is built with --> batches of 1000 records
//!     --append (timed)--> a log in memory --read (timed)--> records     bodies / files: saved
//! ```

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, Throughput};
use prkdb_core::{
    Batch, CompressionConfig, CompressionType, Durability, Lsn, ReadOnlyWal, WalConfig,
};

use crate::{KIB, Log, group};

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

/// Appends, reads and what was saved, codec by codec.
pub fn codecs(criterion: &mut Criterion) {
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
    let Log { wal, dir, .. } = log;
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
