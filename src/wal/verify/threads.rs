//! Segments read side by side, their findings told in order.
//!
//! ```text
//! worker 0: segment 1 --findings--> channel 1 --+
//! worker 1: segment 2 --findings--> channel 2 --+--> caller: all of 1, then all of 2, then ..
//! ```
//!
//! Workers take segments in order and hand over the end of a channel for each, so the caller hears
//! of them in that order. Invariants: a worker that is ahead waits, before it takes a segment or
//! when its channel is full, so that what waits to be told is bounded by `AHEAD` findings of twice
//! as many segments as there are workers; no worker outlives the call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};

use super::super::recovery::Found;
use super::finding::{Finding, Tally, VerifySummary};
use super::segment::{Context, end_of, read_segment};

/// Findings of one segment that may wait.
const AHEAD: usize = 64;
/// How often the caller hears how far it is, at least, while a segment is read.
const PAUSE: Duration = Duration::from_millis(50);

/// What a worker says of a segment.
enum Told {
    Finding(Finding),
    Read(Option<VerifySummary>),
    Failed(Error),
}

/// What the workers share.
struct Work<'a> {
    context: Context<'a>,
    found: &'a [Found],
    turn: Mutex<Turn>,
    /// Published by the workers to the caller: bytes read of all segments, for its progress alone.
    done: AtomicU64,
}

/// Which segment is next, and who hears of it.
struct Turn {
    next: usize,
    ends: SyncSender<Receiver<Told>>,
}

/// Reads all segments, `threads` at a time; false if no thread could be started.
pub(super) fn side_by_side(
    context: Context<'_>,
    found: &[Found],
    threads: usize,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<bool> {
    let (ends, heard) = sync_channel(threads);
    let turn = Mutex::new(Turn { next: 0, ends });
    let work = &Work { context, found, turn, done: AtomicU64::new(0) };
    // Whatever ends the closure drops `heard`, and with it the wait of workers that are ahead.
    std::thread::scope(move |scope| {
        let mut started = 0;
        for _ in 0..threads.min(found.len()) {
            let worker = std::thread::Builder::new().name("prkdb-verify".into());
            started += usize::from(worker.spawn_scoped(scope, || work.run()).is_ok());
        }
        if started == 0 {
            return Ok(false);
        }
        for f in found {
            let told = heard.recv().expect("workers take every segment");
            let read = hear(work, &told, tally, progress)?;
            tally.count(&f.file.path, read);
        }
        progress(work.done.load(Ordering::Relaxed));
        Ok(true)
    })
}

/// Hears all that is said of one segment; gives what was read of it.
fn hear(
    work: &Work<'_>,
    told: &Receiver<Told>,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<VerifySummary>> {
    loop {
        match told.recv_timeout(PAUSE) {
            Ok(Told::Finding(finding)) => tally.tell(finding),
            Ok(Told::Read(read)) => {
                progress(work.done.load(Ordering::Relaxed));
                return Ok(read);
            }
            Ok(Told::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => progress(work.done.load(Ordering::Relaxed)),
            Err(RecvTimeoutError::Disconnected) => panic!("a thread of verify panicked"),
        }
    }
}

impl Work<'_> {
    /// The next segment and where to talk of it; none if there are no more, or nobody listens.
    fn take(&self) -> Option<(&Found, SyncSender<Told>)> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let f = self.found.get(turn.next)?;
        turn.next += 1;
        let (sender, told) = sync_channel(AHEAD);
        // Held meanwhile: the ends have to come in the order of the segments.
        turn.ends.send(told).ok()?;
        Some((f, sender))
    }

    /// Reads segments until there are no more.
    fn run(&self) {
        while let Some((f, sender)) = self.take() {
            let mut before = 0;
            let mut add = |at: u64| {
                self.done.fetch_add(at.saturating_sub(before), Ordering::Relaxed);
                before = before.max(at);
            };
            let mut deaf = false;
            let tell = &mut |finding| deaf |= sender.send(Told::Finding(finding)).is_err();
            let read = read_segment(self.context, f, tell, &mut add);
            add(end_of(f, self.context.beyond));
            let last = match read {
                Ok(read) => Told::Read(read),
                Err(error) => Told::Failed(error),
            };
            if deaf || sender.send(last).is_err() {
                return;
            }
        }
    }
}
