//! What all of the seed's logs do, on one [`Wal`]: its calls as futures that need no runtime.
//!
//! Appends and syncs await the log's own tickets; what would block (open, reads, truncation,
//! close) runs on one thread, so that no executor's thread waits for a disk.

use std::sync::Arc;

use crate::error::Result;
use crate::log::{Metrics, Record, Records, Wal};
use crate::lsn::Lsn;
use crate::options::{Backend, WalConfig};

use super::blocking::Blocking;

/// A log and the thread that makes its blocking calls.
pub(super) struct Face {
    /// None once it is closed.
    wal: Option<Arc<Wal>>,
    blocking: Option<Blocking>,
}

/// `config` with what a face decides.
pub(super) fn lanes(config: WalConfig, n: usize, backend: Backend) -> WalConfig {
    WalConfig { num_segments: n, backend, ..config }
}

impl Face {
    pub(super) async fn open(config: Result<WalConfig>) -> Result<Face> {
        let config = config?;
        let blocking = Blocking::start()?;
        let wal = blocking.call("open", move || Wal::open(config)).await?;
        Ok(Face { wal: Some(Arc::new(wal)), blocking: Some(blocking) })
    }

    pub(super) fn wal(&self) -> &Arc<Wal> {
        self.wal.as_ref().expect("closing consumes it")
    }

    pub(super) async fn append_batch(&self, entries: impl Records) -> Result<Vec<Lsn>> {
        let ticket = self.wal().append_batch_async(entries).await?;
        Ok(ticket.await?.iter().collect())
    }

    /// Makes a call that blocks.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(&Wal) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let wal = Arc::clone(self.wal());
        let blocking = self.blocking.as_ref().expect("closing consumes it");
        blocking.call(op, move || call(&wal)).await
    }

    pub(super) async fn scan(&self, from: Option<Lsn>) -> Result<Vec<Record>> {
        self.call("scan", move |wal| wal.reader(from.unwrap_or(wal.first_lsn()))?.collect()).await
    }

    pub(super) async fn sync(&self) -> Result<()> {
        let wal = self.wal();
        wal.wait_durable(wal.next_lsn().prev())?.await?;
        Ok(())
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.wal().metrics()
    }

    pub(super) async fn close(mut self) -> Result<()> {
        let wal = self.wal.take().expect("closing consumes it");
        let blocking = self.blocking.as_ref().expect("closing consumes it");
        let close = || {
            let wal = Arc::into_inner(wal);
            wal.expect("its other owners were calls, all made before this one").close()
        };
        blocking.call("close", close).await
    }
}

impl Drop for Face {
    /// Calls whose futures were dropped end first: when this returns the log is closed.
    fn drop(&mut self) {
        if let Some(blocking) = self.blocking.take() {
            blocking.finish();
        }
    }
}

impl std::fmt::Debug for Face {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.wal.fmt(f)
    }
}

/// Gives a type around a [`Face`] the seed's methods. `$configure` makes the configuration of
/// `open`'s arguments.
macro_rules! face {
    ($name:ident, $configure:expr) => {
        impl $name {
            /// Creates or recovers the log in `config.log_dir`, with `n` segments open for writing
            /// at once; `config.num_segments` and `config.backend` are not looked at.
            ///
            /// - Shape: runs on a thread of its own; needs no runtime. If the future is dropped,
            ///   the log is closed again as soon as it is open.
            ///
            /// # Errors
            /// As [`Wal::open`](crate::Wal::open).
            pub async fn open(
                config: $crate::options::WalConfig,
                n: usize,
            ) -> $crate::error::Result<Self> {
                let configure: fn(_, usize) -> _ = $configure;
                Ok($name(Face::open(configure(config, n)).await?))
            }

            /// Appends `entries` as one batch and waits for the configured durability; one offset
            /// for each entry, in order. Offsets are LSNs: dense, over the whole log.
            ///
            /// - Durability: with the default, `Ok` survives power loss. After `NotConfirmed` the
            ///   batch is found whole or not at all. Dropping the future cancels nothing once it
            ///   was polled to its second wait: then the batch is queued.
            ///
            /// # Errors
            /// As [`Wal::append_batch`](crate::Wal::append_batch) and its ticket.
            pub async fn append_batch(
                &self,
                entries: impl $crate::log::Records,
            ) -> $crate::error::Result<Vec<$crate::lsn::Lsn>> {
                self.0.append_batch(entries).await
            }

            /// Appends one entry; its offset.
            ///
            /// # Errors
            /// As [`append_batch`](Self::append_batch).
            pub async fn append(
                &self,
                entry: impl AsRef<[u8]>,
            ) -> $crate::error::Result<$crate::lsn::Lsn> {
                let offsets = self.0.append_batch([entry]).await?;
                Ok(offsets[0])
            }

            /// Reads the durable entry at `offset`.
            ///
            /// # Errors
            /// As [`Wal::read`](crate::Wal::read).
            pub async fn read(
                &self,
                offset: impl Into<$crate::lsn::Lsn>,
            ) -> $crate::error::Result<$crate::log::Record> {
                let lsn = offset.into();
                self.0.call("read", move |wal| wal.read(lsn)).await
            }

            /// Reads all durable entries, in the order of their offsets, into memory; for a log
            /// that is larger than that, [`wal`](Self::wal) has a reader. Reads and truncations
            /// that come meanwhile wait for it.
            ///
            /// # Errors
            /// As [`Wal::reader`](crate::Wal::reader), and what it gives.
            pub async fn scan(&self) -> $crate::error::Result<Vec<$crate::log::Record>> {
                self.0.scan(None).await
            }

            /// As [`scan`](Self::scan), from `offset` on, that one included.
            ///
            /// # Errors
            /// As [`scan`](Self::scan); `Truncated` if `offset` was cut.
            pub async fn scan_from(
                &self,
                offset: impl Into<$crate::lsn::Lsn>,
            ) -> $crate::error::Result<Vec<$crate::log::Record>> {
                self.0.scan(Some(offset.into())).await
            }

            /// Cuts all entries below `offset`; whole segments below it are recycled or removed.
            ///
            /// # Errors
            /// As [`Wal::truncate_before`](crate::Wal::truncate_before).
            pub async fn truncate_before(
                &self,
                offset: impl Into<$crate::lsn::Lsn>,
            ) -> $crate::error::Result<()> {
                let lsn = offset.into();
                self.0.call("truncate_before", move |wal| wal.truncate_before(lsn)).await
            }

            /// Makes all that was appended before durable, whatever durability it was appended
            /// with.
            ///
            /// # Errors
            /// As [`Wal::wait_durable`](crate::Wal::wait_durable).
            pub async fn sync(&self) -> $crate::error::Result<()> {
                self.0.sync().await
            }

            /// How many segments hold entries.
            pub fn segment_count(&self) -> u64 {
                self.wal().segment_count()
            }

            /// What the log did since it was opened.
            pub fn metrics(&self) -> $crate::log::Metrics {
                self.0.metrics()
            }

            /// The log itself, with all it can do. Its calls block.
            pub fn wal(&self) -> &$crate::log::Wal {
                self.0.wal()
            }

            /// Makes all that was appended durable and unlocks the log, without blocking: dropping
            /// does the same and blocks.
            ///
            /// # Errors
            /// As [`Wal::close`](crate::Wal::close).
            pub async fn close(self) -> $crate::error::Result<()> {
                self.0.close().await
            }
        }
    };
}

pub(super) use face;
