//! What the maker does for others: META is changed first, then segments are retired.

use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::error::{Error, ErrorKind, Result};
use crate::format::meta::{self, Meta};
use crate::io::Flow;
use crate::lsn::Lsn;
use crate::options::MIN_SEGMENT_BYTES;

use super::super::mailbox::{Cut, Job};
use super::super::meta::MetaFile;
use super::super::recovery::{drop_below, set_apart};
use super::super::shared::poisoned;
use super::super::ticket::Answer;
use super::Maker;

/// What comes next.
enum Chore {
    Job(Job),
    /// Wipe one of the segments that an earlier life left.
    Wipe,
    /// Look for what is too old or too much.
    Retain,
    /// Write METRICS.
    Tell,
}

impl Maker {
    pub(super) async fn do_jobs(&self, flow: &Flow, mut meta: MetaFile) {
        let mut looked = false;
        loop {
            if !looked && !self.has_leftovers() {
                // Before any job, unless what an earlier life left is to be wiped first: what the
                // log alone takes on disk is not known before that.
                looked = true;
                self.retain(flow, &mut meta).await;
            }
            let expiry = self.expiry();
            let chore = flow.until(|| self.next_chore(flow, expiry)).await;
            // While it works only completions matter: a time that has passed would spin.
            flow.wake_at(None);
            let job = match chore {
                Chore::Job(job) => job,
                Chore::Wipe => {
                    self.wipe_next(flow).await;
                    continue;
                }
                Chore::Retain => {
                    self.retain(flow, &mut meta).await;
                    continue;
                }
                Chore::Tell => {
                    self.teller.tell(flow, &self.shared).await;
                    continue;
                }
            };
            match (job, self.shared.latch.get()) {
                (Job::Stop, _) => return,
                (job, Some(cause)) => {
                    // The first failed write is final, in META too: which state it holds is not
                    // known, and a further one may contradict what landed.
                    job.fail(poisoned("change the log", &cause));
                    // Whoever waits for it may be the other flow, or the writer.
                    self.shared.mailbox.nudge();
                    self.shared.bell.ring();
                }
                (mut job, None) => {
                    job.begun();
                    self.do_job(flow, &mut meta, job).await;
                }
            }
        }
    }

    async fn do_job(&self, flow: &Flow, meta: &mut MetaFile, job: Job) {
        match job {
            Job::Stop => unreachable!("the caller ends with it"),
            Job::TruncateBefore(lsn, answer) => {
                self.answer(answer, self.truncate_before(flow, meta, lsn).await);
            }
            Job::Compact(answer) => match self.used_by_log(flow).await {
                Ok(used) => self.answer(answer, self.compact(flow, meta, used).await),
                Err(error) => answer.fail(error),
            },
            Job::Retire => self.retire_late(flow).await,
            Job::MakeRoom(size, answer) => {
                self.answer(answer, self.give_room(flow, meta, size).await);
                // The other flow waits for it.
                self.shared.mailbox.nudge();
            }
            Job::Cut(cut, answer) => {
                self.answer(answer, self.cut(flow, meta, cut).await);
                // The writer waits for it.
                self.shared.bell.ring();
            }
            Job::SetUserState(state, answer) => {
                self.answer(answer, self.set_user_state(flow, meta, state).await);
            }
            Job::MarkClean(answer) => {
                self.answer(answer, self.mark_clean(flow, meta).await);
            }
        }
    }

    /// What there is to do, or else when to look again.
    fn next_chore(&self, flow: &Flow, expiry: Option<Duration>) -> Option<Chore> {
        if let Some(job) = self.shared.mailbox.next_job() {
            return Some(Chore::Job(job));
        }
        if self.shared.mailbox.is_enough() {
            return None;
        }
        if self.has_leftovers() && self.shared.latch.get().is_none() {
            return Some(Chore::Wipe);
        }
        let times = [(expiry, Chore::Retain), (self.teller.due(&self.shared), Chore::Tell)];
        let next = times.into_iter().filter_map(|(time, chore)| Some((time?, chore)));
        let (time, chore) = next.min_by_key(|(time, _)| *time).unzip();
        if time.is_some_and(|time| time <= self.shared.world.host.now()) {
            return chore;
        }
        flow.wake_at(time);
        None
    }

    fn answer<T>(&self, answer: Answer<T>, outcome: Result<T>) {
        match outcome {
            Ok(value) => answer.ok(value),
            Err(error) => {
                if error.kind() != ErrorKind::Invalid {
                    // A write or sync of META failed: what it holds now is not known.
                    self.shared.latch.set(error.clone());
                    self.shared.bell.ring();
                }
                answer.fail(error);
            }
        }
    }

