//! Segments without a footer, scanned at the same time: a device answers several readers sooner
//! than one, and checksums keep a core busy meanwhile.
//!
//! ```text
//! worker 0: scan 0, scan 3, ..  --bytes, outcome--> caller: progress; outcomes in their order
//! worker 1: scan 1, scan 2, ..  --'
//! ```
//!
//! Used by `inspect`. Invariants: no worker outlives the call; scans are taken in order, and none
//! after one that failed for good; with one reader, as under the simulator, no thread is started.
//! A window and a frame are in memory for each worker, and of a large segment eleven pieces of a
//! window's size that were read ahead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, ErrorKind, Result};
use crate::io::Disk;

use super::Found;
use super::progress::Progress;

/// Bytes of a segment after which its worker says how far it is.
const STEP: u64 = 1 << 20;

/// The scan of one segment; it tells how many bytes into the file it is.
pub(super) type Scanning<'a> = Box<dyn FnOnce(&mut dyn FnMut(u64)) -> Result<Found> + Send + 'a>;

/// What a worker says.
enum Told {
    /// So many bytes more were read.
    Bytes(u64),
    Outcome(usize, Box<Result<Found>>),
}

/// Runs the scans; their outcomes are in the same order, up to one that is no finding at least.
pub(super) fn side_by_side(
    disk: &dyn Disk,
    scans: Vec<Scanning<'_>>,
    progress: &Progress<'_>,
) -> Vec<Result<Found>> {
    let (count, threads) = (scans.len(), disk.readers().min(scans.len()));
    let scans = Mutex::new(scans.into_iter().enumerate());
    // One has failed for good. Publishes nothing: it spares the others what nobody asks for.
    let failed = AtomicBool::new(false);
    let take = || {
        let next = || scans.lock().unwrap_or_else(PoisonError::into_inner).next();
        if failed.load(Ordering::Relaxed) { None } else { next() }
    };
    let note = |outcome: &Result<Found>| {
        if outcome.as_ref().is_err_and(|error| !is_finding(error)) {
            failed.store(true, Ordering::Relaxed);
        }
    };
    let mut outcomes: Vec<Option<Result<Found>>> = (0..count).map(|_| None).collect();
    if threads > 1 {
        let work = |told: Sender<Told>| {
            let _stop = StopIfPanic(&failed);
            while let Some((i, scan)) = take() {
                run(i, scan, &told, note);
            }
        };
        on_threads(threads, work, |told| {
            let _stop = StopIfPanic(&failed);
            hear(told, &mut outcomes, progress);
        });
    }
    // All of them, where no thread was or could be started.
    let mut done = 0;
    while let Some((i, scan)) = take() {
        let mut last = 0;
        let outcome = scan(&mut |at| {
            last = at;
            progress.at(done + at);
        });
        done += last;
        note(&outcome);
        outcomes[i] = Some(outcome);
    }
    // They were taken in their order: those that were left are the last.
    outcomes.into_iter().map_while(|outcome| outcome).collect()
}

/// Keeps the others from what nobody will look at: they are waited for before a panic goes on.
struct StopIfPanic<'a>(&'a AtomicBool);

impl Drop for StopIfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What a damaged segment answers; the others are looked at all the same.
pub(super) fn is_finding(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt
}

/// Starts as many threads as can be had and hears them to their end.
fn on_threads(
    threads: usize,
    work: impl Fn(Sender<Told>) + Sync,
    hear: impl FnOnce(Receiver<Told>),
) {
    let (sender, told) = crossbeam_channel::unbounded();
    std::thread::scope(|scope| {
        let work = &work;
        for _ in 0..threads {
            let sender = sender.clone();
            let thread = std::thread::Builder::new().name("prkdb-scan".into());
            if thread.spawn_scoped(scope, move || work(sender)).is_err() {
                break;
            }
        }
        drop(sender);
        hear(told);
    });
}

fn run(i: usize, scan: Scanning<'_>, told: &Sender<Told>, note: impl Fn(&Result<Found>)) {
    let mut before = 0;
    let outcome = scan(&mut |at: u64| {
        if at >= before + STEP {
            // The caller listens until every worker is gone.
            told.send(Told::Bytes(at - before)).ok();
            before = at;
        }
    });
    note(&outcome);
    told.send(Told::Outcome(i, Box::new(outcome))).ok();
}

fn hear(told: Receiver<Told>, outcomes: &mut [Option<Result<Found>>], progress: &Progress<'_>) {
    let mut done = 0;
    for told in told {
        match told {
            Told::Bytes(bytes) => {
                done += bytes;
                progress.at(done);
            }
            Told::Outcome(i, outcome) => outcomes[i] = Some(*outcome),
        }
    }
}
