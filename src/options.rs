//! What a caller can choose: plain data with defaults, units and trade-offs, checked once at open.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

mod compression;
mod progress;

pub use compression::{CompressionConfig, CompressionType};
pub use progress::{OnRecoveryProgress, RecoveryProgress};

/// The largest record, bytes.
pub const MAX_RECORD_BYTES: usize = 16 << 20;
/// The largest batch: the sum of its records, bytes.
pub const MAX_BATCH_BYTES: usize = 32 << 20;
/// The most records in one batch.
pub const MAX_BATCH_RECORDS: usize = 1 << 20;
/// The longest content of the user slot, bytes.
pub const MAX_USER_STATE_BYTES: usize = 4096;
/// The smallest segment, bytes.
pub const MIN_SEGMENT_BYTES: u64 = 1 << 20;
/// The largest segment, bytes.
pub const MAX_SEGMENT_BYTES: u64 = 4 << 30;
/// The least [`WalConfig::max_disk_bytes`]: META, a reserve, and two of the smallest segments.
pub const MIN_DISK_BYTES: u64 = 4 << 20;
/// The distance of index entries unless another is asked for, bytes.
pub(crate) const INDEX_INTERVAL_BYTES: u64 = 4096;
/// The longest that a caller stays awake: [`WalConfig::spin_us`].
const MAX_SPIN_US: u32 = 10_000;
/// The most groups in flight: [`WalConfig::depth`].
pub const MAX_DEPTH: usize = 32;
/// Retired segments that are kept for use again, at least,
const POOL_SEGMENTS: usize = 4;
/// and up to so many bytes of them.
const POOL_BYTES: u64 = 96 << 20;
/// The most segments open for writing at once: [`WalConfig::num_segments`].
pub const MAX_NUM_SEGMENTS: usize = 32;

/// What an append waits for before it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Its LSNs are given and its place in a segment is reserved; nothing need be written.
    /// Survives nothing.
    Queued,
    /// Its write completed. Survives a killed process, not a power cut.
    Written,
    /// It is on stable storage. Survives a power cut.
    #[default]
    Sync,
}

/// How bytes get to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where a probe in the log's directory shows that it works, else `Mmap`, and where
    /// not even that does `Pwrite`. Why, [`Wal::backend`](crate::Wal::backend) tells.
    #[default]
    Auto,
    /// io_uring, or `Unsupported`.
    Uring,
    /// Copies into mapped files, synced by a few threads. `Unsupported` where files can't be
    /// mapped, or not safely: on a file system that copies on write a full disk would be a signal.
    /// RLIMIT_FSIZE limits the segments it makes, not what it copies into those that are there.
    /// Makes no io_uring call.
    Mmap,
    /// Positional writes on a few threads. Makes no io_uring call.
    Pwrite,
    /// The runtime tokio-uring on a thread of its own, or `Unsupported`: for comparison. A process
    /// that is killed may leave requests that land after its lock is gone; and if the ring breaks
    /// in mid-run (io_uring is forbidden then) the runtime tells nobody, and calls wait for ever.
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    TokioUring,
}

