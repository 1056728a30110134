//! What the writer asks of its queue, and what it makes of the answers.
//!
//! ```text
//! group -> pieces of <= 512 KiB -> queue --Ok(full)--> written (dsync: durable)
//!            ^---- rest -----------------'Ok(short)       |
//!            '---- again ----------------'EINTR/EAGAIN    sync of the file -> durable
//!                                         other error -> poison
//! ```
//!
//! Invariants: one sync in flight per file; a sync is submitted only after the writes it is to
//! cover completed; a failed write or sync is final; no request outlives `broken`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::cast::{len, nanos, round_down};
use crate::error::Error;
use crate::format::footer::IndexEntry;
use crate::io::{Buf, Completion, Op, Queue, tell_if_slow};
use crate::options::{Durability, MAX_DEPTH};
use crate::segment::SparseIndex;

use super::super::catalog::{Catalog, Segment};
use super::super::mailbox::Job;
use super::super::metrics::{Meters, add};
use super::super::shared::GROUP_BYTES;
use super::flight::{Counts, Group, Placed};
use super::lane::Lanes;
use super::{Ending, Writer};

/// How often an interrupted write is submitted again before it counts as failed.
const RETRIES: u32 = 64;
/// Requests the queue takes at once: pieces of groups, syncs, footers.
pub(crate) const QUEUE_DEPTH: usize = 2 * MAX_DEPTH;

/// A request, in the queue or on its way there.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Part of a group: `buf` goes to `at`.
    Piece { seq: u64, segment: u64, at: u64, buf: Buf, dsync: bool, tries: u32 },
    /// A sync of a segment.
    Sync { segment: u64, since: Duration },
    /// The footer of a segment that is full.
    Footer { segment: u64, at: u64, buf: Buf, tries: u32, since: Duration },
}

impl Request {
    fn segment(&self) -> u64 {
        match self {
            Request::Piece { segment, .. }
            | Request::Sync { segment, .. }
            | Request::Footer { segment, .. } => *segment,
        }
    }
}

impl Writer {
    /// Cuts a group into pieces and queues them.
    pub(super) fn send_group(&mut self, group: Group) {
        let buf = group.buf.clone().expect("a new group has its buffer");
        let (segment, at, dsync) = (group.segment, group.at, group.dsync);
        let is_mark = group.counts.batches == 0;
        let seq = self.flight.push(group);
        if !is_mark {
            self.shared.meters.depth.record(self.flight.in_flight() as u64);
        }
        let mut done = 0;
        while done < buf.len() {
            let piece = buf.slice(done, GROUP_BYTES.min(buf.len() - done));
            done += piece.len();
            let at = at + (done - piece.len()) as u64;
            self.todo.push_back(Request::Piece { seq, segment, at, buf: piece, dsync, tries: 0 });
        }
    }

    /// Submits what is queued, as far as the queue takes it.
    pub(super) fn pump(&mut self, queue: &mut dyn Queue) {
        while queue.in_flight() < QUEUE_DEPTH
            && let Some(request) = self.todo.pop_front()
        {
            let lane = self.lanes.of(request.segment());
            let file = Arc::clone(&lane.file);
            let op = match &request {
                Request::Piece { at, buf, dsync, .. } => {
                    Op::Write { file, at: *at, buf: buf.clone(), dsync: *dsync }
                }
                Request::Sync { .. } => Op::Sync { file },
                Request::Footer { at, buf, .. } => {
                    Op::Write { file, at: *at, buf: buf.clone(), dsync: true }
                }
            };
            self.requests.push((queue.submit(op), request));
        }
    }

    /// Takes one answer in.
    pub(super) fn complete(&mut self, event: Completion) {
        let Completion { id, result, buf } = event;
        drop(buf);
        let found = self.requests.iter().position(|(other, _)| *other == id);
        let (_, request) = self.requests.swap_remove(found.expect("each request is answered once"));
        if self.poisoned {
            return;
        }
        match request {
            Request::Piece { .. } | Request::Footer { .. } => self.write_done(request, result),
            Request::Sync { segment, since } => self.sync_done(segment, since, result),
        }
    }

