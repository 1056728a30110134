//! The simple log: mapped files, one segment after the other.

use crate::error::Error;
use crate::options::{Backend, WalConfig};

use super::face::{Face, face, lanes};

/// A log that copies into mapped files, one segment after the other: `n` is 1.
///
/// - Shape: a face of [`Wal`](crate::Wal) on [`Backend::Mmap`], for async callers in any runtime.
/// - Durability: as `config.durability` says, by default `Sync`: an append that returned survives
///   power loss.
#[derive(Debug)]
pub struct MmapWal(Face);

face!(MmapWal, |config: WalConfig, n| match n {
    1 => Ok(lanes(config, 1, Backend::Mmap)),
    n => {
        let why = format!("{n} segments at once; a MmapWal has 1, a MmapParallelWal takes more");
        Err(Error::invalid("open", why))
    }
});
