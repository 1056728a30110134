//! The file METRICS: the last metrics of the process that writes the log, for everybody else.
//!
//! ```text
//! maker: METRICS.tmp --written--> renamed METRICS          ReadOnlyWal: read, checked, or none
//!  ^ at a clean close; and when groups were written since, every 10 s at most: looked at when a
//!    MiB is used, a segment made, a job done, and at the mark that ends each burst
//! ```
//!
//! Advisory, and no part of the log: not synced, not looked at by recovery. A crash may leave any
//! bytes in it, which its checksum finds; whatever goes wrong with it harms nothing else.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::cast::{len, nanos, round_up};
use crate::io::{Access, Buf, Disk, Flow};

use super::super::shared::Shared;
use super::Metrics;

/// The name of the file in the log's directory.
pub(crate) const METRICS: &str = "METRICS";
/// Its name until it is written.
pub(crate) const METRICS_TMP: &str = "METRICS.tmp";
/// A file beyond this is not ours: all buckets of all histograms full are a third of it.
const MAX_BYTES: u64 = 256 << 10;

/// While the log is open it is written no more often.
const EVERY: Duration = Duration::from_secs(10);

/// When the file is due, and its writing. Only the maker looks: the atomics are notes to itself.
#[derive(Default)]
pub(crate) struct Teller {
    /// Groups that the file tells of, and when the next may be written, on the host's clock.
    groups: AtomicU64,
    not_before_ns: AtomicU64,
}

impl Teller {
    /// From when on the file should be written, if it would tell anything new.
    pub(crate) fn due(&self, shared: &Shared) -> Option<Duration> {
        let changed = shared.meters.groups.load(Relaxed) > self.groups.load(Relaxed);
        // A poisoned log writes nothing at all.
        let due = changed && shared.latch.get().is_none();
        due.then(|| Duration::from_nanos(self.not_before_ns.load(Relaxed)))
    }

    /// Writes the file anew. It is advisory: what goes wrong with it is nobody's failure.
    pub(crate) async fn tell(&self, flow: &Flow, shared: &Shared) {
        let metrics = shared.metrics();
        self.groups.store(metrics.groups, Relaxed);
        self.not_before_ns.store(shared.now_ns().saturating_add(nanos(EVERY)), Relaxed);
        if shared.expect_ours("tell metrics").is_err() {
            return;
        }
        if let Err(error) = write(flow, &*shared.world.disk, &shared.dir, &metrics).await {
            tracing::debug!(%error, "the file METRICS could not be written");
        }
    }
}

/// Puts `metrics` in place of what was there.
async fn write(flow: &Flow, disk: &dyn Disk, dir: &Path, metrics: &Metrics) -> io::Result<()> {
    let (tmp, path) = (dir.join(METRICS_TMP), dir.join(METRICS));
    match disk.unlink(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (text, block) = (metrics.to_text(), disk.block_size());
    let size = round_up(text.len() as u64, block as u64);
    let mut buf = Buf::zeroed(len(size), block);
    let bytes = buf.bytes_mut().expect("just allocated");
    // Padded with newlines it stays a text for every tool.
    bytes.fill(b'\n');
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    let file = disk.create(&tmp, size)?;
    let written = flow.write(&file, 0, buf, false).await;
    flow.release(&file);
    let outcome = written.and_then(|_| disk.rename(&tmp, &path));
    if outcome.is_err()
        && let Err(error) = disk.unlink(&tmp)
    {
        tracing::debug!(%error, path = %tmp.display(), "an unfinished file stays");
    }
    outcome
}

/// What the last writer of the log in `dir` left, if that is there and whole.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Option<Metrics> {
    let path = dir.join(METRICS);
    let read = || {
        let file = disk.open(&path, Access::Cached)?;
        let mut bytes = vec![0; len(file.size()?.min(MAX_BYTES))];
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(done as u64, &mut bytes[done..])? {
                0 => break,
                n => done += n,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    };
    let bytes = read().inspect_err(|error: &io::Error| {
        tracing::debug!(%error, path = %path.display(), "no metrics");
    });
    Metrics::from_text(&bytes.ok()?)
}
