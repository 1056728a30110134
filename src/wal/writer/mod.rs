//! The writer thread: the only code that appends to the log.
//!
//! ```text
//! append_batch --+    +--------------+   take all,     +--------------------+
//! append_batch --+--> | bounded FIFO | --------------> | io: submit a group |--+ up to
//!      ^              +--------------+  place frames   +--------------------+  | `depth`
//!      |                                               +--------------------+  |
//!      +------ Append: Ok(lsns) or Err <-- durable_lsn | io: reap, any order|<-+
//! ```
//!
//! A state machine: `step` acts on completions and on what callers queued, the shell waits.
//! Invariants: (1) one thread owns the tail; (2) LSNs are given only into reserved space;
//! (3) `durable_lsn` moves only over a contiguous prefix that a finished write or sync covers;
//! (4) each batch is answered exactly once, also when this thread panics: an answer that is
//! dropped answers; (5) after the first failed write or sync nothing is written.
//!
//! `place` gives LSNs and fills groups, `requests` talks to the queue, `flight` keeps the order,
//! `cut` takes records back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::cast::nanos;
use crate::error::{Error, ErrorKind};
use crate::io::{Completion, Machine, Next, OpId, Queue};
use crate::lsn::Lsn;
use crate::options::{Durability, MAX_DEPTH};

use super::metrics::add;
use super::shared::{Control, Pending, Shared, poisoned};
use super::ticket::Answer;
use awake::Awake;
use cut::Cutting;
use flight::{Flight, Placed};
use gather::Gather;
use lane::Lanes;
use requests::Request;

mod awake;
mod cut;
mod flight;
mod gather;
mod lane;
mod place;
mod requests;
mod start;
mod waits;

pub(crate) use requests::QUEUE_DEPTH;
pub(crate) use start::Start;
use waits::Waits;

/// After so long without work the watermark is written down.
const MARK_AFTER: Duration = Duration::from_secs(1);

/// How the writer's life ends.
enum Ending {
    /// Not yet.
    No,
    /// All that was queued becomes durable first.
    Close(Vec<Answer<()>>),
    /// Only what is in flight is waited for.
    Stop,
}

/// The writer's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    lanes: Lanes,
    backlog: VecDeque<Pending>,
    gather: Option<Gather>,
    flight: Flight,
    requests: Vec<(OpId, Request)>,
    todo: VecDeque<Request>,
    /// Lists of batches of groups to come, empty.
    lists: Vec<Vec<Placed>>,
    next_lsn: Lsn,
    time_us: u64,
    now: Duration,
    /// The greatest watermark that is known to be on disk, in a frame header or in META.
    marked: Lsn,
    /// Somebody waits until this is durable.
    want: Lsn,
    waits: Waits,
    /// Cuts that were asked for; the first is under way.
    cuts: VecDeque<Cutting>,
    ending: Ending,
    /// What `close` has to report: batches that were queued and could not be written.
    lost: Option<Error>,
    idle_since: Duration,
    /// Batches were answered since it last had nothing in flight: their callers are about to come
    /// again.
    answered: bool,
    awake: Awake,
    poisoned: bool,
    /// The queue answers nothing any more.
    broken: bool,
}

impl Writer {
    /// Takes in all that callers left.
    fn take_queued(&mut self) {
        self.shared.bell.taking();
        while let Some(control) = self.shared.next_control() {
            match control {
                Control::WaitDurable(wait) => {
                    let durable = self.shared.catalog.durable();
                    if wait.lsn <= durable {
                        wait.answer.ok(durable);
                    } else {
                        self.waits.push(wait);
                    }
                }
                Control::Cut(cut, answer) => {
                    self.cuts.push_back(Cutting::new(cut, answer, self.now));
                }
                Control::Close(answer) => match &mut self.ending {
                    Ending::Close(answers) => answers.push(answer),
                    _ => self.ending = Ending::Close(vec![answer]),
                },
                Control::Stop => self.ending = Ending::Stop,
            }
        }
        // While the log is cut new batches wait: they come after the cut.
        while !self.is_cutting()
            && let Some(batch) = self.shared.next_batch()
        {
            self.awake.called(self.now);
            self.backlog.push_back(batch);
        }
        self.begin_cut();
        // Only records that exist can be wanted: one far ahead must not turn all into syncs.
        let last = self.next_lsn.prev();
        let wanted = match self.ending {
            Ending::Close(_) => last,
            Ending::No | Ending::Stop => self.waits.greatest(last),
        };
        self.want = self.want.max(wanted);
    }

