//! An embeddable, Linux-first storage engine: a write-ahead log on io_uring.

#[cfg(feature = "bugs")]
pub mod bugs;
#[cfg(not(feature = "bugs"))]
mod bugs;
mod cast;
mod error;
pub mod format;
pub mod io;
mod lsn;
mod options;
mod segment;
mod wal;

pub use error::{Error, ErrorKind, Result};
pub use io::{BackendReason, BackendReport, probe};
pub use lsn::{Lsn, LsnRange};
pub use options::*;
pub use wal::*;