    fn write_done(&mut self, mut request: Request, result: io::Result<usize>) {
        let (Request::Piece { at, buf, tries, .. } | Request::Footer { at, buf, tries, .. }) =
            &mut request
        else {
            return;
        };
        match result {
            Ok(n) if n >= buf.len() || bugs::on(Bug::ShortWriteIgnored) => {
                self.write_landed(request);
            }
            Ok(n) => {
                // Direct I/O goes on at a block; writing its start twice is harmless, for nothing
                // of this group is promised.
                let done = len(round_down(n as u64, self.shared.block));
                *tries = if done > 0 { 0 } else { *tries + 1 };
                if !bugs::on(Bug::RestAtTheStart) {
                    *at += done as u64;
                }
                *buf = buf.slice(done, buf.len() - done);
                let (tries, at) = (*tries, *at);
                if tries < RETRIES {
                    // A forced write that was cut short promises nothing: a sync has to follow.
                    if let Request::Piece { seq, dsync, .. } = &mut request {
                        *dsync = false;
                        let group = self.flight.get(*seq);
                        group.expect("a group stays until its pieces are written").dsync = false;
                    }
                    self.todo.push_front(request);
                } else {
                    let why = "it was cut short again and again; is it a limit on the size of \
                               files (ulimit -f)?";
                    let error = io::Error::new(io::ErrorKind::WriteZero, why);
                    self.fail_write(&request, at, error);
                }
            }
            Err(e) if is_passing(&e) && *tries < RETRIES => {
                *tries += 1;
                if bugs::on(Bug::PreparedAgain) {
                    self.todo.push_front(request.clone());
                }
                self.todo.push_front(request);
            }
            Err(_) if bugs::on(Bug::SwallowedWriteError) => self.write_landed(request),
            Err(e) => {
                let at = *at;
                self.fail_write(&request, at, e);
            }
        }
    }

    fn fail_write(&mut self, request: &Request, at: u64, e: io::Error) {
        let lane = self.lanes.of(request.segment());
        let error = Error::io("write", &lane.segment.path, Some(at), e);
        self.poison(error);
    }

    fn write_landed(&mut self, request: Request) {
        match request {
            Request::Piece { seq, segment, buf, .. } => {
                drop(buf);
                if !self.flight.piece_written(seq) {
                    return;
                }
                let group = self.flight.get(seq).expect("it was written just now");
                let (bytes, dsync) = (group.end - group.at, group.dsync);
                let records = group.last.get() + 1 - group.first.get();
                let (counts, since) = (group.counts, group.since);
                let buf = group.buf.take().expect("kept until it is written");
                self.count(records, counts, buf.len() as u64, since);
                self.shared.pool.give(buf);
                let now = self.now;
                let lane = self.lanes.of(segment);
                if dsync && bugs::on(Bug::PlainCoveredByForced) {
                    self.flight.sync_started(segment);
                    self.flight.sync_done(segment);
                }
                if dsync && bugs::on(Bug::AnsweredOutOfOrder) {
                    let (meters, now_ns) = (&self.shared.meters, nanos(self.now));
                    let group = self.flight.get(seq).expect("it was written just now");
                    group.answer_upto(Durability::Sync, meters, now_ns);
                }
                if dsync {
                    self.shared.pulse.synced(&lane.segment.path, now.saturating_sub(since));
                } else {
                    lane.wrote_plain(bytes, now);
                }
            }
            Request::Footer { segment, since, .. } => {
                let took = self.now.saturating_sub(since);
                let lane = self.lanes.of(segment);
                tell_if_slow(&lane.segment.path, took);
                lane.sealed = true;
            }
            Request::Sync { .. } => unreachable!("a sync is no write"),
        }
    }

    /// A group of `bytes` was written.
    fn count(&self, records: u64, of: Counts, bytes: u64, since: Duration) {
        let meters = &self.shared.meters;
        add(&meters.written_bytes, bytes);
        if records == 0 {
            return add(&meters.marks, 1);
        }
        add(&meters.groups, 1);
        add(&meters.batches, of.batches);
        add(&meters.records, records);
        add(&meters.bytes, of.record_bytes);
        meters.group_batches.record(of.batches);
        meters.group_bytes.record(bytes);
        meters.write_ns.record(nanos(self.now.saturating_sub(since)));
    }

    fn sync_done(&mut self, segment: u64, since: Duration, result: io::Result<usize>) {
        let took = self.now.saturating_sub(since);
        let lane = self.lanes.of(segment);
        lane.sync_in_flight = false;
        match result {
            Ok(_) => {
                add(&self.shared.meters.syncs, 1);
                self.shared.pulse.synced(&lane.segment.path, took);
                self.flight.sync_done(segment);
            }
            Err(_) if bugs::on(Bug::RetriedSync) => {
                lane.sync_in_flight = true;
                self.todo.push_back(Request::Sync { segment, since });
            }
            Err(e) => {
                if bugs::on(Bug::AnsweredAfterPoison) {
                    let (meters, now_ns) = (&self.shared.meters, nanos(self.now));
                    let mut groups = self.flight.take_all();
                    groups.iter_mut().for_each(|g| g.answer_upto(Durability::Sync, meters, now_ns));
                }
                let lane = self.lanes.of(segment);
                let error = Error::io("sync", &lane.segment.path, None, e);
                self.poison(error);
            }
        }
    }

