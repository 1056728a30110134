//! Which way of making a group durable suits the device: both, measured on it.
//!
//! ```text
//! a round:  A  8 forced writes in flight          B  8 writes in flight, then one sync
//! rounds:   A B B A A B B A ..  until 50 ms are over; the medians decide
//! ```
//!
//! On a segment that is made ahead and has no name yet, through a queue of its own and beside the
//! maker's other work. Invariants: what it writes is what stands there, zeros; it ends as soon as
//! somebody waits for the segment or the log closes, and then nothing is decided; a write or sync
//! that fails, fails the segment and poisons the log. On a device with slow forced writes these
//! took 4.0 ms where a write and a sync took 1.7 (vldb26-iouring, arXiv 2512.04859).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::cast::len;
use crate::error::{Error, Result};
use crate::io::{Buf, FileRef, Flow, FlowMachine, MakeMachine, Running};
use crate::options::SyncMethod;
use crate::segment::Geometry;

use super::super::shared::Shared;
use super::Maker;

/// Writes in flight: as many groups as the writer has by default.
const DEPTH: u64 = 8;
/// A group of middle size.
const WRITE_BYTES: u64 = 16 << 10;
/// How long it may take, beyond the last round.
const BUDGET: Duration = Duration::from_millis(50);
/// Rounds it takes at least: three of each, so that one that is held up decides nothing, also on a
/// device where one takes long.
const LEAST_ROUNDS: u64 = 6;
/// And at most, whatever the clock says.
const MOST_ROUNDS: u64 = 512;

/// How it ended: nothing, if it was cut short.
type Outcome = io::Result<Option<SyncMethod>>;

impl Maker {
    /// Measures both ways on the blocks of `file`, unless that was done or is not the time for it.
    pub(super) async fn calibrate(
        &self,
        flow: &Flow,
        file: &FileRef,
        geometry: Geometry,
    ) -> Result<()> {
        let shared = &self.shared;
        let wanted = shared.sync_choice.is_due() && shared.world.disk.writes_direct();
        if !wanted || shared.mailbox.hurries() {
            return Ok(());
        }
        let slot: Arc<Mutex<Option<Outcome>>> = Arc::default();
        let report = Report { shared: Arc::clone(shared), slot: Arc::clone(&slot), outcome: None };
        let trial = Trial { shared: Arc::clone(shared), file: Arc::clone(file), geometry };
        let make: MakeMachine = Box::new(move || {
            let queue = trial.shared.world.disk.queue(len(DEPTH), &[])?;
            let machine = FlowMachine::new(|flow| async move {
                let mut report = report;
                report.outcome = Some(trial.run(flow).await);
            });
            Ok((Box::new(machine), queue))
        });
        let running = match shared.world.host.start("prkdb-calibrate", make) {
            Ok(running) => Ended(Some(running)),
            Err(error) => {
                // Neither a thread nor a queue is worth a log that can't be written.
                tracing::debug!(%error, "both sync methods could not be measured");
                return Ok(());
            }
        };
        let take = || slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = flow.until(take).await;
        drop(running);
        match outcome.map_err(|e| Error::sync("make segment", file.path(), None, e))? {
            Some(method) => {
                tracing::debug!(?method, "both sync methods were measured");
                shared.sync_choice.found(method);
            }
            None => tracing::debug!("measuring both sync methods was cut short"),
        }
        Ok(())
    }
}

/// Waits for the end of the trial when it goes, also where the maker does not come to its own.
struct Ended(Option<Box<dyn Running>>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.join();
        }
    }
}

/// Hands the outcome over, also when the trial never comes to its end.
struct Report {
    shared: Arc<Shared>,
    slot: Arc<Mutex<Option<Outcome>>>,
    outcome: Option<Outcome>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        let outcome = outcome.unwrap_or_else(|| Err(io::Error::other("its I/O queue broke")));
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.shared.mailbox.nudge();
    }
}