impl Backend {
    /// Its short name: `auto`, `uring`, `mmap`, `pwrite`, `tokio-uring`.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Uring => "uring",
            Backend::Mmap => "mmap",
            Backend::Pwrite => "pwrite",
            #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
            Backend::TokioUring => "tokio-uring",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a group is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMethod {
    /// What suits the device: `Dsync` until both were measured on it, once, in the background on a
    /// segment that nobody waits for; then `Fdatasync` if that was at least 1.3 times as fast. The
    /// log remembers it for the backend it was measured on. Only a new segment is measured on: a
    /// log that fills none but retired ones stays as it is. Where files are not read and written
    /// past the page cache it is `Dsync`.
    #[default]
    Auto,
    /// Each group is one write that answers when it is durable.
    Dsync,
    /// A write, and when it completed a sync of the file; one sync may cover many writes.
    Fdatasync,
}

/// What `open` does about bytes that can't be served: a torn tail (the end of the log, written and
/// never promised), and damage to promised records.
///
/// A read error of the disk is `Io` under every policy: nothing is cut for it. A log whose META is
/// gone is `Corrupt` under every policy; [`repair`](crate::repair()) rebuilds that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryPolicy {
    /// Cut it and report it. Damage to promised records is `Corrupt`.
    #[default]
    TornTail,
    /// A torn tail is `Corrupt` too.
    Strict,
    /// Cut the log at the first promised record that is damaged or missing, keep all before it. For
    /// state that must be that of one moment. Segments behind the cut are renamed to
    /// `NAME.given-up`. Reads every frame at `open`, so name it for the one `open` that needs it.
    PointInTime,
    /// Pass over damaged and missing records, keep all others: a hole stays where they were. A
    /// segment without a usable header is renamed to `NAME.given-up`. Reads every frame at `open`.
    ///
    /// Under both no LSN of a lost record is given again, what was lost is in
    /// [`Wal::recovery`](crate::Wal::recovery), readers say [`Lost`](crate::ErrorKind::Lost) at a
    /// hole, and later opens, under any policy, find a consistent log. Without damage both do what
    /// `TornTail` does, but that whole records which were never promised may be kept behind
    /// padding that rotted.
    Salvage,
}

/// What is cut from the start of a log by itself, in whole segments, as it grows and ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompactionPolicy {
    /// Nothing: records stay until `truncate_before`.
    #[default]
    None,
    /// Records that are older than so many milliseconds, at least 1: a segment goes when its
    /// newest record is that old.
    TimeWindow(u64),
    /// The oldest records, so that the log takes at most so many bytes on disk and one segment,
    /// pool included. At least one segment more than are open at once, and 2 MiB.
    SizeWindow(u64),
}

/// When a group of batches is closed and written, and whether batches are compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Up to so many milliseconds a group that nobody waits for (all `Queued`) may gather more.
    /// Default 10. More: fewer, larger writes; a killed process loses more of what it only queued.
    pub linger_ms: u64,
    /// So many records end the lingering. Default 1000.
    pub max_batch_size: usize,
    /// Bytes that may be queued before appends wait for room, and that end the lingering. Queued
    /// is what has no place in a group yet: what is being written no longer counts, `depth` bounds
    /// that. Counted before compression; a batch larger than it goes in alone, when the queue is
    /// empty. Default 1 MiB. More: callers wait less for the writer and small batches make larger
    /// groups, more memory: of buffers of each of seven sizes as much is kept as this and `depth`
    /// groups are, 32 MiB at most.
    pub max_buffer_bytes: usize,
    /// How batches are compressed; none: as [`WalConfig::compression`] says. Default none. Set, it
    /// wins, also where it says [`CompressionConfig::none`].
    pub compression: Option<CompressionConfig>,
}

impl BatchConfig {
    /// Short waits and little memory: up to 1 ms and 100 records of lingering, 256 KiB queued.
    /// Many callers wait for room sooner.
    pub fn latency_optimized() -> BatchConfig {
        BatchConfig {
            linger_ms: 1,
            max_batch_size: 100,
            max_buffer_bytes: 256 << 10,
            compression: None,
        }
    }

    /// Large groups and deep queues: up to 50 ms and 10,000 records of lingering, 10 MiB queued,
    /// compressed with LZ4. A killed process loses more of what it only queued.
    pub fn throughput_optimized() -> BatchConfig {
        BatchConfig {
            linger_ms: 50,
            max_batch_size: 10_000,
            max_buffer_bytes: 10 << 20,
            compression: Some(CompressionConfig::throughput_optimized()),
        }
    }

    /// Nothing gathers on purpose: no lingering, and a queue of one batch, whatever its size.
    /// Batches still share a write while so many groups are in flight that none could begin.
    pub fn no_batching() -> BatchConfig {
        BatchConfig { linger_ms: 0, max_batch_size: 1, max_buffer_bytes: 1, compression: None }
    }
}

