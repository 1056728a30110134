//! A log on io_uring and nothing else, named as the others are.

use crate::options::{Backend, WalConfig};

use super::face::{Face, face, lanes};

/// A log on an io_uring ring, with `n` segments open for writing at once; `Unsupported` where there
/// is no ring to be had. [`Wal`](crate::Wal) itself falls back.
///
/// - Shape: a face of [`Wal`](crate::Wal) on [`Backend::Uring`], for async callers in any runtime.
/// - Durability: as `config.durability` says, by default `Sync`: an append that returned survives
///   power loss.
#[derive(Debug)]
pub struct UringWal(Face);

face!(UringWal, |config: WalConfig, n| Ok(lanes(config, n, Backend::Uring)));
