//! Names of the crate's first interface, under its paths: thin faces of one [`Wal`](crate::Wal).
//!
//! ```text
//! wal::mmap_parallel_wal::MmapParallelWal ----+
//! wal::async_parallel_wal::AsyncParallelWal --+--> Face --await--> Wal: one log, one order
//! wal::mmap_wal::MmapWal, uring_wal::UringWal +      `--> Blocking: a thread for calls that wait
//! ```
//!
//! Each file here is one name. Nothing in it has a behaviour of its own: a face picks a backend
//! and a number of segments, and turns calls that block into futures.

pub mod async_parallel_wal;
pub mod batch_config;
mod blocking;
pub mod config;
mod face;
pub mod mmap_parallel_wal;
pub mod mmap_wal;
pub mod uring_wal;
pub mod wal;