impl Default for BatchConfig {
    fn default() -> BatchConfig {
        BatchConfig {
            linger_ms: 10,
            max_batch_size: 1000,
            max_buffer_bytes: 1 << 20,
            compression: None,
        }
    }
}

/// How a log is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// The log's directory; missing parents are made. Default "./wal".
    pub log_dir: PathBuf,
    /// Refuse a directory that already holds a log. Default false.
    pub create_new: bool,
    /// Size of a full-grown segment, bytes, 1 MiB to 4 GiB, a multiple of 1 MiB. Default 64 MiB.
    /// More: rarer rolls; less: space is freed in smaller steps.
    pub segment_bytes: u64,
    /// Bytes between two entries of a segment's sparse index, at least 1. Default 4096. The index
    /// has room for 128, so in a segment over 512 KiB they end up further apart (64 MiB: 512 KiB).
    /// More: fewer entries from the start, and longer walks to a record. Acts on new segments.
    pub index_interval_bytes: u64,
    /// How many segments may be open for writing at once, 1 to 32. Default 1. Groups take turns on
    /// them; the order of records stays one. More: syncs of several files at a time, where those of
    /// one wait for each other; a segment's space for each, and files that readers have to merge.
    pub num_segments: usize,
    /// How bytes get to the disk. Default `Auto`.
    pub backend: Backend,
    /// How a group is made durable. Default `Auto`.
    pub sync_method: SyncMethod,
    /// What an append waits for unless it says otherwise. Default `Sync`.
    pub durability: Durability,
    /// Groups in flight, 1 to 32. Default 8. More: more durable commits a second on a device with
    /// internal parallelism, each of them slower.
    pub depth: usize,
    /// How long a thread that waits for the only batch without an answer stays awake for it,
    /// microseconds; at most 10,000, and only while answers usually come within that. Default 400.
    /// Less: less CPU time of a lone caller, whose core spins meanwhile; 0: it sleeps at once.
    /// More: the same on slower disks. The writer does so between an answer and the next call, for
    /// 100 of them at most. On a machine with one core nobody spins.
    pub spin_us: u32,
    /// When groups are closed.
    pub batch_config: BatchConfig,
    /// How batches are compressed, unless `batch_config.compression` says. Default
    /// [`CompressionConfig::none`]. What is in the log is read whatever stands here.
    pub compression: CompressionConfig,
    /// What to do about a torn tail, and about damage. Default: cut the one and report it, refuse
    /// the other.
    pub recovery: RecoveryPolicy,
    /// Hears how far `open` and `resume` are with recovery; called on the thread that recovers,
    /// which waits for it, so it must be quick and must not panic. Default none.
    pub recovery_progress: Option<OnRecoveryProgress>,
    /// Cut records older than so many milliseconds, in whole segments: a segment goes when its
    /// newest record is that old. Default `None`: they stay. Less: less disk, shorter history.
    pub retention_ms: Option<u64>,
    /// What else is cut by itself. Default `None`. Where both apply the one that cuts more counts.
    pub compaction: CompactionPolicy,
    /// The most bytes the log may take on disk; 4 MiB at least. Default `None`: what the disk has.
    /// Segments, META, METRICS and the pool count, other files in the directory don't. Near it
    /// segments get smaller; beyond it appends are answered `StorageFull` until `truncate_before`
    /// or `truncate_after` made room. What recovery has to copy may pass it for a while.
    pub max_disk_bytes: Option<u64>,
    /// Overwrite with zeros what was cut, a segment at a time, before its file is used again or
    /// removed. Default false: it stays on the disk until something else is written there. True: a
    /// cut writes as many bytes as it cuts before it returns, and who still reads there hears
    /// `Truncated`. Records in a segment that is kept stay until that one goes. What a crash
    /// interrupts is done in the background once the log is opened with this option: `compact`
    /// waits for all of it, so does an append that a full `SizeWindow` has no room for; `close`
    /// waits for one segment, and the next `open` goes on. A file with a second hard link is left
    /// alone, a failure is logged; no help where the file system or the device writes elsewhere
    /// instead of over (btrfs, snapshots, the flash translation of an SSD).
    pub wipe_retired: bool,
}

