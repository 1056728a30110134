//! The logs that take part, an adapter each.
//!
//! Each is set up for the most that it can do while an acknowledgement means what the workload
//! says; what is set, and why that is the fastest, stands in its file with the place in its source.
//! All get a fresh directory for each run and may prepare files before the window, as they would
//! have them in a log that has been in use for a while.

mod commitlog;
mod nodedb_wal;
mod okaywal;
mod prkdb;
mod raft_engine;
pub mod raw;
mod tokio_fs;
mod wal_db;
mod walrus;

use crate::peer::Adapter;

/// All logs, ours first.
pub const ALL: &[&dyn Adapter] = &[
    &prkdb::AUTO,
    &prkdb::MMAP,
    &prkdb::PWRITE,
    &prkdb::TOKIO_URING,
    &tokio_fs::TokioFs,
    &raft_engine::RaftEngine,
    &okaywal::OkayWal,
    &nodedb_wal::NodedbWal,
    &wal_db::WalDb,
    &walrus::WALRUS,
    &walrus::WALRUS_AS_IT_COMES,
    &commitlog::CommitLog,
];
