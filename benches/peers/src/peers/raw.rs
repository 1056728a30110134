//! The disk without a log: the raw loop, on a bare ring where there is one, over a file that was
//! written before; durable the way that was found to be faster, in a calibration before the window.
//!
//! A write is a batch, rounded up to blocks. As many are in flight as callers wait, up to 32, or as
//! the log keeps where tickets are outstanding. Nobody shares one: a log whose callers share writes
//! may do more, so this is no ceiling where many wait. Nothing is framed or checksummed, and
//! nothing is read back.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::peer::Outcome;
use crate::workload::{Kind, Workload};
use crate::yardstick::{self, BLOCK, Count, Load, Means, Method, RawFile, Window};

const FILE_BYTES: u64 = 256 << 20;
const MAX_DEPTH: usize = 32;
/// Groups that our log keeps in flight.
const LOG_DEPTH: usize = 8;
/// What each method is tried for, forwards and backwards in turn.
const TRY: Duration = Duration::from_millis(50);
const TURNS: usize = 4;

/// The file, and how it is written.
pub struct Bare {
    file: RawFile,
    means: Means,
    load: Load,
}

/// Makes the file, and chooses.
pub fn prepare(dir: &Path, workload: &Workload) -> Outcome<Bare> {
    let file = RawFile::create(&dir.join("raw"), FILE_BYTES, true)?;
    let means = Means::of(&file);
    let write_bytes = workload.batch_bytes().next_multiple_of(BLOCK);
    let depth = if workload.tickets { LOG_DEPTH } else { workload.callers.min(MAX_DEPTH) };
    let load = Load { write_bytes, depth, method: Method::Unsynced };
    let mut bare = Bare { file, means, load };
    if workload.kind == Kind::Durable {
        bare.load.method = bare.fastest()?;
    }
    Ok(bare)
}

impl Bare {
    /// The method that made the most writes durable.
    fn fastest(&self) -> Outcome<Method> {
        let mut writes = [0; Method::DURABLE.len()];
        for turn in 0..TURNS {
            for at in 0..writes.len() {
                let at = if turn % 2 == 0 { at } else { writes.len() - 1 - at };
                let load = Load { method: Method::DURABLE[at], ..self.load };
                let stop = AtomicBool::new(false);
                let window = Window::after(TRY / 10, TRY, &stop);
                writes[at] += yardstick::raw(self.means, &self.file, load, &window)?.writes;
            }
        }
        let best = Method::DURABLE.iter().zip(writes).max_by_key(|(_, writes)| *writes);
        Ok(best.map_or(Method::Dsync, |(method, _)| *method))
    }

    /// Writes until the window is over.
    pub fn run(&self, window: &Window<'_>) -> Outcome<Count> {
        Ok(yardstick::raw(self.means, &self.file, self.load, window)?)
    }
}