impl Default for WalConfig {
    fn default() -> WalConfig {
        WalConfig {
            log_dir: PathBuf::from("./wal"),
            create_new: false,
            segment_bytes: 64 << 20,
            index_interval_bytes: INDEX_INTERVAL_BYTES,
            num_segments: 1,
            backend: Backend::Auto,
            sync_method: SyncMethod::Auto,
            durability: Durability::Sync,
            depth: 8,
            spin_us: 400,
            batch_config: BatchConfig::default(),
            compression: CompressionConfig::none(),
            recovery: RecoveryPolicy::TornTail,
            recovery_progress: None,
            retention_ms: None,
            compaction: CompactionPolicy::None,
            max_disk_bytes: None,
            wipe_retired: false,
        }
    }
}

impl WalConfig {
    /// The defaults, for a log in `log_dir`.
    pub fn new(log_dir: impl Into<PathBuf>) -> WalConfig {
        WalConfig { log_dir: log_dir.into(), ..WalConfig::default() }
    }

    /// Refuses a directory that already holds a log.
    #[must_use]
    pub fn create_new(mut self) -> WalConfig {
        self.create_new = true;
        self
    }

    /// Tells `hear` how far recovery is, while `open` runs.
    #[must_use]
    pub fn on_recovery_progress(
        mut self,
        hear: impl Fn(RecoveryProgress) + Send + Sync + 'static,
    ) -> WalConfig {
        self.recovery_progress = Some(OnRecoveryProgress::new(hear));
        self
    }

    /// Retired segments that are kept for use again: as many as may be open, up to eight, and of
    /// small ones some tens, for a program that cuts seldom cuts many of them.
    pub(crate) fn pool_segments(&self) -> usize {
        let small = usize::try_from(POOL_BYTES / self.segment_bytes).unwrap_or(usize::MAX);
        POOL_SEGMENTS.max(self.num_segments.min(2 * POOL_SEGMENTS)).max(small)
    }

    /// What batches are compressed with.
    pub(crate) fn effective_compression(&self) -> CompressionConfig {
        self.batch_config.compression.unwrap_or(self.compression)
    }