    /// Syncs each open segment that has plain groups somebody waits for, or too many of them.
    pub(super) fn start_syncs(&mut self) {
        let (flush, share) = (self.must_flush(), self.lanes.unsynced_share());
        for lane in self.lanes.all_mut() {
            if lane.sync_in_flight && !bugs::on(Bug::TwoSyncsInFlight) {
                continue;
            }
            let number = lane.number();
            let Some(group) = self.flight.first_unsynced(number) else { continue };
            let wanted = group.needs_durable || group.first <= self.want || flush;
            if wanted || lane.rolled || lane.sync_due(share).is_some_and(|due| due <= self.now) {
                lane.sync_started();
                self.flight.sync_started(number);
                self.todo.push_back(Request::Sync { segment: number, since: self.now });
            }
        }
    }

    /// At the end of a log all its lanes are sealed but one: there it can go on in place.
    pub(super) fn roll_at_end(&mut self) {
        let closing = matches!(self.ending, Ending::Close(_));
        if closing && self.backlog.is_empty() && self.gather.is_none() {
            self.lanes.roll_all_but_last(self.next_lsn.prev());
        }
    }

    /// Ends segments that were rolled over: footer first, then they are let go.
    pub(super) fn seal(&mut self, queue: &mut dyn Queue) {
        let durable_upto = self.shared.catalog.durable();
        for lane in self.lanes.old_mut() {
            let early = bugs::on(Bug::SealedTooEarly);
            if lane.sealing || (self.flight.has(lane.number()) && !early) {
                continue;
            }
            // A segment is sealed only when all of it is promised.
            if lane.summary.last_lsn() > durable_upto && !early {
                continue;
            }
            lane.sealing = true;
            let at = lane.segment.geometry.frames_end();
            let block = len(lane.segment.geometry.block);
            let image = lane.summary.footer(durable_upto).encode(&lane.segment.id, at, block);
            let mut buf = Buf::zeroed(block, block);
            buf.bytes_mut().expect("just allocated").copy_from_slice(&image);
            let (segment, since) = (lane.number(), self.now);
            self.todo.push_back(Request::Footer { segment, at, buf, tries: 0, since });
        }
        let old = self.lanes.old_mut();
        let (before, mut late) = (old.len(), false);
        for lane in old.extract_if(.., |lane| lane.sealed) {
            if let Some(listed) = &lane.listed {
                listed.seal();
            }
            // After that: a truncation that comes now finds it sealed.
            late |= lane.summary.last_lsn() < self.shared.catalog.first();
            queue.release(&lane.file);
        }
        if old.len() < before {
            self.shared.mailbox.unsealed(old.len());
        }
        if late {
            // A truncation came before the footer, and could not take the file.
            self.shared.mailbox.job(Job::Retire);
        }
    }
}

/// Errors that say "again" instead of "failed".
fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

impl Group {
    /// Answers the batches that asked for no more than `level`.
    pub(super) fn answer_upto(&mut self, level: Durability, meters: &Meters, now_ns: u64) {
        for placed in self.batches.extract_if(.., |placed| placed.durability <= level) {
            placed.done(meters, now_ns);
        }
    }
}

impl Placed {
    /// It has the level it asked for.
    pub(super) fn done(self, meters: &Meters, now_ns: u64) {
        meters.answer_ns.record(now_ns.saturating_sub(self.called_ns));
        self.answer.ok(self.range);
    }
}

impl Lanes {
    /// Shows a written group to readers.
    pub(super) fn list(&mut self, catalog: &Catalog, group: &Group) {
        let holds_records = group.last >= group.first;
        let (since, index_interval) = (self.since(group.first), self.index_interval);
        let lane = self.of(group.segment);
        let listed = match &lane.listed {
            Some(listed) => listed,
            // The record that follows a mark may go elsewhere.
            None if !holds_records => return,
            None => {
                let (file, tail) = (lane.segment.clone(), Some(Arc::clone(&lane.file)));
                let index = SparseIndex::every(index_interval);
                let listed = Segment::new(file, group.first, since, tail, index);
                let listed = Arc::new(listed);
                if lane.rolled {
                    listed.stop();
                }
                catalog.insert(Arc::clone(&listed));
                lane.listed.insert(listed)
            }
        };
        if holds_records {
            let entry = IndexEntry { lsn: group.first, offset: group.at };
            listed.publish(entry, group.last, group.end, group.time_us);
        } else {
            listed.grow(group.end);
        }
    }
}