    /// Latches the first failure and answers everybody who waits for more than happened.
    fn poison(&mut self, error: Error) {
        if self.poisoned {
            return;
        }
        tracing::error!(%error, "the log is poisoned: it can be read, nothing is written");
        self.poisoned = true;
        self.shared.latch.set(error);
        self.shared.room.refuse(Some(self.refusal("append")));
        self.todo.clear();
        // What was written and not synced may be gone from the device while the cache shows it.
        self.shared.catalog.set_written(self.shared.catalog.durable());
        let groups = self.flight.take_all();
        if bugs::on(Bug::HangAfterError) {
            std::mem::forget(groups);
        } else {
            let why = self.refusal("append");
            let gathered = self.gather.take().map(|gather| gather.batches).unwrap_or_default();
            for placed in groups.into_iter().flat_map(|group| group.batches) {
                add(&self.shared.meters.failed, 1);
                placed.answer.fail(why.as_kind(ErrorKind::NotConfirmed));
            }
            for placed in gathered {
                add(&self.shared.meters.failed, 1);
                // It has LSNs, but no byte of it was submitted: it is certainly absent.
                placed.answer.fail(why.clone());
            }
        }
        self.refuse_queued();
    }

    fn refuse_queued(&mut self) {
        let why = self.refusal("append");
        add(&self.shared.meters.failed, self.backlog.len() as u64);
        for batch in self.backlog.drain(..) {
            self.shared.refuse(batch, why.clone());
        }
        self.waits.fail_all(|_| why.clone());
        while let Some(cutting) = self.cuts.pop_front() {
            let why = self.refusal(cutting.op());
            cutting.fail(why);
        }
        while let Some(batch) = self.shared.next_batch() {
            add(&self.shared.meters.failed, 1);
            self.shared.refuse(batch, why.clone());
        }
    }

    fn refusal(&self, op: &'static str) -> Error {
        match self.shared.latch.get() {
            Some(cause) => poisoned(op, &cause),
            None => Error::new(ErrorKind::Poisoned, op, "an earlier write or sync failed"),
        }
    }

    /// Moves both watermarks over their contiguous prefixes and answers what they passed.
    fn publish(&mut self) {
        let (meters, now_ns) = (&self.shared.meters, nanos(self.now));
        while let Some(group) = self.flight.next_written() {
            let last = group.last;
            self.lanes.list(&self.shared.catalog, group);
            self.shared.catalog.set_written(last);
            let waiting = group.batches.len();
            group.answer_upto(Durability::Written, meters, now_ns);
            self.answered |= group.batches.len() < waiting;
            if group.batches.is_empty() {
                keep_list(&mut self.lists, std::mem::take(&mut group.batches));
            }
        }
        while let Some(mut group) = self.flight.pop_durable() {
            self.answered |= !group.batches.is_empty();
            self.shared.catalog.set_durable(group.last);
            group.answer_upto(Durability::Sync, meters, now_ns);
            keep_list(&mut self.lists, group.batches);
        }
        // Also if nothing moved: who came just now may wait for what is durable already.
        let early = bugs::on(Bug::WaitEndsWhenWritten);
        let catalog = &self.shared.catalog;
        let durable = if early { catalog.written() } else { catalog.durable() };
        self.waits.answer_upto(durable);
        // A record that was there and is not placed any more was cut: nobody brings it back.
        self.waits.fail_cut(self.next_lsn);
    }

    /// Whether it can leave; answers `close` if so.
    fn end(&mut self) -> bool {
        if self.broken {
            return true;
        }
        if !self.requests.is_empty() {
            return false;
        }
        let idle = self.backlog.is_empty() && self.gather.is_none() && self.flight.is_empty();
        let settled = idle && self.lanes.unsealed() == 0 && self.cuts.is_empty();
        let finished = self.poisoned || settled;
        match &mut self.ending {
            Ending::No => false,
            Ending::Stop => true,
            Ending::Close(_) if !finished => false,
            Ending::Close(answers) => {
                let answers = std::mem::take(answers);
                self.waits.fail_all(|lsn| {
                    let why = format!("the log was closed before record {lsn} was appended");
                    Error::new(ErrorKind::Closed, "wait_durable", why)
                });
                let failed = self.poisoned.then(|| self.refusal("close")).or(self.lost.take());
                for answer in answers {
                    match &failed {
                        Some(error) => answer.fail(error.clone()),
                        None => answer.ok(()),
                    }
                }
                true
            }
        }
    }

