//! What callers, writer and maker of one log share: the queue, the bell, the latch, the meters.
//!
//! ```text
//! caller                                   writer
//!   send(batch)                              park(threshold)
//!   queued += bytes                          [fence]
//!   [fence]                                  queued >= threshold? do not wait
//!   threshold passed? ring                   wait in reap
//! ```
//! Either the caller sees the threshold or the writer sees the bytes: no wake-up is lost.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::cast::nanos;
use crate::error::{Error, ErrorKind, Result};
use crate::format::meta::Meta;
use crate::io::{BufPool, ForkGuard, World};
use crate::lsn::{Lsn, LsnRange};
use crate::options::{Durability, WalConfig};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, fence};

use super::absence::Absence;
use super::catalog::Catalog;
use super::encode::{BodyEncoder, Encoded};
use super::health::{Health, Pulse};
use super::mailbox::{Cut, Mailbox};
use super::metrics::{Meters, Metrics, add};
use super::readonly::Seen;
use super::recovery::{LOCK, RecoveryReport};
use super::room::{Grant, MAX_QUEUED_BATCHES, Room};
use super::sync_choice::SyncChoice;
use super::ticket::{Answer, Cells};

/// A batch on its way to the writer.
pub(crate) struct Pending {
    pub(crate) encoded: Encoded,
    pub(crate) record_bytes: u64,
    pub(crate) durability: Durability,
    /// It is wanted at this LSN or not at all.
    pub(crate) expected: Option<Lsn>,
    pub(crate) answer: Answer<LsnRange>,
    pub(crate) grant: Grant,
    pub(crate) asked: Asked,
}

/// When an append came, for the latencies: nanoseconds on the host's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// It was called.
    pub(crate) called_ns: u64,
    /// It had room; the same where it did not have to wait for it.
    pub(crate) roomed_ns: u64,
}

/// Frames from this size on are written from their own buffer instead of being copied.
pub(crate) const LARGE: usize = 64 << 10;

/// The largest group that is gathered from smaller batches, and the largest single write.
pub(crate) const GROUP_BYTES: usize = 512 << 10;

/// The most bytes of free buffers of one size that are kept.
const MOST_KEPT: usize = 32 << 20;

/// Somebody who waits until everything up to `lsn` is durable.
pub(crate) struct Wait {
    pub(crate) lsn: Lsn,
    pub(crate) answer: Answer<Lsn>,
    /// It speaks of a record that was there: if a cut takes that out there is nothing to wait for.
    pub(crate) is_there: bool,
}

/// What else the writer can be asked.
pub(crate) enum Control {
    /// Answer when everything up to this LSN is durable.
    WaitDurable(Wait),
    /// Make all that was queued durable, then take records out from the end.
    Cut(Cut, Answer<Lsn>),
    /// Make all that was queued durable, answer, end.
    Close(Answer<()>),
    /// End as soon as nothing is in flight: the log is poisoned and will be recovered.
    Stop,
}