    /// Checks every field against its stated range.
    ///
    /// # Errors
    /// `Invalid`, naming the field and the range. `Unsupported`: a codec that this build lacks,
    /// naming its feature.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid("open", why));
        let bytes = self.segment_bytes;
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&bytes)
            || !bytes.is_multiple_of(1 << 20)
        {
            return refuse(format!(
                "segment_bytes is {bytes}; it must be a multiple of 1 MiB, 1 MiB to 4 GiB"
            ));
        }
        if self.index_interval_bytes == 0 {
            return refuse("index_interval_bytes is 0; it must be at least 1".into());
        }
        let lanes = self.num_segments;
        if !(1..=MAX_NUM_SEGMENTS).contains(&lanes) {
            return refuse(format!("num_segments is {lanes}; it must be 1 to {MAX_NUM_SEGMENTS}"));
        }
        if !(1..=MAX_DEPTH).contains(&self.depth) {
            return refuse(format!("depth is {}; it must be 1 to {MAX_DEPTH}", self.depth));
        }
        if self.spin_us > MAX_SPIN_US {
            return refuse(format!("spin_us is {}; it must be 0 to {MAX_SPIN_US}", self.spin_us));
        }
        if self.batch_config.max_batch_size == 0 {
            return refuse("batch_config.max_batch_size is 0; it must be at least 1".into());
        }
        if self.batch_config.max_buffer_bytes == 0 {
            return refuse("batch_config.max_buffer_bytes is 0; it must be at least 1".into());
        }
        if self.retention_ms == Some(0) || self.compaction == CompactionPolicy::TimeWindow(0) {
            return refuse("a retention of 0 ms keeps nothing; it must be at least 1".into());
        }
        let least = (self.num_segments as u64 + 1) * bytes + (2 << 20);
        if let CompactionPolicy::SizeWindow(window) = self.compaction
            && window < least
        {
            return refuse(format!(
                "SizeWindow is {window}; it must be at least {least}: one segment more than are \
                 open at once, and 2 MiB; or lower segment_bytes"
            ));
        }
        if let Some(cap) = self.max_disk_bytes.filter(|cap| *cap < MIN_DISK_BYTES) {
            return refuse(format!(
                "max_disk_bytes is {cap}; it must be at least {MIN_DISK_BYTES}"
            ));
        }
        if self.log_dir.as_os_str().is_empty() {
            return refuse("log_dir is empty; name a directory".into());
        }
        self.batch_config.compression.map_or(Ok(()), |compression| compression.validate())?;
        self.compression.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        assert!(WalConfig::default().validate().is_ok());
        let bad = WalConfig { depth: 33, ..WalConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("depth is 33"));
        let bad = WalConfig { spin_us: 10_001, ..WalConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("spin_us is 10001"));
        let bad = WalConfig { segment_bytes: (1 << 20) + 1, ..WalConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("segment_bytes"));
        for num_segments in [0, 33] {
            let bad = WalConfig { num_segments, ..WalConfig::default() };
            let told = bad.validate().unwrap_err().to_string();
            assert!(told.contains(&format!("num_segments is {num_segments}")), "{told}");
        }
        let bad = WalConfig { index_interval_bytes: 0, ..WalConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("index_interval_bytes is 0"));
        let bad = WalConfig { log_dir: "".into(), ..WalConfig::default() };
        assert!(bad.validate().is_err());
        let compression = CompressionConfig { compression_level: 0, ..CompressionConfig::none() };
        let bad = WalConfig { compression, ..WalConfig::default() };
        assert!(bad.validate().is_err());
        let batch_config = BatchConfig { compression: Some(compression), ..BatchConfig::default() };
        let bad = WalConfig { batch_config, ..WalConfig::default() };
        assert!(bad.validate().is_err());
    }

    #[test]
    fn presets_are_what_they_say() {
        let fields = |c: BatchConfig| (c.linger_ms, c.max_batch_size, c.max_buffer_bytes);
        assert_eq!(fields(BatchConfig::default()), (10, 1000, 1 << 20));
        assert_eq!(fields(BatchConfig::latency_optimized()), (1, 100, 256 << 10));
        assert_eq!(fields(BatchConfig::throughput_optimized()), (50, 10_000, 10 << 20));
        assert_eq!(fields(BatchConfig::no_batching()), (0, 1, 1));
        let codec = |c: BatchConfig| {
            WalConfig { batch_config: c, ..WalConfig::default() }.effective_compression()
        };
        let lz4 = CompressionConfig::throughput_optimized();
        assert_eq!(codec(BatchConfig::throughput_optimized()), lz4);
        for plain in [BatchConfig::latency_optimized(), BatchConfig::no_batching()] {
            assert_eq!(codec(plain), CompressionConfig::none());
        }
    }

    #[test]
    fn the_compression_of_the_batches_wins() {
        let (lz4, zstd) =
            (CompressionConfig::balanced(), CompressionConfig::compression_optimized());
        let config = WalConfig { compression: lz4, ..WalConfig::default() };
        assert_eq!(config.effective_compression(), lz4);
        for wins in [zstd, CompressionConfig::none()] {
            let batch_config = BatchConfig { compression: Some(wins), ..BatchConfig::default() };
            let config = WalConfig { batch_config, ..config.clone() };
            assert_eq!(config.effective_compression(), wins);
        }
    }
}