    async fn mark_clean(&self, flow: &Flow, meta: &mut MetaFile) -> Result<()> {
        let left = self.stock().unwiped.clone();
        set_apart(&*self.shared.world.disk, &self.shared.dir, &left)?;
        // Before META: that the log is clean is the last thing written.
        self.teller.tell(flow, &self.shared).await;
        let durable_upto = self.shared.catalog.durable();
        let (highest_number, growth_bytes) = self.sizes();
        let change = |m: &mut Meta| {
            m.clean = true;
            m.durable_upto = durable_upto;
            m.highest_number = highest_number;
            m.growth_bytes = growth_bytes;
        };
        self.update(flow, meta, change).await
    }

    /// Changes META durably, and notes what was measured meanwhile. If that takes long the
    /// program's log says so.
    async fn update(
        &self,
        flow: &Flow,
        meta: &mut MetaFile,
        change: impl FnOnce(&mut Meta),
    ) -> Result<()> {
        let change = |m: &mut Meta| {
            change(m);
            m.sync_method = self.shared.sync_choice.code();
        };
        meta.update(flow, &*self.shared.world.disk, change).await
    }

    async fn set_user_state(&self, flow: &Flow, meta: &mut MetaFile, state: Vec<u8>) -> Result<()> {
        self.update(flow, meta, |m| m.user_state = state).await?;
        self.shared.set_user_state(meta.meta().user_state.clone());
        Ok(())
    }

    pub(super) async fn truncate_before(
        &self,
        flow: &Flow,
        meta: &mut MetaFile,
        lsn: Lsn,
    ) -> Result<()> {
        let shared = &self.shared;
        let first = lsn.max(meta.meta().first_lsn);
        let durable_upto = shared.catalog.durable();
        if first.prev() > durable_upto {
            let why = format!("{first} is beyond the end: the log was cut there meanwhile");
            return Err(Error::invalid("truncate_before", why));
        }
        let (highest_number, growth_bytes) = self.sizes();
        let change = |m: &mut Meta| {
            m.first_lsn = first;
            drop_below(&mut m.removed, first);
            m.durable_upto = durable_upto;
            m.highest_number = highest_number;
            m.growth_bytes = growth_bytes;
        };
        if bugs::on(Bug::RetiredBeforeMeta) {
            self.retire_all(flow, shared.catalog.remove_before(first), None).await?;
        }
        self.update(flow, meta, change).await?;
        shared.catalog.set_first(first);
        self.retire_all(flow, shared.catalog.remove_before(first), None).await?;
        shared.mailbox.space_came_back();
        Ok(())
    }

    /// Takes records out from the end; gives the LSN the log goes on with. The writer waits:
    /// nothing is in flight, and every segment has its footer.
    async fn cut(&self, flow: &Flow, meta: &mut MetaFile, cut: Cut) -> Result<Lsn> {
        let shared = &self.shared;
        let (next, from) = match cut {
            Cut::After(keep) => (keep.next(), keep.next()),
            Cut::Reset(next) => (next, Lsn::FIRST),
        };
        // Here, where the start moves too: a policy may have cut since the caller looked.
        let first = meta.meta().first_lsn;
        if matches!(cut, Cut::After(_)) && next < first {
            let why = format!("{} is not in the log any more, it starts at {first}", next.prev());
            return Err(Error::invalid("truncate_after", why));
        }
        let epoch = meta.meta().next_epoch;
        // From here on segments are made for the time after the cut.
        let (highest_number, growth_bytes) = {
            let mut stock = self.stock();
            stock.epoch = epoch;
            // Or a log that is cut again and again would take a full-size segment for each time.
            stock.growth_bytes = MIN_SEGMENT_BYTES;
            (stock.highest_number, stock.growth_bytes)
        };
        let change = |m: &mut Meta| {
            if !bugs::on(Bug::CutForgotten) {
                m.add_cut(meta::Cut { lsn: from, epoch });
            }
            m.next_epoch = epoch + 1;
            m.durable_upto = next.prev();
            m.highest_number = highest_number;
            m.growth_bytes = growth_bytes;
            m.removed.retain_mut(|(start, end)| {
                *end = (*end).min(from);
                *start < *end
            });
            if let Cut::Reset(next) = cut {
                m.first_lsn = next;
            }
        };
        self.update(flow, meta, change).await?;
        let gone = match cut {
            Cut::After(_) => shared.catalog.cut_from(next),
            Cut::Reset(next) => shared.catalog.reset(next),
        };
        // Of records that come now this cut says nothing.
        shared.saw(meta.meta());
        let spare = shared.mailbox.take_back(epoch).and_then(|made| self.spare(&made.segment));
        self.retire_all(flow, gone, spare).await?;
        shared.mailbox.space_came_back();
        Ok(next)
    }
}