/// Wakes the writer when it waits and should not.
#[derive(Default)]
pub(crate) struct Bell {
    /// 0: the writer does not wait for callers. Else it wants to hear of so many queued bytes.
    threshold: AtomicUsize,
    queued: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    pub(crate) fn install(&self, waker: Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// A caller queued `bytes`.
    pub(super) fn queued(&self, bytes: usize) {
        let queued = self.queued.fetch_add(bytes, Ordering::SeqCst) + bytes;
        fence(Ordering::SeqCst);
        let threshold = self.threshold.load(Ordering::SeqCst);
        if threshold != 0 && queued >= threshold && self.threshold.swap(0, Ordering::SeqCst) != 0 {
            self.ring();
        }
    }

    /// Wakes the writer whatever it waits for.
    pub(crate) fn ring(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// The writer takes all that is queued now.
    pub(crate) fn taking(&self) {
        self.threshold.store(0, Ordering::SeqCst);
        // A swap, for it reads what it takes away: whatever callers had counted by then is seen in
        // the queue next. A store would only be ordered, and an order is not yet a view.
        self.queued.swap(0, Ordering::SeqCst);
    }

    /// The writer is about to wait; false if so much is queued already.
    pub(crate) fn park(&self, threshold: usize) -> bool {
        debug_assert!(threshold > 0);
        self.threshold.store(threshold, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.queued.load(Ordering::SeqCst) < threshold
    }
}

/// The first failure is final until `resume`.
#[derive(Default)]
pub(crate) struct Latch {
    set: AtomicBool,
    cause: Mutex<Option<Error>>,
}

impl Latch {
    /// Latches `error` if nothing was latched before.
    pub(crate) fn set(&self, error: Error) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.get_or_insert(error);
        self.set.store(true, Ordering::Release);
    }

    pub(crate) fn get(&self) -> Option<Error> {
        if !self.set.load(Ordering::Acquire) {
            return None;
        }
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Recovery made the log whole again.
    pub(crate) fn reset(&self) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        *cause = None;
        self.set.store(false, Ordering::Release);
    }
}

/// Everything the threads of one log share.
pub(crate) struct Shared {
    pub(crate) config: WalConfig,
    pub(crate) world: World,
    pub(crate) dir: PathBuf,
    pub(crate) block: u64,
    pub(crate) room: Arc<Room>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) latch: Latch,
    pub(crate) bell: Bell,
    pub(crate) mailbox: Mailbox,
    pub(crate) sync_choice: SyncChoice,
    pub(crate) pool: BufPool,
    pub(crate) encoder: BodyEncoder,
    pub(crate) tickets: Arc<Cells<LsnRange>>,
    pub(crate) meters: Meters,
    pub(crate) pulse: Pulse,
    pub(crate) fork: ForkGuard,
    /// When the log was opened, on the host's clock.
    opened: Duration,
    /// What the last recovery found; read without waiting for one that runs.
    report: Mutex<Option<RecoveryReport>>,
    /// META when the writer began, or after the last cut that was confirmed.
    seen: Mutex<Option<Seen>>,
    /// The caller's bytes in META, as they are durable.
    user_state: Mutex<Vec<u8>>,
    /// The writer has left; whoever queues something after this empties the queue himself.
    absence: Absence,
    batches: (Sender<Pending>, Receiver<Pending>),
    controls: (Sender<Control>, Receiver<Control>),
}

impl Shared {
    /// Of a log whose block is `block` bytes.
    pub(crate) fn new(config: WalConfig, world: World, block: usize) -> Shared {
        let limit = config.batch_config.max_buffer_bytes;
        let awake = Duration::from_micros(config.spin_us.into());
        // What can be out at once: queued, and in flight.
        let kept_bytes = limit.saturating_add(config.depth * GROUP_BYTES).min(MOST_KEPT);
        Shared {
            dir: config.log_dir.clone(),
            block: block as u64,
            room: Room::new(limit, Arc::clone(&world.host)),
            catalog: Arc::default(),
            latch: Latch::default(),
            bell: Bell::default(),
            mailbox: Mailbox::default(),
            sync_choice: SyncChoice::new(config.sync_method),
            pool: BufPool::new(block, kept_bytes),
            encoder: BodyEncoder::new(block, config.effective_compression()),
            tickets: Cells::new(Arc::clone(&world.host), awake),
            meters: Meters::default(),
            pulse: Pulse::default(),
            fork: ForkGuard::new(),
            opened: world.host.now(),
            report: Mutex::default(),
            seen: Mutex::default(),
            user_state: Mutex::default(),
            absence: Absence::default(),
            batches: crossbeam_channel::bounded(MAX_QUEUED_BATCHES),
            controls: crossbeam_channel::unbounded(),
            config,
            world,
        }
    }

