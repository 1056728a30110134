//! A log on asynchronous files, several segments open at once.

use crate::options::{Backend, WalConfig};

use super::face::{Face, face, lanes};

/// A log with `n` segments open for writing at once, on the runtime tokio-uring where it is built
/// in (feature `tokio-uring`, Linux), else on [`Backend::Auto`].
///
/// - Shape: a face of [`Wal`](crate::Wal), for async callers in any runtime, their own included:
///   what tokio-uring drives runs on a thread of the log's.
/// - Durability: as `config.durability` says, by default `Sync`: an append that returned survives
///   power loss.
#[derive(Debug)]
pub struct AsyncParallelWal(Face);

#[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
const BACKEND: Backend = Backend::TokioUring;
#[cfg(not(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable))))]
const BACKEND: Backend = Backend::Auto;

face!(AsyncParallelWal, |config: WalConfig, n| Ok(lanes(config, n, BACKEND)));
