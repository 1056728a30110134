//! Reading: a log that nothing of is in memory, against a plain read of the same files.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prkdb_core::{Durability, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::bench::workload::Workload;
use crate::numbers;
use crate::outcome::Stop;
use crate::yardstick::BLOCK;

/// What is read, bytes in frames.
const BYTES: u64 = 384 << 20;
/// The size of a killed log's last segment, and what is written into it and all before it, of 1, 4,
/// 16, 64 and as many MiB: so that it is nine tenths full.
const LARGE: u64 = 256 << 20;
const KILLED_BYTES: u64 = (1 + 4 + 16 + 64 + 256 + 230) << 20;
const CHUNK: usize = 1 << 20;
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// A log, and what of its files has records.
pub struct Cold {
    dir: PathBuf,
    /// Files, and how many bytes to read of each.
    files: Vec<(PathBuf, u64)>,
}

fn failed(what: &Path) -> impl Fn(std::io::Error) -> Stop + use<> {
    let what = what.display().to_string();
    move |e| Stop::Failed(format!("{what}: {e}"))
}

/// Whether the page cache can be emptied here.
pub fn can_be_cold() -> bool {
    File::options().write(true).open(DROP_CACHES).is_ok()
}

/// Nothing that was read or written is in memory any more.
fn drop_caches() -> Result<(), Stop> {
    let path = Path::new(DROP_CACHES);
    fs::write(path, "3").map_err(failed(path))
}

fn fill(wal: &Wal, workload: &Workload, bytes: u64) -> Result<(), Stop> {
    let records = workload.records();
    for _ in 0..bytes / workload.batch_bytes() as u64 {
        drop(wal.with(Durability::Queued).append_batch(&records)?);
    }
    wal.wait_durable(wal.next_lsn().prev())?.wait()?;
    Ok(())
}

/// The segments of a log, in order.
fn segments(dir: &Path) -> Result<Vec<PathBuf>, Stop> {
    let entries = fs::read_dir(dir).map_err(failed(dir))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths.collect::<Result<_, _>>().map_err(failed(dir))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    Ok(paths)
}

impl Cold {
    /// Sealed segments; opening looks at their footers, reading at all else.
    pub fn sealed(dir: &Path, workload: &Workload) -> Result<Cold, Stop> {
        let dir = dir.join("sealed");
        let wal = Wal::open(WalConfig::new(&dir).create_new())?;
        fill(&wal, workload, BYTES)?;
        wal.close()?;
        Cold::of(dir, |bytes| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1))
    }

    /// A log as a killed process leaves it: nothing says what is in its last segment.
    pub fn killed(dir: &Path, workload: &Workload) -> Result<Cold, Stop> {
        let (from, to) = (dir.join("open"), dir.join("killed"));
        let config = WalConfig { segment_bytes: LARGE, ..WalConfig::new(&from) };
        let wal = Wal::open(config.create_new())?;
        fill(&wal, workload, KILLED_BYTES)?;
        fs::create_dir(&to).map_err(failed(&to))?;
        for path in segments(&from)?.into_iter().chain([from.join("META")]) {
            let copy = to.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &copy).map_err(failed(&copy))?;
            File::open(&copy).and_then(|file| file.sync_all()).map_err(failed(&copy))?;
        }
        wal.close()?;
        // Without a footer it may hold records up to its end, also where that is all zeros.
        let has_footer = |bytes: &[u8]| bytes[bytes.len() - BLOCK..].iter().any(|byte| *byte != 0);
        Cold::of(to, |bytes| if has_footer(bytes) { 0 } else { bytes.len() })
    }

    /// Its segments, of each what `used` says of its bytes.
    fn of(dir: PathBuf, used: impl Fn(&[u8]) -> usize) -> Result<Cold, Stop> {
        let mut files = Vec::new();
        for path in segments(&dir)? {
            let bytes = fs::read(&path).map_err(failed(&path))?;
            files.push((path, used(&bytes) as u64));
        }
        Ok(Cold { dir, files })
    }

    /// What there is to read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    fn rate(&self, since: Instant) -> f64 {
        numbers::float(self.bytes()) / since.elapsed().as_secs_f64()
    }

    /// Bytes a second that `read` makes of them.
    pub fn plain(&self) -> Result<f64, Stop> {
        drop_caches()?;
        let mut chunk = vec![0; CHUNK];
        let since = Instant::now();
        for (path, bytes) in &self.files {
            let mut file = File::open(path).map_err(failed(path))?.take(*bytes);
            while file.read(&mut chunk).map_err(failed(path))? > 0 {
                black_box(&chunk);
            }
        }
        Ok(self.rate(since))
    }

    /// Bytes a second of opening and reading every record.
    pub fn records(&self) -> Result<f64, Stop> {
        drop_caches()?;
        let since = Instant::now();
        for record in ReadOnlyWal::open(&self.dir)?.reader(Lsn::FIRST)? {
            black_box(&record?.data[..]);
        }
        Ok(self.rate(since))
    }

    /// The same, batch by batch.
    pub fn batches(&self) -> Result<f64, Stop> {
        drop_caches()?;
        let since = Instant::now();
        let log = ReadOnlyWal::open(&self.dir)?;
        let mut reader = log.reader(Lsn::FIRST)?;
        while let Some(batch) = reader.next_batch() {
            batch?.iter().for_each(|record| {
                black_box(record);
            });
        }
        Ok(self.rate(since))
    }

    /// Bytes a second of finding the last record, with nothing cached.
    pub fn scan_cold(&self) -> Result<f64, Stop> {
        drop_caches()?;
        self.scan()
    }

    /// The same, with what is cached.
    pub fn scan(&self) -> Result<f64, Stop> {
        let since = Instant::now();
        black_box(ReadOnlyWal::open(&self.dir)?.next_lsn());
        Ok(self.rate(since))
    }
}

/// Records that stand in a block each.
const SINGLES: u64 = 2000;

/// A log of single records in segments of 1 MiB.
pub fn singles(dir: &Path, index_interval_bytes: u64) -> Result<Wal, Stop> {
    let config = WalConfig { index_interval_bytes, segment_bytes: 1 << 20, ..WalConfig::new(dir) };
    let wal = Wal::open(config.create_new())?;
    for _ in 0..SINGLES {
        wal.append_batch([[7; 100]])?.wait()?;
    }
    Ok(wal)
}

/// Microseconds of reading one record, anywhere in the log: the mean.
pub fn anywhere(wal: &Wal, length: Duration) -> Result<f64, Stop> {
    let (began, mut reads, mut lsn) = (Instant::now(), 0u64, 1);
    while began.elapsed() < length {
        // A walk over all of them, far apart: the number is prime.
        lsn = (lsn + 997) % SINGLES;
        black_box(wal.read(Lsn::FIRST.plus(lsn))?);
        reads += 1;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / numbers::float(reads))
}
