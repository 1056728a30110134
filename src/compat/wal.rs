//! Paths of the crate's first interface: `wal::mmap_parallel_wal::MmapParallelWal` and the others.
//!
//! All of them are faces of one [`Wal`]: the same files, the same contract, the same numbers. What
//! is called an offset here is an [`Lsn`](crate::Lsn): the place of a record in the log, dense from
//! 1, one counter for the whole log and not one for each segment. A log that one of them wrote any
//! other opens, and so does [`Wal`].

pub use crate::log::Wal;
pub use crate::options::{CompactionPolicy, CompressionConfig, CompressionType, WalConfig};

pub use super::{async_parallel_wal, config, mmap_parallel_wal, mmap_wal, uring_wal};