/// What is measured, and on what.
struct Trial {
    shared: Arc<Shared>,
    file: FileRef,
    geometry: Geometry,
}

impl Trial {
    async fn run(self, flow: Flow) -> Outcome {
        let host = &self.shared.world.host;
        let size = WRITE_BYTES.max(self.geometry.block);
        let align = len(self.geometry.block);
        let mut bufs: Vec<Buf> = (0..DEPTH).map(|_| Buf::zeroed(len(size), align)).collect();
        let (mut forced, mut synced) = (Vec::new(), Vec::new());
        let began = host.now();
        for round in 0..MOST_ROUNDS {
            if self.shared.mailbox.hurries() || self.shared.latch.get().is_some() {
                return Ok(None);
            }
            let start = host.now();
            if round >= LEAST_ROUNDS && start.saturating_sub(began) >= BUDGET {
                break;
            }
            let dsync = round % 4 == 0 || round % 4 == 3;
            bufs = self.write_all(&flow, round, bufs, dsync).await?;
            if !dsync {
                flow.sync(&self.file).await?;
            }
            let took = host.now().saturating_sub(start);
            let times = if dsync { &mut forced } else { &mut synced };
            times.push(took);
        }
        Ok(Some(choose(&mut forced, &mut synced)))
    }

    /// Writes each buffer at a place of its own, all of them in flight at once.
    async fn write_all(
        &self,
        flow: &Flow,
        round: u64,
        bufs: Vec<Buf>,
        dsync: bool,
    ) -> io::Result<Vec<Buf>> {
        let size = bufs.first().map_or(0, |buf| buf.len() as u64);
        let (start, end) = (self.geometry.frames_start(), self.geometry.frames_end());
        let places = ((end - start) / (DEPTH * size)).max(1);
        let start = start + round % places * DEPTH * size;
        let at = (0..).map(|i| start + i * size);
        let writes = bufs.into_iter().zip(at);
        side_by_side(writes.map(|(buf, at)| flow.write(&self.file, at, buf, dsync))).await
    }
}

/// Waits for all of them, also if one fails.
async fn side_by_side<F>(all: impl Iterator<Item = F>) -> io::Result<Vec<Buf>>
where
    F: Future<Output = io::Result<Buf>>,
{
    let (mut pending, mut done): (Vec<Pin<Box<F>>>, Vec<_>) = (all.map(Box::pin).collect(), vec![]);
    let all_done = std::future::poll_fn(|cx| {
        pending.retain_mut(|one| match one.as_mut().poll(cx) {
            Poll::Ready(outcome) => {
                done.push(outcome);
                false
            }
            Poll::Pending => true,
        });
        if pending.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    all_done.await;
    done.into_iter().collect()
}

/// Forced writes need one request a group and have a latency of their own: syncs only if they are
/// clearly faster.
fn choose(forced: &mut [Duration], synced: &mut [Duration]) -> SyncMethod {
    let (forced, synced) = (median(forced), median(synced));
    let clearly = forced > synced && forced * 10 >= synced * 13;
    if clearly { SyncMethod::Fdatasync } else { SyncMethod::Dsync }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_have_to_be_clearly_faster() {
        let chosen = |forced: [u64; 3], synced: [u64; 3]| {
            let times = |micros: [u64; 3]| micros.map(Duration::from_micros);
            choose(&mut times(forced), &mut times(synced))
        };
        assert_eq!(chosen([100, 100, 100], [100, 100, 100]), SyncMethod::Dsync);
        assert_eq!(chosen([129, 129, 129], [100, 100, 100]), SyncMethod::Dsync);
        assert_eq!(chosen([130, 130, 130], [100, 100, 100]), SyncMethod::Fdatasync);
        // One round that was held up decides nothing.
        assert_eq!(chosen([100, 9000, 100], [90, 90, 90]), SyncMethod::Dsync);
        assert_eq!(chosen([4000, 3900, 4100], [1700, 60_000, 1700]), SyncMethod::Fdatasync);
    }
}