    /// Refuses to touch a name in the log's directory unless the lock there is ours: it may have
    /// been moved, and another log be there now, whose segments have the same names.
    pub(crate) fn expect_ours(&self, op: &'static str) -> Result<()> {
        let lock = self.dir.join(LOCK);
        match self.world.disk.holds(&lock) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let why = "the log's directory was moved or replaced, or its LOCK removed, while \
                           it was open: close the log and open it where it is now";
                let gone = std::io::Error::new(std::io::ErrorKind::NotFound, why);
                Err(Error::io(op, &self.dir, None, gone))
            }
            Err(e) => Err(Error::io(op, &lock, None, e)),
        }
    }

    /// This is META now, and the catalog agrees with it.
    pub(crate) fn saw(&self, meta: &Meta) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen::of(meta));
    }

    /// From where on records may have been cut since then, if this is META now.
    pub(crate) fn cut_since_seen(&self, now: &Meta) -> Option<Lsn> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.and_then(|seen| seen.cut_since(now))
    }

    pub(crate) fn report(&self, report: RecoveryReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    pub(crate) fn last_report(&self) -> RecoveryReport {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.clone().expect("set when the log was opened")
    }

    /// The host's clock, in nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        nanos(self.world.host.now())
    }

    /// What was counted so far, with its time.
    pub(crate) fn metrics(&self) -> Metrics {
        let World { disk, host } = &self.world;
        let mut metrics = self.meters.look();
        metrics.at_us = host.wall_us();
        metrics.open_us = nanos(host.now().saturating_sub(self.opened)) / 1000;
        metrics.calls = disk.calls();
        metrics
    }

    /// How it is doing now.
    pub(crate) fn health(&self) -> Health {
        self.pulse.look(self.now_ns(), self.latch.get())
    }

    pub(crate) fn set_user_state(&self, state: Vec<u8>) {
        *self.user_state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(crate) fn user_state(&self) -> Vec<u8> {
        self.user_state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses a call in a forked child, and one that changes a poisoned log.
    pub(crate) fn check_writable(&self, op: &'static str) -> Result<()> {
        self.check_fork(op)?;
        match self.latch.get() {
            None => Ok(()),
            Some(cause) => Err(poisoned(op, &cause)),
        }
    }

    pub(crate) fn check_fork(&self, op: &'static str) -> Result<()> {
        if self.fork.is_child() {
            let why = "this is a forked child; the log belongs to its parent";
            return Err(Error::new(ErrorKind::Closed, op, why));
        }
        Ok(())
    }

    /// Queues a batch that has its room.
    pub(crate) fn send(&self, batch: Pending) {
        let (bytes, called_ns) = (batch.encoded.frame_len, batch.asked.called_ns);
        // There is a place in the channel for each grant, and both ends live in `self`.
        assert!(self.batches.0.try_send(batch).is_ok(), "room was granted for it");
        self.pulse.queued(called_ns);
        self.bell.queued(bytes);
        self.empty_if_gone();
    }

    pub(crate) fn control(&self, control: Control) {
        assert!(self.controls.0.send(control).is_ok(), "both ends live as long as self");
        self.bell.ring();
        self.empty_if_gone();
    }

    fn empty_if_gone(&self) {
        self.answer_all(self.absence.if_gone(|| self.queued()));
    }

    /// The writer leaves.
    pub(crate) fn writer_leaves(&self) {
        self.answer_all(self.absence.begins(|| self.queued()));
    }

    /// Another one comes, after `resume`; what is queued by then is his.
    pub(crate) fn writer_comes(&self) {
        self.absence.ends();
    }

    /// Takes all that is queued.
    fn queued(&self) -> (Vec<Pending>, Vec<Control>) {
        (self.batches.1.try_iter().collect(), self.controls.1.try_iter().collect())
    }

    /// Answers what no writer will take; controls that are dropped answer for themselves.
    fn answer_all(&self, queued: Option<(Vec<Pending>, Vec<Control>)>) {
        let Some((batches, controls)) = queued else { return };
        for batch in batches {
            let kind = self.latch.get().map_or(ErrorKind::Closed, |_| ErrorKind::Poisoned);
            add(&self.meters.failed, 1);
            let why = "the log ended before it was written";
            self.refuse(batch, Error::new(kind, "append", why));
        }
        drop(controls);
        self.pulse.oldest(None);
    }

    pub(crate) fn next_batch(&self) -> Option<Pending> {
        self.batches.1.try_recv().ok()
    }

    /// Answers a batch that never became part of the log.
    pub(crate) fn refuse(&self, batch: Pending, why: Error) {
        self.pool.give(batch.encoded.buf);
        batch.answer.fail(why);
    }

    /// Whether batches are queued that the writer has not taken.
    pub(crate) fn has_batches(&self) -> bool {
        !self.batches.1.is_empty()
    }

    pub(crate) fn next_control(&self) -> Option<Control> {
        self.controls.1.try_recv().ok()
    }

    /// Whether the writer was asked for something it has not looked at.
    pub(crate) fn has_control(&self) -> bool {
        !self.controls.1.is_empty()
    }
}

/// What a caller hears when an earlier failure is in the way.
pub(crate) fn poisoned(op: &'static str, cause: &Error) -> Error {
    let why = format!("an earlier operation failed ({cause}); call resume() or reopen the log");
    Error::new(ErrorKind::Poisoned, op, why)
}
