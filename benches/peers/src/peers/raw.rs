//! The disk without a log: `pwrite` of whole blocks on a descriptor opened `O_DSYNC | O_DIRECT`,
//! over a file that was written before; without O_DSYNC where nobody syncs.
//!
//! A write is a batch, rounded up to blocks, and each caller makes its own, at most 32 at a time:
//! nobody shares one. Nothing is framed or checksummed, and nothing is read back.

use std::path::Path;

use crate::peer::Outcome;
use crate::workload::{Kind, Workload};
use crate::yardstick::{self, BLOCK, Count, Load, Means, Method, RawFile, Window};

const FILE_BYTES: u64 = 256 << 20;
const MAX_DEPTH: usize = 32;

/// Makes the file.
pub fn prepare(dir: &Path) -> Outcome<RawFile> {
    Ok(RawFile::create(&dir.join("raw"), FILE_BYTES, true)?)
}

/// Writes to it until the window is over.
pub fn run(file: &RawFile, workload: &Workload, window: &Window<'_>) -> Outcome<Count> {
    let method = if workload.kind == Kind::Durable { Method::Dsync } else { Method::Unsynced };
    let write_bytes = workload.batch_bytes().next_multiple_of(BLOCK);
    let load = Load { write_bytes, depth: workload.callers.min(MAX_DEPTH), method };
    Ok(yardstick::raw(Means::Threads, file, load, window)?)
}
