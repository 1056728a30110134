//! A log of mapped files, several segments open at once.

use crate::options::{Backend, WalConfig};

use super::face::{Face, face, lanes};

/// A log that copies into mapped files, with `n` segments open for writing at once.
///
/// - Shape: a face of [`Wal`](crate::Wal) on [`Backend::Mmap`], for async callers in any runtime.
/// - Durability: as `config.durability` says, by default `Sync`: an append that returned survives
///   power loss.
#[derive(Debug)]
pub struct MmapParallelWal(Face);

face!(MmapParallelWal, |config: WalConfig, n| Ok(lanes(config, n, Backend::Mmap)));
