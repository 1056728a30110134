//! Taking records back from the end: `truncate_after` and `reset_to`.
//!
//! ```text
//! caller        writer                                         maker
//! cut ------->  all that was queued becomes durable
//!               every segment gets its footer
//!               job ----------------------------------------->  META: cut, next epoch
//!                                                               catalog, then files go
//!               next LSN goes back  <-------------------------  answer
//! answer <----  batches that came meanwhile are placed
//! ```
//!
//! Invariants: nothing is in flight while META changes; no frame is written into a segment of an
//! epoch before the cut afterwards; until META holds the cut the log is as it was.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::lsn::Lsn;

use super::super::mailbox::{Cut, Job};
use super::super::ticket::{Answer, Ticket, pair};
use super::Writer;

/// A cut on its way.
pub(super) struct Cutting {
    cut: Cut,
    pub(super) answer: Answer<Lsn>,
    stage: Stage,
    /// When the writer heard of it, on the host's clock.
    since: Duration,
}

enum Stage {
    /// Another one is before it.
    Waiting,
    /// What was queued before it is on its way to the disk, then footers are.
    Draining,
    /// The maker changes META.
    Asked(Ticket<Lsn>),
}

impl Cutting {
    pub(super) fn new(cut: Cut, answer: Answer<Lsn>, since: Duration) -> Cutting {
        Cutting { cut, answer, stage: Stage::Waiting, since }
    }

    /// The log failed; once META was asked for, nobody knows what it holds.
    pub(super) fn fail(self, why: Error) {
        let asked = matches!(self.stage, Stage::Asked(_));
        self.answer.fail(if asked { why.as_kind(ErrorKind::NotConfirmed) } else { why });
    }

    pub(super) fn op(&self) -> &'static str {
        match self.cut {
            Cut::After(_) => "truncate_after",
            Cut::Reset(_) => "reset_to",
        }
    }
}

impl Writer {
    /// Whether new batches have to wait.
    pub(super) fn is_cutting(&self) -> bool {
        self.cuts.front().is_some_and(|cutting| !matches!(cutting.stage, Stage::Waiting))
    }

    /// Since when batches may wait behind a cut.
    pub(super) fn cutting_since(&self) -> Option<Duration> {
        self.cuts.front().map(|cutting| cutting.since)
    }

    /// Starts the first cut that waits, now that all batches before it were taken in.
    pub(super) fn begin_cut(&mut self) {
        if let Some(Cutting { stage: stage @ Stage::Waiting, .. }) = self.cuts.front_mut() {
            *stage = Stage::Draining;
        }
    }

    /// Carries the cut on; true if one ended and new batches may wait in the queue.
    pub(super) fn cut_done(&mut self) -> bool {
        let idle = self.backlog.is_empty() && self.gather.is_none() && self.flight.is_empty();
        match self.cuts.front_mut() {
            Some(Cutting { stage: Stage::Asked(ticket), .. }) => {
                let Some(outcome) = ticket.try_wait() else { return false };
                let cutting = self.cuts.pop_front().expect("looked at above");
                match outcome {
                    Ok(next) => {
                        self.next_lsn = next;
                        // Nothing beyond is promised or waited for any more; all below is written
                        // down, in META.
                        self.marked = next.prev();
                        self.want = self.want.min(next.prev());
                        cutting.answer.ok(next);
                    }
                    Err(error) => cutting.answer.fail(error),
                }
                true
            }
            Some(Cutting { stage: Stage::Draining, .. }) if idle => {
                if let Some(outcome) = self.cut_is_known() {
                    let cutting = self.cuts.pop_front().expect("looked at above");
                    match outcome {
                        Ok(next) => cutting.answer.ok(next),
                        Err(error) => cutting.answer.fail(error),
                    }
                    return true;
                }
                let sealed = self.lanes.all().next().is_none();
                // Sealed in the next steps; the one after the last footer comes here again.
                self.lanes.roll_all();
                if sealed {
                    self.ask_for_cut();
                }
                !sealed && self.todo.is_empty() && self.requests.is_empty()
            }
            _ => false,
        }
    }

    /// The answer, if there is nothing to do for it now that the log is drained: it ends there
    /// already, or does not reach so far.
    fn cut_is_known(&self) -> Option<Result<Lsn, Error>> {
        let Some(Cutting { cut: Cut::After(keep), .. }) = self.cuts.front() else { return None };
        let next = self.next_lsn;
        if *keep >= next {
            let why = format!("{keep} is not in the log, the next record is {next}");
            return Some(Err(Error::invalid("truncate_after", why)));
        }
        (keep.next() == next).then_some(Ok(next))
    }

    fn ask_for_cut(&mut self) {
        let Some(cutting) = self.cuts.front_mut() else { return };
        let (answer, ticket) = pair(&self.shared.world.host, "truncate");
        cutting.answer.submitted();
        cutting.stage = Stage::Asked(ticket);
        self.shared.mailbox.job(Job::Cut(cutting.cut, answer));
    }
}