    /// When the oldest append that has no answer was called: those in flight came first. Of what is
    /// still in the queue only that it is there is known.
    fn oldest_unanswered(&mut self) -> Option<u64> {
        let gathered = self.gather.as_ref().and_then(|gather| gather.batches.first());
        let placed = self.flight.oldest().or(gathered).map(|placed| placed.called_ns);
        let known = placed.or(self.backlog.front().map(|batch| batch.asked.called_ns));
        let queued = || nanos(self.cutting_since().unwrap_or(self.now));
        known.or_else(|| self.shared.has_batches().then(queued))
    }

    /// How long it can wait.
    fn next(&mut self) -> Next {
        if self.end() {
            return Next::Done;
        }
        if self.shared.has_control() {
            return Next::Now;
        }
        if let Some(threshold) = self.could_submit_at() {
            // With nothing in flight the next batch is all there is to wait for.
            let shared = &self.shared;
            if self.requests.is_empty() && std::mem::take(&mut self.answered) {
                let called = || shared.has_batches() || shared.has_control();
                let awake = self.awake.answered(self.now);
                if !awake.is_zero() && shared.world.host.spin(&called, awake) {
                    return Next::Now;
                }
            }
            if !shared.bell.park(threshold) {
                return Next::Now;
            }
        }
        if self.poisoned {
            // Nothing is written any more: no time that passes is worth waking for.
            return Next::Idle;
        }
        let share = self.lanes.unsynced_share();
        let lanes = self.lanes.all().filter(|lane| !lane.sync_in_flight);
        // Where an older write is in flight its completion comes first.
        let flight = &mut self.flight;
        let startable = lanes.filter(|lane| flight.first_unsynced(lane.number()).is_some());
        let sync = startable.filter_map(|lane| lane.sync_due(share)).min();
        let times = [sync, self.linger_due(), self.mark_due()];
        times.into_iter().flatten().min().map_or(Next::Idle, Next::At)
    }

    /// When the watermark is due to be written down for its own sake.
    fn mark_due(&self) -> Option<Duration> {
        let quiet = self.flight.is_empty() && self.gather.is_none() && self.backlog.is_empty();
        let risen = self.shared.catalog.durable() > self.marked;
        // While the log is cut no segment is taken, and what is durable is about to be less.
        let stays = self.cuts.is_empty() && matches!(self.ending, Ending::No);
        (quiet && risen && stays && !self.poisoned).then(|| self.idle_since + MARK_AFTER)
    }
}

impl Machine for Writer {
    fn step(&mut self, queue: &mut dyn Queue, events: &mut Vec<Completion>) -> Next {
        self.now = self.shared.world.host.now();
        if !events.is_empty() {
            self.idle_since = self.now;
        }
        for event in events.drain(..) {
            self.complete(event);
        }
        self.take_queued();
        if let Some(error) = self.shared.latch.get() {
            self.poison(error);
        }
        self.publish();
        if self.poisoned {
            self.refuse_queued();
        } else {
            if self.lanes.wait_for_syncs() {
                // A sync that is due lets more be placed beside it.
                self.start_syncs();
            }
            self.form_groups();
            self.start_syncs();
            self.roll_at_end();
            self.seal(queue);
            self.pump(queue);
            if self.cut_done() {
                return Next::Now;
            }
        }
        let oldest = self.oldest_unanswered();
        self.shared.pulse.oldest(oldest);
        self.next()
    }

    fn broken(&mut self, error: io::Error) {
        // The buffers in flight are the queue's, which leaks them.
        self.broken = true;
        let dir = self.shared.dir.clone();
        self.poison(Error::io("append", &dir, None, error));
    }
}

impl Drop for Writer {
    /// However it ends, nobody is left waiting for it.
    fn drop(&mut self) {
        let ended = matches!(self.ending, Ending::Close(_)) && !self.poisoned;
        if !ended && !matches!(self.ending, Ending::Stop) {
            let why = "the writer thread ended unexpectedly";
            self.poison(Error::new(ErrorKind::Poisoned, "append", why));
        }
        self.shared.writer_leaves();
    }
}

/// Keeps the list of a group that is through for one to come.
fn keep_list(lists: &mut Vec<Vec<Placed>>, list: Vec<Placed>) {
    if list.is_empty() && list.capacity() > 0 && lists.len() < 2 * MAX_DEPTH {
        lists.push(list);
    }
}
